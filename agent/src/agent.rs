//! The agent itself: what the link hands over to, and the one place that knows everybody.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use croft_buildkit::{
    api::pb,
    engine::{Address, Engine, EngineError},
    platform,
};
use croft_proto::v1;
use futures::FutureExt;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Endpoint;
use tracing::Instrument;

use crate::{
    clock::Clock,
    condition::{self, Condition, Stay},
    convert, disk,
    failure::{Failure, StageRegistry},
    health::{self, Health, Pulse},
    ids::{AttemptId, BuildId, RequestId, Token},
    keeper::{Keepers, LAST_WORDS, Shared},
    ledger::{Ledger, Outcome, Refusal, Report},
    memory,
    platform::Abilities,
    progress::ProgressQueue,
    questions::Answers,
    sessions::{self, Sessions},
    space::{self, Space, Watermarks},
    stage,
    stop::Stop,
    telemetry,
    trial::proven_here,
    tunnel::Tunnel,
    work::{Offer, Question},
};

/// How long the agent's end may take: it closes builds on the engine.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// How often an agent that is to end looks whether it may.
const DRAIN_CHECK: Duration = Duration::from_millis(100);
/// Why an agent that ends doesn't hold any more what it did.
const STOPPED: &str = "the agent was stopped";
/// How often leases are looked at when none is known to end earlier.
const LEASE_CHECK: Duration = Duration::from_secs(1);

/// Who the agent is and what it may do; what `--help` tells of, checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name in the farm.
    pub name: String,
    /// How many attempts run at once.
    pub slots: u32,
    /// For builds to ask for.
    pub labels: BTreeMap<String, String>,
    /// Whether emulated platforms are offered.
    pub emulate: Emulation,
    /// The platforms that it is to stand for, whatever it is, its native one first; empty for what it is.
    pub pretended: Vec<pb::Platform>,
    /// The folder whose disk is watched; the engine's own by default.
    pub engine_root: Option<PathBuf>,
    /// Its own folder.
    pub state_dir: PathBuf,
    /// How long the engine may leave questions unanswered before what runs on it is given up.
    pub engine_patience: Duration,
    /// How much of the engine's disk is to be left.
    pub watermarks: Watermarks,
}

/// Whether an agent takes work for platforms that its engine only emulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulation {
    /// It does.
    Offered,
    /// It does not.
    Refused,
}

/// An agent beside its engine.
pub struct Agent {
    options: Options,
    engine: Engine,
    space: Arc<Space>,
    /// The 32-bit platforms that the machine is known to run.
    proven: Vec<pb::Platform>,
    health: watch::Receiver<Health>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) progress: Arc<ProgressQueue>,
    clock: Arc<Clock>,
    tunnel: Arc<Tunnel>,
    keepers: Arc<Keepers>,
    stages: Mutex<StageRegistry>,
    condition: watch::Receiver<Condition>,
    stay: watch::Sender<Stay>,
    ending: CancellationToken,
    tasks: TaskTracker,
}

