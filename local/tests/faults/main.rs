//! A farm that is broken on purpose: real processes are killed and real connections cut, and what was promised must hold nevertheless.
//! Each test has a farm of its own.

#[path = "../support/mod.rs"]
mod support;

mod aftermath;
mod agents;
mod cable;
mod clients;
mod commands;
mod database;
mod disk;
mod engines;
mod failover;
mod gate;
mod operate;
mod outputs;
mod registry_proxy;
mod restart;
mod sleep;
mod stage_registry;
mod tags;
mod users_registry;
mod versions;

use croft_local::{Farm, FarmOptions};

use crate::sleep::Sleep;
use crate::support::Context;

/// A farm of a test's own, whose coordinator gets further flags.
fn farm_of(agents: &str, coordinator_flags: &[&str]) -> Farm {
    farm_with(agents, coordinator_flags, &[])
}

/// The same, whose agents get further flags too.
fn farm_with(agents: &str, coordinator_flags: &[&str], agent_flags: &[&str]) -> Farm {
    let flags = |all: &[&str]| all.iter().map(|&flag| flag.to_owned()).collect();
    let mut options = FarmOptions::from_env().expect("options");
    options.agents = croft_local::agents(agents).expect("names");
    // Running engines, if there are any, are the shared farm's.
    options.engines.clear();
    options.coordinator_flags = flags(coordinator_flags);
    options.agent_flags = flags(agent_flags);
    Farm::start(options).unwrap_or_else(|error| panic!("no farm of {agents}: {error}"))
}

/// A build of one step, which makes something else each time that it runs, and then sleeps.
fn sleeping(sleep: &Sleep) -> Context {
    Context::new(&format!(
        "FROM busybox\nRUN : $NONCE; cat /proc/sys/kernel/random/uuid > /x; {}\n",
        sleep.step()
    ))
}
