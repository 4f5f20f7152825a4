//! Advice: what in a Dockerfile keeps its steps from being shared, or makes more travel than must, with the lines that say so.
//!
//! Nothing here reads a Dockerfile as BuildKit does. What a step is and needs is in the definitions: commands, their environment, what
//! they take from one another, and which lines they come from. The text of those lines is only searched for names. So advice is given
//! where the definitions show what a change would bring, and left out where that hangs on what a program does that nobody here knows.

mod early;
mod installs;
mod native;
mod shell;
mod steps;
mod whole;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Plan, StageId};
use steps::Steps;

/// Plans of more ops, or whose ops take more, get no advice: no person has written them.
const MAX_OPS: usize = 2_000;
const MAX_INPUTS: usize = 20_000;

/// One thing that would make a build faster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// What is the matter.
    pub kind: AdviceKind,
    /// The file's name, as the frontend says it.
    pub file: String,
    /// The lines to change.
    pub lines: Lines,
    /// The steps that pay for it, in the file's order.
    pub steps: Vec<AdvisedStep>,
    /// The stages of the plan that these are in.
    pub stages: BTreeSet<StageId>,
    /// What it costs, for people: a sentence without its full stop.
    pub costs: String,
    /// What to do, for people: a sentence without its full stop.
    pub remedy: String,
}

/// What advice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdviceKind {
    /// An `ARG` whose value differs between targets stands before steps that don't name it.
    EarlyArg,
    /// A Dockerfile stage of which only files are taken runs on each target's platform, though its tools need not.
    BuilderOnTarget,
    /// A command of the image itself runs on each target's platform, though its tool need not.
    RunOnTarget,
    /// A whole root travels for want of the paths that are needed of it.
    WholeRoot,
    /// Packages are installed behind a copy from another stage, and wait for that.
    LateInstall,
}

impl AdviceKind {
    /// `early-arg`, `builder-on-target` and so on.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EarlyArg => "early-arg",
            Self::BuilderOnTarget => "builder-on-target",
            Self::RunOnTarget => "run-on-target",
            Self::WholeRoot => "whole-root",
            Self::LateInstall => "late-install",
        }
    }
}

/// Lines of a file, the first one being 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lines {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A step of the Dockerfile, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AdvisedStep {
    /// Where it is.
    pub lines: Lines,
    /// Its first line as it is written there.
    pub text: String,
}

impl Plan {
    /// What would make this build faster, in the order of the files and lines. The same for the same plan.
    pub fn advice(&self) -> Vec<Advice> {
        let ops = &self.graph.ops;
        let inputs: usize = ops.iter().map(|op| op.inputs.len()).sum();
        if ops.len() > MAX_OPS || inputs > MAX_INPUTS {
            return Vec::new();
        }
        let steps = Steps::of(self);
        let mut advice = early::advice(&steps);
        advice.extend(native::advice(&steps));
        advice.extend(whole::advice(&steps));
        advice.extend(installs::advice(&steps));
        advice.sort_by(|a, b| {
            let key = |one: &Advice| (one.file.clone(), one.lines, one.kind);
            key(a).cmp(&key(b))
        });
        advice
    }
}

/// `4 times`, `twice`.
fn times(count: usize) -> String {
    match count {
        2 => "twice".to_owned(),
        count => format!("{count} times"),
    }
}

/// `line 3`, `lines 3 and 5`, `lines 3 to 6`.
fn at(lines: impl IntoIterator<Item = Lines>) -> String {
    let lines: BTreeSet<Lines> = lines.into_iter().collect();
    let texts: Vec<String> = lines.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [one] if !one.contains('-') => format!("line {one}"),
        [rest @ .., last] if !rest.is_empty() => {
            format!("lines {} and {last}", rest.join(", "))
        }
        _ => format!("lines {}", texts.concat()),
    }
}
