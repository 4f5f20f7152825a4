//! What decisions are made on: the fleet, and the stages that want an agent, as the real store's snapshot has them.

use std::collections::{BTreeMap, BTreeSet};

use croft_planner::{EdgeId, StageId};
use croft_scheduler::fleet::{FleetView, Load, StageKey, Start};
use croft_scheduler::place::{ExportedInput, Input, ReadyStage, Supply};
use croft_scheduler::{AgentId, AttemptState, BuildId, BuildState, FailureKind, StageState, Token};

use super::super::builds::is_whole;
use super::{Attempt, Books, Build, Stage};

/// So many failures over the stage registry are the agent's: it may be the way there that is broken.
const OVER_REGISTRY: u32 = 6;

impl Books {
    pub fn fleet(&self) -> FleetView {
        let mut agents = self.agents.clone();
        for id in &self.live {
            let attempt = &self.attempts[id];
            let stage = self.stage(attempt.key);
            let Some(view) = agents.get_mut(&attempt.agent) else {
                continue;
            };
            let commands = stage.ready.commands.iter();
            view.cache
                .extend(commands.map(|command| command.identity.clone()));
            view.load.push(Load {
                key: attempt.key,
                project: stage.ready.project.clone(),
                start: match self.is_ahead(attempt) {
                    true => Start::Ahead,
                    false => Start::Complete,
                },
                since: attempt.since,
                expected: Some(stage.work),
            });
        }
        FleetView {
            agents: agents.into_values().collect(),
        }
    }

    pub fn ready(&self) -> Vec<ReadyStage> {
        let mut all = Vec::new();
        for (id, build) in &self.builds {
            if build.state != BuildState::Running {
                continue;
            }
            for (number, stage) in build.stages.iter().enumerate() {
                let may_go_ahead = || self.maker(*id, build, stage).is_some();
                if stage.state == StageState::Ready
                    || stage.state == StageState::Waiting && may_go_ahead()
                {
                    all.push(self.ready_stage(*id, build, number));
                }
            }
        }
        all
    }

    /// Whether an attempt takes something that is not there yet.
    pub(super) fn is_ahead(&self, attempt: &Attempt) -> bool {
        let outputs = &self.builds[&attempt.key.build].outputs;
        attempt.bound.iter().any(|edge| !outputs[*edge].is_there())
    }

    /// Who is at a stage.
    fn at_work(&self, build: BuildId, stage: usize) -> Option<AgentId> {
        let stage = StageId(stage as u32);
        let attempt = self.at_work.get(&StageKey { build, stage })?;
        Some(self.attempts[attempt].agent)
    }

    /// The one agent that is making all that a stage lacks.
    pub fn maker(&self, id: BuildId, build: &Build, stage: &Stage) -> Option<AgentId> {
        let inputs = stage.inputs.iter().map(|edge| &build.outputs[*edge]);
        let missing = inputs.filter(|output| !output.is_there());
        let makers: Option<BTreeSet<AgentId>> = missing
            .map(|output| self.at_work(id, output.stage))
            .collect();
        makers.filter(|all| all.len() == 1)?.pop_first()
    }

    fn ready_stage(&self, id: BuildId, build: &Build, number: usize) -> ReadyStage {
        let stage = &build.stages[number];
        let input = |&edge: &usize| {
            let output = &build.outputs[edge];
            let held_on = output.held.as_ref().map(|(agent, _)| *agent);
            let (held_on, supply) = match output.is_there() {
                true => (held_on, Supply::There),
                false => (
                    self.at_work(id, output.stage),
                    Supply::Coming(StageId(output.stage as u32)),
                ),
            };
            Input {
                edge: EdgeId(edge as u32),
                held_on,
                whole: is_whole(edge),
                supply,
                exported: output.image.as_ref().map(|_| ExportedInput {
                    bytes: 1 << 20,
                    pulled_by: BTreeSet::new(),
                }),
            }
        };
        let attempts = self.attempts.values().filter(|a| a.key.build == id);
        let attempts: Vec<&Attempt> = attempts.collect();
        let at = |number: usize| {
            let attempts = attempts.iter().copied();
            attempts.filter(move |attempt| attempt.key.stage.index() == number)
        };
        let (mut failed_on, mut over_registry) = (BTreeMap::new(), BTreeMap::new());
        for attempt in at(number) {
            let counted = match attempt.failure {
                Some(FailureKind::Farm) => &mut failed_on,
                Some(FailureKind::Registry) => &mut over_registry,
                Some(FailureKind::Build | FailureKind::HandedBack) | None => continue,
            };
            *counted.entry(attempt.agent).or_default() += 1;
        }
        for (agent, failures) in over_registry {
            *failed_on.entry(agent).or_default() += failures / OVER_REGISTRY;
        }
        // The last attempt at a stage that lives or succeeded.
        let last = |number: usize| -> Option<(Token, AgentId)> {
            let stands =
                at(number).filter(|a| !a.state.is_final() || a.state == AttemptState::Succeeded);
            stands.map(|attempt| (attempt.token, attempt.agent)).max()
        };
        let group = stage.ready.together;
        let of_group = (0..build.stages.len()).filter(|other| {
            *other != number && group.is_some() && build.stages[*other].ready.together == group
        });
        let met = |other: &StageId| {
            let state = build.stages[other.index()].state;
            let placed = matches!(state, StageState::Running | StageState::Done);
            let at = placed.then(|| last(other.index())).flatten();
            (*other, at.map(|(_, agent)| agent))
        };
        ReadyStage {
            ready_since: stage.since,
            not_before: stage.not_before,
            pinned: of_group.filter_map(last).max().map(|(_, agent)| agent),
            meets: stage.ready.meets.keys().map(met).collect(),
            inputs: stage.inputs.iter().map(input).collect(),
            failed_on,
            ..stage.ready.clone()
        }
    }
}
