//! `make bench`: how long builds take across a farm, and what they cost, against the same buildx on one of the farm's own engines.
//!
//! One run starts a farm of four agents on this machine. A case builds the same thing in turns: across the farm, straight on the
//! engine of the farm's first agent, and again. So both sides have the same engines, registry, emulators and neighbours, and what
//! counts is the median of the rounds' ratios. `croft build` is measured against buildx, both as clients of this farm. What has no other side,
//! as how soon a stage of a dead agent runs elsewhere, is measured on farms that a case starts itself. Each case is a file in `cases/`;
//! all of it is measured by `measure`, judged by `outcome` and told by `report`, and nothing is kept from one run to the next.

mod cases;
mod chart;
mod control_groups;
mod four_nodes;
#[path = "../tests/herd/mod.rs"]
mod herd;
mod machine;
mod measure;
mod outcome;
mod readme;
mod report;
mod sides;
#[path = "../tests/faults/sleep.rs"]
mod sleep;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use cases::CASES;
use machine::Machine;
use report::Report;
use sides::Bench;

/// Measures builds across a farm on this machine against the same builds on one of its engines
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    /// Only the cases with this text in their names; may be repeated
    #[arg(long)]
    case: Vec<String>,
    /// How often each side builds each case; medians count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where the figures go, as JSON
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench/bench.json"))]
    json: PathBuf,
    /// Puts the table and the picture into the README: only figures of all cases go there
    #[arg(long, conflicts_with = "case")]
    readme: bool,
    /// Names the cases and measures nothing
    #[arg(long)]
    list: bool,
    /// Cargo says this to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whether every mark was met.
fn run(cli: &Cli) -> Result<bool> {
    let wanted =
        |name: &str| cli.case.is_empty() || cli.case.iter().any(|text| name.contains(text));
    let cases: Vec<_> = CASES.iter().filter(|case| wanted(case.name)).collect();
    ensure!(!cases.is_empty(), "no case of that name; see --list");
    if cli.list {
        for case in cases {
            println!("{:<12} {}", case.name, case.title);
        }
        return Ok(true);
    }

    let bench = Bench::start(cli.rounds)?;
    let mut report = Report::new(Machine::look(&bench)?, cli.rounds, bench.idle());
    for case in cases {
        eprintln!("bench: {}: {}", case.name, case.title);
        report.add(case.name, (case.run)(&bench)?);
        // After each case, so that an interrupted run leaves what it has.
        if let Some(folder) = cli.json.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&cli.json, report.json())
            .with_context(|| format!("cannot write {}", cli.json.display()))?;
    }
    println!("{report}");
    if cli.readme {
        readme::write(&report)?;
    }
    for missed in report.missed() {
        eprintln!("bench: missed: {missed}");
    }
    Ok(report.missed().is_empty())
}
