//! Keepers: for each build, what this agent holds open on its engine until the build ends, so that nothing of it runs twice.
//!
//! A keeper is a set of gateway jobs with one session: every output and every frontend call gets a job of its own. Live vertices are shared
//! between the jobs of an engine and stay referenced while any job holds them, so results stay as long as their job does; and an
//! error sticks to a vertex as long as any job holds that vertex, so a job that failed is closed at once and the next try starts clean.
//! What is solved in the jobs is `stage`'s and `questions`' business.

mod job;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use croft_buildkit::{
    api::control::{StatusRequest, StatusResponse},
    engine::Engine,
    gateway::{BuildRef, Gateway, GatewaySpec},
    session::SessionSpec,
    trace::TraceContext,
};
use futures::future::{join_all, try_join_all};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    clock::Clock,
    failure::Failure,
    health::Health,
    ids::{BuildId, OutputId},
    ledger::{Ledger, Report, Tally},
    progress::{ProgressQueue, Source},
    sessions::{Lease, Sessions},
    stop::StopReason,
    tunnel::User,
    vertices::{Edge, JobId, Vertices},
    work::BuildContext,
};
use job::Job;

/// How long the engine's last words on a solve are waited for once the solve has ended.
pub const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the fate of a solve's vertices is waited for. An engine that merged a vertex into an equal one never tells it, and the count is
/// for people only.
const FATE: Duration = Duration::from_millis(300);

/// What all keepers share.
pub struct Shared {
    /// The engine.
    pub engine: Engine,
    /// What it is just now.
    pub health: watch::Receiver<Health>,
    /// The sessions on it.
    pub sessions: Arc<Sessions>,
    /// Where progress goes.
    pub progress: Arc<ProgressQueue>,
    /// In whose time.
    pub clock: Arc<Clock>,
    /// Where a keeper's unwanted end is told.
    pub ledger: Arc<Ledger>,
}

/// All keepers of this agent.
pub struct Keepers {
    shared: Shared,
    open: Mutex<HashMap<BuildId, Arc<Keeper>>>,
}

/// What is held for one build.
pub struct Keeper {
    keepers: Arc<Keepers>,
    context: Arc<BuildContext>,
    closed: CancellationToken,
    /// Why it ended by itself, if it did.
    lost: OnceLock<String>,
    leases: Mutex<Vec<Lease>>,
    /// Held while sessions are opened, so that each is opened once.
    joining: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
    jobs: AtomicU64,
    vertices: Mutex<Vertices>,
    /// Something new is known of the vertices.
    told: Notify,
}

#[derive(Default)]
struct Held {
    jobs: Vec<Job>,
    /// What was solved in them.
    results: HashSet<Edge>,
}

/// The vertices that an attempt began with before any other that is at them, for as long as it runs.
pub struct Claim<'a> {
    keeper: &'a Keeper,
    vertices: HashSet<String>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.keeper.vertices).release(&self.vertices);
    }
}

