//! What a build's frontend came to, the plan that was made of it, and what the loops must remember to carry that out: definitions as they were
//! bound, and what engines told in passing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bollard_buildkit_proto::pb;
use croft_planner::{Bound, EdgeId, Output, Plan};
use croft_scheduler::AgentId;

use super::course::Course;
use super::image::{OciPlatform, Shape};
use super::outputs::Outputs;

/// What a frontend, or the client's gateway function, came to.
#[derive(Clone, Debug)]
pub struct Results {
    /// Whether they are published under an index.
    pub shape: Shape,
    /// One for each platform, in order.
    pub targets: Vec<ResultTarget>,
    /// The entries of the index, as places in `targets`: like BuildKit, a platform that was asked for twice is listed twice.
    pub listed: Vec<usize>,
}

impl Results {
    /// The platforms that were asked for more than once, each as often as it was repeated.
    pub(super) fn repeated(&self) -> impl Iterator<Item = &str> {
        let before = |at: usize| self.listed.get(..at).unwrap_or_default();
        let places = self.listed.iter().enumerate();
        places
            .filter(move |(at, place)| before(*at).contains(place))
            .filter_map(|(_, place)| Some(self.targets.get(*place)?.name.as_str()))
    }
}

/// One platform's result.
#[derive(Clone, Debug, Default)]
pub struct ResultTarget {
    /// The frontend's key, `linux/amd64`; may be empty for a single one.
    pub name: String,
    /// What it is for; `None` if nobody said.
    pub platform: Option<OciPlatform>,
    /// How to make it; `None` is the empty image.
    pub definition: Option<pb::Definition>,
    /// The image's config, as JSON.
    pub config: Option<Vec<u8>>,
    /// The config of the base image, as JSON.
    pub base_config: Option<Vec<u8>>,
}

/// A build's plan, and what the loops must remember to carry it out.
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The results that it was made for; their definitions are in the plan.
    pub results: Results,
    /// What becomes of them.
    pub outputs: Outputs,
    bound: Mutex<HashMap<(Output, AgentId), Arc<Bound>>>,
    /// When the layers were made of results that are images in the stage registry, as the engines that made them say.
    histories: Mutex<HashMap<EdgeId, serde_json::Value>>,
    course: Mutex<Course>,
}

impl Planned {
    pub(super) fn new(plan: Plan, results: Results, outputs: Outputs) -> Self {
        Self {
            plan,
            results,
            outputs,
            bound: Mutex::default(),
            histories: Mutex::default(),
            course: Mutex::default(),
        }
    }

    /// Remembers the history of the image of a result that is handed out.
    pub fn made(&self, edge: EdgeId, history: serde_json::Value) {
        let mut histories = self
            .histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        histories.insert(edge, history);
    }

    /// The history of the image of a result, if it is known.
    pub fn history(&self, edge: EdgeId) -> Option<serde_json::Value> {
        let histories = self
            .histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        histories.get(&edge).cloned()
    }

    /// Remembers the definition with which an agent makes an output.
    pub fn bind(&self, output: Output, agent: AgentId, bound: Arc<Bound>) {
        let stage = match output {
            Output::Edge(edge) => self.plan.edge(edge).map(|edge| edge.producer),
            Output::Target(target) => self.plan.target(target).map(|target| target.stage),
            Output::Delivery => None,
        };
        if let Some(stage) = stage {
            self.course().bound(stage, agent, &bound);
        }
        self.lock().insert((output, agent), bound);
    }

    /// What its engines told in passing.
    pub(super) fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether stages may go ahead of an output to the agent that is making it. Not if its cache is to be ignored: what takes a result
    /// doesn't say so once more, as that would empty cache mounts, and an engine that heard of it first would make it twice.
    pub fn may_go_ahead_of(&self, output: Output, agent: AgentId) -> bool {
        self.bound(output, agent).is_some_and(|bound| {
            let mut marks = bound.definition.metadata.values();
            !marks.any(|op| op.ignore_cache)
        })
    }

    /// The definition with which an agent made an output.
    pub fn bound(&self, output: Output, agent: AgentId) -> Option<Arc<Bound>> {
        self.lock().get(&(output, agent)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Output, AgentId), Arc<Bound>>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
