//! One build while it lives: what the client asked for, how it is doing, and what the loops must remember about it that is no state of
//! its own (what it waits for, who holds a keeper). Its state is in the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use croft_buildkit::session::auth;
use croft_planner::{EdgeId, Output, StageId};
use croft_proto::v1 as wire;
use croft_scheduler::{AgentId, AttemptId, BuildId, ConnectionId};
use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use super::alone::Want;
use super::deliver::Sent;
use super::failure::{Failure, Result};
use super::image::Shape;
use super::images::Images;
use super::outputs::Outputs;
use super::planned::Planned;
use super::progress::{Progress, Step};
use super::sessions::Sessions;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The client's name for it.
    pub client_ref: String,
    /// The id of the client's session; empty if it has none.
    pub session: String,
    /// What it came by.
    pub connection: ConnectionId,
    /// What becomes of the results.
    pub outputs: Outputs,
    /// The entitlements that it asks for; checked when it is opened.
    pub entitlements: Vec<String>,
    /// An encoded source policy, or nothing.
    pub source_policy: Vec<u8>,
    /// Encoded cache imports.
    pub cache_imports: Vec<Vec<u8>>,
    /// The solve's attributes: build arguments and the like.
    pub attrs: BTreeMap<String, String>,
    /// The trace that it belongs to, or nothing.
    pub traceparent: String,
}

/// A build that lives.
pub struct Build {
    id: BuildId,
    /// What was asked for.
    pub request: Request,
    progress: Arc<Progress>,
    rank: Rank,
    pub(super) client: Client,
    cancel: CancellationToken,
    reason: OnceLock<String>,
    /// Set once it has a row and its session.
    pub(super) begun: OnceCell<()>,
    planned: OnceLock<Planned>,
    live: Mutex<Live>,
    changed: watch::Sender<()>,
}

/// Whether a build stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rank {
    /// It does.
    Outer,
    /// It is a part of another one, which tells its progress.
    Within,
    /// It is only looked at: it has no row, and nothing of it runs but its frontend.
    Prospect,
}

/// Whether the client that asked for a build can still be asked for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// It can: when it goes, the build is cancelled.
    Here,
    /// It went with the coordinator that it was connected to. The build goes on as far as it needs nothing of it.
    Gone,
}

#[derive(Default)]
pub(super) struct Live {
    /// The sessions that agents open, by id, with the methods that they announce.
    sessions: BTreeMap<String, wire::Session>,
    /// Agents that hold something of this build: each has a keeper to be closed.
    agents: BTreeSet<AgentId>,
    /// The agent that ran the frontend.
    planner: Option<AgentId>,
    failure: Option<Failure>,
    /// All its stages are done.
    done: bool,
    /// Stages that wait for something, with the step that says so.
    waiting: HashMap<StageId, Waiting>,
    /// Exports under way, by edge.
    exporting: BTreeSet<EdgeId>,
    /// What is known of its results in the stage registry.
    pub(super) images: Images,
    /// What each attempt runs that was offered since the coordinator knows of the build.
    attempts: HashMap<AttemptId, StageId>,
    children: Vec<Arc<Build>>,
    /// What was wanted of a client that is gone.
    pub(super) wanted: BTreeSet<Want>,
    /// What its client was sent.
    pub(super) sent: Sent,
}

/// A stage that waits.
struct Waiting {
    since: std::time::Instant,
    why: String,
    /// Open as long as it waits.
    _step: Option<Step>,
}

/// Who hears that a stage waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// The client: it may take long.
    Client,
    /// Nobody but who asks the farm.
    Nobody,
}

impl Build {
    pub(crate) fn new(id: BuildId, request: Request) -> Self {
        Self::telling(id, request, Arc::default(), Rank::Outer)
    }

    /// A build that was begun by a coordinator before this one, with its plan.
    pub(super) fn resumed(
        id: BuildId,
        request: Request,
        sessions: Vec<wire::Session>,
        planned: Planned,
    ) -> Self {
        let mut build = Self::telling(id, request, Arc::new(Progress::resumed()), Rank::Outer);
        build.client = Client::Gone;
        build.begun = OnceCell::new_with(Some(()));
        build.planned = planned.into();
        let ids = sessions.iter().map(|session| session.id.clone());
        build.progress.sessions(ids);
        let sessions = sessions.into_iter().map(|one| (one.id.clone(), one));
        build.lock().sessions.extend(sessions);
        build
    }

    /// A build that is only looked at.
    pub(super) fn prospect(id: BuildId, request: Request) -> Self {
        Self::telling(id, request, Arc::default(), Rank::Prospect)
    }

    /// A build within another one, of which clients see nothing but its progress.
    pub(super) fn within(&self, id: BuildId) -> Self {
        let progress = Arc::clone(&self.progress);
        let mut child = Self::telling(id, self.request.clone(), progress, Rank::Within);
        child.client = self.client.clone();
        child.set_planner(self.planner());
        child
    }

