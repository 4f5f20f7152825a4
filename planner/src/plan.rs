//! What goes into a plan and what comes out: the types, and the questions that a plan answers. How stages are found is in
//! [`crate::stages`], how their definitions are written in [`crate::bind`].

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb;
use serde::{Deserialize, Serialize};

use crate::{
    CacheIdentity, EdgeDigest, EdgeId, Home, Homes, Op, OpId, PlanError, Platform, StageDigest,
    StageId, TargetId,
    graph::{self, Graph},
    locals,
    narrow::Cut,
    stages::{self, Wanted},
    users::Users,
    written,
};

/// What a frontend answered: one definition for each platform.
#[derive(Clone, Debug, Default)]
pub struct PlanInput {
    /// In the order of the platforms that were asked for. Of things that can't be merged (progress groups) the first target's are kept.
    pub targets: Vec<Target>,
}

/// One result of a frontend.
#[derive(Clone, Debug)]
pub struct Target {
    /// The frontend's key for it: `linux/amd64`, or empty for a single result without a key. Unique in one input.
    pub name: String,
    /// What the image is for.
    pub platform: Platform,
    /// How to make it. `None`, or a definition without ops, is the empty image.
    pub definition: Option<pb::Definition>,
}

/// What else a plan depends on.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The native platform of the engine that ran the frontend: a command without a platform runs there.
    pub build_platform: Platform,
    /// Which classes of agents there are.
    pub homes: Homes,
    /// Whose build it is: local sources of different projects have different cache identities.
    pub project: String,
    /// The shared key of each session that the definitions name, by the session's id.
    pub shared_keys: BTreeMap<String, String>,
    /// How much a definition may have.
    pub limits: Limits,
}

/// How much work the definitions of one build may make. Beyond it they are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Targets; at most 256 whatever is set here.
    pub max_targets: usize,
    /// Ops of all definitions together, each counted once for each definition that has it.
    pub max_ops: usize,
    /// Bytes of all ops and source files, counted in the same way.
    pub max_bytes: usize,
    /// Bytes of one op.
    pub max_op_bytes: usize,
    /// Stages. Each of them is a row in a table and an attempt on an agent.
    pub max_stages: usize,
    /// Ops of all stages together: ops that any engine can run are repeated in each stage that needs them.
    pub max_stage_ops: usize,
    /// About what the definitions of all results may come to, in bytes: each has all that is upstream in it. `usize::MAX`: it isn't
    /// counted.
    pub max_written_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_targets: 64,
            max_ops: 200_000,
            max_bytes: 256 << 20,
            max_op_bytes: 8 << 20,
            max_stages: 1_000,
            max_stage_ops: 2_000_000,
            max_written_bytes: 1 << 30,
        }
    }
}

/// An input of an op that another stage makes: the op that takes it, the one that makes it, and which of that one's outputs it is.
pub(crate) type Taken = (OpId, OpId, u32);

/// A build, split into stages. Made by [`crate::plan`] and never changed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) graph: Graph,
    pub(crate) stages: Vec<Stage>,
    pub(crate) edges: Vec<CutEdge>,
    /// What is cut out of each cut edge's result, and who reads it there.
    pub(crate) cuts: Vec<Cut>,
    pub(crate) targets: Vec<PlannedTarget>,
    /// The cut edge that stands for each input from another stage.
    pub(crate) edge_of: BTreeMap<Taken, EdgeId>,
    /// The stage of each op that is in one only and whose results others take from there.
    pub(crate) owners: Vec<Option<StageId>>,
    /// By which edge the result of each target reaches the stage that hands it out; empty without such a stage.
    pub(crate) delivered: Vec<Option<EdgeId>>,
}

