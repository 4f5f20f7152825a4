//! The order of service: priority, then a fair share between projects, then the age of the build.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use super::stage::ReadyStage;
use crate::Project;
use crate::fleet::FleetView;

/// The stages that are still to be served.
pub(super) struct Service<'a> {
    /// By priority and project; each queue in the order of the builds' ages.
    queues: BTreeMap<(Reverse<i32>, &'a Project), VecDeque<&'a ReadyStage>>,
    /// How many attempts of each project live.
    shares: BTreeMap<&'a Project, usize>,
}

impl<'a> Service<'a> {
    pub fn new(fleet: &'a FleetView, stages: &'a [ReadyStage]) -> Service<'a> {
        let mut queues: BTreeMap<_, VecDeque<&ReadyStage>> = BTreeMap::new();
        for stage in stages {
            queues
                .entry((Reverse(stage.priority), &stage.project))
                .or_default()
                .push_back(stage);
        }
        for queue in queues.values_mut() {
            queue
                .make_contiguous()
                .sort_by_key(|stage| (stage.build_created, stage.key));
        }
        let mut shares: BTreeMap<&Project, usize> = BTreeMap::new();
        for load in fleet.agents.iter().flat_map(|agent| &agent.load) {
            *shares.entry(&load.project).or_default() += 1;
        }
        Service { queues, shares }
    }

    /// The next: of the highest priority, the project that has least; of that project, the oldest build.
    pub fn next(&mut self) -> Option<&'a ReadyStage> {
        let (Reverse(highest), _) = self.queues.keys().next()?;
        let highest = *highest;
        let rivals = self
            .queues
            .iter()
            .take_while(|((Reverse(priority), _), _)| *priority == highest);
        let share = |project: &Project| self.shares.get(project).copied().unwrap_or(0);
        let chosen = rivals.min_by_key(|((_, project), queue)| {
            (
                share(project),
                queue.front().map(|stage| (stage.build_created, stage.key)),
            )
        });
        let key = *chosen?.0;
        let queue = self.queues.get_mut(&key)?;
        let stage = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&key);
        }
        stage
    }

    /// Counts a placement.
    pub fn placed(&mut self, stage: &'a ReadyStage) {
        *self.shares.entry(&stage.project).or_default() += 1;
    }
}