/// How a keeper that is lost lets go of its jobs and sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// One after the other, waiting for the engine.
    InOrder,
    /// At once: the engine answers nothing. What it hears of it when it wakes up ends its jobs.
    AtOnce,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keepers {
    /// No keepers yet.
    pub fn new(shared: Shared) -> Arc<Self> {
        Arc::new(Self {
            shared,
            open: Mutex::default(),
        })
    }

    /// The builds that have one, for a hello. Those whose keeper ended by itself are told by not being among them: they may have another
    /// from now on.
    pub fn begin_anew(&self) -> Vec<BuildId> {
        let mut open = lock(&self.open);
        open.retain(|_, keeper| !keeper.closed.is_cancelled());
        open.keys().cloned().collect()
    }

    /// The build's keeper, with all the sessions that the build names by now; opened where there is none. One that ended by itself is in
    /// the way until the coordinator is known to have heard of it: it would take another for the one whose results it counts on.
    pub async fn open(
        self: &Arc<Self>,
        context: &Arc<BuildContext>,
    ) -> Result<Arc<Keeper>, Failure> {
        let keeper = lock(&self.open)
            .entry(context.build.clone())
            .or_insert_with(|| Keeper::new(self, context))
            .clone();
        tokio::select! {
            biased;
            () = keeper.closed() => match self.find(&context.build) {
                Some(_) => Err(Failure::farm("what this agent held of the build was lost a moment ago")),
                None => Err(build_over()),
            },
            joined = keeper.join(&context.sessions) => joined.map(|()| keeper.clone()),
        }
    }

    /// The build's keeper, if it is there already.
    pub fn find(&self, build: &BuildId) -> Option<Arc<Keeper>> {
        lock(&self.open).get(build).cloned()
    }

    /// Closes a build's keeper, if it has one; another may be opened at once. What comes back ends when the engine has let go of it.
    pub fn close(&self, build: &BuildId) -> impl Future<Output = ()> + Send + use<> {
        let keeper = lock(&self.open).remove(build);
        if let Some(keeper) = &keeper {
            keeper.closed.cancel();
        }
        async move {
            if let Some(keeper) = keeper {
                keeper.shut().await;
            }
        }
    }

    /// Closes all of them.
    pub async fn close_all(&self) {
        let builds: Vec<_> = lock(&self.open).keys().cloned().collect();
        join_all(builds.iter().map(|build| self.close(build))).await;
    }

    /// Whether any keeper holds results that others may want.
    pub fn hold_results(&self) -> bool {
        let open = lock(&self.open);
        open.values()
            .any(|keeper| !keeper.closed.is_cancelled() && !lock(&keeper.held).results.is_empty())
    }

    /// Gives up all of them, for this reason: nothing that they hold can be relied on any more.
    pub async fn lose_all(&self, reason: &str) {
        let keepers: Vec<_> = lock(&self.open).values().cloned().collect();
        let lost = keepers
            .iter()
            .map(|keeper| self.lost(keeper, reason.to_owned(), Parting::AtOnce));
        join_all(lost).await;
    }

    /// Gives back all of them before the agent ends: whoever wants what they hold hears of it now.
    pub fn say_all_end(&self, reason: &str) {
        for build in self.begin_anew() {
            let closed = Report::KeeperClosed(build, reason.to_owned());
            self.shared.ledger.say_once(closed);
        }
    }

    /// A keeper lost a job or a session: what it held can't be relied on, nor what attempts say that they made in it.
    async fn lost(&self, keeper: &Keeper, reason: String, parting: Parting) {
        let (build, ledger) = (&keeper.context.build, &self.shared.ledger);
        {
            let _open = lock(&self.open);
            if keeper.closed.is_cancelled() {
                return;
            }
            let _ = keeper.lost.set(reason.clone());
            keeper.closed.cancel();
            ledger.fail_build(build, &reason);
        }
        tracing::warn!(%build, %reason, "a keeper ended by itself");
        match parting {
            Parting::InOrder => keeper.shut().await,
            Parting::AtOnce => keeper.drop_all(),
        }
        let open = lock(&self.open);
        // Unless a hello has told it meanwhile.
        if open
            .get(build)
            .is_some_and(|other| std::ptr::eq(&**other, keeper))
        {
            ledger.say_once(Report::KeeperClosed(build.clone(), reason));
        }
    }
}

/// The failure of what still wanted something of a build that is over.
pub fn build_over() -> Failure {
    Failure::stopped(StopReason::Cancelled("the build is over".to_owned()))
}

impl Keeper {
    fn new(keepers: &Arc<Keepers>, context: &Arc<BuildContext>) -> Arc<Self> {
        Arc::new(Self {
            keepers: keepers.clone(),
            context: context.clone(),
            closed: CancellationToken::new(),
            lost: OnceLock::new(),
            leases: Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            held: Mutex::default(),
            jobs: AtomicU64::new(0),
            vertices: Mutex::default(),
            told: Notify::new(),
        })
    }