/// Splits a build into stages. See DESIGN.md, "Planner".
pub fn plan(input: PlanInput, options: &PlanOptions) -> Result<Plan, PlanError> {
    if input.targets.is_empty() {
        return Err(PlanError::NoTargets);
    }
    let max_targets = options.limits.max_targets.min(Users::MAX);
    if input.targets.len() > max_targets {
        return Err(PlanError::TooMany {
            what: "targets",
            limit: max_targets,
        });
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = input
        .targets
        .iter()
        .find(|target| !names.insert(target.name.as_str()))
    {
        return Err(PlanError::SameName {
            name: twice.name.clone(),
        });
    }
    let targets: Vec<_> = input
        .targets
        .iter()
        .map(|target| (target.name.clone(), target.platform.clone()))
        .collect();
    let (graph, roots) = graph::unite(input, &options.limits)?;
    let (graph, roots) = locals::merge(graph, roots);
    let wanted = targets
        .into_iter()
        .zip(roots)
        .map(|((name, platform), root)| Wanted {
            name,
            platform,
            root,
        })
        .collect();
    let plan = stages::split(graph, wanted, options)?;
    written::check(&plan, &options.limits)?;
    Ok(plan)
}

impl Plan {
    /// All stages; each after those that it takes results from.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// All cut edges, by producer; last those that only the stage takes that hands results out.
    pub fn edges(&self) -> &[CutEdge] {
        &self.edges
    }

    /// All targets, in the order of the input.
    pub fn targets(&self) -> &[PlannedTarget] {
        &self.targets
    }

    /// One stage, if the plan has it.
    pub fn stage(&self, id: StageId) -> Option<&Stage> {
        self.stages.get(id.index())
    }

    /// One cut edge, if the plan has it.
    pub fn edge(&self, id: EdgeId) -> Option<&CutEdge> {
        self.edges.get(id.index())
    }

    /// One target, if the plan has it.
    pub fn target(&self, id: TargetId) -> Option<&PlannedTarget> {
        self.targets.get(id.index())
    }

    /// One op, if the plan has it.
    pub fn op(&self, id: OpId) -> Option<&Op> {
        self.graph.ops.get(id.index())
    }

    /// Everything that `stage` is to make, its cut edges before its targets.
    pub fn outputs_of(&self, stage: &Stage) -> Vec<Output> {
        let edges = stage.outputs.iter().copied().map(Output::Edge);
        edges
            .chain(stage.results.iter().copied().map(Output::Target))
            .chain((stage.kind == StageKind::Output).then_some(Output::Delivery))
            .collect()
    }

    /// The class of agents that a stage runs on, or, where any agent can run it, will run on: that of the stage that it is placed with.
    pub fn likely_home(&self, stage: StageId) -> Option<&Home> {
        let mut stage = self.stage(stage)?;
        // A stage is placed with an earlier one, so this ends.
        while stage.home.is_none() {
            stage = self.stage(stage.placed_with?)?;
        }
        stage.home.as_ref()
    }

    /// Which platforms each home has to run for this build, the commands of all stages taken together.
    pub fn required_platforms(&self) -> BTreeMap<Home, BTreeSet<Platform>> {
        let mut required: BTreeMap<Home, BTreeSet<Platform>> = BTreeMap::new();
        for stage in &self.stages {
            if let Some(home) = &stage.home {
                required
                    .entry(home.clone())
                    .or_default()
                    .extend(stage.platforms.iter().cloned());
            }
        }
        required
    }
}

/// What a stage is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageKind {
    /// Several targets need it.
    Shared,
    /// One target needs it, and it runs on another home than the target's.
    Cross,
    /// One target needs it, and it runs on the target's home or anywhere.
    Target,
    /// It hands out what the targets came to: [`Plan::delivering`].
    Output,
}

impl StageKind {
    /// `shared`, `cross`, `target` or `output`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Cross => "cross",
            Self::Target => "target",
            Self::Output => "output",
        }
    }
}

