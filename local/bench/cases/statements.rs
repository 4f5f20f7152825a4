//! What a stage costs the database: builds of one stage each, a few at once and many, on agents whose engines run nothing; and what is
//! written of a command that says much.

use std::time::Instant;

use anyhow::{Context as _, Result};

use super::{Row, herd_for_bench, of_farm};
use crate::{
    herd::{
        Herd,
        statements::{self, Statements},
    },
    outcome::{Counts, Mark, Unit},
    sides::Bench,
};

const AGENTS: usize = 25;
const SLOTS: usize = 4;
const FEW: usize = 10;
const MANY: usize = AGENTS * SLOTS;

/// Builds whose commands say much, and how much each, in bytes.
const TALKERS: usize = 4;
const SAYS: usize = 1 << 20;
/// What is appended to a log at once, in bytes; less only after a second.
const CHUNK: f64 = 65536.0;

/// What each stage of a round took.
struct Each {
    statements: f64,
    bytes: f64,
}

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let herd = herd_for_bench(AGENTS, SLOTS);
    statements::log_all(&herd.farm);
    let rounds = bench.rounds_of("a farm of 25 agents", || {
        Ok((each(&herd, FEW), each(&herd, MANY), appends(&herd)?))
    })?;
    let row = |label, unit, limit, figure: fn(&(Each, Each, f64)) -> f64| {
        let figures = rounds.iter().map(figure).collect();
        of_farm(label, unit, Counts::Median, Mark::Limit(limit), figures)
    };
    Ok(vec![
        row(
            "SQL statements for each of 100 stages at once",
            Unit::Count,
            60.0,
            |(_, many, _)| many.statements,
        ),
        row(
            "the same as a multiple of each of 10's",
            Unit::Times,
            1.1,
            |(few, many, _)| many.statements / few.statements,
        ),
        row(
            "bytes that the database writes for each of 100 stages at once",
            Unit::Bytes,
            32e3,
            |(_, many, _)| many.bytes,
        ),
        row(
            "the same as a multiple of each of 10's",
            Unit::Times,
            1.25,
            |(few, many, _)| many.bytes / few.bytes,
        ),
        row(
            "appends to logs as a multiple of one for each 64 KiB and second",
            Unit::Times,
            1.0,
            |(_, _, appends)| *appends,
        ),
    ])
}

/// Builds of one stage each that all run at once, from the first row to the last.
fn each(herd: &Herd, stages: usize) -> Each {
    herd.engines.say(0);
    herd.engines.shut();
    let statements = Statements::of(&herd.farm);
    let builds = herd.begin(stages);
    herd.wait_running(stages);
    herd.engines.open();
    builds.succeeded();
    let counted = statements.counted();
    Each {
        statements: counted.total() as f64 / stages as f64,
        bytes: counted.written as f64 / stages as f64,
    }
}

/// How often something was appended to the logs of builds that say much, for each time that it may be.
fn appends(herd: &Herd) -> Result<f64> {
    let logs = || {
        let sums = herd.ask("SELECT count(*), COALESCE(sum(octet_length(data)), 0) FROM logs");
        let (appends, bytes) = sums.split_once('|').context("two sums")?;
        Ok::<_, anyhow::Error>((appends.parse::<f64>()?, bytes.parse::<f64>()?))
    };
    let before = logs()?;
    herd.engines.say(SAYS);
    let started = Instant::now();
    herd.begin(TALKERS).succeeded();
    let seconds = started.elapsed().as_secs_f64();
    let after = logs()?;
    // The last piece of a log is as long as it is.
    let may = (after.1 - before.1) / CHUNK + TALKERS as f64 * (seconds + 1.0);
    Ok((after.0 - before.0) / may)
}
