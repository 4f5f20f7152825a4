//! What the bench found, for people and for programs.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{machine::Machine, measure::Usage, outcome::Row};

/// All of a run.
pub struct Report {
    machine: Machine,
    rounds: u32,
    idle: Idle,
    rows: Vec<(&'static str, Row)>,
}

/// CPU seconds in each second while nothing is built.
#[derive(Debug, Clone, Serialize)]
struct Idle {
    machine: f64,
    own: Option<f64>,
}

/// More than this of a processor in use by others, and the machine's figures are theirs as well.
const QUIET: f64 = 0.1;

impl Report {
    /// A report without any case yet.
    pub fn new(machine: Machine, rounds: u32, idle: &Usage) -> Report {
        let each_second = |cpu: std::time::Duration| cpu.as_secs_f64() / idle.counted.as_secs_f64();
        Report {
            machine,
            rounds,
            idle: Idle {
                machine: each_second(idle.machine),
                own: idle.own.map(each_second),
            },
            rows: Vec::new(),
        }
    }

    /// Adds what a case found.
    pub fn add(&mut self, case: &'static str, rows: Vec<Row>) {
        self.rows.extend(rows.into_iter().map(|row| (case, row)));
    }

    /// The figures, by case.
    pub fn rows(&self) -> impl Iterator<Item = &(&'static str, Row)> {
        self.rows.iter()
    }

    /// A line for each mark that was missed.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.rows.iter().filter(|(_, row)| row.met() == Some(false));
        missed
            .map(|(case, row)| format!("{case}: {}", sentence(row)))
            .collect()
    }

    /// All of it, each round included.
    pub fn json(&self) -> String {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|(case, row)| told(case, row))
            .collect();
        let all = json!({
            "machine": self.machine,
            "rounds": self.rounds,
            "idle": self.idle,
            "figures": rows,
        });
        format!("{all:#}\n")
    }

    /// The table in Markdown, and where its figures come from.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| case | one engine | farm | ratio | mark | |\n|---|---:|---:|---:|---|---|\n",
        );
        for (case, row) in &self.rows {
            let cells = cells(row);
            text.push_str(&format!(
                "| {case}: {} | {} |\n",
                row.label,
                cells.join(" | ")
            ));
        }
        text.push_str(&format!("\n{}\n", self.origin()));
        text
    }

    fn origin(&self) -> String {
        let Idle { machine, own } = self.idle;
        let own = own.map_or(String::new(), |own| {
            format!(" ({:.1} % by the farm itself)", own * 100.0)
        });
        let mut text = format!(
            "Medians of {} rounds, also of their ratios, the sides in turns after a turn each to warm up, all on one machine: {}. Four agents with an \
             engine each share it with all else, and what must run on another platform is emulated on both sides. While nothing \
             was built, {:.1} % of one processor was in use{own}.",
            self.rounds,
            self.machine,
            machine * 100.0,
        );
        if machine - self.idle.own.unwrap_or(0.0) > QUIET {
            text.push_str(" The machine was not quiet: other loads are in these figures.");
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["case", "figure", "one engine", "farm", "ratio", "mark", ""].map(str::to_owned);
        let mut lines = vec![head];
        for (case, row) in &self.rows {
            let [other, farm, ratio, mark, met] = cells(row);
            lines.push([
                (*case).to_owned(),
                row.label.to_owned(),
                other,
                farm,
                ratio,
                mark,
                met,
            ]);
        }
        let mut widths = [0; 7];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in &lines {
            for (column, (width, cell)) in widths.iter().zip(line).enumerate() {
                match column {
                    2..=4 => write!(f, "{cell:>width$}  ")?,
                    _ => write!(f, "{cell:<width$}  ")?,
                }
            }
            writeln!(f)?;
        }
        write!(f, "\n{}", self.origin())
    }
}

/// One engine, farm, ratio, mark, whether it was met.
fn cells(row: &Row) -> [String; 5] {
    let none = || "–".to_owned();
    let mut other = row
        .other()
        .map_or_else(none, |figure| row.unit.show(figure));
    if let Some(against) = row.against {
        other.push_str(&format!(" ({against})"));
    }
    let mut ratio = row.ratio().map_or_else(none, |ratio| format!("{ratio:.2}"));
    if let Some(four) = row.four_nodes_ratio() {
        ratio.push_str(&format!(" (four nodes: {four:.2})"));
    }
    let met = match row.met() {
        Some(true) => "met",
        Some(false) => "**missed**",
        None => "",
    };
    [
        other,
        row.unit.show(row.farm()),
        ratio,
        row.mark.show(row.unit),
        met.to_owned(),
    ]
}

fn sentence(row: &Row) -> String {
    let [other, farm, ratio, mark, _] = cells(row);
    format!(
        "{} {farm} against {other}, a ratio of {ratio}; the mark is {mark}",
        row.label
    )
}

fn told(case: &str, row: &Row) -> Value {
    let mut value = json!(row);
    value["case"] = json!(case);
    value["median"] = json!({"farm": row.farm(), "other": row.other()});
    value["ratio"] = json!(row.ratio());
    value["four_nodes_ratio"] = json!(row.four_nodes_ratio());
    value["met"] = json!(row.met());
    value
}
