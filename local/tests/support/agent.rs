//! One agent of a farm, to be stopped and started again as its machine's owner might.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
};

use croft_local::Farm;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::process::{self, eventually};

/// An agent of a farm that was stopped.
pub struct Stopped {
    name: String,
    arguments: Vec<String>,
    state: TempDir,
}

/// An agent that a test started itself; killed with this.
pub struct Started {
    child: Child,
    stopped: Option<Stopped>,
}

impl Started {
    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its process has ended by itself.
    pub fn ended(&mut self) -> ExitStatus {
        eventually("the agent's process ends", || {
            self.child.try_wait().expect("our child")
        })
    }

    /// Kills it, and waits until the farm knows.
    pub fn kill(mut self, farm: &Farm) -> Stopped {
        self.child.kill().expect("it runs");
        let stopped = self.stopped.take().expect("it was stopped before");
        stopped.wait_away(farm);
        stopped
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The state of an agent as `croft agents ls` has it.
pub fn state(farm: &Farm, name: &str) -> String {
    text(farm, name, "state")
}

/// A text that `croft agents ls` has of an agent.
pub fn text(farm: &Farm, name: &str, key: &str) -> String {
    listed(farm, name)[key].as_str().expect("a text").to_owned()
}

/// All that `croft agents ls` has of an agent.
pub fn listed(farm: &Farm, name: &str) -> serde_json::Value {
    let mut command = Command::new(farm.binaries().croft());
    let address = farm.client_address().to_string();
    command.args(["agents", "ls", "--format", "json", "--addr", &address]);
    let printed = process::run(command).succeeded().stdout;
    let agents: Vec<serde_json::Value> = serde_json::from_str(&printed).expect("JSON");
    let agent = agents.into_iter().find(|agent| agent["name"] == name);
    agent.unwrap_or_else(|| panic!("no {name}: {printed}"))
}

/// Ends an agent's process with a signal, and waits until the farm knows.
pub fn stop(farm: &Farm, name: &str, signal: Signal) -> Stopped {
    let stopped = tell(farm, name, signal);
    stopped.wait_away(farm);
    stopped
}

/// Sends a signal to an agent's process.
pub fn tell(farm: &Farm, name: &str, signal: Signal) -> Stopped {
    let coordinator = format!("http://{}", farm.agent_address());
    let (process, arguments) = fs::read_dir("/proc")
        .expect("Linux")
        .flatten()
        .find_map(|entry| {
            let id: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8(line).ok()?;
            let words: Vec<_> = line
                .trim_end_matches('\0')
                .split('\0')
                .map(str::to_owned)
                .collect();
            let is_it = words.first()?.ends_with("/croft-agent")
                && has(&words, "--name", name)
                && has(&words, "--coordinator", &coordinator);
            is_it.then(|| (Pid::from_raw(id), words[1..].to_vec()))
        })
        .unwrap_or_else(|| panic!("{name} does not run"));
    kill(process, signal).expect("it runs");
    Stopped {
        name: name.to_owned(),
        arguments,
        state: tempfile::tempdir().expect("a folder"),
    }
}

fn has(words: &[String], flag: &str, value: &str) -> bool {
    words
        .windows(2)
        .any(|pair| pair[0] == flag && pair[1] == value)
}

impl Stopped {
    /// From now on it reaches the farm there.
    pub fn by_way_of(mut self, address: SocketAddr) -> Stopped {
        let at = self
            .arguments
            .iter()
            .position(|flag| flag == "--coordinator");
        let url = at.and_then(|at| self.arguments.get_mut(at + 1));
        *url.expect("every agent has one") = format!("http://{address}");
        self
    }

    /// Starts it again with the same flags, and waits until the farm knows.
    pub fn start(mut self, farm: &Farm) -> Started {
        // Its folder went with it.
        let at = self.arguments.iter().position(|flag| flag == "--state-dir");
        let folder = at.and_then(|at| self.arguments.get_mut(at + 1));
        *folder.expect("every agent has one") = self.state.path().display().to_string();
        let child = Command::new(farm.binaries().agent())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let started = Started {
            child,
            stopped: Some(self),
        };
        let name = started.stopped.as_ref().map(|stopped| &*stopped.name);
        eventually("the agent is back", || {
            (state(farm, name?) == "connected").then_some(())
        });
        started
    }

    fn wait_away(&self, farm: &Farm) {
        eventually("the farm knows that it is away", || {
            (state(farm, &self.name) != "connected").then_some(())
        });
    }
}
