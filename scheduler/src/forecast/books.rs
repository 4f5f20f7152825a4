//! Where everything stands while a build is played through.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use croft_planner::{CacheIdentity, EdgeId, OpId, StageId};

use super::{Forecast, Outcome, Prospect, ends};
use crate::fleet::{FleetView, Load, StageKey, Start};
use crate::place::{ExportedInput, Input, Policy, ReadyStage, Reason, Refusal, Supply};
use crate::{AgentId, Timestamp};

/// A stage that was placed.
struct Put {
    agent: AgentId,
    outcome: Outcome,
    takes: Duration,
    /// In the order in which stages were placed.
    order: usize,
    /// When it ends; `None` while it waits within the engine for what it takes.
    ends: Option<Timestamp>,
    is_over: bool,
}

/// A result.
#[derive(Default)]
struct Made {
    is_there: bool,
    /// The agents that took it from the stage registry, if it is there.
    exported: Option<BTreeSet<AgentId>>,
}

pub(super) struct Books<'a> {
    prospect: &'a Prospect<'a>,
    stages: &'a [ReadyStage],
    policy: &'a Policy,
    /// What the agents' caches had before anything ran.
    caches: BTreeMap<AgentId, BTreeSet<CacheIdentity>>,
    pub fleet: FleetView,
    pub now: Timestamp,
    put: BTreeMap<StageId, Put>,
    held: BTreeMap<StageId, Refusal>,
    /// Since when each stage has all that it takes.
    ready_since: BTreeMap<StageId, Timestamp>,
    made: BTreeMap<EdgeId, Made>,
    /// Nothing may go ahead of what these make: the cache is to be ignored, and an engine that heard of it first would make it twice.
    unawaited: BTreeSet<OpId>,
    /// What others run, and when that should be over.
    others: Vec<(AgentId, StageKey, Timestamp)>,
}

impl<'a> Books<'a> {
    pub fn new(
        prospect: &'a Prospect<'a>,
        fleet: &FleetView,
        stages: &'a [ReadyStage],
        policy: &'a Policy,
        now: Timestamp,
    ) -> Self {
        let others = fleet.agents.iter().flat_map(|agent| {
            let ends = ends(agent, policy, now).into_iter();
            ends.map(|(key, at)| (agent.id, key, at))
        });
        let caches = fleet.agents.iter();
        let caches = caches.map(|agent| (agent.id, agent.cache.clone()));
        Self {
            prospect,
            stages,
            policy,
            caches: caches.collect(),
            others: others.collect(),
            unawaited: prospect.plan.ignoring_cache(),
            fleet: fleet.clone(),
            now,
            put: BTreeMap::new(),
            held: BTreeMap::new(),
            ready_since: BTreeMap::new(),
            made: BTreeMap::new(),
        }
    }

    /// The stages that placement would see now.
    pub fn ready(&mut self) -> Vec<ReadyStage> {
        let mut ready = Vec::new();
        for stage in self.stages {
            let id = stage.key.stage;
            if self.put.contains_key(&id) {
                continue;
            }
            let Some(inputs) = self.inputs(id) else {
                continue;
            };
            let mut stage = stage.clone();
            stage.inputs = inputs;
            stage.ready_since = match stage.is_ahead() {
                true => self.now,
                false => *self.ready_since.entry(id).or_insert(self.now),
            };
            stage.pinned = self.pinned(id);
            for (other, placed) in &mut stage.meets {
                *placed = self.put.get(other).map(|put| put.agent);
            }
            ready.push(stage);
        }
        ready
    }

    /// What a stage takes, if it may be placed: all of it is there, or what is missing is being made on one agent.
    fn inputs(&self, id: StageId) -> Option<Vec<Input>> {
        let plan = self.prospect.plan;
        let mut inputs = Vec::new();
        let mut makers = BTreeSet::new();
        for &edge in &plan.stage(id)?.inputs {
            let cut = plan.edge(edge)?;
            let producer = cut.producer;
            let maker = self.put.get(&producer)?;
            let made = self.made.get(&edge);
            let is_there = made.is_some_and(|made| made.is_there);
            if !is_there {
                makers.insert(maker.agent);
                if makers.len() > 1 || self.unawaited.contains(&cut.op) {
                    return None;
                }
            }
            let exported = made.and_then(|made| made.exported.as_ref());
            inputs.push(Input {
                edge,
                held_on: Some(maker.agent),
                whole: cut.is_whole(),
                supply: match is_there {
                    true => Supply::There,
                    false => Supply::Coming(producer),
                },
                exported: exported.map(|pulled_by| ExportedInput {
                    bytes: 0,
                    pulled_by: pulled_by.clone(),
                }),
            });
        }
        Some(inputs)
    }

