//! croft's programs with flags of a test's own, beside the shared farm and on its parts.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use croft_local::Ports;
use tempfile::TempDir;

use crate::support::{Finished, Running, farm, process};

/// A coordinator to be: everything that it needs is there, unless a test changes that.
pub struct Flags {
    pub database: String,
    pub clients: SocketAddr,
    pub agents: SocketAddr,
    pub stages: String,
    pub password: Option<PathBuf>,
    pub more: Vec<String>,
    folder: TempDir,
}

impl Flags {
    /// With a database of its own, on the shared farm's stage registry.
    pub fn good() -> Flags {
        let farm = farm();
        let folder = tempfile::tempdir().expect("a folder");
        let password = folder.path().join("password");
        let credentials = farm.stage().credentials().expect("a password");
        std::fs::write(&password, &credentials.password).expect("writable");
        Flags {
            database: farm.postgres().create_database().expect("a database"),
            clients: Ports::Free.draw().expect("a port"),
            agents: Ports::Free.draw().expect("a port"),
            stages: format!("{}/{}", farm.stage().address(), crate::support::nonce()),
            password: Some(password),
            more: Vec::new(),
            folder,
        }
    }

    /// Further flags.
    pub fn with(mut self, flags: &[&str]) -> Flags {
        self.more.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// A file beside its own.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("writable");
        path.to_str().expect("text").to_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(farm().binaries().coordinator());
        command
            .env_clear()
            .env("CROFT_DATABASE_URL", &self.database)
            .args(["--client-addr", &self.clients.to_string()])
            .args(["--agent-addr", &self.agents.to_string()])
            .args(["--stage-registry", &self.stages]);
        if let Some(file) = &self.password {
            let user = &farm().stage().credentials().expect("a user").user;
            command
                .args(["--stage-registry-user", user])
                .arg("--stage-registry-password-file")
                .arg(file);
        }
        command.args(&self.more);
        command
    }

    /// Starts it and waits until it serves.
    pub fn start(&self) -> Running {
        let mut running = process::start(self.command());
        running.wait_for(|line| line.contains("ready"));
        running
    }

    /// Runs it to its end.
    pub fn run(&self) -> Finished {
        process::run(self.command())
    }
}

/// An agent on this engine.
pub fn agent(engine: &str, coordinator: &str, flags: &[&str]) -> (Command, TempDir) {
    let state = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(farm().binaries().agent());
    command
        .env_clear()
        .args(["--name", "other-1", "--engine", engine])
        .args(["--coordinator", coordinator])
        .arg("--state-dir")
        .arg(state.path())
        .args(flags);
    (command, state)
}

impl Finished {
    /// It must have ended by itself with one line for people, which has all of these words.
    #[track_caller]
    pub fn refused_in_one_line(&self, says: &[&str]) {
        assert!(
            self.status.code().is_some_and(|code| code != 0),
            "{}",
            self.report()
        );
        let lines: Vec<_> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{}", self.report());
        for text in says {
            assert!(lines[0].contains(text), "no {text:?} in {:?}", lines[0]);
        }
    }
}
