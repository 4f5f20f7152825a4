//! What the database holds in the simulation, and the guarded changes that it takes. Each says [`Stale`] and changes nothing where the real
//! store's statement would change no row; each transition goes through the lifecycles' own tables, so that an illegal one ends the test.

mod attempts;
mod results;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use croft_planner::StageId;
use croft_scheduler::fleet::{AgentView, Duty, Health, Presence, StageKey};
use croft_scheduler::place::ReadyStage;
use croft_scheduler::{
    AgentId, AttemptEvent, AttemptId, AttemptState, BuildEvent, BuildId, BuildState, FailureKind,
    StageEvent, StageState, Timestamp, Token,
};

/// Nothing was changed: what was expected is not so any more.
#[derive(Debug)]
pub struct Stale;

/// A change, or nothing.
pub type Guarded<T> = Result<T, Stale>;

/// What a result was made from: of each stage behind it, the attempt that ran it; itself included.
pub type Origin = Rc<BTreeMap<usize, Token>>;

pub struct Build {
    pub state: BuildState,
    pub stages: Vec<Stage>,
    pub outputs: Vec<Output>,
    /// Who ended it, if it didn't succeed.
    pub why: Option<End>,
}

/// Why a build did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// One of its commands failed.
    OwnFault,
    /// The farm failed too often at one stage.
    Budget,
    /// Nobody came to run a stage.
    NoAgent,
    /// Its client didn't want it any more.
    Cancelled,
}

pub struct Stage {
    /// All that the scheduler is told, but for what moves.
    pub ready: ReadyStage,
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
    /// How long it takes.
    pub work: Duration,
    /// Whether its command fails.
    pub fails: bool,
    pub state: StageState,
    pub since: Timestamp,
    pub not_before: Timestamp,
    pub farm_failures: u32,
    /// Those of the stage registry have a budget of their own.
    pub registry_failures: u32,
    pub unserved_since: Option<Timestamp>,
}

pub struct Output {
    pub stage: usize,
    /// Nobody, if it is a target.
    pub consumers: Vec<usize>,
    pub held: Option<(AgentId, Origin)>,
    pub image: Option<Origin>,
}

impl Output {
    fn is_there(&self) -> bool {
        self.held.is_some() || self.image.is_some()
    }
}

pub struct Attempt {
    pub key: StageKey,
    pub agent: AgentId,
    pub token: Token,
    pub state: AttemptState,
    pub lease_until: Timestamp,
    pub since: Timestamp,
    /// Whose fault its failure was.
    pub failure: Option<FailureKind>,
    /// What it takes.
    pub bound: Vec<usize>,
    /// Whether some of that was not there yet when it was offered.
    pub went_ahead: bool,
}

/// A placement that is to be committed.
pub struct NewAttempt {
    pub id: AttemptId,
    pub key: StageKey,
    pub agent: AgentId,
    /// The connection that the offer will be sent over.
    pub epoch: u64,
}

/// What stands for an input in an offer.
#[derive(Debug, Clone)]
pub enum Bound {
    /// The agent's own result.
    Held(Origin),
    /// An image.
    Image(Origin),
    /// What another attempt on the agent is making.
    Coming,
}

/// A result that an attempt delivers.
pub struct Delivered {
    pub output: usize,
    pub origin: Origin,
    /// Whether it was exported at once.
    pub exported: bool,
}

/// Attempts that a change ended: their agents are to be told.
pub type Cancelled = Vec<(AgentId, AttemptId)>;

#[derive(Default)]
pub struct Books {
    pub builds: BTreeMap<BuildId, Build>,
    pub attempts: BTreeMap<AttemptId, Attempt>,
    /// The live ones of `attempts`.
    pub live: BTreeSet<AttemptId>,
    /// The same by what they run: there is one for each at most.
    at_work: BTreeMap<StageKey, AttemptId>,
    /// As the scheduler sees them, without load.
    pub agents: BTreeMap<AgentId, AgentView>,
    pub epochs: BTreeMap<AgentId, u64>,
    pub last_seen: BTreeMap<AgentId, Timestamp>,
    /// Grows with each change: a stale one must leave it alone.
    pub version: u64,
    token: u64,
}

impl Books {
    // ---- agents

    pub fn hello(&mut self, view: &AgentView, now: Timestamp) -> u64 {
        self.version += 1;
        let duty = self.agents.get(&view.id).map_or(Duty::Active, |a| a.duty);
        let joined = AgentView {
            presence: Presence::Connected,
            health: Health::Healthy,
            duty,
            ..view.clone()
        };
        self.agents.insert(view.id, joined);
        self.last_seen.insert(view.id, now);
        let epoch = self.epochs.entry(view.id).or_default();
        *epoch += 1;
        *epoch
    }

