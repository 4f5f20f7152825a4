//! A rebuild that has nothing to do: what a farm adds to the round trips of a build. All shapes of stages are in it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{Row, pushed, sample, wall};
use crate::{
    outcome::Mark,
    sides::{Bench, Side},
};

const SIDES: [Side; 2] = [Side::Farm, Side::Engine];

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    // Each side has a sample of its own, or the one would find what the other had built. The first turn builds it.
    let samples = SIDES.map(|side| Ok((side, sample("../examples/cross-compile")?)));
    let samples: BTreeMap<_, _> = samples.into_iter().collect::<Result<_>>()?;
    let turns = bench.turns(&SIDES, |side| {
        let context = samples.get(&side).context("a sample for each side")?;
        let mut arguments = pushed(bench, side, "no-op", context);
        arguments.extend(["--build-arg", "MEGABYTES=1"].map(str::to_owned));
        bench.measured_build(side, arguments)
    })?;
    let mark = Mark::AtMost {
        times: 1.5,
        plus: 0.2,
    };
    Ok(vec![wall("wall", mark, &turns)])
}
