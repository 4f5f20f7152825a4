//! Placement: which ready stage goes to which agent now, and why; and why the others wait.

mod order;
mod policy;
mod reason;
mod score;
mod stage;

use std::collections::BTreeMap;

use croft_planner::{CacheIdentity, EdgeId, StageId};

pub use policy::Policy;
pub(crate) use reason::{Ands, Commas};
pub use reason::{Because, Reason, Refusal, Unfit, Why};
pub use score::{Cost, Score};
pub use stage::{Command, ExportedInput, Input, ReadyStage, Supply};

use crate::fleet::{AgentView, FleetView, StageKey};
use crate::servable::Unservable;
use crate::{AgentId, BuildId, ConnectionId, Timestamp};
use order::Service;
use score::{Candidate, Desk};

/// What is to be done with a ready stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Offer it to this agent.
    Placed {
        /// The stage.
        key: StageKey,
        /// Who gets it.
        agent: AgentId,
        /// Its inputs that another agent only holds: they must be exported before the offer, and are placed again after that.
        exports: Vec<EdgeId>,
        /// Why this agent.
        reason: Reason,
    },
    /// Leave it where it is.
    Held {
        /// The stage.
        key: StageKey,
        /// Why.
        why: Refusal,
    },
}

impl Decision {
    /// The stage that it is about.
    pub fn key(&self) -> StageKey {
        match self {
            Decision::Placed { key, .. } | Decision::Held { key, .. } => *key,
        }
    }
}

/// Decides about each of the stages, in the order of service. No slot is given away twice, and the answer depends on nothing but the
/// arguments (and not on the order of their lists).
pub fn place<'a>(
    fleet: &'a FleetView,
    stages: &'a [ReadyStage],
    policy: &'a Policy,
    now: Timestamp,
) -> Vec<Decision> {
    let mut round = Round::new(fleet, policy, now);
    let mut service = Service::new(fleet, stages);
    let mut decisions = Vec::with_capacity(stages.len());
    while let Some(stage) = service.next() {
        let decision = round.decide(stage);
        if matches!(decision, Decision::Placed { .. }) {
            service.placed(stage);
        }
        decisions.push(decision);
    }
    decisions
}

/// One call of [`place`]: the fleet as the decisions so far have changed it.
struct Round<'a> {
    fleet: &'a FleetView,
    by_id: BTreeMap<AgentId, &'a AgentView>,
    desks: Vec<Desk<'a>>,
    /// Where those of this round's stages went that meet others later.
    met: BTreeMap<StageKey, AgentId>,
    /// Where the groups of this round's stages went.
    groups: BTreeMap<(BuildId, StageId), AgentId>,
    /// Where the commands of this round's stages went first, and for which build.
    commands: BTreeMap<(ConnectionId, &'a CacheIdentity), (BuildId, AgentId)>,
    policy: &'a Policy,
    now: Timestamp,
}

