//! What speaks for an agent. The policy is the order of [`Score`]'s fields.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use croft_planner::{CacheIdentity, EdgeId};

use super::policy::Policy;
use super::reason::Unfit;
use super::stage::ReadyStage;
use crate::fleet::{AgentView, Duty, Health, Nativeness, Presence, Start, room_ahead};
use crate::{AgentId, Project, Timestamp};

/// No wait is shorter: where all else is equal a free agent goes before a full one that is about to be free.
const SOON: Duration = Duration::from_millis(1);

/// Nothing is taken to last longer: whatever clocks and other parts say, sums of durations don't overflow.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// How well an agent suits a stage. The least is the best; no two agents are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// A native agent, even a busy one, goes before one that emulates: emulation is for platforms that nobody here has.
    pub nativeness: Nativeness,
    /// How often the farm failed at this stage there.
    pub failures: u32,
    /// How long until the stage is done: this is where a cache is weighed against a queue and against what must travel.
    pub delay: Duration,
    /// When a stage like this one last ran there: the engine has its base images and its local sources.
    pub last_alike: Reverse<Option<Timestamp>>,
    /// When its project last ran anything there.
    pub last_project: Reverse<Option<Timestamp>>,
    /// Thousandths of its slots that are taken.
    pub load: u32,
    /// So that the choice never depends on the order of the snapshot.
    pub agent: AgentId,
}

/// What a stage's delay on an agent is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Until a slot is free, with what the stage waited already: so that no saving is waited for without end.
    pub wait: Duration,
    /// Commands that run because their results aren't in the engine's cache, and cache mounts that are filled again.
    pub rebuild: Duration,
    /// Inputs that come from elsewhere.
    pub transfer: Duration,
    /// Roots that a later stage will have to get from elsewhere.
    pub meeting: Duration,
    /// What running beside others takes longer.
    pub contention: Duration,
}

impl Cost {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.wait + self.rebuild + self.transfer + self.meeting + self.contention
    }
}

/// An agent while a round of placements is made: what the snapshot says of it, and what the round has added.
pub(super) struct Desk<'a> {
    pub agent: &'a AgentView,
    /// Attempts that take a slot, those of this round included.
    pub running: u32,
    /// Attempts that were given to it ahead of what they take, those of this round included.
    ahead: u32,
    /// When each slot that is taken may be free, from now on: grows as stages are put there or wait for it.
    slots_free_in: Vec<Duration>,
    /// What stages of this round will put into its cache.
    cache: BTreeSet<CacheIdentity>,
    mounts: BTreeSet<(Project, String)>,
}

/// An agent that can take a stage, and what that would cost.
pub(super) struct Candidate {
    /// Its place among the desks.
    pub desk: usize,
    pub score: Score,
    pub cost: Cost,
    /// How many of the stage's commands its cache has.
    pub cached: usize,
}

