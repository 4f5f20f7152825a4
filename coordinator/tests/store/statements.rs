//! The number of statements doesn't grow with what they are about. sqlx reports each one; the reports of this thread are counted.

use std::cell::Cell;
use std::sync::Once;

use croft_planner::{CacheIdentity, EdgeId};
use croft_scheduler::LeaseTerms;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::support::*;

thread_local! {
    /// A test has a thread of its own, and its statements are sent by it.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counter;

impl<S: tracing::Subscriber> Layer<S> for Counter {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "sqlx::query" {
            COUNT.set(COUNT.get() + 1);
        }
    }
}

/// For the whole process: what is heard by one thread only may be switched off by another.
fn count() {
    static GLOBAL: Once = Once::new();
    GLOBAL.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Counter))
            .unwrap()
    });
}

/// One build of which each stage has so many commands and results, with the statements that each step took.
async fn steps(db: &Db, stages: usize, commands: usize) -> Vec<(&'static str, usize)> {
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let mut outline: Vec<(&str, &[u32])> = vec![("linux/amd64", &[])];
    outline.resize(stages, ("linux/amd64", &[0]));
    let plan = shape(&outline).with(0, |stage| {
        stage.cache = (0..commands)
            .map(|n| CacheIdentity::new(format!("sha256:{n}")))
            .collect();
    });
    let build = db.build().await;
    let mut steps = Vec::new();
    count();
    macro_rules! step {
        ($name:literal, $call:expr) => {{
            COUNT.set(0);
            let answer = $call.await.unwrap();
            steps.push(($name, COUNT.get()));
            answer
        }};
    }
    step!("plan", db.store.build_plan(build, &plan.rows()));
    step!("snapshot", db.store.snapshot(1000));
    let held = step!("offer", db.try_offer(build, 0, &agent, &[]));
    step!("accept", db.store.attempt_accept(agent.id, held));
    step!(
        "renew",
        db.store
            .attempt_renew(agent.id, &[held], &LeaseTerms::default())
    );
    step!(
        "output",
        db.store.attempt_output(agent.id, held, &[held_edge(0)])
    );
    step!(
        "succeed",
        db.store.attempt_succeed(agent.id, held, &done(&[]))
    );
    step!(
        "export",
        db.store
            .output_export(build, EdgeId(0), agent.id, &exported("sha256:zero"))
    );
    step!("snapshot", db.store.snapshot(1000));
    step!("view", db.store.build_view(build));
    step!(
        "lose",
        db.store.output_lose_image(build, EdgeId(0), "sha256:zero")
    );
    let once = at_once();
    step!(
        "refute",
        db.store
            .output_refute(build, EdgeId(0), agent.id, "", &once)
    );
    step!("keeper", db.store.output_lose_held(build, agent.id));
    step!("log", db.store.log_append(build, &[0; 1 << 16]));
    steps
}

#[tokio::test]
async fn a_stage_takes_as_many_statements_in_a_large_build_as_in_a_small_one() {
    let db = Db::new().await;
    let small = steps(&db, 3, 1).await;
    let large = steps(&db, 300, 100).await;
    assert_eq!(small, large);
    let total: usize = small
        .iter()
        .filter(|(name, _)| ["offer", "accept", "output", "succeed"].contains(name))
        .map(|(_, n)| n)
        .sum();
    assert!(total > 0, "sqlx reports statements under another name now");
    assert!(
        total <= 14,
        "{total} statements from offer to end: {small:?}"
    );
}
