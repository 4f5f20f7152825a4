//! The same contexts from `croft build` and from buildx, to the same farm: one of many small files, and one of a single large one. Each all new
//! to the engines, and again when one file has changed. The build only looks at what arrived, so that the way there is what takes time.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read as _},
};

use anyhow::{Context as _, Result};

use super::Row;
use crate::{
    measure::Usage,
    outcome::{Counts, Mark, Unit},
    sides::{Bench, Side},
    support::{Context, Croft},
};

const FILES: usize = 50_000;
const FOLDERS: usize = 500;
const FILE_BYTES: u64 = 1000;
const LARGE_BYTES: u64 = 2_000_000_000;

const MARK: Mark = Mark::AtMost {
    times: 1.1,
    plus: 0.0,
};
/// What is sent when little has changed takes less than a second, of which other loads are a large part.
const MARK_CHANGED: Mark = Mark::AtMost {
    times: 1.1,
    plus: 0.2,
};

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    Croft,
    Buildx,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Client::Croft => "croft build",
            Client::Buildx => "buildx",
        })
    }
}

/// A context all new to the engines, and then with one file changed.
struct Sent {
    whole: Usage,
    changed: Usage,
}

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = of_context(
        bench,
        &small()?,
        [
            "50,000 files, all new: wall",
            "50,000 files, one changed: wall",
        ],
    )?;
    rows.extend(of_context(
        bench,
        &large()?,
        ["2 GB, all new: wall", "2 GB, one file changed: wall"],
    )?);
    Ok(rows)
}

fn of_context(bench: &Bench, context: &Context, labels: [&'static str; 2]) -> Result<Vec<Row>> {
    let croft = Croft::of(&bench.farm);
    let path = context.path().to_string_lossy().into_owned();
    let send = |client| {
        let arguments = ["--progress=plain", "--output=type=cacheonly", &path];
        bench.measured(match client {
            Client::Croft => croft.command(["build"].iter().chain(&arguments)),
            Client::Buildx => bench.build(Side::Farm, &arguments[1..])?,
        })
    };
    let mut changes = 0;
    let turns = bench.turns(&[Client::Croft, Client::Buildx], |client| {
        // An engine that still has the files of the last turn would only ask which have changed.
        bench.prune()?;
        nix::unistd::sync();
        let whole = send(client)?;
        changes += 1;
        // What the engine has yet to write is no cost of the next build.
        nix::unistd::sync();
        context.write("changed", format!("{changes}").as_bytes());
        let changed = send(client)?;
        Ok(Sent { whole, changed })
    })?;
    bench.prune()?;
    let [whole, changed] = labels;
    Ok(vec![
        row(whole, MARK, &turns, |sent| &sent.whole),
        row(changed, MARK_CHANGED, &turns, |sent| &sent.changed),
    ])
}

fn row(
    label: &'static str,
    mark: Mark,
    turns: &BTreeMap<Client, Vec<Sent>>,
    which: impl Fn(&Sent) -> &Usage,
) -> Row {
    let of = |client| {
        let sent = turns.get(&client).into_iter().flatten();
        sent.map(|sent| which(sent).wall.as_secs_f64()).collect()
    };
    Row {
        label,
        unit: Unit::Seconds,
        farm: of(Client::Croft),
        other: of(Client::Buildx),
        against: Some("buildx"),
        four_nodes: Vec::new(),
        counts: Counts::Median,
        mark,
    }
}

/// Many files in many folders.
fn small() -> Result<Context> {
    let context = looked_at("test $(find /context/files -type f | wc -l) = 50000");
    for number in 0..FILES {
        let folder = context.path().join(format!("files/{}", number % FOLDERS));
        std::fs::create_dir_all(&folder).context("cannot make a folder of the context")?;
        fill(&folder.join(number.to_string()), FILE_BYTES)?;
    }
    Ok(context)
}

fn large() -> Result<Context> {
    let context = looked_at("test $(stat -c %s /context/large) = 2000000000");
    fill(&context.path().join("large"), LARGE_BYTES)?;
    Ok(context)
}

fn looked_at(test: &str) -> Context {
    let dockerfile = format!(
        "FROM busybox\nRUN --mount=type=bind,target=/context cat /context/changed && {test}\n"
    );
    let context = Context::new(&dockerfile);
    context.write("changed", b"not yet");
    context
}

/// Writes a file like no other, which can't be compressed.
fn fill(path: &std::path::Path, length: u64) -> Result<()> {
    let random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    let mut file = File::create(path)?;
    io::copy(&mut random.take(length), &mut file).context("cannot fill the context")?;
    Ok(())
}
