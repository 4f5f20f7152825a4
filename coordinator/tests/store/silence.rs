//! Agents that nothing is heard of: who they are, and what only they hold.

use croft_coordinator::store::{BuildEnd, Heartbeat};
use croft_planner::StageId;
use croft_scheduler::LeaseTerms;
use croft_scheduler::fleet::Health;

use crate::support::*;

const BEAT: Heartbeat = Heartbeat {
    health: Health::Healthy,
    disk: None,
    memory: None,
};

/// The silent agents, and those that hold something: the look that comes before says whether there are any.
async fn both(db: &Db) -> [Vec<String>; 2] {
    let terms = LeaseTerms::default();
    let silent = db.store.agent_silent(&terms).await.unwrap();
    let held = db.store.output_held_in_silence(&terms).await.unwrap();
    let due = db.store.due(&terms).await.unwrap();
    assert_eq!(due.silence, !silent.is_empty() || !held.is_empty());
    [
        silent.into_iter().map(|agent| agent.name).collect(),
        held.into_iter().map(|held| held.name).collect(),
    ]
}

async fn silent(db: &Db) -> Vec<String> {
    let [silent, _] = both(db).await;
    silent
}

async fn held(db: &Db) -> Vec<String> {
    let [_, held] = both(db).await;
    held
}

#[tokio::test]
async fn an_agent_is_silent_from_a_lease_after_its_last_word_until_its_next() {
    let db = Db::new().await;
    let one = db.agent("amd64-1", "linux/amd64").await;
    db.agent("amd64-2", "linux/amd64").await;
    let terms = LeaseTerms::default();
    assert_eq!(
        terms.lease + terms.grace,
        std::time::Duration::from_secs(16)
    );
    db.execute("UPDATE agents SET last_seen = now() - interval '15 seconds'")
        .await;
    assert!(silent(&db).await.is_empty());
    db.execute(
        "UPDATE agents SET last_seen = now() - interval '17 seconds' WHERE name = 'amd64-1'",
    )
    .await;
    assert_eq!(silent(&db).await, ["amd64-1"]);
    db.store
        .agent_heartbeat(one.id, one.epoch, &BEAT)
        .await
        .unwrap();
    assert!(silent(&db).await.is_empty());
    db.execute("UPDATE agents SET last_seen = now() - interval '17 seconds'")
        .await;
    db.store.agent_away(one.id, one.epoch).await.unwrap();
    assert_eq!(
        silent(&db).await,
        ["amd64-2"],
        "the other is known to be away"
    );
}

#[tokio::test]
async fn what_only_a_silent_agent_holds_is_lost_and_its_late_word_about_it_changes_nothing() {
    let db = Db::new().await;
    let one = db.agent("amd64-1", "linux/amd64").await;
    let two = db.agent("amd64-2", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    let over = db.planned(&chain()).await;
    db.run(build, 0, &one, &[], &[held_edge(0)]).await;
    db.run(over, 0, &one, &[], &[held_edge(0)]).await;
    let reason = "a test";
    db.store
        .build_end(over, BuildEnd::Cancelled { reason })
        .await
        .unwrap();
    let late = db.offer(build, 1, &one, &[own(0)]).await;

    db.store.agent_away(one.id, one.epoch).await.unwrap();
    assert!(held(&db).await.is_empty(), "it may come back in time");
    db.execute("UPDATE agents SET last_seen = now() - interval '1 minute' WHERE name = 'amd64-1'")
        .await;
    let terms = LeaseTerms::default();
    let held = db.store.output_held_in_silence(&terms).await.unwrap();
    let held: Vec<_> = held.iter().map(|h| (h.build, h.agent, &*h.name)).collect();
    assert_eq!(held, [(build, one.id, "amd64-1")], "nobody needs the other");

    let lost = db.store.output_lose_held(build, one.id).await.unwrap();
    assert_eq!(lost.stages, [0, 1].map(StageId));
    assert_eq!(db.store.output_held_in_silence(&terms).await.unwrap(), []);
    // It wakes up, keeper and all.
    let woken = db.agent("amd64-1", "linux/amd64").await;
    let stale = done(&[exported_edge(1, "sha256:late")]);
    assert!(is_stale(
        db.store.attempt_succeed(woken.id, late, &stale).await
    ));
    let renewed = db.store.attempt_renew(woken.id, &[late], &terms).await;
    assert_eq!(renewed.unwrap(), [], "it is to let go of it");
    db.run(build, 0, &two, &[], &[held_edge(0)]).await;
    assert!(
        is_stale(db.try_offer(build, 1, &woken, &[own(0)]).await),
        "what it holds is not what counts"
    );
    db.run(build, 1, &two, &[own(0)], &[held_edge(1)]).await;
}

#[tokio::test]
async fn what_a_silent_agent_holds_is_lost_only_after_what_it_runs() {
    let db = Db::new().await;
    let one = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    db.run(build, 0, &one, &[], &[held_edge(0)]).await;
    let running = db.offer(build, 1, &one, &[own(0)]).await;
    db.store.attempt_accept(one.id, running).await.unwrap();
    db.store.agent_away(one.id, one.epoch).await.unwrap();
    // Its lease began after its last heartbeat.
    db.execute("UPDATE agents SET last_seen = now() - interval '1 minute'")
        .await;
    assert!(held(&db).await.is_empty());
    db.leases_end().await;
    assert!(held(&db).await.is_empty(), "what it runs is given up first");
    for lost in db.store.attempt_expired(10).await.unwrap() {
        db.store.attempt_lose(&lost, &at_once()).await.unwrap();
    }
    assert_eq!(held(&db).await, ["amd64-1"]);
}
