//! An agent is killed as `kill -9` does it, and its stage runs elsewhere: how long that takes, on real engines. The farm can't tell a dead
//! agent from one that is cut off before its lease has ended.

use std::time::Instant;

use anyhow::Result;
use croft_local::{Durability, Farm, FarmOptions};
use nix::sys::signal::Signal;

use super::{Row, of_farm};
use crate::{
    outcome::{Counts, Mark, Unit},
    sides::Bench,
    sleep::Sleep,
    support::{Buildx, Context, agent, builds, process::eventually},
};

/// In seconds.
const LEASE: u32 = 6;
/// What it may take beyond the lease, in seconds.
const BEYOND: f64 = 2.0;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut options = FarmOptions::from_env()?;
    options.agents = croft_local::agents("amd64,amd64")?;
    options.engines.clear();
    options.durability = Durability::Full;
    options.coordinator_flags = vec!["--lease".to_owned(), format!("{LEASE}s")];
    let farm = Farm::start(options)?;
    let buildx = Buildx::of(&farm);
    let mut started = Vec::new();
    let took = bench.rounds_of("a farm with a lease of its own", || {
        let sleep = Sleep::new();
        let context = Context::new(&format!("FROM busybox\nRUN : $NONCE; {}\n", sleep.step()));
        let build = buildx.build(&context).platforms(&["linux/amd64"]);
        let (built, took) = build.start_with(|_| {
            sleep.wait_for(1);
            let first = sleep.sleepers();
            let plan = eventually("the farm knows the build", || {
                builds::find(&farm, &context.nonce)
            });
            let name = plan.stage(&context.nonce).agent().to_owned();
            let dead = agent::tell(&farm, &name, Signal::SIGKILL);
            let died = Instant::now();
            eventually("it runs elsewhere", || {
                let now = sleep.sleepers();
                now.iter().any(|one| !first.contains(one)).then_some(())
            });
            let took = died.elapsed().as_secs_f64();
            sleep.wake_all();
            started.push(dead.start(&farm));
            took
        });
        built.succeeded();
        Ok(took)
    })?;
    Ok(vec![of_farm(
        "an agent's death to its stage running elsewhere, with a lease of 6 s",
        Unit::Seconds,
        Counts::Highest,
        Mark::Limit(f64::from(LEASE) + BEYOND),
        took,
    )])
}