impl<'a> Desk<'a> {
    pub fn new(agent: &'a AgentView, policy: &Policy, now: Timestamp) -> Desk<'a> {
        let left = |load: &crate::fleet::Load| {
            // What is overdue is taken to need as long again as it is late: a stuck attempt is waited for less and less.
            let expected = load.expected.unwrap_or(policy.unknown_command);
            now.since(load.since).abs_diff(expected).min(LONGEST)
        };
        Desk {
            agent,
            running: agent.running(Start::Complete),
            ahead: agent.running(Start::Ahead),
            slots_free_in: agent
                .load
                .iter()
                .filter(|load| load.start == Start::Complete)
                .map(left)
                .collect(),
            cache: BTreeSet::new(),
            mounts: BTreeSet::new(),
        }
    }

    pub fn has_free_slot(&self) -> bool {
        self.running < self.agent.slots
    }

    /// Whether it can be given a stage ahead of what that takes.
    pub fn has_room_ahead(&self) -> bool {
        room_ahead(self.agent.slots, self.running, self.ahead) > 0
    }

    /// Gives it the stage now.
    pub fn put(&mut self, stage: &ReadyStage, cost: &Cost) {
        if stage.is_ahead() {
            self.ahead += 1;
        } else {
            self.running += 1;
            self.slots_free_in.push(cost.total());
        }
        self.cache.extend(
            stage
                .commands
                .iter()
                .map(|command| command.identity.clone()),
        );
        self.mounts.extend(
            stage
                .cache_mounts
                .iter()
                .map(|mount| (stage.project.clone(), mount.clone())),
        );
    }

    /// Lets the stage wait for it: those that are decided after it see the longer queue.
    pub fn queue(&mut self, cost: &Cost) {
        let work = cost.rebuild + cost.transfer;
        if let Some(next) = self.next_slot() {
            self.slots_free_in[next] += work;
        }
    }

    /// The slot that frees the agent: not always the first, for an agent may have more attempts than slots.
    fn next_slot(&self) -> Option<usize> {
        let mut order: Vec<usize> = (0..self.slots_free_in.len()).collect();
        order.sort_by_key(|&slot| self.slots_free_in[slot]);
        let surplus = self
            .slots_free_in
            .len()
            .checked_sub(self.agent.slots as usize)?;
        order.get(surplus).copied()
    }

    fn holds(&self, identity: &CacheIdentity) -> bool {
        self.agent.cache.contains(identity) || self.cache.contains(identity)
    }

    fn has_mount(&self, mount: &(Project, String)) -> bool {
        self.agent.mounts.contains(mount) || self.mounts.contains(mount)
    }

    /// What the stage would cost here. `meets` are the agents of those that it meets later.
    fn cost(&self, stage: &ReadyStage, meets: &[AgentId], policy: &Policy, now: Timestamp) -> Cost {
        let rebuild = self.rebuild(stage, policy);
        let inputs = stage.inputs.iter();
        let transfer: Duration = inputs
            .map(|input| transfer(input, self.agent.id, policy))
            .sum();
        let elsewhere = meets.iter().filter(|agent| **agent != self.agent.id);
        let meeting: Duration = elsewhere.map(|_| unmeasured(true, policy)).sum();
        let wait = match self.next_slot() {
            Some(slot) if !self.has_free_slot() && stage.makers_on(self.agent.id) == 0 => {
                (now.since(stage.ready_since) + self.slots_free_in[slot]).clamp(SOON, LONGEST)
            }
            _ => Duration::ZERO,
        };
        let slots = self.agent.slots.max(1);
        let others = (self.running + self.ahead).saturating_sub(stage.makers_on(self.agent.id));
        let beside = others.min(slots - 1);
        Cost {
            wait,
            rebuild,
            transfer: transfer.min(LONGEST),
            meeting: meeting.min(LONGEST),
            contention: rebuild * beside / slots,
        }
    }

    fn rebuild(&self, stage: &ReadyStage, policy: &Policy) -> Duration {
        let missing = stage
            .commands
            .iter()
            .filter(|command| !self.holds(&command.identity));
        let cost =
            |command: &super::Command| command.cost.unwrap_or(policy.unknown_command).min(LONGEST);
        let commands: Duration = missing.map(cost).sum();
        if commands.is_zero() {
            // Mounts only matter to commands that run.
            return commands;
        }
        let empty = |id: &&String| !self.has_mount(&(stage.project.clone(), (*id).clone()));
        let mounts =
            u32::try_from(stage.cache_mounts.iter().filter(empty).count()).unwrap_or(u32::MAX);
        (commands + policy.empty_mount * mounts).min(LONGEST)
    }

    /// What it would be to run the stage here, or why that can't be. A full agent is a candidate too: one may wait for it.
    pub fn candidate(
        &self,
        desk: usize,
        stage: &ReadyStage,
        meets: &[AgentId],
        fleet: &BTreeMap<AgentId, &AgentView>,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Candidate, Unfit> {
        let agent = self.agent;
        let nativeness = fit(agent, stage, fleet, policy)?;
        let cost = self.cost(stage, meets, policy, now);
        let score = Score {
            nativeness,
            failures: stage.failed_on.get(&agent.id).copied().unwrap_or(0),
            delay: cost.total(),
            last_alike: Reverse(agent.alike.get(&stage.alike).copied()),
            last_project: Reverse(agent.projects.get(&stage.project).copied()),
            load: self.running.saturating_mul(1000) / agent.slots.max(1),
            agent: agent.id,
        };
        let cached = stage
            .commands
            .iter()
            .filter(|command| self.holds(&command.identity))
            .count();
        Ok(Candidate {
            desk,
            score,
            cost,
            cached,
        })
    }
}

/// How long so many bytes travel.
fn travel(bytes: u64, policy: &Policy) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / policy.bytes_per_second.max(1))
}

/// What bringing an input to an agent takes.
fn transfer(input: &super::Input, to: AgentId, policy: &Policy) -> Duration {
    if input.is_on(to) {
        return Duration::ZERO;
    }
    match &input.exported {
        Some(exported) => policy.transfer + travel(exported.bytes, policy),
        None => unmeasured(input.whole, policy),
    }
}

/// What exporting a result that nobody has measured and taking it elsewhere takes.
fn unmeasured(whole: bool, policy: &Policy) -> Duration {
    let bytes = if whole { policy.whole_root } else { 0 };
    policy.transfer * 2 + travel(bytes, policy)
}

/// The inputs of a stage that must be exported before an agent can take it: those that another agent just holds.
pub(super) fn exports(stage: &ReadyStage, to: AgentId) -> Vec<EdgeId> {
    let unexported = stage
        .inputs
        .iter()
        .filter(|input| input.exported.is_none() && !input.is_on(to));
    unexported.map(|input| input.edge).collect()
}

/// Whether an agent could run the stage now, but for free slots. What can't change by itself is looked at first, so that "away" means
/// that it could.
fn fit(
    agent: &AgentView,
    stage: &ReadyStage,
    fleet: &BTreeMap<AgentId, &AgentView>,
    policy: &Policy,
) -> Result<Nativeness, Unfit> {
    let nativeness = agent.runs(&stage.platforms).ok_or(Unfit::Platform)?;
    let lacks = agent.lacks(&stage.requirements);
    if !lacks.is_empty() {
        return Err(Unfit::Lacks(lacks));
    }
    if agent.slots == 0 {
        return Err(Unfit::NoSlots);
    }
    if agent.presence == Presence::Away {
        return Err(Unfit::Away);
    }
    match agent.health {
        Health::Healthy => {}
        Health::Unhealthy => return Err(Unfit::Unhealthy),
        Health::Full => return Err(Unfit::Disk),
        Health::Leaving => return Err(Unfit::Leaving),
    }
    if agent.duty == Duty::Draining {
        return Err(Unfit::Draining);
    }
    if agent.disk_free.is_some_and(|free| free < policy.least_disk) {
        return Err(Unfit::Disk);
    }
    for input in stage
        .inputs
        .iter()
        .filter(|input| input.exported.is_none() && !input.is_on(agent.id))
    {
        let holder = input.held_on.and_then(|holder| fleet.get(&holder));
        if !holder.is_some_and(|holder| holder.presence == Presence::Connected) {
            let on = holder.map(|holder| holder.name.clone());
            return Err(Unfit::Input {
                edge: input.edge,
                on,
            });
        }
    }
    Ok(nativeness)
}