    /// Opens those of the sessions that it has not yet: a build may name more of them as it goes on.
    async fn join(self: &Arc<Self>, sessions: &[SessionSpec]) -> Result<(), Failure> {
        let _turn = self.joining.lock().await;
        let missing: Vec<_> = {
            let leases = lock(&self.leases);
            let joined = |spec: &SessionSpec| leases.iter().any(|lease| *lease.id() == spec.id);
            sessions.iter().filter(|spec| !joined(spec)).collect()
        };
        let open = &self.keepers.shared.sessions;
        let user = User::new(&self.context);
        let leases = missing.into_iter().map(|spec| open.acquire(&user, spec));
        let leases = try_join_all(leases)
            .await
            .map_err(|status| Failure::of_engine(&status))?;
        for lease in leases {
            let (keeper, session) = (self.clone(), lease.session());
            let mut held = lock(&self.leases);
            if self.closed.is_cancelled() {
                return Err(self.end());
            }
            held.push(lease);
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = keeper.closed() => {}
                    () = session.closed() => keeper.lost("the engine dropped a session of the build".to_owned()).await,
                }
            });
        }
        Ok(())
    }

    /// What the build needs to know.
    pub fn context(&self) -> &BuildContext {
        &self.context
    }

    /// The engine, each call of it belonging to `trace`.
    pub fn engine(&self, trace: Option<&TraceContext>) -> Engine {
        let engine = &self.keepers.shared.engine;
        trace.map_or_else(|| engine.clone(), |trace| engine.traced(trace.clone()))
    }

    /// What the build was granted and this engine allows. It refuses a build for asking for anything else, even if no step there needs it;
    /// steps that do need it come to other agents.
    pub fn entitlements(&self) -> Vec<String> {
        let info = self.keepers.shared.health.borrow().info.clone();
        let granted = self.context.entitlements.iter();
        granted
            .filter(|entitlement| info.allows(entitlement))
            .cloned()
            .collect()
    }

    /// Resolves when it is closed, by whomever.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// What fails whatever still wanted something of it when it was closed.
    pub fn end(&self) -> Failure {
        match self.lost.get() {
            Some(reason) => Failure::farm(reason),
            None => build_over(),
        }
    }

    async fn lost(&self, reason: String) {
        self.keepers.lost(self, reason, Parting::InOrder).await;
    }

    /// How many calls of the build's sessions were cut off between here and the coordinator.
    pub fn cuts(&self) -> usize {
        lock(&self.leases).iter().map(Lease::cuts).sum()
    }

    /// Opens a job.
    pub async fn job(self: &Arc<Self>, trace: Option<&TraceContext>) -> Result<Job, Status> {
        let engine = self.engine(trace);
        let spec = GatewaySpec {
            build: Some(BuildRef::unique()),
            session: self.context.session().cloned(),
            entitlements: self.entitlements(),
            source_policy: self.context.source_policy.clone(),
            cache_imports: self.context.cache_imports.clone(),
            ..GatewaySpec::default()
        };
        let gateway = Gateway::open(&engine, spec).await?;
        let (id, over) = (
            JobId(self.jobs.fetch_add(1, Ordering::Relaxed)),
            CancellationToken::new(),
        );
        let (keeper, of) = (self.clone(), gateway.build().clone());
        let told = CancellationToken::new();
        let telling = told.clone().drop_guard();
        tokio::spawn(async move {
            let _telling = telling;
            let source = Source {
                build: keeper.context.build.clone(),
                export: None,
            };
            keeper
                .watch(&of, &source, |vertices, status| vertices.admit(id, status))
                .await;
            lock(&keeper.vertices).ended(id);
        });
        let (keeper, ended, ours) = (self.clone(), gateway.ended(), over.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = ours.cancelled() => {}
                end = ended => {
                    let why = end.map_or_else(|status| status.message().to_owned(), |()| "no reason given".to_owned());
                    keeper.lost(format!("the engine ended a job of the build: {why}")).await;
                }
            }
        });
        Ok(Job {
            gateway,
            over,
            told,
            id,
            keeper: Arc::downgrade(self),
        })
    }

    /// Holds a job, and the result that was solved in it, until the keeper is closed.
    pub fn hold(&self, job: Job, result: Option<Edge>) {
        let mut held = lock(&self.held);
        if !self.closed.is_cancelled() {
            held.jobs.push(job);
            held.results.extend(result);
        }
    }

    /// Whether a result is held, so that solving it again runs nothing.
    pub fn holds(&self, result: &Edge) -> bool {
        lock(&self.held).results.contains(result)
    }

    /// Says which vertices an attempt is about to solve, so that their exports don't tell of them as well, and who counts them.
    pub fn expect(&self, vertices: &HashSet<String>) -> Claim<'_> {
        Claim {
            keeper: self,
            vertices: lock(&self.vertices).expect(vertices),
        }
    }

    /// Tells the coordinator what an export says, until it has said everything. `of` is whose export it is.
    pub async fn watch_export(&self, solve: &BuildRef, of: String, output: OutputId) {
        let source = Source {
            build: self.context.build.clone(),
            export: Some((of, output)),
        };
        self.watch(solve, &source, |vertices, status| {
            vertices.admit_export(status)
        })
        .await;
    }

    async fn watch(
        &self,
        solve: &BuildRef,
        source: &Source,
        mut admit: impl FnMut(&mut Vertices, StatusResponse) -> StatusResponse,
    ) {
        let watched = async {
            let request = StatusRequest {
                r#ref: solve.to_string(),
            };
            let mut stream = self
                .keepers
                .shared
                .engine
                .control()
                .status(request)
                .await?
                .into_inner();
            while let Some(status) = stream.message().await? {
                let mut status = admit(&mut lock(&self.vertices), status);
                self.told.notify_waiters();
                if status != StatusResponse::default() {
                    self.keepers.shared.clock.shift(&mut status);
                    self.keepers.shared.progress.push(source, status).await;
                }
            }
            Ok::<_, Status>(())
        };
        if let Err(status) = watched.await {
            tracing::debug!(build = %self.context.build, error = status.message(), "progress broke off");
        }
    }

    /// Counts what became of an attempt's vertices, once all is told of `results`, the vertices that it ended with.
    pub async fn tally(
        &self,
        vertices: &HashSet<String>,
        claim: &Claim<'_>,
        results: &[Edge],
    ) -> Tally {
        let all_told = async {
            loop {
                let told = self.told.notified();
                let all = {
                    let known = lock(&self.vertices);
                    results.iter().all(|result| known.is_done(&result.vertex))
                };
                if all {
                    return;
                }
                told.await;
            }
        };
        let _ = tokio::time::timeout(FATE, all_told).await;
        lock(&self.vertices).tally(vertices, &claim.vertices)
    }

    /// Lets go of its jobs and sessions, and waits for nothing.
    fn drop_all(&self) {
        let held = std::mem::take(&mut *lock(&self.held));
        let leases = std::mem::take(&mut *lock(&self.leases));
        drop((held, leases));
    }

    /// Ends its jobs, then its sessions.
    async fn shut(&self) {
        let held = std::mem::take(&mut *lock(&self.held));
        join_all(held.jobs.into_iter().map(Job::close)).await;
        lock(&self.leases).clear();
    }
}
