//! A stage that is ready, as the scheduler sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use croft_planner::{CacheIdentity, EdgeId, Platform, Requirements, StageId};

use crate::fleet::StageKey;
use crate::{AgentId, ConnectionId, Project, Timestamp};

/// A stage that wants an agent: all of its inputs are there, or some are just being made and it may go to the agent that makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyStage {
    /// Which one.
    pub key: StageKey,
    /// Whose share of the farm it takes.
    pub project: Project,
    /// Greater goes first.
    pub priority: i32,
    /// How its build came. A command that several builds of one connection have runs on one agent, where its engine runs it once for all.
    pub connection: ConnectionId,
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
    /// The agent on which another of its group was placed last, or the stage that it is placed with, or that another build of the same
    /// connection gave one of its commands to. It goes there if that agent can
    /// take it, and waits for a slot there. If it can't any more (it is away or draining, or the farm failed at this stage there), the
    /// stage goes elsewhere: what is still to be placed of a group moves on together, and finds its cache mounts as after a prune.
    pub pinned: Option<AgentId>,
    /// The stages whose whole roots meet its own in a later stage, and the agent where each of them was placed, if it was: elsewhere one of
    /// the two would have to travel.
    pub meets: BTreeMap<StageId, Option<AgentId>>,
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
    /// The agent whose keeper has it, or will have it, if one does.
    pub held_on: Option<AgentId>,
    /// Whether it is a whole root, and not just some files.
    pub whole: bool,
    /// Whether it is there.
    pub supply: Supply,
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

/// Whether an input is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// It is.
    There,
    /// An attempt at this stage, on the agent that will hold it, is making it.
    Coming(StageId),
}

impl ReadyStage {
    /// What [`ReadyStage::alike`] is for a stage of this name that these targets need.
    pub fn alike(project: &str, name: &str, users: &[String]) -> String {
        format!("{project}: {}", Self::alike_key(name, users))
    }

    /// The part of it that is the same in all projects.
    pub fn alike_key(name: &str, users: &[String]) -> String {
        format!("{name} for {}", users.join(","))
    }

    /// Whether something that it takes is not there yet.
    pub fn is_ahead(&self) -> bool {
        self.inputs
            .iter()
            .any(|input| input.supply != Supply::There)
    }

    /// Whether an agent has all of it that is not there yet: its engine starts what can be started, and has the rest wait.
    pub fn comes_together_on(&self, agent: AgentId) -> bool {
        self.inputs
            .iter()
            .all(|input| input.supply == Supply::There || input.held_on == Some(agent))
    }

    /// How many of the attempts that it would run beside on this agent it waits for: those are over when it goes on.
    pub(super) fn makers_on(&self, agent: AgentId) -> u32 {
        let inputs = self.inputs.iter();
        let makers: BTreeSet<StageId> = inputs
            .filter(|input| input.held_on == Some(agent))
            .filter_map(|input| match input.supply {
                Supply::There => None,
                Supply::Coming(maker) => Some(maker),
            })
            .collect();
        u32::try_from(makers.len()).unwrap_or(u32::MAX)
    }
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
