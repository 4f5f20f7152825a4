//! A database for each test, and a farm and builds in few words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use croft_coordinator::store::{
    AgentLink, AttemptDone, AttemptEnd, AttemptFailure, Binding, BuildView, DatabaseConfig,
    Exported, Held, Hello, NewAttempt, NewBuild, OutputDone, PlanRows, Store, StoreError,
};
use croft_local::Postgres;
use croft_planner::{
    CacheIdentity, CutEdge, EdgeDigest, EdgeId, Home, Narrowing, OpId, Output, PlannedTarget,
    Platform, Requirements, Stage, StageDigest, StageId, StageKind, TargetId,
};
use croft_scheduler::{
    AgentId, AttemptId, BuildId, ConnectionId, FailureKind, FarmBudget, LeaseTerms, Project,
    StageKey, Token,
};
use sqlx::PgPool;
use tokio::sync::OnceCell;
use uuid::Uuid;

const TEMPLATE: &str = "croft_migrated";

/// One test's database.
pub struct Db {
    pub store: Store,
    /// For what the store has no method for: looking at rows, and making time pass.
    pub sql: PgPool,
    pub url: String,
}

impl Db {
    pub async fn new() -> Db {
        static MIGRATED: OnceCell<()> = OnceCell::const_new();
        let postgres = Postgres::shared().expect("PostgreSQL");
        let migrate = || async {
            let url = postgres
                .create_database_named(TEMPLATE, "template0")
                .unwrap();
            connect(&url).await.close().await;
        };
        MIGRATED.get_or_init(migrate).await;
        let url = postgres.create_database_from(TEMPLATE).unwrap();
        let sql = PgPool::connect_lazy(&url).unwrap();
        Db {
            store: connect(&url).await,
            sql,
            url,
        }
    }

    pub async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.sql).await.unwrap();
    }

    /// Everything in the database, as text.
    pub async fn dump(&self) -> String {
        let mut all = String::new();
        for table in [
            "SELECT jsonb_agg(t ORDER BY t.*)::text FROM builds t",
            "SELECT jsonb_agg(t ORDER BY t.*)::text FROM stages t",
            "SELECT jsonb_agg(t ORDER BY t.*)::text FROM outputs t",
            "SELECT jsonb_agg(t ORDER BY t.*)::text FROM attempts t",
            "SELECT jsonb_agg(t ORDER BY t.*)::text FROM agents t",
            "SELECT jsonb_agg(t ORDER BY t.*)::text FROM agent_cache t",
            "SELECT jsonb_agg(t ORDER BY t.*)::text FROM publications t",
        ] {
            let rows: Option<String> = sqlx::query_scalar(table)
                .fetch_one(&self.sql)
                .await
                .unwrap();
            all.push_str(&rows.unwrap_or_default());
            all.push('\n');
        }
        all
    }

    pub async fn agent(&self, name: &str, native: &str) -> AgentLink {
        self.store
            .agent_hello(AgentId(id()), &hello(name, native))
            .await
            .unwrap()
    }

    /// A build in planning.
    pub async fn build(&self) -> BuildId {
        let new = new_build();
        self.store.build_insert(&new).await.unwrap();
        new.id
    }

    /// A build that runs, with these stages.
    pub async fn planned(&self, shape: &Shape) -> BuildId {
        let build = self.build().await;
        self.store.build_plan(build, &shape.rows()).await.unwrap();
        build
    }

    pub async fn offer(
        &self,
        build: BuildId,
        stage: u32,
        agent: &AgentLink,
        bindings: &[Binding],
    ) -> Held {
        self.try_offer(build, stage, agent, bindings).await.unwrap()
    }

    pub async fn try_offer(
        &self,
        build: BuildId,
        stage: u32,
        agent: &AgentLink,
        bindings: &[Binding],
    ) -> Result<Held, StoreError> {
        try_offer(&self.store, build, stage, agent, bindings).await
    }

    /// Offers a stage to an agent, which runs it well.
    pub async fn run(
        &self,
        build: BuildId,
        stage: u32,
        agent: &AgentLink,
        bindings: &[Binding],
        outputs: &[OutputDone],
    ) -> AttemptEnd {
        let held = self.offer(build, stage, agent, bindings).await;
        self.store.attempt_accept(agent.id, held).await.unwrap();
        self.store
            .attempt_succeed(agent.id, held, &done(outputs))
            .await
            .unwrap()
    }

    pub async fn view(&self, build: BuildId) -> BuildView {
        self.store.build_view(build).await.unwrap().unwrap()
    }

    /// The states of a build, its stages, its outputs and its attempts, as a coordinator that just started finds them.
    pub async fn states(&self, build: BuildId) -> String {
        let fresh = connect(&self.url).await;
        let view = fresh.build_view(build).await.unwrap().unwrap();
        fresh.close().await;
        states(&view)
    }

    /// The lease of every attempt that lives has ended.
    pub async fn leases_end(&self) {
        self.execute("UPDATE attempts SET lease_until = now() - interval '1 second' WHERE state IN ('offered', 'running')")
            .await;
    }
}

