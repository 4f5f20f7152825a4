//! What operators see and ask for: agents' conditions, what they hold, builds that take too long.

use std::time::Duration;

use croft_coordinator::store::{BuildEnd, Due, Heartbeat, Memory, NewBuild};
use croft_scheduler::LeaseTerms;
use croft_scheduler::fleet::Health;

use crate::support::*;

#[tokio::test]
async fn only_builds_that_may_be_ended_are_found_overdue() {
    let db = Db::new().await;
    let with = async |deadline| {
        let new = NewBuild {
            deadline,
            ..new_build()
        };
        db.store.build_insert(&new).await.unwrap();
        new.id
    };
    let (planning, running) = (
        with(Some(Duration::ZERO)).await,
        with(Some(Duration::ZERO)).await,
    );
    db.store
        .build_plan(running, &single().rows())
        .await
        .unwrap();
    with(None).await;
    with(Some(Duration::from_secs(3600))).await;
    let over = with(Some(Duration::ZERO)).await;
    let reason = "a test";
    db.store
        .build_end(over, BuildEnd::Cancelled { reason })
        .await
        .unwrap();
    let due = async || db.store.due(&LeaseTerms::default()).await.unwrap();
    assert!(due().await.builds);
    assert_eq!(db.store.build_overdue().await.unwrap(), [planning, running]);
    let agent = db.agent("amd64-1", "linux/amd64").await;
    db.run(running, 0, &agent, &[], &[target(0)]).await;
    db.store.build_publish(running).await.unwrap();
    assert_eq!(
        db.store.build_overdue().await.unwrap(),
        [planning],
        "tags move"
    );
    let reason = "a test";
    db.store
        .build_end(planning, BuildEnd::Cancelled { reason })
        .await
        .unwrap();
    assert_eq!(due().await, Due::default());
}

#[tokio::test]
async fn an_agent_is_found_by_its_name_or_its_id_and_says_how_it_is() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for name in ["amd64-1".to_owned(), agent.id.to_string()] {
        assert_eq!(db.store.agent_find(&name).await.unwrap(), Some(agent.id));
    }
    assert_eq!(db.store.agent_find("amd64").await.unwrap(), None);

    let memory = Some(Memory {
        total: 64 << 30,
        available: 3 << 30,
    });
    let mut before = Health::Healthy;
    for health in [
        Health::Full,
        Health::Unhealthy,
        Health::Leaving,
        Health::Healthy,
    ] {
        let beat = Heartbeat {
            health,
            disk: None,
            memory: memory.filter(|_| health == Health::Full),
        };
        let changed = db.store.agent_heartbeat(agent.id, agent.epoch, &beat).await;
        let takes = |health| health == Health::Healthy;
        assert_eq!(
            changed.unwrap(),
            takes(health) != takes(before),
            "{health:?}"
        );
        let row = db.store.agent_list().await.unwrap().remove(0);
        assert_eq!((row.health, row.memory), (health, memory));
        before = health;
    }
}

#[tokio::test]
async fn an_agent_holds_what_a_running_build_has_nowhere_else() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    assert!(db.store.agent_holdings().await.unwrap().is_empty());
    let (one, other) = (db.planned(&chain()).await, db.planned(&chain()).await);
    db.run(one, 0, &agent, &[], &[held_edge(0)]).await;
    db.run(one, 1, &agent, &[own(0)], &[held_edge(1)]).await;
    db.run(other, 0, &agent, &[], &[exported_edge(0, "sha256:zero")])
        .await;
    let held = db.store.agent_holdings().await.unwrap();
    assert_eq!(held.into_iter().collect::<Vec<_>>(), [(agent.id, 1)]);
    let reason = "a test";
    db.store
        .build_end(one, BuildEnd::Cancelled { reason })
        .await
        .unwrap();
    assert!(db.store.agent_holdings().await.unwrap().is_empty());
}