    fn telling(id: BuildId, request: Request, progress: Arc<Progress>, rank: Rank) -> Self {
        Self {
            id,
            request,
            progress,
            rank,
            client: Client::Here,
            cancel: CancellationToken::new(),
            reason: OnceLock::new(),
            begun: OnceCell::new(),
            planned: OnceLock::new(),
            live: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Its id in the farm.
    pub fn id(&self) -> BuildId {
        self.id
    }

    pub(super) fn rank(&self) -> Rank {
        self.rank
    }

    /// What clients see of it.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Stops it. The first reason stays.
    pub fn cancel(&self, reason: &str) {
        let _ = self.reason.set(reason.to_owned());
        self.cancel.cancel();
    }

    /// Resolves with the reason when someone stops it.
    pub async fn cancelled(&self) -> String {
        self.cancel.cancelled().await;
        self.reason.get().cloned().unwrap_or_default()
    }

    /// A guard that stops the build when it goes.
    pub fn cancel_when_dropped(self: &Arc<Self>, reason: &'static str) -> impl Drop + use<> {
        struct Guard(Arc<Build>, &'static str);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.cancel(self.1);
            }
        }
        Guard(Arc::clone(self), reason)
    }

    /// Ends it with a failure. The first one stays: what follows from it says nothing new.
    pub(super) fn fail(&self, failure: Failure) {
        self.lock().failure.get_or_insert(failure);
        self.changed.send_replace(());
    }

    /// The failure that ended it.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// Notes that all its stages are done, as the store said when the last one was.
    pub(super) fn done(&self) {
        self.lock().done = true;
        self.changed.send_replace(());
    }

    pub(super) fn is_done(&self) -> bool {
        self.lock().done
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Adds the sessions that a request names, as far as they are open: the build's own, and those that options name (`local-sessionid:…`).
    pub(super) fn name_sessions<'a>(
        &self,
        sessions: &Sessions,
        named: impl IntoIterator<Item = &'a str>,
    ) {
        let mut live = self.lock();
        for id in named {
            if live.sessions.contains_key(id) {
                continue;
            }
            let Some(session) = sessions.get(id) else {
                continue;
            };
            let spec = session.spec();
            let missing = auth::METHODS.iter().filter(|m| !spec.serves(m));
            let methods = spec
                .methods
                .iter()
                .cloned()
                .chain(missing.map(|m| (*m).to_owned()));
            let announced = wire::Session {
                id: id.to_owned(),
                name: spec.name.clone(),
                shared_key: spec.shared_key.clone(),
                methods: methods.collect(),
            };
            live.sessions.insert(id.to_owned(), announced);
            self.progress.sessions([id.to_owned()]);
        }
    }

    /// The shared keys of its sessions: they tell one checkout's files from another's.
    pub(super) fn shared_keys(&self) -> BTreeMap<String, String> {
        let live = self.lock();
        live.sessions
            .iter()
            .map(|(id, session)| (id.clone(), session.shared_key.clone()))
            .collect()
    }

    /// Its sessions, as agents announce them.
    pub(super) fn sessions(&self) -> Vec<wire::Session> {
        self.lock().sessions.values().cloned().collect()
    }

    /// What every agent is told about the build.
    pub(super) fn context(&self) -> wire::BuildContext {
        let live = self.lock();
        let own = live.sessions.get(&self.request.session);
        let others = live
            .sessions
            .iter()
            .filter(|(id, _)| **id != self.request.session)
            .map(|(_, session)| session);
        // Credentials for the stage registry reach engines through a session only, so there is always one.
        let farms = own.is_none().then(|| wire::Session {
            id: self.id.to_string(),
            methods: auth::METHODS.map(str::to_owned).to_vec(),
            ..wire::Session::default()
        });
        wire::BuildContext {
            build: self.id.to_string(),
            sessions: own
                .cloned()
                .or(farms)
                .into_iter()
                .chain(others.cloned())
                .collect(),
            entitlements: self.request.entitlements.clone(),
            source_policy: self.request.source_policy.clone(),
            cache_imports: self.request.cache_imports.clone(),
            traceparent: self.request.traceparent.clone(),
        }
    }

    /// Whether an agent may make calls in a session on behalf of this build.
    pub fn serves(&self, agent: AgentId, session: &str) -> bool {
        let live = self.lock();
        let farms = live.sessions.is_empty() && session == self.id.to_string();
        live.agents.contains(&agent) && (farms || live.sessions.contains_key(session))
    }

    /// Its plan, once there is one. From then on its definitions have been checked, and its agents may read from the stage registry.
    pub fn planned(&self) -> Option<&Planned> {
        self.planned.get()
    }

    /// Gives it its plan.
    pub(super) fn set_planned(&self, planned: Planned) -> Result<&Planned> {
        if self.planned.set(planned).is_err() {
            return Err(Failure::invalid("the build has a plan already"));
        }
        self.planned
            .get()
            .ok_or_else(|| Failure::farm("the build has no plan"))
    }

    /// A stage's name for people.
    pub(super) fn stage_name(&self, stage: StageId) -> String {
        let planned = self.planned();
        let stage = planned.and_then(|p| p.plan.stage(stage));
        stage.map(|s| s.name.clone()).unwrap_or_default()
    }

    /// What an export of an output is called in the progress: an image as plain BuildKit calls it. `None`: as its engine does.
    pub(super) fn export_title(&self, output: Output) -> Option<String> {
        self.planned().and_then(|planned| match output {
            Output::Edge(edge) => {
                let edge = planned.plan.edge(edge)?;
                Some(format!("exporting {} for other agents", edge.name))
            }
            Output::Target(target) => Some(match planned.results.shape {
                Shape::Bare => "exporting to image".to_owned(),
                Shape::Index => {
                    let target = planned.plan.target(target)?;
                    format!("[{}] exporting to image", target.platform)
                }
            }),
            // Engines say themselves what they export.
            Output::Delivery => None,
        })
    }

    /// An engine's error in the words of whoever asked for the build.
    pub(super) fn in_clients_words(&self, error: &str) -> String {
        match self.request.outputs.image() {
            Some(image) => image.as_named(error),
            None => error.to_owned(),
        }
    }

    /// Notes that an agent is going to hold a keeper for it.
    pub(super) fn joins(&self, agent: AgentId) {
        self.lock().agents.insert(agent);
    }

    /// Notes what an attempt runs.
    pub(super) fn offered(&self, attempt: AttemptId, stage: StageId) {
        self.lock().attempts.insert(attempt, stage);
    }

    /// Whether one of these vertices of an agent's engine belongs to what an attempt of this build takes from others on that agent.
    pub(super) fn takes(&self, attempt: AttemptId, agent: AgentId, vertices: &[String]) -> bool {
        let stage = self.lock().attempts.get(&attempt).copied();
        let inputs = self.planned().zip(stage).and_then(|(planned, stage)| {
            let inputs = planned.plan.stage(stage)?.inputs.iter();
            Some(inputs.filter_map(move |edge| planned.bound(Output::Edge(*edge), agent)))
        });
        let mut held = inputs.into_iter().flatten();
        held.any(|bound| {
            let mut ops = bound.planned.keys();
            ops.any(|op| vertices.iter().any(|vertex| op.as_str() == vertex))
        })
    }

    /// What one of its attempts runs; `None` if it is none of its.
    pub(super) fn tried(&self, attempt: AttemptId) -> Option<StageId> {
        self.lock().attempts.get(&attempt).copied()
    }

    /// The agents that hold a keeper for it.
    pub(super) fn agents(&self) -> Vec<AgentId> {
        self.lock().agents.iter().copied().collect()
    }

    pub(super) fn planner(&self) -> Option<AgentId> {
        self.lock().planner
    }

    pub(super) fn set_planner(&self, agent: Option<AgentId>) {
        self.lock().planner = agent;
    }

    /// Notes a build that was made for this one (an evaluation): what it holds lives as long as this one.
    pub(super) fn adopt(&self, child: Arc<Build>) {
        self.lock().children.push(child);
    }

    pub(super) fn children(&self) -> Vec<Arc<Build>> {
        self.lock().children.clone()
    }

    /// Notes that a stage waits, and tells the client if it is for more than a free slot; once for each reason. Returns for how long it has
    /// waited for that.
    pub(super) fn waits(
        &self,
        stage: StageId,
        name: &str,
        why: &str,
        tell: Tell,
    ) -> std::time::Duration {
        let mut live = self.lock();
        let waiting = live.waiting.entry(stage).or_insert_with(|| Waiting {
            since: std::time::Instant::now(),
            why: String::new(),
            _step: None,
        });
        if tell == Tell::Nobody {
            // Agents that have no slot free are there.
            waiting.since = std::time::Instant::now();
        }
        if waiting.why != why {
            why.clone_into(&mut waiting.why);
            waiting._step = match tell {
                Tell::Client => Some(
                    self.progress
                        .step(&format!("[croft] {name} waits for {why}")),
                ),
                Tell::Nobody => None,
            };
        }
        waiting.since.elapsed()
    }

    /// Notes that a stage waits no more.
    pub(super) fn goes_on(&self, stage: StageId) {
        let waited = self.lock().waiting.remove(&stage);
        drop(waited);
    }

    /// Claims the export of an edge. False if it is under way already.
    pub(super) fn begin_export(&self, edge: EdgeId) -> bool {
        self.lock().exporting.insert(edge)
    }

    pub(super) fn end_export(&self, edge: EdgeId) {
        self.lock().exporting.remove(&edge);
    }

    /// Ends what it says of waiting stages.
    pub(super) fn over(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        drop(waiting);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
