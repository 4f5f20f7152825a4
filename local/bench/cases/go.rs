//! Shape 1 with a real compiler: `go vet` once for all targets, `go build` for each, and a last step on each target's own platform. Go's
//! cache is a cache mount, which a cold build finds empty and a build after an edit full.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Row, Turns, cpu, pushed, sample, wall};
use crate::{
    outcome::{Counts, Mark, Unit},
    sides::{Bench, Side},
    support::{Context, PLATFORMS, Repository, nonce},
};

const SIDES: [Side; 3] = [Side::Farm, Side::Engine, Side::FourNodes];
/// One that all others import.
const EDITED: &str = "internal/words/words.go";
/// Manifests and configs, three of each, and the registry's links to them.
const AROUND: f64 = 32e3;

/// What travels, a round each, in bytes.
#[derive(Default)]
struct Travelled {
    stored: Vec<f64>,
    copied: Vec<f64>,
}

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut travelled = Travelled::default();
    let turns = bench.turns(&SIDES, |side| {
        let context = sample("bench/go")?;
        let arguments = pushed(bench, side, "go", &context);
        let images = bench.farm.stage().home().join("images");
        let before = size(&images)?;
        let cold = bench.measured_build(side, &arguments)?;
        if side == Side::Farm {
            travelled.stored.push((size(&images)? - before) as f64);
            travelled
                .copied
                .push(copied(&bench.repository(side, "go"))?);
        }
        edit(&context)?;
        Ok((cold, bench.measured_build(side, &arguments)?))
    })?;
    let (mut cold, mut edited) = (Turns::new(), Turns::new());
    for (side, usages) in turns {
        let (first, second): (Vec<_>, Vec<_>) = usages.into_iter().unzip();
        cold.insert(side, first);
        edited.insert(side, second);
    }
    let mark = Mark::AtMost {
        times: 1.15,
        plus: 0.0,
    };
    let mut rows = cpu(
        bench,
        ["CPU, cold", "CPU without other loads, cold"],
        mark,
        &cold,
    );
    rows.push(wall("wall, cold", Mark::None, &cold));
    rows.extend(cpu(
        bench,
        ["CPU, edited", "CPU without other loads, edited"],
        mark,
        &edited,
    ));
    rows.push(wall("wall, edited", Mark::None, &edited));
    rows.push(Row {
        label: "bytes through the stage registry",
        unit: Unit::Bytes,
        farm: travelled.stored.split_off(1),
        other: travelled.copied.split_off(1),
        against: Some("the copied files, compressed"),
        four_nodes: Vec::new(),
        counts: Counts::Median,
        mark: Mark::AtMost {
            times: 1.02,
            plus: AROUND,
        },
    });
    Ok(rows)
}

/// Changes one source file, so that what it is in must be compiled again.
fn edit(context: &Context) -> Result<()> {
    let path = context.path().join(EDITED);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {EDITED}"))?;
    let edition = format!(
        "\n// Edition tells editions apart.\nconst Edition = \"{}\"\n",
        nonce()
    );
    context.write(EDITED, (text + &edition).as_bytes());
    Ok(())
}

/// What the images of the other platforms copied from the builder: their last layers. The build platform's own copy never leaves its agent.
fn copied(repository: &Repository) -> Result<f64> {
    let list = repository.published("latest");
    let mut sizes = BTreeMap::new();
    for platform in PLATFORMS.iter().skip(1) {
        let digest = list.descriptor(platform)["digest"]
            .as_str()
            .context("a digest")?;
        let manifest = repository.published(digest).document;
        let layers = manifest["layers"].as_array();
        let last = layers
            .and_then(|layers| layers.last())
            .map(|layer| &layer["size"]);
        let last = last
            .and_then(Value::as_u64)
            .context("a layer with a size")?;
        sizes.insert(digest.to_owned(), last);
    }
    ensure!(
        sizes.len() == PLATFORMS.len() - 1,
        "one image for each platform"
    );
    Ok(sizes.values().sum::<u64>() as f64)
}

/// What the files in a folder hold together. None is being written when this is asked.
fn size(folder: &Path) -> Result<u64> {
    if !folder.exists() {
        return Ok(0);
    }
    let mut sum = 0;
    for entry in folder
        .read_dir()
        .with_context(|| format!("cannot list {}", folder.display()))?
    {
        let entry = entry?;
        sum += match entry.file_type()?.is_dir() {
            true => size(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(sum)
}
