//! Where results are, and what is undone when one is lost that is still needed.

use std::collections::BTreeSet;
use std::rc::Rc;

use croft_planner::StageId;
use croft_scheduler::fleet::StageKey;
use croft_scheduler::{
    AgentId, AttemptEvent, AttemptId, BuildId, StageEvent, StageState, Timestamp,
};

use super::{Books, Cancelled, Guarded, Origin, Output, Stage, Stale};

impl Books {
    /// An agent's keeper is gone, and with it what only it held.
    pub fn lose_held(&mut self, build: BuildId, agent: AgentId, now: Timestamp) -> Cancelled {
        let Ok(found) = self.running(build) else {
            return Cancelled::new();
        };
        for output in &mut found.outputs {
            let is_target = output.consumers.is_empty();
            if !is_target && output.held.as_ref().is_some_and(|(on, _)| *on == agent) {
                output.held = None;
            }
        }
        self.version += 1;
        self.invalidate_lost(build, now)
    }

    /// The registry has lost an image.
    pub fn lose_image(
        &mut self,
        build: BuildId,
        edge: usize,
        origin: &Origin,
        now: Timestamp,
    ) -> Cancelled {
        let Ok(found) = self.running(build) else {
            return Cancelled::new();
        };
        let image = &mut found.outputs[edge].image;
        if image.as_ref().is_some_and(|now| Rc::ptr_eq(now, origin)) {
            *image = None;
            self.version += 1;
        }
        self.invalidate_lost(build, now)
    }

    /// A result that an agent holds was exported for others.
    pub fn export(
        &mut self,
        build: BuildId,
        edge: usize,
        agent: AgentId,
        origin: &Origin,
    ) -> Guarded<()> {
        let output = &mut self.running(build)?.outputs[edge];
        match &output.held {
            Some((on, now)) if *on == agent && Rc::ptr_eq(now, origin) => {
                output.image = Some(Rc::clone(origin));
                self.version += 1;
                Ok(())
            }
            _ => Err(Stale),
        }
    }

    fn invalidate_lost(&mut self, build: BuildId, now: Timestamp) -> Cancelled {
        let found = &self.builds[&build];
        let wants = |consumer: &usize| {
            matches!(
                found.stages[*consumer].state,
                StageState::Waiting | StageState::Ready | StageState::Running
            )
        };
        let lost = |output: &&Output| {
            !output.is_there()
                && found.stages[output.stage].state == StageState::Done
                && output.consumers.iter().any(wants)
        };
        let roots: BTreeSet<usize> = found
            .outputs
            .iter()
            .filter(lost)
            .map(|output| output.stage)
            .collect();
        match roots.is_empty() {
            true => Cancelled::new(),
            false => self.invalidate(build, roots, now),
        }
    }

    /// Takes these stages back, all that came from them, and all that must run again so that they can.
    pub(super) fn invalidate(
        &mut self,
        build: BuildId,
        roots: BTreeSet<usize>,
        now: Timestamp,
    ) -> Cancelled {
        let found = &self.builds[&build];
        let mut invalid = roots.clone();
        let mut next: Vec<usize> = roots.into_iter().collect();
        while let Some(stage) = next.pop() {
            let consumers = found.stages[stage]
                .outputs
                .iter()
                .flat_map(|output| found.outputs[*output].consumers.iter().copied());
            let producers = found.stages[stage]
                .inputs
                .iter()
                .map(|input| &found.outputs[*input])
                .filter(|output| !output.is_there())
                .map(|output| output.stage)
                .filter(|producer| found.stages[*producer].state == StageState::Done);
            for other in consumers.chain(producers) {
                if invalid.insert(other) {
                    next.push(other);
                }
            }
        }
        let mut cancelled = Cancelled::new();
        for stage in invalid {
            let key = StageKey {
                build,
                stage: StageId(stage as u32),
            };
            let state = self.stage(key).state;
            if !matches!(
                state,
                StageState::Ready | StageState::Running | StageState::Done
            ) {
                continue;
            }
            self.move_stage(key, StageEvent::Invalidated, now);
            let live = self.live.iter().copied();
            let of_it: Vec<AttemptId> = live.filter(|id| self.attempts[id].key == key).collect();
            for id in of_it {
                self.move_attempt(id, AttemptEvent::Cancelled);
                cancelled.push((self.attempts[&id].agent, id));
            }
            let outputs = self.stage(key).outputs.clone();
            let found = self.builds.get_mut(&build).expect("a build of ours");
            for output in outputs {
                (found.outputs[output].held, found.outputs[output].image) = (None, None);
            }
        }
        self.settle(build, now);
        cancelled
    }

    /// Stages whose inputs are all there become ready.
    pub fn settle(&mut self, build: BuildId, now: Timestamp) {
        let found = &self.builds[&build];
        let is_ready = |stage: &Stage| {
            stage.state == StageState::Waiting
                && stage.inputs.iter().all(|i| found.outputs[*i].is_there())
        };
        let ready: Vec<usize> = (0..found.stages.len())
            .filter(|number| is_ready(&found.stages[*number]))
            .collect();
        for number in ready {
            let stage = StageId(number as u32);
            self.move_stage(StageKey { build, stage }, StageEvent::InputsThere, now);
        }
    }
}