impl<'a> Round<'a> {
    fn new(fleet: &'a FleetView, policy: &'a Policy, now: Timestamp) -> Round<'a> {
        let desks = fleet
            .agents
            .iter()
            .map(|agent| Desk::new(agent, policy, now))
            .collect();
        let by_id = fleet.agents.iter().map(|agent| (agent.id, agent)).collect();
        Round {
            fleet,
            by_id,
            desks,
            met: BTreeMap::new(),
            groups: BTreeMap::new(),
            commands: BTreeMap::new(),
            policy,
            now,
        }
    }

    fn decide(&mut self, stage: &'a ReadyStage) -> Decision {
        if stage.is_ahead() {
            return self.decide_ahead(stage);
        }
        let key = stage.key;
        if stage.not_before > self.now {
            return Decision::Held {
                key,
                why: Refusal::Pause,
            };
        }
        let (mut candidates, unfit) = self.candidates(stage);
        if candidates.is_empty() {
            return Decision::Held {
                key,
                why: self.nobody(stage, unfit),
            };
        }
        candidates.sort_by(|a, b| a.score.cmp(&b.score));

        let place_of = |agent| candidates.iter().position(|c| c.score.agent == agent);
        let pinned = self.pins(stage).find_map(place_of);
        let chosen = &candidates[pinned.unwrap_or(0)];
        if !self.desks[chosen.desk].has_free_slot() {
            let why = self.wait(&candidates, chosen, pinned.is_some());
            self.desks[chosen.desk].queue(&chosen.cost);
            return Decision::Held { key, why };
        }

        let mut reason = reason::reason(stage, &candidates, &self.desks);
        if let Some(place) = pinned.filter(|_| candidates.len() > 1) {
            reason = reason::reason(stage, &candidates[place..=place], &self.desks);
            reason.why = Why::Together;
        }
        let agent = chosen.score.agent;
        self.desks[chosen.desk].put(stage, &chosen.cost);
        self.note(stage, agent);
        Decision::Placed {
            key,
            agent,
            exports: score::exports(stage, agent),
            reason,
        }
    }

    /// Decides about a stage whose inputs are still being made: it goes to the agent that makes them if it would go there anyhow, and else
    /// waits until they are there.
    fn decide_ahead(&mut self, stage: &'a ReadyStage) -> Decision {
        let key = stage.key;
        let held = Decision::Held {
            key,
            why: Refusal::Inputs,
        };
        let has_room =
            |desk: &Desk| stage.comes_together_on(desk.agent.id) && desk.has_room_ahead();
        if stage.not_before > self.now || !self.desks.iter().any(has_room) {
            return held;
        }
        let (candidates, _) = self.candidates(stage);
        let of = |agent| candidates.iter().find(|c| c.score.agent == agent);
        let best = self
            .pins(stage)
            .find_map(of)
            .or_else(|| candidates.iter().min_by(|a, b| a.score.cmp(&b.score)));
        let Some(best) = best.filter(|best| has_room(&self.desks[best.desk])) else {
            return held;
        };
        let agent = best.score.agent;
        let mut reason = reason::reason(stage, std::slice::from_ref(best), &self.desks);
        reason.why = Why::Ahead;
        self.desks[best.desk].put(stage, &best.cost);
        self.note(stage, agent);
        Decision::Placed {
            key,
            agent,
            exports: score::exports(stage, agent),
            reason,
        }
    }

    /// Notes where a stage goes, for those that belong with it.
    fn note(&mut self, stage: &'a ReadyStage, agent: AgentId) {
        if !stage.meets.is_empty() {
            self.met.insert(stage.key, agent);
        }
        if let Some(group) = stage.together {
            self.groups.insert((stage.key.build, group), agent);
        }
        for command in &stage.commands {
            let key = (stage.connection, &command.identity);
            self.commands.entry(key).or_insert((stage.key.build, agent));
        }
    }

    /// The agents that could take the stage, full ones too, and why each of the others can't.
    fn candidates(&self, stage: &ReadyStage) -> (Vec<Candidate>, Vec<(String, Unfit)>) {
        let (mut fit, mut unfit) = (Vec::new(), Vec::new());
        let meets = self.meets(stage);
        for (place, desk) in self.desks.iter().enumerate() {
            match desk.candidate(place, stage, &meets, &self.by_id, self.policy, self.now) {
                Ok(candidate) => fit.push(candidate),
                Err(why) => unfit.push((desk.agent.name.clone(), why)),
            }
        }
        (fit, unfit)
    }

    /// The agents of the stages that it meets later, as far as those were placed: what this round decided is newer than the snapshot.
    fn meets(&self, stage: &ReadyStage) -> Vec<AgentId> {
        let build = stage.key.build;
        let of_round = |stage| self.met.get(&StageKey { build, stage }).copied();
        let places = stage.meets.iter();
        places
            .filter_map(|(other, placed)| of_round(*other).or(*placed))
            .collect()
    }

    /// Where the stage belongs, unless the farm failed at it there: a build that goes on without its cache mounts is better than one that
    /// fails. What this round decided about its group is newer than what the snapshot knows.
    fn pins(&self, stage: &ReadyStage) -> impl Iterator<Item = AgentId> {
        let of_group = stage
            .together
            .and_then(|group| self.groups.get(&(stage.key.build, group)).copied());
        let of_round = |command: &Command| {
            let (build, agent) = self.commands.get(&(stage.connection, &command.identity))?;
            (*build != stage.key.build).then_some(*agent)
        };
        let of_connection = stage.commands.iter().find_map(of_round);
        let pins = of_group
            .into_iter()
            .chain(stage.pinned)
            .chain(of_connection);
        pins.filter(|agent| !stage.failed_on.contains_key(agent))
    }

    /// Why a stage waits for `chosen`, which is full. `candidates` are in the order of their scores.
    fn wait(&self, candidates: &[Candidate], chosen: &Candidate, pinned: bool) -> Refusal {
        let agent = self.desks[chosen.desk].agent.name.clone();
        let free = candidates
            .iter()
            .find(|candidate| self.desks[candidate.desk].has_free_slot());
        let because = match free {
            _ if pinned => Because::Together,
            None => {
                let mut agents: Vec<String> = candidates
                    .iter()
                    .map(|candidate| self.desks[candidate.desk].agent.name.clone())
                    .collect();
                agents.sort();
                return Refusal::Full { agents };
            }
            Some(free) if free.score.nativeness != chosen.score.nativeness => Because::Native,
            Some(free) if free.score.failures != chosen.score.failures => Because::Failed,
            Some(free) => Because::Saves(free.score.delay.saturating_sub(chosen.score.delay)),
        };
        Refusal::WorthWaiting { agent, because }
    }

    fn nobody(&self, stage: &ReadyStage, mut unfit: Vec<(String, Unfit)>) -> Refusal {
        unfit.sort_by(|a, b| a.0.cmp(&b.0));
        unfit.retain(|(_, why)| why.may_pass());
        Refusal::Nobody {
            agents: unfit,
            unservable: Unservable::of_stage(&stage.platforms, &stage.requirements, self.fleet),
        }
    }
}