impl Agent {
    /// Connects to the engine and finds out what it can do; no coordinator is asked yet.
    pub async fn new(options: Options, address: &Address) -> Result<Arc<Self>, EngineError> {
        let engine = Engine::connect(address).await?;
        let info = engine.info().await?;
        info.require_image_exporter()?;
        let root = match &options.engine_root {
            Some(root) => root.clone(),
            None => disk::engine_root(address, &options.state_dir).await,
        };
        let tunnel = Arc::new(Tunnel::default());
        let (ledger, progress) = (
            Arc::new(Ledger::new(options.slots)),
            Arc::new(ProgressQueue::default()),
        );
        let clock = Arc::new(Clock::default());
        let proven = match address {
            Address::Tcp { .. } => Vec::new(),
            Address::Unix(_) | Address::DockerUnix(_) => {
                let tried = tokio::task::spawn_blocking(proven_here).await;
                tried.unwrap_or_default()
            }
        };
        let health = health::watch(engine.clone(), info, options.engine_patience);
        let space = Arc::new(Space::new(root, options.watermarks));
        let stay = watch::Sender::new(Stay::Stays);
        let condition = condition::watch(health.clone(), space.room(), stay.subscribe());
        let keepers = Keepers::new(Shared {
            engine: engine.clone(),
            health: health.clone(),
            sessions: Sessions::new(engine.clone(), tunnel.clone(), sessions::LINGER),
            progress: progress.clone(),
            clock: clock.clone(),
            ledger: ledger.clone(),
        });
        let agent = Arc::new(Self {
            options,
            space,
            proven,
            health,
            engine,
            ledger,
            progress,
            clock,
            tunnel,
            keepers,
            stages: Mutex::default(),
            condition,
            stay,
            ending: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let ending = &agent.ending;
        let guard = space::guard(
            agent.space.clone(),
            agent.engine.clone(),
            agent.health.clone(),
        );
        tokio::spawn(ending.clone().run_until_cancelled_owned(guard));
        let hangs = lose_what_hangs(agent.keepers.clone(), agent.health.clone());
        tokio::spawn(ending.clone().run_until_cancelled_owned(hangs));
        tokio::spawn(watch_leases(agent.ledger.clone(), ending.clone()));
        Ok(agent)
    }

    /// Takes no work any more, and waits until what it runs is done and nobody wants what it holds.
    pub async fn drain(&self) {
        self.stay.send_replace(Stay::Leaves);
        while self.ledger.runs() || self.keepers.hold_results() {
            tokio::time::sleep(DRAIN_CHECK).await;
        }
    }

    /// Ends everything that it runs and holds; what there is to say about it is left for the link.
    pub async fn end(&self) {
        self.stay.send_replace(Stay::Leaves);
        self.ending.cancel();
        self.ledger.end();
        self.tasks.close();
        let ended = async {
            self.tasks.wait().await;
            self.keepers.say_all_end(STOPPED);
            self.keepers.close_all().await;
        };
        if tokio::time::timeout(END_TIMEOUT, ended).await.is_err() {
            tracing::warn!("the engine did not let go of everything in time");
        }
    }

    // ---- what the link says

    pub(crate) fn hello(&self) -> v1::Hello {
        // In this order: what is lost from here on is told after the hello.
        let keepers = self.keepers.begin_anew();
        self.ledger.replay(Instant::now());
        let health = self.health.borrow().clone();
        let info = &health.info;
        let abilities = Abilities::pretended(&self.options.pretended)
            .or_else(|| Abilities::of_engine(&info.platforms, &self.proven));
        let texts = |platforms: &[_]| platforms.iter().map(platform::format).collect();
        let emulated = abilities
            .as_ref()
            .filter(|_| self.options.emulate == Emulation::Offered);
        v1::Hello {
            protocol: croft_proto::PROTOCOL.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.options.name.clone(),
            native_platform: abilities
                .as_ref()
                .map(|able| platform::format(&able.native))
                .unwrap_or_default(),
            platforms: abilities
                .as_ref()
                .map(|able| texts(&able.platforms))
                .unwrap_or_default(),
            emulated_platforms: emulated
                .map(|able| texts(&able.emulated))
                .unwrap_or_default(),
            slots: self.options.slots,
            labels: self.options.labels.clone().into_iter().collect(),
            engine: Some(v1::EngineInfo {
                kind: convert::engine_kind(info.kind).to_owned(),
                version: info.version.clone(),
                llb_caps: convert::llb_caps(info),
                frontend_caps: info.frontend_caps.iter().cloned().collect(),
                entitlements: info.entitlements.iter().cloned().collect(),
                devices: info.devices.iter().cloned().collect(),
            }),
            running: convert::held(self.ledger.held()),
            keepers: keepers.into_iter().map(String::from).collect(),
            disk: self.disk(),
            memory: memory(),
            condition: convert::condition(*self.condition.borrow()).into(),
        }
    }

    /// The next heartbeat, and whom it names.
    pub(crate) fn heartbeat(&self) -> (v1::Heartbeat, Vec<AttemptId>) {
        let held = self.ledger.held();
        let named = held.iter().map(|(attempt, _)| attempt.clone()).collect();
        let engine_healthy = self.health.borrow().is_good();
        (
            v1::Heartbeat {
                running: convert::held(held),
                engine_healthy,
                disk: self.disk(),
                memory: memory(),
                condition: convert::condition(*self.condition.borrow()).into(),
            },
            named,
        )
    }

    fn disk(&self) -> Option<v1::Disk> {
        self.space.disk().map(|disk| v1::Disk {
            total_bytes: disk.total,
            free_bytes: disk.free,
        })
    }

    /// Whether it can take work, and when that changes.
    pub(crate) fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.clone()
    }

    /// Resolves when the engine is no longer what the last `hello` told.
    pub(crate) async fn engine_changed(&self) {
        let mut health = self.health.clone();
        let known = health.borrow().info.clone();
        // An error is the watcher's end, after which nothing changes any more.
        if health
            .wait_for(|health| !Arc::ptr_eq(&health.info, &known))
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    // ---- what the link hears

    /// The coordinator at `endpoint` has taken us.
    pub(crate) fn led_by(&self, endpoint: &Endpoint) {
        self.tunnel.lead_to(endpoint);
    }

    pub(crate) fn welcome(&self, welcome: &v1::Welcome) {
        self.tunnel.introduce(&welcome.agent);
        if let Some(now) = &welcome.now {
            self.clock.set(now);
        }
        self.ledger
            .set_lease(Duration::from_millis(welcome.lease_ms.into()));
        *self.stages.lock().unwrap_or_else(PoisonError::into_inner) =
            welcome.stage_registry.clone().into();
    }

    fn stages(&self) -> StageRegistry {
        self.stages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn offered(self: &Arc<Self>, offer: v1::Offer) {
        let (attempt, token, offer) = convert::offer(offer);
        let offer = match offer {
            Ok(offer) => offer,
            Err(error) => return self.refuse(attempt, token, Failure::farm(error.to_string())),
        };
        // That it leaves counts at once, before it is told to others.
        let condition = match *self.stay.borrow() {
            Stay::Leaves => Condition::Leaving,
            Stay::Stays => *self.condition.borrow(),
        };
        if let Some(why) = condition.why_not() {
            let failure = match condition {
                Condition::Leaving => Failure::handed_back(why),
                _ => Failure::farm(why),
            };
            return self.refuse(attempt, token, failure);
        }
        match self.ledger.accept(&offer, Instant::now()) {
            Ok(stop) => {
                let agent = self.clone();
                let span = telemetry::attempt_span(&offer);
                self.tasks
                    .spawn(async move { agent.attempt(offer, stop).await }.instrument(span));
            }
            Err(Refusal::Known) => {}
            Err(Refusal::NoSlot) => {
                let slots = self.options.slots;
                self.refuse(
                    attempt,
                    token,
                    Failure::farm(format!("all {slots} slots of the agent are in use")),
                );
            }
        }
    }

    fn refuse(&self, attempt: AttemptId, token: Token, failure: Failure) {
        tracing::warn!(%attempt, message = failure.message, "offer refused");
        self.ledger
            .say_once(Report::Finished(attempt, token, Outcome::Failed(failure)));
    }

    async fn attempt(&self, offer: Offer, stop: Stop) {
        let begun = Instant::now();
        let trace = telemetry::engine_trace(offer.context.traceparent.as_deref());
        let stages = self.stages();
        let ready = |output: &_, response| {
            self.ledger
                .output_ready(&offer.attempt, Clone::clone(output), response)
        };
        let work = async {
            let keeper = self.keepers.open(&offer.context).await?;
            tokio::select! {
                biased;
                done = stage::run(&keeper, &offer, &stages, trace.as_ref(), ready) => done,
                () = keeper.closed() => Err(keeper.end()),
            }
        };
        let done = tokio::select! {
            biased;
            reason = stop.requested() => Err(Failure::stopped(reason)),
            done = AssertUnwindSafe(work).catch_unwind() => {
                done.unwrap_or_else(|_| Err(Failure::farm("the agent failed over this attempt; its log says more")))
            }
        };
        let outcome = match done {
            Ok(tally) => Outcome::Done(tally),
            Err(mut failure) => {
                if self.space.was_low_since(begun) {
                    failure.blame_disk();
                }
                Outcome::Failed(failure)
            }
        };
        // Reports overtake progress, but the last lines of what failed are to be heard before its failure.
        let _ = tokio::time::timeout(LAST_WORDS, self.progress.taken(&offer.context.build)).await;
        tracing::Span::current().record("outcome", tracing::field::debug(&outcome_word(&outcome)));
        tracing::info!(outcome = outcome_word(&outcome), "attempt over");
        self.ledger.finish(&offer.attempt, outcome);
    }

    pub(crate) fn cancelled(&self, attempt: &AttemptId, reason: &str) {
        self.ledger.cancel(attempt, reason);
    }

    pub(crate) fn close_keeper(&self, build: BuildId) {
        self.ledger.cancel_build(&build, "the build is over");
        self.tasks.spawn(self.keepers.close(&build));
    }

    /// Answers a question, unless it is withdrawn by `open` being cancelled; cancels it itself when it is done.
    pub(crate) fn asked(
        self: &Arc<Self>,
        id: RequestId,
        question: Question,
        to: mpsc::Sender<v1::Answer>,
        open: CancellationToken,
    ) {
        let agent = self.clone();
        self.tasks.spawn(async move {
            let _answered = open.clone().drop_guard();
            let stages = agent.stages();
            let answers = Answers {
                keepers: &agent.keepers,
                engine: &agent.engine,
                stages: &stages,
                to: &to,
            };
            tokio::select! {
                biased;
                () = open.cancelled() => {}
                () = agent.ending.cancelled() => {}
                () = answers.answer(&id, question) => {}
            }
        });
    }
}

fn outcome_word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(tally) => format!("done, {} run and {} cached", tally.run, tally.cached),
        Outcome::Failed(failure) => format!("{:?}: {failure}", failure.blame),
    }
}

fn memory() -> Option<v1::Memory> {
    memory::measure().map(|memory| v1::Memory {
        total_bytes: memory.total,
        available_bytes: memory.available,
    })
}

/// Gives up what an engine holds that hangs: elsewhere it can be made again, and here it may never be heard of.
async fn lose_what_hangs(keepers: Arc<Keepers>, mut health: watch::Receiver<Health>) {
    loop {
        let hangs = |health: &Health| health.pulse == Pulse::Hangs;
        if health.wait_for(hangs).await.is_err() {
            return;
        }
        keepers.lose_all("the engine does not answer").await;
        if health.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_leases(ledger: Arc<Ledger>, ending: CancellationToken) {
    loop {
        let now = Instant::now();
        let next = ledger
            .expire(now)
            .map_or(now + LEASE_CHECK, |next| next.min(now + LEASE_CHECK));
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = ending.cancelled() => return,
        }
    }
}
