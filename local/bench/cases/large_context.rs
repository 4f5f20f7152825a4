//! A large local context, all of it new to the engine: from the client through coordinator and agent into the engine. The build only counts
//! the files, so that the way there is what takes time.

use std::{
    fs::File,
    io::{self, Read as _},
};

use anyhow::{Context as _, Result};

use super::{Row, cpu, memory, wall};
use crate::{
    outcome::Mark,
    sides::{Bench, Side},
    support::Context,
};

const FILES: u64 = 2000;
const FILE_BYTES: u64 = 1_000_000;
const GROWTH: Mark = Mark::Limit(64e6);

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let context = Context::new(&format!(
        "FROM busybox\nRUN --mount=type=bind,target=/context test $(find /context/files -type f | wc -l) = {FILES}\n"
    ));
    fill(&context)?;
    let before = bench.meter().memory()?;
    let turns = bench.turns(&[Side::Farm, Side::Engine], |side| {
        // An engine that still has the files of the last turn would only ask which have changed.
        bench.prune()?;
        let path = context.path().to_string_lossy().into_owned();
        bench.measured_build(side, ["--output", "type=cacheonly", &path])
    });
    let turns = turns?;
    bench.prune()?;
    let mark = Mark::AtMost {
        times: 1.2,
        plus: 0.0,
    };
    let mut rows = vec![wall("wall", mark, &turns)];
    rows.extend(cpu(
        bench,
        ["CPU", "CPU without other loads"],
        Mark::None,
        &turns,
    ));
    rows.extend(memory(&before, [GROWTH; 2], &turns));
    Ok(rows)
}

/// Writes the files, of which no two are alike and none can be compressed.
fn fill(context: &Context) -> Result<()> {
    let folder = context.path().join("files");
    std::fs::create_dir(&folder).context("cannot make the folder of the context's files")?;
    let mut random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    for number in 0..FILES {
        let mut file = File::create(folder.join(number.to_string()))?;
        io::copy(&mut random.by_ref().take(FILE_BYTES), &mut file)
            .context("cannot fill the context")?;
    }
    Ok(())
}
