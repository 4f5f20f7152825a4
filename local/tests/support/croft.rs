//! The `croft` command with a home of its own: no test sees another's contexts or credentials, or the machine's. Piped, and on a terminal.

use std::{ffi::OsStr, path::Path, process::Command};

use croft_local::Farm;
use tempfile::TempDir;

use super::{
    process::{self, Finished, Running},
    terminal::Terminal,
};

/// A home of croft; gone when this is dropped.
#[derive(Debug)]
pub struct Croft {
    home: TempDir,
    program: std::path::PathBuf,
    variables: Vec<(String, String)>,
}

impl Croft {
    /// A home that knows this farm by `CROFT_ADDR`.
    pub fn of(farm: &Farm) -> Croft {
        Croft::empty(farm).env("CROFT_ADDR", &farm.client_address().to_string())
    }

    /// A home that knows no farm; with this farm's program.
    pub fn empty(farm: &Farm) -> Croft {
        Croft {
            home: tempfile::tempdir().expect("a temporary folder"),
            program: farm.binaries().croft(),
            variables: Vec::new(),
        }
    }

    /// One more variable for all that follows.
    pub fn env(mut self, name: &str, value: &str) -> Croft {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The folder that is HOME and the working folder.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The variables that it is given; nothing of the machine's but its PATH.
    fn environment(&self) -> Vec<(String, String)> {
        let path = std::env::var("PATH").expect("a PATH");
        let home = self.home().to_str().expect("a path in UTF-8");
        let own = [("PATH", path.as_str()), ("HOME", home), ("TERM", "xterm")];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        own.into_iter().chain(self.variables.clone()).collect()
    }

    /// `croft` with these arguments, to be piped.
    pub fn command(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(self.environment())
            .current_dir(self.home())
            .args(arguments);
        command
    }

    /// Runs `croft` to its end, its outputs being pipes.
    pub fn run(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Finished {
        process::run(self.command(arguments))
    }

    /// Starts `croft`, its outputs being pipes.
    pub fn start(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Running {
        process::start(self.command(arguments))
    }

    /// Starts `croft` on a terminal of its own.
    pub fn terminal(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Terminal {
        Terminal::start(&self.program, arguments, &self.environment(), self.home())
    }
}
