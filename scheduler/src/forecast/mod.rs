//! What would become of a build's stages if it came now: placement played through on a snapshot, without anybody being told.
//!
//! The clock is what stages are expected to take, the rules are [`place`]'s own: a stage is ready when what it takes is there, goes ahead to
//! the agent that is making it, takes a slot, and leaves what it made behind. So on an idle farm a build goes where its forecast said,
//! as far as nothing decides that is known only when it has run (how large a result is, how long a command takes).

mod books;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use croft_planner::{Plan, Stage, StageId};

use crate::fleet::{AgentView, FleetView, StageKey};
use crate::place::{Command, Decision, Policy, ReadyStage, Reason, Refusal, place};
use crate::{AgentId, BuildId, ConnectionId, Project, Timestamp};
use books::Books;

/// A build that is only looked at.
#[derive(Debug, Clone)]
pub struct Prospect<'a> {
    /// How it is split.
    pub plan: &'a Plan,
    /// A name that no other build has.
    pub build: BuildId,
    /// Whose it would be.
    pub project: Project,
    /// The agent that ran its frontend: what can be read once only is there.
    pub planner: Option<AgentId>,
}

/// What would become of one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// Which one.
    pub stage: StageId,
    /// Where it would go.
    pub outcome: Outcome,
    /// Why it would wait, though what it takes is there: the last reason, if there is one.
    pub waits: Option<Refusal>,
}

/// Where a stage would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// To this agent.
    Placed {
        /// Who gets it.
        agent: AgentId,
        /// Why this one.
        reason: Reason,
        /// How many of its commands that agent's cache has, as far as is known.
        cached: usize,
        /// What the others took when they last ran; `None` if that is not known of all.
        expected: Option<Duration>,
    },
    /// Nowhere, as the fleet is.
    Refused(Refusal),
    /// It needs what these would have made.
    Blocked(BTreeSet<StageId>),
}

impl Prospect<'_> {
    /// The stages as placement wants them, without what they take and what their commands cost.
    pub fn stages(&self, now: Timestamp) -> Vec<ReadyStage> {
        let stages = self.plan.stages().iter();
        stages.map(|stage| self.stage(stage, now)).collect()
    }

    fn stage(&self, stage: &Stage, now: Timestamp) -> ReadyStage {
        let command = |identity: &_| Command {
            identity: Clone::clone(identity),
            cost: None,
        };
        let users = stage.users.iter().filter_map(|user| {
            let target = self.plan.target(*user)?;
            Some(target.platform.to_string())
        });
        let users: Vec<String> = users.collect();
        ReadyStage {
            key: StageKey {
                build: self.build,
                stage: stage.id,
            },
            alike: ReadyStage::alike(&self.project.0, &stage.name, &users),
            project: self.project.clone(),
            priority: 0,
            // It shares one with no other build.
            connection: ConnectionId(self.build.0),
            build_created: now,
            ready_since: now,
            not_before: Timestamp(0),
            platforms: stage.platforms.clone(),
            requirements: stage.requirements.clone(),
            commands: stage.cache.iter().map(command).collect(),
            cache_mounts: stage.cache_mounts.clone(),
            together: stage.together,
            pinned: None,
            meets: stage.meets.iter().map(|other| (*other, None)).collect(),
            inputs: Vec::new(),
            failed_on: BTreeMap::new(),
        }
    }
}

/// Plays the build through. `stages` are those of [`Prospect::stages`] with what is known of their commands' cost. The answers are in the
/// plan's order.
pub fn forecast(
    prospect: &Prospect<'_>,
    fleet: &FleetView,
    stages: &[ReadyStage],
    policy: &Policy,
    now: Timestamp,
) -> Vec<Forecast> {
    let mut books = Books::new(prospect, fleet, stages, policy, now);
    loop {
        let ready = books.ready();
        let mut moved = false;
        for decision in place(&books.fleet.clone(), &ready, policy, books.now) {
            let stage = decision.key().stage;
            match decision {
                Decision::Placed { exports, .. } if !exports.is_empty() => {
                    books.export(&exports);
                    moved = true;
                }
                Decision::Placed { agent, reason, .. } => {
                    let ready = ready.iter().find(|one| one.key.stage == stage);
                    if let Some(ready) = ready {
                        books.put(ready, agent, reason);
                        moved = true;
                    }
                }
                Decision::Held {
                    why: Refusal::Inputs,
                    ..
                } => {}
                Decision::Held { why, .. } => books.hold(stage, why),
            }
        }
        if !moved && !books.advance() {
            return books.close();
        }
    }
}

/// When what an agent runs for others should be over, as [`place`] takes it.
fn ends(agent: &AgentView, policy: &Policy, now: Timestamp) -> Vec<(StageKey, Timestamp)> {
    let loads = agent.load.iter().map(|load| {
        let expected = load.expected.unwrap_or(policy.unknown_command);
        (load.key, now + now.since(load.since).abs_diff(expected))
    });
    loads.collect()
}
