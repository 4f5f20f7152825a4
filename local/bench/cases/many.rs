//! Many small builds at once, each by a client of its own.

use anyhow::Result;

use super::{Row, cpu, memory, row};
use crate::{
    outcome::{Mark, Unit},
    sides::{Bench, Side, end},
    support::Context,
};

const BUILDS: usize = 40;
const DOCKERFILE: &str = "FROM busybox\nRUN : $NONCE && mkdir /app\nCOPY hello /app/\n";

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let before = bench.meter().memory()?;
    let turns = bench.turns(&[Side::Farm, Side::Engine], |side| {
        let contexts: Vec<_> = (0..BUILDS)
            .map(|_| Context::new(DOCKERFILE).file("hello", "hello\n"))
            .collect();
        let (ended, usage) = bench.meter().measure(|| {
            // All are started before the first is waited for.
            let running = contexts.iter().map(|context| {
                let tag = bench.repository(side, "many").tag(&context.nonce);
                let path = context.path().to_string_lossy().into_owned();
                bench.start_build(side, ["--push", "--tag", &tag, &path])
            });
            let running: Vec<_> = running.collect();
            running.into_iter().try_for_each(|one| end(one?))
        })?;
        ended?;
        Ok(usage)
    })?;
    let each_second = |usage: &crate::measure::Usage| BUILDS as f64 / usage.wall.as_secs_f64();
    let mark = Mark::AtLeast { times: 0.9 };
    let mut rows = vec![row(
        "builds per second",
        Unit::PerSecond,
        mark,
        &turns,
        each_second,
    )];
    rows.extend(cpu(
        bench,
        ["CPU", "CPU without other loads"],
        Mark::None,
        &turns,
    ));
    rows.extend(memory(
        &before,
        [Mark::Limit(64e6), Mark::Limit(64e6)],
        &turns,
    ));
    Ok(rows)
}
