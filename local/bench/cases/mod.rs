//! The cases. To add one: a file with a `run` that builds in turns and gives rows, and a line in [`CASES`].

mod adopt;
mod death;
mod go;
mod large_context;
mod many;
mod no_op;
mod scratch;
mod statements;
mod upload;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use croft_local::Durability;

use crate::{
    herd::Herd,
    measure::{Memory, Usage},
    outcome::{Counts, Mark, Row, Unit},
    sides::{Bench, Side},
    support::{Context, PLATFORMS},
};

/// Something to build and to measure.
pub struct Case {
    /// For `--case`.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// Measures it.
    pub run: fn(&Bench) -> Result<Vec<Row>>,
}

/// All of them, in the order in which they run.
pub const CASES: [Case; 9] = [
    Case {
        name: "no-op",
        title: "a rebuild without a change, four platforms, pushed",
        run: no_op::run,
    },
    Case {
        name: "scratch",
        title: "a slow step that four targets share, nothing to run on them; cold",
        run: scratch::run,
    },
    Case {
        name: "go",
        title: "a Go program for four platforms: cold, after an edit, and what travels",
        run: go::run,
    },
    Case {
        name: "context",
        title: "a local context of 2 GB, uploaded as a whole",
        run: large_context::run,
    },
    Case {
        name: "upload",
        title: "the contexts of croft build against those of buildx, to the same farm: 50,000 small files, and 2 GB",
        run: upload::run,
    },
    Case {
        name: "many",
        title: "40 small builds at once",
        run: many::run,
    },
    Case {
        name: "death",
        title: "an agent that is killed, and its stage",
        run: death::run,
    },
    Case {
        name: "adopt",
        title: "a coordinator that is killed and started again while 100 stages run",
        run: adopt::run,
    },
    Case {
        name: "statements",
        title: "what a stage costs the database",
        run: statements::run,
    },
];

/// What each side took, a round each.
type Turns = BTreeMap<Side, Vec<Usage>>;

/// Agents whose engines run nothing, on a farm of their own that runs as farms do for real.
fn herd_for_bench(agents: usize, slots: usize) -> Herd {
    Herd::start(agents, slots, |options| {
        options.durability = Durability::Full;
    })
}

/// A figure of each round, by side.
fn row(
    label: &'static str,
    unit: Unit,
    mark: Mark,
    turns: &Turns,
    figure: impl Fn(&Usage) -> f64,
) -> Row {
    let of = |side| {
        let usages = turns.get(&side).into_iter().flatten();
        usages.map(&figure).collect()
    };
    Row {
        label,
        unit,
        farm: of(Side::Farm),
        other: of(Side::Engine),
        against: None,
        four_nodes: of(Side::FourNodes),
        counts: Counts::Median,
        mark,
    }
}

/// What only a farm has, a figure for each round.
fn of_farm(label: &'static str, unit: Unit, counts: Counts, mark: Mark, farm: Vec<f64>) -> Row {
    Row {
        label,
        unit,
        farm,
        other: Vec::new(),
        against: None,
        four_nodes: Vec::new(),
        counts,
        mark,
    }
}

fn wall(label: &'static str, mark: Mark, turns: &Turns) -> Row {
    row(label, Unit::Seconds, mark, turns, |usage| {
        usage.wall.as_secs_f64()
    })
}

/// CPU time of the whole machine, which has the mark, and of what the bench started, which no other load disturbs.
fn cpu(bench: &Bench, labels: [&'static str; 2], mark: Mark, turns: &Turns) -> Vec<Row> {
    let [machine, own] = labels;
    let mut rows = vec![row(machine, Unit::Seconds, mark, turns, |usage| {
        usage.machine.as_secs_f64()
    })];
    if bench.meter().tells_own() {
        let figure = |usage: &Usage| usage.own.unwrap_or_default().as_secs_f64();
        rows.push(row(own, Unit::Seconds, Mark::None, turns, figure));
    }
    rows
}

/// How far the coordinator and the agent that grew most were above what they held before the case.
fn memory(before: &Memory, marks: [Mark; 2], turns: &Turns) -> Vec<Row> {
    let peaks = || {
        turns
            .get(&Side::Farm)
            .into_iter()
            .flatten()
            .map(|usage| &usage.peak)
    };
    let row = |label, mark, farm| of_farm(label, Unit::Bytes, Counts::Highest, mark, farm);
    let [coordinator, agent] = marks;
    vec![
        row(
            "growth of the coordinator's memory",
            coordinator,
            peaks()
                .map(|peak| peak.coordinator_since(before) as f64)
                .collect(),
        ),
        row(
            "growth of an agent's memory",
            agent,
            peaks()
                .map(|peak| peak.agent_since(before) as f64)
                .collect(),
        ),
    ]
}

/// A copy of a folder of samples, below this crate's own folder. `NONCE` in its Dockerfile, and a file `nonce`, are a word that no build
/// has used before.
fn sample(folder: &str) -> Result<Context> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let dockerfile = folder.join("Dockerfile");
    let dockerfile = fs::read_to_string(&dockerfile)
        .with_context(|| format!("cannot read {}", dockerfile.display()))?;
    let context = Context::new(&dockerfile.replace("NONCE", "$NONCE"));
    copy(&folder, &folder, &context)?;
    let nonce = context.nonce.clone();
    Ok(context.file("nonce", &nonce))
}

fn copy(root: &Path, folder: &Path, context: &Context) -> Result<()> {
    for entry in folder
        .read_dir()
        .with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            copy(root, &path, context)?;
        } else if path.file_name().is_some_and(|name| name != "Dockerfile") {
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            context.write(&name, &fs::read(&path)?);
        }
    }
    Ok(())
}

/// Arguments of a build of this context for all four platforms that pushes it.
fn pushed(bench: &Bench, side: Side, name: &str, context: &Context) -> Vec<String> {
    let platforms = PLATFORMS.join(",");
    let tag = bench.repository(side, name).tag("latest");
    let path = context.path().to_string_lossy().into_owned();
    ["--platform", &platforms, "--push", "--tag", &tag, &path]
        .map(str::to_owned)
        .to_vec()
}
