//! Leases, retries, and what agents say when they come back.

use std::time::Duration;

use croft_coordinator::store::{AttemptRow, Heartbeat, Held, Outcome};
use croft_planner::StageId;
use croft_scheduler::fleet::{Duty, Health, Presence};
use croft_scheduler::{AttemptId, FailureKind, FarmBudget, LeaseTerms};

use crate::support::*;

#[tokio::test]
async fn an_attempt_is_lost_when_its_lease_ends_and_its_late_result_changes_nothing() {
    let db = Db::new().await;
    let (first, second) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("amd64-2", "linux/amd64").await,
    );
    let build = db.planned(&single()).await;
    let frozen = db.offer(build, 0, &first, &[]).await;
    db.store.attempt_accept(first.id, frozen).await.unwrap();
    assert_eq!(
        db.store.attempt_expired(10).await.unwrap(),
        [],
        "its lease has just begun"
    );
    let due = async || db.store.due(&LeaseTerms::default()).await.unwrap();
    assert!(!due().await.leases);
    db.leases_end().await;
    assert!(due().await.leases);
    let expired = db.store.attempt_expired(10).await.unwrap();
    assert_eq!(
        expired.iter().map(|lost| lost.held).collect::<Vec<_>>(),
        [frozen]
    );
    let end = db
        .store
        .attempt_lose(&expired[0], &at_once())
        .await
        .unwrap();
    assert_eq!(end.ready, [StageId(0)]);
    assert_eq!(db.states(build).await, "running: ready | missing | 0 lost");

    let next = db.offer(build, 0, &second, &[]).await;
    let before = db.dump().await;
    assert!(is_stale(
        db.store
            .attempt_succeed(first.id, frozen, &done(&[target(0)]))
            .await
    ));
    assert!(is_stale(
        db.store
            .attempt_fail(first.id, frozen, &failure(FailureKind::Build), &at_once())
            .await
    ));
    assert_eq!(
        db.store
            .attempt_renew(first.id, &[frozen], &LeaseTerms::default())
            .await
            .unwrap(),
        []
    );
    assert_eq!(db.dump().await, before);
    db.store
        .attempt_succeed(second.id, next, &done(&[target(0)]))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_renewed_lease_is_not_lost() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&fan()).await;
    let held = db.offer(build, 0, &agent, &[]).await;
    db.leases_end().await;
    let expired = db.store.attempt_expired(10).await.unwrap();
    let unknown = Held {
        attempt: AttemptId(id()),
        token: held.token,
    };
    let renewed = db
        .store
        .attempt_renew(
            agent.id,
            &[unknown, held, forged(held)],
            &LeaseTerms::default(),
        )
        .await
        .unwrap();
    assert_eq!(renewed, [held.attempt], "nobody took the stage meanwhile");
    assert!(is_stale(
        db.store.attempt_lose(&expired[0], &at_once()).await
    ));
    assert_eq!(db.store.attempt_expired(10).await.unwrap(), []);
}

#[tokio::test]
async fn the_farms_failures_are_retried_after_growing_pauses_until_its_budget_is_used_up() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&single()).await;
    let hours = |h: u64| Duration::from_secs(3600 * h);
    let budget = FarmBudget {
        failures: 3,
        first_wait: hours(1),
        longest_wait: hours(5),
    };
    for pause in [1, 2u64] {
        let held = db.offer(build, 0, &agent, &[]).await;
        let end = db
            .store
            .attempt_fail(agent.id, held, &failure(FailureKind::Farm), &budget)
            .await
            .unwrap();
        assert!(
            matches!(end.outcome, Outcome::Retried { after, .. } if after == hours(pause)),
            "{end:?}"
        );
        let stage = db.store.snapshot(10).await.unwrap().ready.remove(0);
        assert!(stage.not_before.since(stage.ready_since) >= hours(pause) - Duration::from_secs(1));
        assert_eq!(stage.failed_on[&agent.id], u32::try_from(pause).unwrap());
        assert!(
            is_stale(db.try_offer(build, 0, &agent, &[]).await),
            "it pauses"
        );
        db.execute("UPDATE stages SET not_before = now()").await;
    }
    let held = db.offer(build, 0, &agent, &[]).await;
    let end = db
        .store
        .attempt_fail(agent.id, held, &failure(FailureKind::Farm), &budget)
        .await
        .unwrap();
    assert_eq!((end.outcome, end.ready), (Outcome::Failed, vec![]));
    assert_eq!(
        db.states(build).await,
        "running: failed | missing | 0 failed 0 failed 0 failed"
    );
}

