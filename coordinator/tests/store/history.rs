//! What is asked afterwards: which builds, where their time went, what agents run and hold, and forgetting those that are gone.

use std::time::Duration;

use chrono::Utc;
use croft_coordinator::store::{AttemptDone, BuildEnd, BuildFilter, Cache};
use croft_planner::EdgeId;

use crate::support::*;

#[tokio::test]
async fn a_build_tells_when_its_results_were_there_and_how_long_they_travelled() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let other = db.agent("amd64-2", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    let mut exported = exported_edge(0, "sha256:edge");
    if let Some(exported) = &mut exported.exported {
        exported.took = Some(Duration::from_millis(30));
    }
    db.run(build, 0, &agent, &[], &[exported]).await;
    let held = db.offer(build, 1, &other, &[image(0, "sha256:edge")]).await;
    let finished = AttemptDone {
        fetched: vec![
            (EdgeId(0), Duration::from_millis(40)),
            (EdgeId(9), Duration::ZERO),
        ],
        ..done(&[held_edge(1)])
    };
    db.store
        .attempt_succeed(other.id, held, &finished)
        .await
        .unwrap();

    let view = db.view(build).await;
    let edge = view
        .outputs
        .iter()
        .find(|row| row.output == held_edge(0).output)
        .unwrap();
    assert_eq!(edge.export_took, Some(Duration::from_millis(30)));
    assert!(edge.there_at.is_some() && edge.there_at == edge.exported_at);
    let attempts: Vec<_> = view
        .attempts
        .iter()
        .map(|row| row.fetched.clone())
        .collect();
    assert!(attempts[0].is_empty(), "it took nothing");
    assert_eq!(
        attempts[1].iter().collect::<Vec<_>>(),
        [(&EdgeId(0), &Duration::from_millis(40))],
        "of its inputs alone"
    );
}

#[tokio::test]
async fn builds_are_listed_by_what_is_asked_for() {
    let db = Db::new().await;
    let build = db.build().await;
    let count = async |change: fn(&mut BuildFilter)| {
        let mut filter = BuildFilter {
            limit: 10,
            ..BuildFilter::default()
        };
        change(&mut filter);
        db.store.build_list(&filter).await.unwrap().len()
    };
    assert_eq!(count(|_| {}).await, 1);
    let row = db.store.build_get(build).await.unwrap().unwrap();
    assert_eq!((row.project.0.as_str(), row.id), ("p", build));
    assert_eq!(count(|f| f.project = Some("p".to_owned())).await, 1);
    assert_eq!(count(|f| f.project = Some("q".to_owned())).await, 0);
    assert_eq!(
        count(|f| f.platform = Some("plan9/mips".to_owned())).await,
        0
    );
    assert_eq!(
        count(|f| f.since = Some(Utc::now() - Duration::from_secs(60))).await,
        1
    );
    assert_eq!(
        count(|f| f.since = Some(Utc::now() + Duration::from_secs(60))).await,
        0
    );
    assert_eq!(count(|f| f.published = Some("app:1".to_owned())).await, 0);
}

#[tokio::test]
async fn a_build_is_removed_with_all_that_is_known_of_it_once_it_is_over() {
    let db = Db::new().await;
    let build = db.planned(&single()).await;
    db.store.log_append(build, b"said").await.unwrap();
    assert!(is_stale(db.store.build_remove(build).await), "it runs");
    let end = BuildEnd::Failed { error: "no" };
    db.store.build_end(build, end).await.unwrap();
    db.store.build_remove(build).await.unwrap();
    assert_eq!(db.store.build_get(build).await.unwrap(), None);
    assert_eq!(db.store.log_read(build, 0, 10).await.unwrap(), []);
    assert!(is_stale(db.store.build_remove(build).await), "it is gone");
}

#[tokio::test]
async fn an_agent_is_forgotten_only_when_nothing_counts_on_it_and_its_attempts_keep_its_name() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    let held = db.offer(build, 0, &agent, &[]).await;
    let work = db.store.agent_work(agent.id).await.unwrap();
    assert_eq!((work.len(), work[0].build), (1, build));
    assert!(
        is_stale(db.store.agent_forget(agent.id).await),
        "it is connected"
    );
    db.store.agent_away(agent.id, agent.epoch).await.unwrap();
    assert!(
        is_stale(db.store.agent_forget(agent.id).await),
        "it runs something"
    );
    db.store.attempt_accept(agent.id, held).await.unwrap();
    let finished = done(&[held_edge(0)]);
    db.store
        .attempt_succeed(agent.id, held, &finished)
        .await
        .unwrap();
    assert!(
        is_stale(db.store.agent_forget(agent.id).await),
        "it holds a result"
    );
    assert!(db.store.agent_cache(agent.id).await.unwrap() != Cache::default());
    let end = BuildEnd::Cancelled { reason: "enough" };
    db.store.build_end(build, end).await.unwrap();
    db.store.agent_forget(agent.id).await.unwrap();
    assert_eq!(db.store.agent_list().await.unwrap(), []);
    assert_eq!(db.store.agent_find("amd64-1").await.unwrap(), None);
    assert_eq!(
        db.store.agent_cache(agent.id).await.unwrap(),
        Cache::default()
    );
    assert_eq!(db.view(build).await.attempts[0].agent_name, "amd64-1");
    let back = db.agent("amd64-1", "linux/amd64").await;
    assert_eq!(back.id, agent.id);
    assert_eq!(db.store.agent_list().await.unwrap().len(), 1);
}
