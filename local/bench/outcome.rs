//! What a case found, and whether that is good enough.

use serde::Serialize;

/// Of what kind a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Of wall or CPU time.
    Seconds,
    /// Of memory or of what travelled.
    Bytes,
    /// Builds in a second.
    PerSecond,
    /// How many of something.
    Count,
    /// How many times as much as something else.
    Times,
}

/// Which of the rounds' figures stands for them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// The one in the middle.
    Median,
    /// The highest: for what has a limit.
    Highest,
}

/// What a figure of the farm may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// So many times the other side's, and this much more.
    AtMost { times: f64, plus: f64 },
    /// So many times the other side's.
    AtLeast { times: f64 },
    /// This, whatever the other side has.
    Limit(f64),
    /// Anything: it is only told.
    None,
}

/// One figure of a case.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub label: &'static str,
    /// Of what kind it is.
    pub unit: Unit,
    /// The farm's, a round each.
    pub farm: Vec<f64>,
    /// What it is compared with, a round each; empty if with nothing.
    pub other: Vec<f64>,
    /// What `other` is, if not what one engine took.
    pub against: Option<&'static str>,
    /// What four engines took as the nodes of one builder, where that was looked at.
    pub four_nodes: Vec<f64>,
    /// Which of the rounds stands for all.
    pub counts: Counts,
    /// What is good enough.
    pub mark: Mark,
}

impl Row {
    /// The farm's figure.
    pub fn farm(&self) -> f64 {
        self.counts.of(&self.farm).unwrap_or(f64::NAN)
    }

    /// What it is compared with.
    pub fn other(&self) -> Option<f64> {
        self.counts.of(&self.other)
    }

    /// The farm's figure as a multiple of the other.
    pub fn ratio(&self) -> Option<f64> {
        self.times(&self.farm, 0.0)
    }

    /// The four nodes' figure as a multiple of one engine's.
    pub fn four_nodes_ratio(&self) -> Option<f64> {
        self.times(&self.four_nodes, 0.0)
    }

    /// Whether the farm's figure is good enough. None if any would be.
    pub fn met(&self) -> Option<bool> {
        let found = |plus| self.times(&self.farm, plus).unwrap_or(f64::NAN);
        match self.mark {
            Mark::AtMost { times, plus } => Some(found(plus) <= times),
            Mark::AtLeast { times } => Some(found(0.0) >= times),
            Mark::Limit(limit) => Some(self.farm() <= limit),
            Mark::None => None,
        }
    }

    /// What these figures less `plus` are as multiples of the other's: those of one round by each other, as a machine is not equally fast
    /// all the time.
    fn times(&self, figures: &[f64], plus: f64) -> Option<f64> {
        let rounds = figures.iter().zip(&self.other);
        let ratios: Vec<f64> = rounds.map(|(one, other)| (one - plus) / other).collect();
        self.counts.of(&ratios)
    }
}

impl Counts {
    fn of(self, figures: &[f64]) -> Option<f64> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        match self {
            Counts::Highest => sorted.last().copied(),
            Counts::Median => {
                let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
                Some((sorted.get(low)? + sorted.get(high)?) / 2.0)
            }
        }
    }
}

impl Unit {
    /// A figure as people read it.
    pub fn show(self, figure: f64) -> String {
        match self {
            Unit::Seconds => format!("{figure:.2} s"),
            Unit::PerSecond => format!("{figure:.2}/s"),
            Unit::Count => format!("{figure:.1}"),
            Unit::Times => format!("{figure:.2} x"),
            Unit::Bytes if figure.abs() >= 1e6 => format!("{:.1} MB", figure / 1e6),
            Unit::Bytes => format!("{:.1} kB", figure / 1e3),
        }
    }
}

impl Mark {
    /// As people read it.
    pub fn show(self, unit: Unit) -> String {
        match self {
            Mark::AtMost { times, plus } if plus > 0.0 => {
                format!("≤ {times} x + {}", unit.show(plus))
            }
            Mark::AtMost { times, .. } => format!("≤ {times} x"),
            Mark::AtLeast { times } => format!("≥ {times} x"),
            Mark::Limit(limit) => format!("≤ {}", unit.show(limit)),
            Mark::None => "–".to_owned(),
        }
    }
}
