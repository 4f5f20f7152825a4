//! The README's part of the figures: a table and a picture, between two markers.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{chart, report::Report};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bench.svg");
const START: &str = "<!-- make bench-readme writes from here … -->\n";
const END: &str = "<!-- … to here -->\n";

/// Writes both.
pub fn write(report: &Report) -> Result<()> {
    let text = fs::read_to_string(README).context("cannot read the README")?;
    let (before, rest) = text
        .split_once(START)
        .context("the README has lost its first marker")?;
    let (_, after) = rest
        .split_once(END)
        .context("the README has lost its second marker")?;
    let picture = "![The farm's figures as multiples of one engine's](docs/bench.svg)";
    let part = format!("{picture}\n\n{}", report.markdown());
    fs::write(README, format!("{before}{START}\n{part}\n{END}{after}"))
        .context("cannot write the README")?;
    fs::write(Path::new(PICTURE), chart::draw(report)).context("cannot write the picture")
}