/// An offer by whoever has this store.
pub async fn try_offer(
    store: &Store,
    build: BuildId,
    stage: u32,
    agent: &AgentLink,
    bindings: &[Binding],
) -> Result<Held, StoreError> {
    let new = NewAttempt {
        id: AttemptId(id()),
        key: key(build, stage),
        agent: agent.id,
        epoch: agent.epoch,
        reason: "a test".to_owned(),
        bindings: bindings.to_vec(),
    };
    let offered = store.attempt_offer(&new, &LeaseTerms::default()).await?;
    Ok(Held {
        attempt: new.id,
        token: offered.token,
    })
}

pub async fn connect(url: &str) -> Store {
    Store::connect(&DatabaseConfig::new(url, 6)).await.unwrap()
}

/// `running: ready waiting | missing missing | 0 offered`: the build, its stages, its outputs, its attempts with their stages.
pub fn states(view: &BuildView) -> String {
    let words = |all: Vec<String>| all.join(" ");
    let stages = view
        .stages
        .iter()
        .map(|stage| stage.state.to_string())
        .collect();
    let outputs = view
        .outputs
        .iter()
        .map(|output| output.state.as_str().to_owned())
        .collect();
    let attempts = view
        .attempts
        .iter()
        .map(|attempt| format!("{} {}", attempt.stage, attempt.state))
        .collect();
    let line = format!(
        "{}: {} | {} | {}",
        view.build.state,
        words(stages),
        words(outputs),
        words(attempts)
    );
    line.trim_end_matches([' ', '|', ':']).to_owned()
}

pub fn id() -> Uuid {
    Uuid::now_v7()
}

pub fn key(build: BuildId, stage: u32) -> StageKey {
    StageKey {
        build,
        stage: StageId(stage),
    }
}

pub fn new_build() -> NewBuild {
    NewBuild {
        id: BuildId(id()),
        client_ref: "k3x".to_owned(),
        project: Project("p".to_owned()),
        priority: 0,
        platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
        session: "session".to_owned(),
        connection: ConnectionId(id()),
        frontend: "dockerfile.v0".to_owned(),
        deadline: None,
    }
}

pub fn hello(name: &str, native: &str) -> Hello {
    let native: Platform = native.parse().unwrap();
    Hello {
        name: name.to_owned(),
        native: native.clone(),
        platforms: vec![native],
        emulated: vec!["linux/riscv64".parse().unwrap()],
        slots: 2,
        labels: BTreeMap::from([("rack".to_owned(), "3".to_owned())]),
        version: "0.1.0".to_owned(),
        engine_kind: "docker".to_owned(),
        engine_version: "28.5".to_owned(),
        llb_caps: Arc::new(BTreeSet::from(["source.image".to_owned()])),
        frontend_caps: BTreeSet::from(["solve.base".to_owned()]),
        entitlements: vec!["network.host".to_owned()],
        devices: vec!["vendor.example/gpu=0".to_owned()],
    }
}

/// A plan's outline: each stage's native platform and the stages whose results it takes. Each producer has one edge, numbered in the order
/// of producers; each stage that nobody takes from has one target.
pub struct Shape {
    stages: Vec<Stage>,
    edges: Vec<CutEdge>,
    targets: Vec<PlannedTarget>,
    build_platform: Platform,
}

/// One stage after the other, each with commands of its own.
pub fn shape(outline: &[(&str, &[u32])]) -> Shape {
    let mut stages: Vec<Stage> = (0..)
        .zip(outline)
        .map(|(number, (on, _))| stage(number, on))
        .collect();
    let (mut edges, mut targets) = (Vec::new(), Vec::new());
    for number in 0..stages.len() as u32 {
        let consumers: BTreeSet<StageId> = (0..)
            .zip(outline)
            .filter(|(_, (_, from))| from.contains(&number))
            .map(|(n, _)| StageId(n))
            .collect();
        let stage = StageId(number);
        let platform = stages[stage.index()]
            .home
            .as_ref()
            .unwrap()
            .platform()
            .clone();
        if consumers.is_empty() {
            let target = TargetId(targets.len() as u32);
            targets.push(PlannedTarget {
                id: target,
                name: platform.to_string(),
                platform,
                stage,
                root: Some((OpId(0), 0)),
            });
            stages[stage.index()].results.push(target);
            stages[stage.index()].users.insert(target);
        } else {
            let edge = EdgeId(edges.len() as u32);
            consumers
                .iter()
                .for_each(|consumer| stages[consumer.index()].inputs.push(edge));
            stages[stage.index()].outputs.push(edge);
            edges.push(CutEdge {
                id: edge,
                digest: EdgeDigest::new(format!("sha256:edge-{number}")),
                name: format!("result of {number}"),
                producer: stage,
                consumers,
                op: OpId(0),
                output: 0,
                platform,
                narrowing: Narrowing::Whole,
            });
        }
    }
    Shape {
        stages,
        edges,
        targets,
        build_platform: "linux/amd64".parse().unwrap(),
    }
}

