//! The loops: plan a build, dispatch its stages, take in what agents report, publish, reap what was lost.
//!
//! A decision is made by `croft_planner` and `croft_scheduler` on a snapshot and committed by `store`, which checks again. Nothing here
//! is the truth about a build: that is in the store. Kept here is what can't be stored (connections, definitions in flight, secrets).

mod alone;
mod build;
mod config;
mod course;
mod deliver;
mod dispatch;
mod estates;
mod events;
mod exports;
mod failure;
mod fleet;
mod foresee;
mod gateway;
pub mod image;
mod images;
mod offered;
mod operate;
mod outputs;
mod planned;
mod presence;
mod progress;
mod publish;
mod reap;
mod recipe;
mod record;
mod refuse;
mod restore;
mod retain;
mod run;
mod secrets;
mod sessions;
mod stages;
mod standing;
mod turns;
mod usage;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use croft_planner::Platform;
use croft_scheduler::{BuildId, FarmBudget, LeaseTerms, Policy, Project};
use tokio::sync::{Notify, Semaphore};

pub use build::{Build, Request};
pub(crate) use events::held;
pub use failure::{Failure, Kind, Result};
pub use fleet::{Ends, Fleet};
pub use foresee::Foreseen;
pub use offered::Offered;
pub use outputs::Outputs;
pub use planned::{ResultTarget, Results};
pub use presence::{Joining, Linked};
pub use progress::{Progress, Reader};
pub use retain::{LATELY, Retention};
pub use secrets::RegistrySecrets;
pub use sessions::Sessions;
pub use stages::StageRegistry;

use self::turns::Turns;
use crate::store::Store;

/// How builds are run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The platform of frontends and build-platform stages; `None` leaves the choice to the farm.
    pub build_platform: Option<Platform>,
    /// How long a stage waits for an agent that is away.
    pub agent_wait: Duration,
    /// How long a build may take; `None` for any time.
    pub build_deadline: Option<Duration>,
    /// Leases and heartbeats.
    pub leases: LeaseTerms,
    /// How often the farm tries again what failed by its own fault.
    pub budget: FarmBudget,
    /// How placement weighs things.
    pub policy: Policy,
    /// What is kept, and for how long.
    pub retention: Retention,
    /// Entitlements that builds may have.
    pub entitlements: BTreeSet<String>,
    /// Whose builds these are.
    pub project: Project,
    /// Users' registries that are spoken to in plain HTTP.
    pub plain_registries: Vec<String>,
    /// The coordinator's own credentials for users' registries.
    pub registry_secrets: RegistrySecrets,
}

/// The coordinator, as its edges see it.
pub struct Control {
    settings: Settings,
    store: Store,
    stages: StageRegistry,
    sessions: Sessions,
    fleet: Arc<Fleet>,
    builds: Mutex<HashMap<BuildId, Arc<Build>>>,
    recording: record::Recording,
    estates: estates::Estates,
    turns: Turns,
    /// Builds that are only looked at.
    prospects: Semaphore,
    /// An agent came, went or changed.
    agents_changed: Notify,
}

impl Control {
    /// A coordinator on its store. Start its loops with [`Control::start`].
    pub fn new(settings: Settings, store: Store, stages: StageRegistry) -> Arc<Self> {
        Arc::new(Self {
            settings,
            store,
            stages,
            sessions: Sessions::default(),
            fleet: Arc::default(),
            builds: Mutex::default(),
            recording: record::Recording::default(),
            estates: estates::Estates::default(),
            turns: Turns::default(),
            prospects: Semaphore::new(foresee::MAX_PROSPECTS),
            agents_changed: Notify::new(),
        })
    }

    /// Starts the loops; they run as long as the process.
    pub fn start(self: &Arc<Self>) {
        tokio::spawn(dispatch::run(Arc::clone(self)));
        tokio::spawn(reap::run(Arc::clone(self)));
        tokio::spawn(retain::run(Arc::clone(self)));
        tokio::spawn(standing::run(Arc::clone(self)));
    }

    /// The sessions that clients hold open.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The links to agents.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// The store, for questions that change nothing.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The stage registry.
    pub fn stages(&self) -> &StageRegistry {
        &self.stages
    }

    /// How builds are run.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A build that lives.
    pub fn build(&self, id: BuildId) -> Option<Arc<Build>> {
        self.builds().get(&id).cloned()
    }

    /// Takes in a build. It gets a row of its own once there is something to do.
    pub fn open(&self, request: Request) -> Result<Arc<Build>> {
        let request = self.admit(request)?;
        let id = BuildId(uuid::Uuid::now_v7());
        Ok(Arc::new(Build::new(id, request)))
    }

    /// Checks what can be checked before anything is done for a request.
    fn admit(&self, request: Request) -> Result<Request> {
        for asked in &request.entitlements {
            // A device is granted as `device=vendor.example/gpu=0`.
            let kind = asked.split('=').next().unwrap_or_default();
            if !self.settings.entitlements.contains(kind) {
                return Err(Failure::invalid(format!(
                    "granting entitlement {asked} is not allowed by this farm's configuration: its operator can allow it by starting croft-coordinator with --allow-entitlement {kind}"
                )));
            }
        }
        self.admit_request(request)
    }

    /// A session is over: builds that live by it end.
    pub fn session_closed(&self, id: &croft_buildkit::session::SessionId) {
        let builds: Vec<Arc<Build>> = self.builds().values().cloned().collect();
        for build in builds {
            if build.request.session == id.as_str() {
                build.cancel("the client is gone");
            }
        }
    }

    /// What the farm is to clients now.
    pub async fn offered(&self) -> Result<Offered> {
        Ok(Offered::of(
            &self.store.agent_list().await?,
            self.settings.build_platform.as_ref(),
        ))
    }

    /// Something may be placed now that the store knows nothing of: for its own changes it wakes placement itself.
    fn wake(&self) {
        self.store.wakes().placement.notify_one();
    }

    fn builds(&self) -> MutexGuard<'_, HashMap<BuildId, Arc<Build>>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on what agents say about the build reaches it.
    fn remember(&self, build: &Arc<Build>) {
        self.builds().insert(build.id(), Arc::clone(build));
    }

    fn forget(&self, build: &Build) {
        self.builds().remove(&build.id());
    }
}
