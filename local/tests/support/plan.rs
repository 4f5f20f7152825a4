//! What `croft builds show` says of a build, read from its JSON as a program of a user's would.

use std::{collections::BTreeSet, path::Path, process::Command};

use serde::Deserialize;

use super::process;

/// A build as it ran.
#[derive(Debug, Clone, Deserialize)]
pub struct Plan {
    pub id: String,
    pub state: String,
    pub platforms: Vec<String>,
    pub published: Vec<String>,
    pub digest: Option<String>,
    pub error: Option<String>,
    pub stages: Vec<Stage>,
    pub transfers: Vec<Transfer>,
}

/// A part of it that ran on one agent.
#[derive(Debug, Clone, Deserialize)]
pub struct Stage {
    pub number: u32,
    pub name: String,
    pub kind: String,
    pub state: String,
    pub home: Option<String>,
    pub users: Vec<String>,
    pub inputs: Vec<u32>,
    pub attempts: Vec<Attempt>,
}

/// A try at a stage.
#[derive(Debug, Clone, Deserialize)]
pub struct Attempt {
    pub agent: String,
    pub state: String,
    pub reason: String,
    pub error: Option<String>,
    pub vertices_cached: u32,
    pub vertices_run: u32,
}

/// A result that went through the stage registry.
#[derive(Debug, Clone, Deserialize)]
pub struct Transfer {
    pub from_stage: u32,
    pub to_stages: Vec<u32>,
    pub digest: String,
    pub bytes: u64,
}

/// How `croft` ends where there is no such build.
const NOT_FOUND: i32 = 3;

impl Plan {
    /// Asks the farm.
    #[track_caller]
    pub fn of(croft: &Path, address: &str, id: &str) -> Plan {
        Self::find(croft, address, id).unwrap_or_else(|| panic!("there is no build {id}"))
    }

    /// The same of a build that may have been removed.
    #[track_caller]
    pub fn find(croft: &Path, address: &str, id: &str) -> Option<Plan> {
        let mut command = Command::new(croft);
        command.args(["builds", "show", id, "--format", "json", "--addr", address]);
        let shown = process::run(command);
        if shown.status.code() == Some(NOT_FOUND) {
            return None;
        }
        let printed = shown.succeeded().stdout;
        let plan = serde_json::from_str(&printed);
        Some(plan.unwrap_or_else(|error| panic!("{error}: {printed}")))
    }

    /// The stages of this kind (`shared`, `cross`, `target` or `output`).
    pub fn of_kind(&self, kind: &str) -> Vec<&Stage> {
        self.stages
            .iter()
            .filter(|stage| stage.kind == kind)
            .collect()
    }

    /// The stage of this number.
    #[track_caller]
    pub fn numbered(&self, number: u32) -> &Stage {
        let mut stages = self.stages.iter();
        let found = stages.find(|stage| stage.number == number);
        found.unwrap_or_else(|| panic!("no stage {number} in {self:#?}"))
    }

    /// The only stage whose name has this text.
    #[track_caller]
    pub fn stage(&self, text: &str) -> &Stage {
        let found: Vec<_> = self
            .stages
            .iter()
            .filter(|stage| stage.name.contains(text))
            .collect();
        match found[..] {
            [one] => one,
            _ => panic!("{} stages with {text:?} in {self:#?}", found.len()),
        }
    }

    /// The plan must be this one: the lines of [`Plan::golden_stages`], and one for each result that travelled.
    #[track_caller]
    pub fn check(&self, expected: &str) {
        let travels = self.transfers.iter().map(|transfer| {
            let to = numbers(&transfer.to_stages);
            format!("{} travels to {to}\n", transfer.from_stage)
        });
        same(
            &(self.golden_stages() + &travels.collect::<String>()),
            expected,
        );
    }

    /// Its stages must be these, as [`Plan::golden_stages`] writes them: where a platform has several agents, what travels is a matter
    /// of chance.
    #[track_caller]
    pub fn check_stages(&self, expected: &str) {
        same(&self.golden_stages(), expected);
    }

    /// What is the same each time: a line for each stage, with its number, kind, home, users, the stages that it takes from, and its
    /// steps by their numbers in the Dockerfile.
    fn golden_stages(&self) -> String {
        let short = |platform: &String| platform.trim_start_matches("linux/").to_owned();
        let mut lines = String::new();
        for stage in &self.stages {
            let home = match &stage.home {
                Some(home) => short(home),
                None => {
                    let (agent, _) = stage.agent().rsplit_once('-').expect("a number");
                    format!("any ({agent})")
                }
            };
            let users: Vec<_> = stage.users.iter().map(short).collect();
            let after = match &stage.inputs[..] {
                [] => String::new(),
                inputs => format!(" after {}", numbers(inputs)),
            };
            let steps = stage.name.split_inclusive(']').next().unwrap_or_default();
            lines += &format!(
                "{} {} on {home} for {}{after}: {steps}\n",
                stage.number,
                stage.kind,
                users.join(",")
            );
        }
        lines
    }

    /// All agents that ran something of it.
    pub fn agents(&self) -> BTreeSet<&str> {
        self.stages.iter().map(Stage::agent).collect()
    }
}

fn numbers(all: &[u32]) -> String {
    all.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[track_caller]
fn same(golden: &str, expected: &str) {
    assert!(
        golden == expected,
        "the plan is\n{golden}and should be\n{expected}"
    );
}

impl Stage {
    /// The agent that ran it: each stage of these tests needs one attempt only.
    #[track_caller]
    pub fn agent(&self) -> &str {
        &self.attempt().agent
    }

    /// Why that agent.
    #[track_caller]
    pub fn reason(&self) -> &str {
        &self.attempt().reason
    }

    #[track_caller]
    fn attempt(&self) -> &Attempt {
        match &self.attempts[..] {
            [one] => one,
            _ => panic!("not one attempt: {self:#?}"),
        }
    }
}