    pub fn heard(
        &mut self,
        agent: AgentId,
        epoch: u64,
        health: Health,
        now: Timestamp,
    ) -> Guarded<()> {
        let view = self.connected(agent, epoch)?;
        view.health = health;
        self.last_seen.insert(agent, now);
        self.version += 1;
        Ok(())
    }

    pub fn away(&mut self, agent: AgentId, epoch: u64) -> Guarded<()> {
        self.connected(agent, epoch)?.presence = Presence::Away;
        self.version += 1;
        Ok(())
    }

    fn connected(&mut self, agent: AgentId, epoch: u64) -> Guarded<&mut AgentView> {
        if self.epochs.get(&agent) != Some(&epoch) {
            return Err(Stale);
        }
        self.agents
            .get_mut(&agent)
            .filter(|view| view.presence == Presence::Connected)
            .ok_or(Stale)
    }

    /// What a coordinator that starts does first.
    pub fn all_away(&mut self) {
        self.version += 1;
        for view in self.agents.values_mut() {
            view.presence = Presence::Away;
        }
    }

    pub fn stage(&self, key: StageKey) -> &Stage {
        &self.builds[&key.build].stages[key.stage.index()]
    }

    fn stage_mut(&mut self, key: StageKey) -> &mut Stage {
        let build = self.builds.get_mut(&key.build).expect("a build of ours");
        &mut build.stages[key.stage.index()]
    }

    fn running(&mut self, build: BuildId) -> Guarded<&mut Build> {
        self.builds
            .get_mut(&build)
            .filter(|build| build.state == BuildState::Running)
            .ok_or(Stale)
    }

    // ---- ends

    /// Nobody came to run a stage.
    pub fn give_up(&mut self, key: StageKey, now: Timestamp) -> Guarded<()> {
        self.running(key.build)?;
        if self.stage(key).state != StageState::Ready {
            return Err(Stale);
        }
        self.move_stage(key, StageEvent::Failed, now);
        Ok(())
    }

    pub fn publish(&mut self, build: BuildId) -> Guarded<()> {
        let found = self.running(build)?;
        if !found.stages.iter().all(|s| s.state == StageState::Done) {
            return Err(Stale);
        }
        self.move_build(build, BuildEvent::Built);
        Ok(())
    }

    pub fn published(&mut self, build: BuildId) -> Guarded<()> {
        match self.builds[&build].state {
            BuildState::Publishing => self.move_build(build, BuildEvent::Published),
            _ => return Err(Stale),
        }
        Ok(())
    }

    pub fn end(&mut self, build: BuildId, why: End, now: Timestamp) -> Guarded<Cancelled> {
        if self.builds[&build].state.is_final() {
            return Err(Stale);
        }
        let event = match why {
            End::Cancelled => BuildEvent::Cancelled,
            _ => BuildEvent::Failed,
        };
        let live = self.live.iter().copied();
        let attempts: Vec<AttemptId> = live
            .filter(|id| self.attempts[id].key.build == build)
            .collect();
        let mut cancelled = Cancelled::new();
        for id in attempts {
            self.move_attempt(id, AttemptEvent::Cancelled);
            cancelled.push((self.attempts[&id].agent, id));
        }
        for number in 0..self.builds[&build].stages.len() {
            let stage = StageId(number as u32);
            let key = StageKey { build, stage };
            if !matches!(self.stage(key).state, StageState::Done | StageState::Failed) {
                self.move_stage(key, StageEvent::Cancelled, now);
            }
        }
        self.move_build(build, event);
        self.builds.get_mut(&build).expect("a build of ours").why = Some(why);
        Ok(cancelled)
    }

    // ---- the lifecycles' tables

    fn move_build(&mut self, build: BuildId, event: BuildEvent) {
        self.version += 1;
        let found = self.builds.get_mut(&build).expect("a build of ours");
        found.state = found.state.apply(event).expect("a legal transition");
    }

    fn move_stage(&mut self, key: StageKey, event: StageEvent, now: Timestamp) {
        self.version += 1;
        let stage = self.stage_mut(key);
        stage.state = stage.state.apply(event).expect("a legal transition");
        (stage.since, stage.unserved_since) = (now, None);
    }

    fn move_attempt(&mut self, id: AttemptId, event: AttemptEvent) {
        self.version += 1;
        let attempt = self.attempts.get_mut(&id).expect("an attempt of ours");
        attempt.state = attempt.state.apply(event).expect("a legal transition");
        if attempt.state.is_final() {
            self.live.remove(&id);
            self.at_work.remove(&attempt.key);
        }
    }
}
