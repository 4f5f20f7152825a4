//! A farm of many agents, for tests of how much a farm can hold: real agents, a real coordinator and a real database, but engines that run
//! nothing and clients that do no more than a build needs.

#![allow(dead_code, reason = "tests and bench use a part of it each")]

mod bridge;
mod client;
pub mod engine;
mod session;
pub mod statements;

use std::time::{Duration, Instant};

use croft_local::{Farm, FarmOptions};
use tokio::runtime::Runtime;

pub use client::Builds;
use engine::{Engines, Tally};

use crate::support::{llb::For, process::eventually};

/// What its agents are, all alike.
const ARCHITECTURE: &str = "amd64";

/// A farm of a test's own.
pub struct Herd {
    // Agents say goodbye to engines that still answer.
    pub farm: Farm,
    pub engines: Engines,
    runtime: Runtime,
}

impl Herd {
    /// Starts a farm of so many agents for amd64, each with so many slots beside an engine that runs nothing. `alter` may change the rest;
    /// agents that it adds have real engines.
    pub fn start(agents: usize, slots: usize, alter: impl FnOnce(&mut FarmOptions)) -> Herd {
        let runtime = Runtime::new().expect("a runtime");
        let engines = Engines::start(runtime.handle(), agents);
        let mut options = FarmOptions::from_env().expect("options");
        let names = vec![ARCHITECTURE; agents].join(",");
        options.agents = croft_local::agents(&names).expect("names");
        let addresses = engines.addresses().iter();
        options.engines = addresses
            .map(|address| address.parse().expect("an address"))
            .collect();
        options.agent_flags = vec!["--slots".to_owned(), slots.to_string()];
        alter(&mut options);
        let farm = Farm::start(options).unwrap_or_else(|error| panic!("no herd: {error}"));
        Herd {
            farm,
            engines,
            runtime,
        }
    }

    /// Starts so many builds of one command each, each by a client of its own.
    pub fn begin(&self, builds: usize) -> Builds {
        let address = self.farm.client_address();
        Builds::begin(
            self.runtime.handle(),
            address,
            builds,
            For::Linux(ARCHITECTURE),
        )
    }

    /// Waits until the engines run so many commands.
    pub fn wait_running(&self, commands: usize) -> Tally {
        eventually(&format!("{commands} commands run"), || {
            Some(self.engines.tally()).filter(|tally| tally.running == commands)
        })
    }

    /// Kills the coordinator, starts it again, and gives how long it took from then on until it had all agents again, and all that they
    /// run.
    pub fn restart_coordinator(&mut self) -> Duration {
        self.farm.kill_coordinator().expect("it runs");
        let running = "SELECT count(*) FROM attempts WHERE state = 'running'";
        let before = self.ask(running);
        // Each connection of an agent has a number of its own, greater than those before.
        let last = self.ask("SELECT max(epoch) FROM agents");
        let adopted = format!(
            "SELECT count(*) FROM attempts AS t JOIN agents AS a ON a.id = t.agent
             WHERE t.state = 'running' AND a.state = 'connected' AND a.epoch > {last}"
        );
        let started = Instant::now();
        let [coordinator] = self.farm.coordinators() else {
            panic!("a herd has one coordinator");
        };
        coordinator.start_again().expect("it starts");
        eventually("all that ran is adopted", || {
            (self.ask(&adopted) == before).then_some(())
        });
        started.elapsed()
    }

    /// What the database answers.
    pub fn ask(&self, question: &str) -> String {
        let answer = self
            .farm
            .postgres()
            .query(self.farm.database_url(), question);
        answer.unwrap_or_else(|error| panic!("{error}"))
    }
}
