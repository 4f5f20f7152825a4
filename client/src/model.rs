//! What a farm says of its builds and agents, as this command shows it. With `--format json` these are printed as they are: names and
//! meanings of fields stay, new fields may come.
//!
//! States and kinds are texts, not enums: a newer farm may have more of them, and they are only shown.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

/// A moment; in JSON as RFC 3339 with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub DateTime<Utc>);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    }
}

/// One build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Build {
    /// Its id.
    pub id: String,
    /// The client's own reference: the last part of buildx's build reference.
    pub client_ref: String,
    /// The project whose caches it uses.
    pub project: String,
    /// `planning`, `running`, `publishing`, `succeeded`, `failed` or `cancelled`.
    pub state: String,
    /// When it began.
    pub created_at: Option<Moment>,
    /// When its plan was there and its first stages could run.
    pub started_at: Option<Moment>,
    /// When it ended.
    pub finished_at: Option<Moment>,
    /// The platforms, as the client asked for them.
    pub platforms: Vec<String>,
    /// Why it failed or was cancelled.
    pub error: Option<String>,
    /// The references that were published, tags included.
    pub published: Vec<String>,
    /// The digest of the manifest list or manifest.
    pub digest: Option<String>,
}

/// One build with its plan as it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildDetail {
    /// The build.
    #[serde(flatten)]
    pub build: Build,
    /// Its stages, by number.
    pub stages: Vec<Stage>,
    /// The results that went through the stage registry.
    pub transfers: Vec<Transfer>,
    /// What happened to it that nothing else tells, oldest first.
    pub events: Vec<Event>,
}

/// Something that happened to a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When.
    pub at: Option<Moment>,
    /// `coordinator restarted`, `results lost`, `stage retried`, `image lost` or `cancelled`.
    pub kind: String,
    /// What, in a sentence.
    pub text: String,
}

/// A part of a build that runs on one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Its number in the build.
    pub number: u32,
    /// What it does, for people.
    pub name: String,
    /// `shared`, `cross` or `target`.
    pub kind: String,
    /// `waiting`, `ready`, `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// The platform whose agents run it natively; none if any agent can.
    pub home: Option<String>,
    /// The target platforms that need it.
    pub users: Vec<String>,
    /// Why it waits.
    pub waiting_for: Option<String>,
    /// The stages whose results it takes.
    pub inputs: Vec<u32>,
    /// When all that it takes was there; after its start if it went ahead of its inputs.
    pub ready_at: Option<Moment>,
    /// Its results that went to a registry.
    pub exports: Vec<Export>,
    /// The tries at it, oldest first.
    pub attempts: Vec<Attempt>,
}

/// A stage's result on its way to a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    /// What is exported, for people.
    pub name: String,
    /// When it was there.
    pub finished_at: Option<Moment>,
    /// What the engine took for it; 0 if that is not known.
    pub took_ms: u64,
    /// Whether it went to the user's repository, not to the stage registry.
    pub target: bool,
}

/// One try at a stage, on one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Its id.
    pub id: String,
    /// The agent's name.
    pub agent: String,
    /// `offered`, `running`, `succeeded`, `failed`, `cancelled` or `lost`.
    pub state: String,
    /// Why this agent.
    pub reason: String,
    /// When it was offered to the agent.
    pub created_at: Option<Moment>,
    /// When the agent began.
    pub started_at: Option<Moment>,
    /// When it ended.
    pub finished_at: Option<Moment>,
    /// Why it failed.
    pub error: Option<String>,
    /// Steps whose result the engine's cache had.
    pub vertices_cached: u32,
    /// Steps that ran.
    pub vertices_run: u32,
    /// How long its engine fetched and unpacked results of other stages; 0 if it fetched none, or it is not known.
    pub fetch_ms: u64,
}

/// A stage's result that went through the stage registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Whose result.
    pub from_stage: u32,
    /// Who took it.
    pub to_stages: Vec<u32>,
    /// Its manifest's digest.
    pub digest: String,
    /// The compressed size of its own layers.
    pub bytes: u64,
    /// For each of `to_stages`, how long its engine fetched and unpacked it; 0 if that is not known.
    pub fetch_ms: Vec<u64>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `connected` or `away`.
    pub state: String,
    /// Whether it takes no new work.
    pub draining: bool,
    /// What its engine's machine is.
    pub native_platform: String,
    /// What it runs without an emulator, `native_platform` first.
    pub platforms: Vec<String>,
    /// What it may run through an emulator.
    pub emulated_platforms: Vec<String>,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// How many it runs now.
    pub running: u32,
    /// Kind and version of its engine.
    pub engine: String,
    /// The agent's own version.
    pub version: String,
    /// When the farm last heard of it.
    pub last_seen: Option<Moment>,
    /// Size of the engine's disk; 0 if it is not known.
    pub disk_total_bytes: u64,
    /// What is free of it.
    pub disk_free_bytes: u64,
    /// Its machine's memory; 0 if it is not known.
    pub memory_total_bytes: u64,
    /// What programs can get of it.
    pub memory_available_bytes: u64,
    /// `ready`, or why it takes no work: `engine-silent`, `disk-full` or `leaving`.
    pub condition: String,
    /// How many running builds need results that only it holds.
    pub holding: u32,
    /// What its engine lets builds be granted.
    pub entitlements: Vec<String>,
    /// The devices that its engine can give a command.
    pub devices: Vec<String>,
    /// As it was started with.
    pub labels: BTreeMap<String, String>,
    /// When it first came.
    pub first_seen: Option<Moment>,
}

/// One agent with what it runs and holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentDetail {
    /// The agent.
    #[serde(flatten)]
    pub agent: Agent,
    /// What it runs, oldest first.
    pub work: Vec<Work>,
    /// What its engine's cache holds; unset if it is away or doesn't answer.
    pub cache: Option<EngineCache>,
    /// How many commands' results placement counts on there.
    pub known_commands: u64,
    /// How many cache mounts placement counts on there.
    pub known_mounts: u64,
}

/// A stage that an agent was offered or runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Work {
    /// The build's id.
    pub build: String,
    /// The stage's number in it.
    pub stage: u32,
    /// What it does, for people.
    pub name: String,
    /// When it was offered.
    pub since: Option<Moment>,
}

/// What an engine's cache holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineCache {
    /// All of it.
    pub bytes: u64,
    /// How many records.
    pub records: u64,
    /// What a prune would free.
    pub reclaimable_bytes: u64,
}

impl Agent {
    /// Whether it takes no new work, runs nothing, and holds nothing that anybody needs.
    pub fn is_drained(&self) -> bool {
        self.draining && self.running == 0 && self.holding == 0
    }
}