#[tokio::test]
async fn what_agents_hand_back_costs_no_budget_and_keeps_no_agent_from_it() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&single()).await;
    let budget = FarmBudget {
        failures: 1,
        ..at_once()
    };
    for _ in 0..5 {
        let held = db.offer(build, 0, &agent, &[]).await;
        let back = failure(FailureKind::HandedBack);
        let end = db.store.attempt_fail(agent.id, held, &back, &budget).await;
        let end = end.unwrap();
        assert!(matches!(end.outcome, Outcome::Retried { .. }), "{end:?}");
        let stage = db.store.snapshot(10).await.unwrap().ready.remove(0);
        assert_eq!(stage.failed_on, Default::default());
    }
    let view = db.view(build).await;
    assert_eq!(view.stages[0].farm_failures, 0);
    let kept = |attempt: &AttemptRow| attempt.failure == Some(FailureKind::HandedBack);
    assert!(view.attempts.iter().all(kept), "{view:#?}");
    // The first failure of the farm's own is all that this budget allows.
    let held = db.offer(build, 0, &agent, &[]).await;
    let own = failure(FailureKind::Farm);
    let end = db.store.attempt_fail(agent.id, held, &own, &budget).await;
    assert_eq!(end.unwrap().outcome, Outcome::Failed);
}

#[tokio::test]
async fn a_builds_own_failure_is_final() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&single()).await;
    let held = db.offer(build, 0, &agent, &[]).await;
    let end = db
        .store
        .attempt_fail(agent.id, held, &failure(FailureKind::Build), &at_once())
        .await
        .unwrap();
    assert_eq!(end.outcome, Outcome::Failed);
    assert_eq!(db.view(build).await.stages[0].farm_failures, 0);
}

#[tokio::test]
async fn a_coordinator_that_starts_finds_what_runs() {
    let db = Db::new().await;
    let (first, second) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("arm64-1", "linux/arm64").await,
    );
    let build = db.planned(&fan()).await;
    db.run(build, 0, &first, &[], &[exported_edge(0, "sha256:zero")])
        .await;
    let one = db.offer(build, 1, &first, &[own(0)]).await;
    let two = db
        .offer(build, 2, &second, &[image(0, "sha256:zero")])
        .await;
    let fresh = connect(&db.url).await;
    fresh.agent_all_away().await.unwrap();
    let live = fresh.attempt_live(None).await.unwrap();
    assert_eq!(
        live.iter()
            .map(|live| (live.held, live.agent))
            .collect::<Vec<_>>(),
        [(one, first.id), (two, second.id)]
    );
    assert_eq!(
        fresh.attempt_live(Some(second.id)).await.unwrap(),
        live[1..]
    );
    // The agent comes back, and its result counts.
    let again = fresh
        .agent_hello(
            croft_scheduler::AgentId(id()),
            &hello("arm64-1", "linux/arm64"),
        )
        .await
        .unwrap();
    assert_eq!(again.id, second.id);
    fresh
        .attempt_succeed(again.id, two, &done(&[target(1)]))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_agent_keeps_its_id_and_its_newest_connection_counts() {
    let db = Db::new().await;
    let old = db.agent("amd64-1", "linux/amd64").await;
    let new = db.agent("amd64-1", "linux/amd64").await;
    assert_eq!(new.id, old.id);
    assert!(new.epoch > old.epoch);
    let build = db.planned(&single()).await;
    let before = db.dump().await;
    let beat = Heartbeat {
        health: Health::Unhealthy,
        disk: None,
        memory: None,
    };
    assert!(is_stale(db.store.agent_away(old.id, old.epoch).await));
    assert!(is_stale(
        db.store.agent_heartbeat(old.id, old.epoch, &beat).await
    ));
    assert!(is_stale(db.try_offer(build, 0, &old, &[]).await));
    assert_eq!(db.dump().await, before);
    db.store
        .agent_heartbeat(new.id, new.epoch, &beat)
        .await
        .unwrap();
    db.store.agent_away(new.id, new.epoch).await.unwrap();
    let row = db.store.agent_list().await.unwrap().remove(0);
    assert_eq!(
        (row.presence, row.health),
        (Presence::Away, Health::Unhealthy)
    );
    assert_eq!(*row.hello, hello("amd64-1", "linux/amd64"));
    assert!(
        is_stale(db.store.agent_heartbeat(new.id, new.epoch, &beat).await),
        "one that is away must say hello"
    );
}

#[tokio::test]
async fn no_offer_is_committed_to_an_agent_that_can_not_take_it() {
    let db = Db::new().await;
    let build = db.planned(&fan()).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let refused =
        async |why: &str| assert!(is_stale(db.try_offer(build, 0, &agent, &[]).await), "{why}");

    db.store.agent_duty(agent.id, Duty::Draining).await.unwrap();
    refused("it drains").await;
    db.store.agent_duty(agent.id, Duty::Active).await.unwrap();
    let health = async |health| {
        db.store
            .agent_heartbeat(
                agent.id,
                agent.epoch,
                &Heartbeat {
                    health,
                    disk: None,
                    memory: None,
                },
            )
            .await
            .unwrap();
    };
    health(Health::Unhealthy).await;
    refused("its engine is down").await;
    health(Health::Healthy).await;
    db.execute("UPDATE agents SET slots = 0").await;
    refused("it has no slot").await;
    db.execute("UPDATE agents SET slots = 2").await;
    db.store.agent_away(agent.id, agent.epoch).await.unwrap();
    refused("it is away").await;

    let agent = db.agent("amd64-1", "linux/amd64").await;
    db.offer(build, 0, &agent, &[]).await;
    assert!(
        is_stale(db.try_offer(build, 1, &agent, &[]).await),
        "the stage waits for its input"
    );
    let draining = db
        .store
        .agent_hello(agent.id, &hello("amd64-1", "linux/amd64"))
        .await
        .unwrap();
    assert_eq!(draining.duty, Duty::Active);
}