/// A shared stage, and one for each of three targets that takes its result.
pub fn fan() -> Shape {
    shape(&[
        ("linux/amd64", &[]),
        ("linux/amd64", &[0]),
        ("linux/arm64", &[0]),
        ("linux/s390x", &[0]),
    ])
}

/// A stage that takes from two, which take from one.
pub fn diamond() -> Shape {
    shape(&[
        ("linux/amd64", &[]),
        ("linux/amd64", &[0]),
        ("linux/amd64", &[0]),
        ("linux/amd64", &[1, 2]),
    ])
}

pub fn chain() -> Shape {
    shape(&[
        ("linux/amd64", &[]),
        ("linux/amd64", &[0]),
        ("linux/amd64", &[1]),
    ])
}

pub fn single() -> Shape {
    shape(&[("linux/amd64", &[])])
}

impl Shape {
    pub fn rows(&self) -> PlanRows<'_> {
        PlanRows {
            delivery: None,
            build_platform: &self.build_platform,
            source: b"the plan's source",
            stages: &self.stages,
            edges: &self.edges,
            targets: &self.targets,
        }
    }

    /// Changes one stage.
    pub fn with(mut self, number: u32, change: impl FnOnce(&mut Stage)) -> Shape {
        change(&mut self.stages[number as usize]);
        self
    }
}

fn stage(number: u32, on: &str) -> Stage {
    let platform: Platform = on.parse().unwrap();
    Stage {
        id: StageId(number),
        digest: StageDigest::new(format!("sha256:stage-{number}")),
        kind: StageKind::Shared,
        name: format!("builder {number}"),
        home: Some(Home::new(platform.clone())),
        platforms: BTreeSet::from([platform]),
        placed_with: None,
        together: None,
        meets: BTreeSet::new(),
        users: BTreeSet::new(),
        depth: 0,
        ops: Vec::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        results: Vec::new(),
        requirements: Requirements::default(),
        cache_mounts: BTreeSet::new(),
        local_sources: BTreeSet::new(),
        reads_once: false,
        secrets: BTreeSet::new(),
        ssh: BTreeSet::new(),
        cache: vec![CacheIdentity::new(format!("sha256:command-{number}"))],
        identity: CacheIdentity::new(format!("sha256:identity-{number}")),
    }
}

pub fn held_edge(edge: u32) -> OutputDone {
    OutputDone {
        output: Output::Edge(EdgeId(edge)),
        exported: None,
    }
}

pub fn exported(digest: &str) -> Exported {
    Exported {
        took: None,
        digest: digest.to_owned(),
        bytes: 1234,
        response: BTreeMap::from([("containerimage.digest".to_owned(), digest.to_owned())]),
    }
}

pub fn exported_edge(edge: u32, digest: &str) -> OutputDone {
    OutputDone {
        output: Output::Edge(EdgeId(edge)),
        exported: Some(exported(digest)),
    }
}

pub fn target(number: u32) -> OutputDone {
    OutputDone {
        output: Output::Target(TargetId(number)),
        exported: Some(exported(&format!("sha256:target-{number}"))),
    }
}

pub fn own(edge: u32) -> Binding {
    Binding {
        edge: EdgeId(edge),
        digest: None,
    }
}

pub fn image(edge: u32, digest: &str) -> Binding {
    Binding {
        edge: EdgeId(edge),
        digest: Some(digest.to_owned()),
    }
}

pub fn done(outputs: &[OutputDone]) -> AttemptDone {
    AttemptDone {
        outputs: outputs.to_vec(),
        vertices_cached: 1,
        vertices_run: 2,
        ..AttemptDone::default()
    }
}

pub fn failure(kind: FailureKind) -> AttemptFailure {
    AttemptFailure {
        kind,
        error: "it went wrong".to_owned(),
    }
}

/// No pause between attempts.
pub fn at_once() -> FarmBudget {
    FarmBudget {
        failures: 3,
        first_wait: Duration::ZERO,
        longest_wait: Duration::ZERO,
    }
}

/// The same attempt under a token that was never given out for it.
pub fn forged(held: Held) -> Held {
    Held {
        token: Token(held.token.0 + 1000),
        ..held
    }
}

pub fn is_stale<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    match result {
        Err(error) if error.is_stale() => true,
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}