/// The unit that is scheduled: a part of the graph that runs on one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its place in the plan.
    pub id: StageId,
    /// The same for the same ops, whatever the order of the input.
    pub digest: StageDigest,
    /// For people.
    pub kind: StageKind,
    /// For people: `builder 2/4 … 4/4`.
    pub name: String,
    /// The class of agents that runs its commands natively. `None` if it has none: any agent can run it.
    pub home: Option<Home>,
    /// The platforms of its commands and of those that it must share an agent with. That agent must run them all: natively if it is of
    /// the home, else by an emulator.
    pub platforms: BTreeSet<Platform>,
    /// Only with `home` `None`: the stage whose agent should run it, because the most of what it needs is there. `None` for a stage
    /// that needs no other.
    pub placed_with: Option<StageId>,
    /// Stages of the same home with the same value here must run on one agent: they share a cache mount, and people pass data that way.
    /// The value is the first of them. `None`: this stage shares none.
    pub together: Option<StageId>,
    /// Stages of the same home whose whole root a later stage of that home takes as it takes this one's: on one agent none has to travel.
    pub meets: BTreeSet<StageId>,
    /// The targets that need it.
    pub users: BTreeSet<TargetId>,
    /// How many changes of home or users lie on the longest path to it.
    pub depth: u32,
    /// Its ops, each after its inputs. Ops that any engine can run are in each stage that needs them, commands in one only.
    pub ops: Vec<OpId>,
    /// The results of other stages that it needs.
    pub inputs: Vec<EdgeId>,
    /// Its results that other stages need.
    pub outputs: Vec<EdgeId>,
    /// The targets whose last op it has.
    pub results: Vec<TargetId>,
    /// What its agent must be able and allowed to do, for this stage and for those that it must share the agent with.
    pub requirements: Requirements,
    /// The ids of its cache mounts.
    pub cache_mounts: BTreeSet<String>,
    /// What it reads through clients' sessions.
    pub local_sources: BTreeSet<LocalSource>,
    /// It reads what can be read once only, and the engine that ran the frontend has done so: it must run on that one's agent.
    pub reads_once: bool,
    /// The ids of secrets that it asks the build's session for.
    pub secrets: BTreeSet<String>,
    /// The ids of ssh agents that it asks the build's session for.
    pub ssh: BTreeSet<String>,
    /// Of each of its commands, in the order of `ops`: an agent whose engine ran these has a cache for them.
    pub cache: Vec<CacheIdentity>,
    /// Of the stage as a whole.
    pub identity: CacheIdentity,
}

/// What a stage asks of the agent beyond platforms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirements {
    /// As BuildKit names them: `network.host`, `security.insecure`.
    pub entitlements: BTreeSet<String>,
    /// CDI devices that must be there.
    pub devices: BTreeSet<String>,
    /// Capabilities of the engine's LLB, `exec.mount.cache` and the like.
    pub caps: BTreeSet<String>,
}

impl Requirements {
    /// Asks for all that another asks for as well.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.entitlements.extend(other.entitlements.iter().cloned());
        self.devices.extend(other.devices.iter().cloned());
        self.caps.extend(other.caps.iter().cloned());
    }
}

/// A source that comes from a client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LocalSource {
    /// What the client calls it: `context`, or the store's id of an OCI layout.
    pub name: String,
    /// The session that has it; empty for the build's own.
    pub session: String,
}

/// A result of one stage that others need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutEdge {
    /// Its place in the plan.
    pub id: EdgeId,
    /// The same for the same op, output and narrowing, whatever the order of the input.
    pub digest: EdgeDigest,
    /// For people: the name of the op that makes it.
    pub name: String,
    /// The stage that makes it.
    pub producer: StageId,
    /// The stages that need it.
    pub consumers: BTreeSet<StageId>,
    /// The op that makes it.
    pub op: OpId,
    /// Which of the op's outputs.
    pub output: u32,
    /// What the image that stands for it is for.
    pub platform: Platform,
    /// What of it its consumers need.
    pub narrowing: Narrowing,
}

impl CutEdge {
    /// Whether its consumers need the whole root, with all the layers of its base image.
    pub fn is_whole(&self) -> bool {
        self.narrowing == Narrowing::Whole
    }
}

/// How much of an output its consumers need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Narrowing {
    /// The whole root. Its layers stay as they are, so that an image built on it has one for each line of its history.
    Whole,
    /// These paths only, in order; none is another's, or lies under another. The path `/` without patterns is all that a source has.
    Paths(Vec<NarrowPath>),
}

/// A path that consumers need.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NarrowPath {
    /// Absolute and cleaned; the last component may be a pattern, and then has one of `*?[`.
    pub path: String,
    /// Whether a link there stands for what it points at.
    pub follow_links: bool,
    /// Only what fits one of these; all if empty.
    pub include: Vec<String>,
    /// Nothing that fits one of these.
    pub exclude: Vec<String>,
}

/// A target in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTarget {
    /// Its place in the plan.
    pub id: TargetId,
    /// The frontend's key.
    pub name: String,
    /// What the image is for.
    pub platform: Platform,
    /// The stage that has its last op.
    pub stage: StageId,
    /// Its last op and that op's output. `None`: the empty image.
    pub root: Option<(OpId, u32)>,
}

/// What a stage delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// For other stages.
    Edge(EdgeId),
    /// For the one who asked for the build.
    Target(TargetId),
    /// All targets together, for the one who asked: [`Plan::bind_delivery`] says what of each.
    Delivery,
}