    /// Where a stage belongs: as the store says it of one that is stored.
    fn pinned(&self, id: StageId) -> Option<AgentId> {
        let stage = self.prospect.plan.stage(id)?;
        if stage.reads_once && self.prospect.planner.is_some() {
            return self.prospect.planner;
        }
        let of_group = self.put.iter().filter(|(other, _)| {
            let other = self.prospect.plan.stage(**other);
            stage.together.is_some() && other.is_some_and(|other| other.together == stage.together)
        });
        let last = of_group.max_by_key(|(_, put)| put.order);
        let host = || self.put.get(&stage.placed_with?);
        last.map(|(_, put)| put).or_else(host).map(|put| put.agent)
    }

    /// Results that were only held go to the stage registry.
    pub fn export(&mut self, edges: &[EdgeId]) {
        for edge in edges {
            let made = self.made.entry(*edge).or_default();
            made.exported.get_or_insert_default();
        }
    }

    pub fn hold(&mut self, stage: StageId, why: Refusal) {
        self.held.insert(stage, why);
    }

    pub fn put(&mut self, stage: &ReadyStage, agent: AgentId, reason: Reason) {
        let id = stage.key.stage;
        let cache = self.caches.get(&agent);
        let is_cached =
            |identity: &CacheIdentity| cache.is_some_and(|cache| cache.contains(identity));
        let (cached, run): (Vec<_>, Vec<_>) = stage
            .commands
            .iter()
            .partition(|command| is_cached(&command.identity));
        let takes = run
            .iter()
            .map(|command| command.cost.unwrap_or(self.policy.unknown_command));
        // Nothing takes no time: what comes after it must come after it.
        let takes = takes
            .fold(Duration::ZERO, Duration::saturating_add)
            .max(Duration::from_millis(1));
        let costs = run.iter().map(|command| command.cost);
        let outcome = Outcome::Placed {
            agent,
            reason,
            cached: cached.len(),
            expected: costs.sum(),
        };
        let start = match stage.is_ahead() {
            true => Start::Ahead,
            false => Start::Complete,
        };
        for input in &stage.inputs {
            let exported = self.made.get_mut(&input.edge);
            let exported = exported.and_then(|made| made.exported.as_mut());
            if let Some(pulled_by) = exported.filter(|_| input.held_on != Some(agent)) {
                pulled_by.insert(agent);
            }
        }
        if let Some(view) = self.fleet.agents.iter_mut().find(|view| view.id == agent) {
            let identities = stage.commands.iter().map(|command| &command.identity);
            view.cache.extend(identities.cloned());
            let mounts = stage.cache_mounts.iter();
            view.mounts
                .extend(mounts.map(|mount| (stage.project.clone(), mount.clone())));
            view.alike.insert(stage.alike.clone(), self.now);
            view.projects.insert(stage.project.clone(), self.now);
            view.load.push(Load {
                key: stage.key,
                project: stage.project.clone(),
                start,
                since: self.now,
                expected: Some(takes),
            });
        }
        let put = Put {
            agent,
            outcome,
            takes,
            order: self.put.len(),
            ends: (start == Start::Complete).then(|| self.now + takes),
            is_over: false,
        };
        self.put.insert(id, put);
    }

