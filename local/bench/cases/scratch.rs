//! Shape 2, cold: a slow step that all targets share, a quick one for each, and images of nothing but files. On a farm with one agent of
//! the build platform nothing travels, so that the farm's own costs are what there is to see.

use anyhow::Result;

use super::{Row, cpu, pushed, sample, wall};
use crate::{
    outcome::Mark,
    sides::{Bench, Side},
};

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let turns = bench.turns(&[Side::Farm, Side::Engine], |side| {
        let context = sample("../examples/scratch")?;
        bench.measured_build(side, pushed(bench, side, "scratch", &context))
    })?;
    let at_most = |times| Mark::AtMost { times, plus: 0.0 };
    let mut rows = vec![wall("wall", at_most(1.15), &turns)];
    rows.extend(cpu(
        bench,
        ["CPU", "CPU without other loads"],
        at_most(1.1),
        &turns,
    ));
    Ok(rows)
}
