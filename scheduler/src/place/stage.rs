//! A stage that is ready, as the scheduler sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use croft_planner::{CacheIdentity, EdgeId, Platform, Requirements, StageId};

use crate::fleet::StageKey;
use crate::{AgentId, Project, Timestamp};

/// A stage all of whose inputs are there and that wants an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyStage {
    /// Which one.
    pub key: StageKey,
    /// Whose share of the farm it takes.
    pub project: Project,
    /// Greater goes first.
    pub priority: i32,
    /// When its build came.
    pub build_created: Timestamp,
    /// Since when it wants an agent.
    pub ready_since: Timestamp,
    /// Not to be placed sooner: the farm failed at it a short while ago.
    pub not_before: Timestamp,
    /// The platforms of its commands, all of which its agent must run. Empty: any agent can run it.
    pub platforms: BTreeSet<Platform>,
    /// What else its agent must be able and allowed to do.
    pub requirements: Requirements,
    /// Its commands, with what each took when it last ran somewhere.
    pub commands: Vec<Command>,
    /// The same for the same stage of an earlier build, whatever was edited in between: its project, its name and who needs it.
    pub alike: String,
    /// The ids of its cache mounts.
    pub cache_mounts: BTreeSet<String>,
    /// Stages of one build with the same value run on one agent.
    pub together: Option<StageId>,
    /// The agent on which another of its group was placed last, or the stage that it is placed with. It goes there if that agent can
    /// take it, and waits for a slot there. If it can't any more (it is away or draining, or the farm failed at this stage there), the
    /// stage goes elsewhere: what is still to be placed of a group moves on together, and finds its cache mounts as after a prune.
    pub pinned: Option<AgentId>,
    /// The results that it takes.
    pub inputs: Vec<Input>,
    /// How often the farm failed at it, by agent.
    pub failed_on: BTreeMap<AgentId, u32>,
}

/// A command of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What an engine's cache may know of it.
    pub identity: CacheIdentity,
    /// What running it took elsewhere or before, if anybody knows.
    pub cost: Option<Duration>,
}

/// A result of another stage that a stage takes, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Which one.
    pub edge: EdgeId,
    /// The agent whose keeper has it, if one has.
    pub held_on: Option<AgentId>,
    /// The image that it was exported as, if it was.
    pub exported: Option<ExportedInput>,
}

/// An input that is in the stage registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedInput {
    /// The compressed size of its own layers.
    pub bytes: u64,
    /// The agents that took it from there before, so that it needn't travel to them again.
    pub pulled_by: BTreeSet<AgentId>,
}

impl Input {
    /// Whether it is on that agent already, so that nothing must travel.
    pub fn is_on(&self, agent: AgentId) -> bool {
        self.held_on == Some(agent)
            || self
                .exported
                .as_ref()
                .is_some_and(|exported| exported.pulled_by.contains(&agent))
    }
}