    /// Goes on to when the next one ends, ours or another's. False if nothing runs.
    pub fn advance(&mut self) -> bool {
        let ours = self.put.iter().filter(|(_, put)| !put.is_over);
        let next_of_ours = ours.filter_map(|(id, put)| Some((put.ends?, *id))).min();
        let waiting = self.stages.len() > self.put.len();
        let next_of_others = self.others.iter().map(|(_, _, at)| *at).min();
        let next_of_others = next_of_others.filter(|_| waiting && !self.held.is_empty());
        match (next_of_ours, next_of_others) {
            (None, None) => return false,
            (Some((at, id)), other) if other.is_none_or(|other| at <= other) => {
                self.now = self.now.max(at);
                self.finish(id);
            }
            (_, Some(at)) => {
                self.now = self.now.max(at);
                let over = |(_, _, ends): &(_, _, Timestamp)| *ends <= at;
                for (agent, key, _) in self.others.iter().filter(|one| over(one)) {
                    remove(&mut self.fleet, *agent, *key);
                }
                self.others.retain(|one| !over(one));
            }
            (Some(_), None) => return false,
        }
        true
    }

    fn finish(&mut self, id: StageId) {
        let plan = self.prospect.plan;
        let (Some(put), Some(stage)) = (self.put.get_mut(&id), plan.stage(id)) else {
            return;
        };
        put.is_over = true;
        let agent = put.agent;
        let key = StageKey {
            build: self.prospect.build,
            stage: id,
        };
        remove(&mut self.fleet, agent, key);
        let native = self.fleet.agents.iter().find(|view| view.id == agent);
        let native = native.map(|view| view.native.clone());
        for &edge in &stage.outputs {
            let consumers = plan.edge(edge).map(|edge| &edge.consumers);
            // What another home takes is exported at once.
            let elsewhere = consumers.into_iter().flatten().any(|consumer| {
                let home = plan.likely_home(*consumer);
                home.is_some_and(|home| Some(home.platform()) != native.as_ref())
            });
            let made = self.made.entry(edge).or_default();
            made.is_there = true;
            if elsewhere {
                made.exported.get_or_insert_default();
            }
        }
        self.start_those_ahead();
    }

    /// Starts what was placed ahead and has all that it takes now.
    fn start_those_ahead(&mut self) {
        let plan = self.prospect.plan;
        let made = &self.made;
        for (id, put) in self.put.iter_mut().filter(|(_, put)| put.ends.is_none()) {
            let mut inputs = plan.stage(*id).into_iter().flat_map(|stage| &stage.inputs);
            if !inputs.all(|edge| made.get(edge).is_some_and(|made| made.is_there)) {
                continue;
            }
            put.ends = Some(self.now + put.takes);
            let agent = self
                .fleet
                .agents
                .iter_mut()
                .find(|view| view.id == put.agent);
            let loads = agent.into_iter().flat_map(|view| &mut view.load);
            let own =
                loads.filter(|load| load.key.build == self.prospect.build && load.key.stage == *id);
            own.for_each(|load| {
                load.start = Start::Complete;
                load.since = self.now;
            });
        }
    }

    /// What became of each stage.
    pub fn close(mut self) -> Vec<Forecast> {
        let plan = self.prospect.plan;
        let mut forecasts: Vec<Forecast> = Vec::with_capacity(plan.stages().len());
        for stage in plan.stages() {
            let held = self.held.remove(&stage.id);
            let (outcome, waits) = match (self.put.remove(&stage.id), held) {
                (Some(put), held) => (put.outcome, held),
                (None, Some(why)) => (Outcome::Refused(why), None),
                (None, None) => {
                    let producers = stage.inputs.iter().filter_map(|edge| plan.edge(*edge));
                    let producers = producers.map(|edge| edge.producer);
                    // Stages come after those that they need, so these are known.
                    let missing = producers.filter(|producer| {
                        let of = forecasts.get(producer.index());
                        !of.is_some_and(|of| matches!(of.outcome, Outcome::Placed { .. }))
                    });
                    (Outcome::Blocked(missing.collect()), None)
                }
            };
            forecasts.push(Forecast {
                stage: stage.id,
                outcome,
                waits,
            });
        }
        forecasts
    }
}

fn remove(fleet: &mut FleetView, agent: AgentId, key: StageKey) {
    let agent = fleet.agents.iter_mut().find(|view| view.id == agent);
    if let Some(view) = agent {
        view.load.retain(|load| load.key != key);
    }
}
