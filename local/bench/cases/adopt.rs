//! The coordinator is killed and started again while a hundred stages run: how long until it has them all. The agents are real, but their
//! engines run nothing: this machine could not run a hundred commands.

use anyhow::{Result, ensure};

use super::{Row, herd_for_bench, of_farm};
use crate::{
    outcome::{Counts, Mark, Unit},
    sides::Bench,
    support::process::eventually,
};

const AGENTS: usize = 25;
const SLOTS: usize = 4;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut herd = herd_for_bench(AGENTS, SLOTS);
    let took = bench.rounds_of("a farm of 25 agents", || {
        herd.engines.shut();
        let builds = herd.begin(AGENTS * SLOTS);
        herd.wait_running(AGENTS * SLOTS);
        let took = herd.restart_coordinator();
        // Their clients went with the coordinator's connections.
        drop(builds);
        herd.engines.open();
        eventually("all builds are over", || {
            let live = "SELECT count(*) FROM builds WHERE finished_at IS NULL";
            (herd.ask(live) == "0").then_some(())
        });
        let repeated = "SELECT count(*) FROM attempts WHERE state <> 'succeeded'";
        ensure!(herd.ask(repeated) == "0", "stages ran again");
        Ok(took.as_secs_f64())
    })?;
    Ok(vec![of_farm(
        "a coordinator's start to 100 running stages adopted",
        Unit::Seconds,
        Counts::Highest,
        Mark::Limit(3.0),
        took,
    )])
}