#[tokio::test]
async fn drain_outlives_a_reconnect() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    db.store.agent_duty(agent.id, Duty::Draining).await.unwrap();
    assert_eq!(
        db.agent("amd64-1", "linux/amd64").await.duty,
        Duty::Draining
    );
}

#[tokio::test]
async fn an_offer_binds_each_input_to_where_it_is() {
    let db = Db::new().await;
    let (amd64, arm64) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("arm64-1", "linux/arm64").await,
    );
    let build = db.planned(&diamond()).await;
    db.run(build, 0, &amd64, &[], &[held_edge(0)]).await;
    let refused = async |agent, bindings: &[_], why: &str| {
        assert!(
            is_stale(db.try_offer(build, 1, agent, bindings).await),
            "{why}"
        );
    };
    refused(&amd64, &[], "its input is not bound").await;
    refused(&arm64, &[own(0)], "another agent holds it").await;
    refused(&amd64, &[image(0, "sha256:zero")], "it has no image").await;
    refused(&amd64, &[own(0), own(1)], "it doesn't take that one").await;
    refused(&amd64, &[own(0), own(0)], "twice is not once").await;
    db.store
        .output_export(
            build,
            croft_planner::EdgeId(0),
            amd64.id,
            &exported("sha256:zero"),
        )
        .await
        .unwrap();
    refused(&arm64, &[image(0, "sha256:one")], "that is another image").await;
    db.offer(build, 1, &arm64, &[image(0, "sha256:zero")]).await;
    db.offer(build, 2, &amd64, &[own(0)]).await;
}

#[tokio::test]
async fn attempts_that_a_starting_coordinator_adopts_get_a_whole_lease_and_nothing_else() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let (long, short) = (db.planned(&single()).await, db.planned(&single()).await);
    let kept = db.offer(long, 0, &agent, &[]).await;
    let hour = LeaseTerms::new(Duration::from_secs(3600));
    db.store
        .attempt_renew(agent.id, &[kept], &hour)
        .await
        .unwrap();
    let overdue = db.offer(short, 0, &agent, &[]).await;
    db.execute("UPDATE attempts SET lease_until = now() - interval '1 hour' WHERE lease_until < now() + interval '30 minutes'")
        .await;
    let over = db.planned(&single()).await;
    let other = db.agent("amd64-2", "linux/amd64").await;
    db.run(over, 0, &other, &[], &[target(0)]).await;

    let before = db.view(long).await.attempts[0].lease_until;
    let terms = LeaseTerms::default();
    assert_eq!(db.store.attempt_adopt(&terms).await.unwrap(), 2);
    assert_eq!(db.store.attempt_expired(10).await.unwrap(), []);
    assert_eq!(
        db.view(long).await.attempts[0].lease_until,
        before,
        "none is made shorter"
    );
    let attempt = &db.view(short).await.attempts[0];
    assert_eq!(
        (attempt.id, attempt.token),
        (overdue.attempt, overdue.token)
    );
    let lease = attempt.lease_until - attempt.created_at;
    assert!(lease >= chrono::TimeDelta::from_std(terms.lease).unwrap());
}

#[tokio::test]
async fn failures_over_the_stage_registry_are_counted_apart_and_only_many_of_them_are_the_agents() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&single()).await;
    let budget = FarmBudget {
        failures: 9,
        ..at_once()
    };
    for before in 0..8u32 {
        let held = db.offer(build, 0, &agent, &[]).await;
        let over = failure(FailureKind::Registry);
        let end = db.store.attempt_fail(agent.id, held, &over, &budget).await;
        assert!(matches!(end.unwrap().outcome, Outcome::Retried { .. }));
        let stage = db.store.snapshot(10).await.unwrap().ready.remove(0);
        let counted = stage.failed_on.get(&agent.id).copied().unwrap_or_default();
        assert_eq!(counted, (before + 1) / 6);
    }
    assert_eq!(db.view(build).await.stages[0].farm_failures, 0);
    // One of the farm's own is the first of those.
    let held = db.offer(build, 0, &agent, &[]).await;
    let other = failure(FailureKind::Farm);
    let end = db
        .store
        .attempt_fail(agent.id, held, &other, &at_once())
        .await;
    assert!(matches!(end.unwrap().outcome, Outcome::Retried { .. }));
    let held = db.offer(build, 0, &agent, &[]).await;
    let ninth = failure(FailureKind::Registry);
    let end = db.store.attempt_fail(agent.id, held, &ninth, &budget).await;
    assert_eq!(end.unwrap().outcome, Outcome::Failed);
}
