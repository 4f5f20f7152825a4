//! Stages that go ahead of their inputs, to the agent that is making these: what they wait for, what they count as, and what undoes them.

use croft_coordinator::store::Outcome;
use croft_planner::{EdgeId, StageId};
use croft_scheduler::FailureKind;
use croft_scheduler::fleet::Start;
use croft_scheduler::place::Supply;

use crate::support::*;

#[tokio::test]
async fn a_stage_is_shown_to_the_scheduler_once_one_agent_makes_all_that_it_lacks() {
    let db = Db::new().await;
    let (first, second) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("amd64-2", "linux/amd64").await,
    );
    let build = db.planned(&diamond()).await;
    let shown = async || {
        let snapshot = db.store.snapshot(10).await.unwrap();
        let stages = snapshot.ready.iter();
        stages
            .map(|stage| (stage.key.stage.0, stage.is_ahead()))
            .collect::<Vec<_>>()
    };
    assert_eq!(shown().await, [(0, false)]);
    let zero = db.offer(build, 0, &first, &[]).await;
    assert_eq!(shown().await, [(1, true), (2, true)]);
    let snapshot = db.store.snapshot(10).await.unwrap();
    let input = &snapshot.ready[0].inputs[0];
    assert_eq!(
        (input.held_on, input.supply, &input.exported),
        (Some(first.id), Supply::Coming(StageId(0)), &None)
    );
    let place = &snapshot.places[&(build, EdgeId(0))];
    assert_eq!((place.agent, &place.digest), (Some(first.id), &None));

    db.store
        .attempt_succeed(first.id, zero, &done(&[exported_edge(0, "sha256:zero")]))
        .await
        .unwrap();
    assert_eq!(shown().await, [(1, false), (2, false)]);
    db.offer(build, 1, &first, &[own(0)]).await;
    assert_eq!(shown().await, [(2, false)], "nobody is at the other half");
    db.offer(build, 2, &second, &[image(0, "sha256:zero")])
        .await;
    assert_eq!(shown().await, [], "the halves are made in two places");
}

#[tokio::test]
async fn a_stage_goes_ahead_only_to_the_agent_that_makes_its_inputs_and_while_it_does() {
    let db = Db::new().await;
    let (first, second) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("amd64-2", "linux/amd64").await,
    );
    let build = db.planned(&chain()).await;
    assert!(is_stale(db.try_offer(build, 1, &first, &[own(0)]).await));
    let zero = db.offer(build, 0, &first, &[]).await;
    assert!(is_stale(db.try_offer(build, 1, &second, &[own(0)]).await));
    assert!(is_stale(db.try_offer(build, 1, &first, &[]).await));
    // The one after the next may go ahead of what goes ahead.
    db.offer(build, 1, &first, &[own(0)]).await;
    db.offer(build, 2, &first, &[own(1)]).await;
    assert_eq!(
        db.states(build).await,
        "running: running running running | missing missing missing | 0 offered 1 offered 2 offered"
    );
    let end = db
        .store
        .attempt_succeed(first.id, zero, &done(&[held_edge(0)]))
        .await
        .unwrap();
    assert_eq!((end.outcome, end.ready), (Outcome::Done, vec![]));
}

#[tokio::test]
async fn what_goes_ahead_takes_no_slot_until_its_inputs_are_there_and_is_bounded() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let from_first: (&str, &[u32]) = ("linux/amd64", &[0]);
    let mut outline: Vec<(&str, &[u32])> = vec![("linux/amd64", &[])];
    outline.resize(6, from_first);
    let build = db.planned(&shape(&outline)).await;
    let other = db
        .planned(&shape(&[("linux/amd64", &[]), ("linux/amd64", &[])]))
        .await;
    let zero = db.offer(build, 0, &agent, &[]).await;
    for stage in [1, 2] {
        db.offer(build, stage, &agent, &[own(0)]).await;
    }
    // It has two slots, and as many may go ahead: what has all that it takes still finds its slot.
    assert!(is_stale(db.try_offer(build, 3, &agent, &[own(0)]).await));
    db.offer(other, 0, &agent, &[]).await;
    assert!(is_stale(db.try_offer(other, 1, &agent, &[]).await));
    assert!(is_stale(db.try_offer(build, 3, &agent, &[own(0)]).await));
    let load = async || {
        let (_, fleet, _) = db.store.prospect(&[]).await.unwrap();
        let agent = &fleet.agents[0];
        (agent.running(Start::Complete), agent.running(Start::Ahead))
    };
    assert_eq!(load().await, (2, 2));
    db.store
        .attempt_succeed(agent.id, zero, &done(&[held_edge(0)]))
        .await
        .unwrap();
    assert_eq!(load().await, (3, 0));
    assert!(is_stale(db.try_offer(other, 1, &agent, &[]).await));
    assert!(is_stale(db.try_offer(build, 3, &agent, &[own(0)]).await));
}

#[tokio::test]
async fn what_went_ahead_is_undone_with_the_attempt_that_it_went_ahead_of() {
    let db = Db::new().await;
    for lost in [false, true] {
        let agent = db.agent("amd64-1", "linux/amd64").await;
        let build = db.planned(&chain()).await;
        let zero = db.offer(build, 0, &agent, &[]).await;
        let one = db.offer(build, 1, &agent, &[own(0)]).await;
        let two = db.offer(build, 2, &agent, &[own(1)]).await;
        // Even what is done by then: an engine is faster than the export that its producer waits for.
        db.store
            .attempt_succeed(agent.id, one, &done(&[held_edge(1)]))
            .await
            .unwrap();
        let end = match lost {
            false => db
                .store
                .attempt_fail(agent.id, zero, &failure(FailureKind::Farm), &at_once())
                .await
                .unwrap(),
            true => {
                db.leases_end().await;
                let expired = db.store.attempt_expired(9).await.unwrap();
                let lost = expired.iter().find(|lost| lost.held == zero).unwrap();
                db.store.attempt_lose(lost, &at_once()).await.unwrap()
            }
        };
        let Outcome::Retried { invalidated, .. } = end.outcome else {
            panic!("{end:?}")
        };
        let cancelled: Vec<_> = invalidated.cancelled.iter().map(|live| live.held).collect();
        assert_eq!(cancelled, [two]);
        assert_eq!(end.ready, [StageId(0)]);
        let word = if lost { "lost" } else { "failed" };
        assert_eq!(
            db.states(build).await,
            format!(
                "running: ready waiting waiting | missing missing missing | 0 {word} 1 succeeded 2 cancelled"
            )
        );
        assert!(is_stale(
            db.store
                .attempt_succeed(agent.id, two, &done(&[target(0)]))
                .await
        ));
        db.store
            .build_end(
                build,
                croft_coordinator::store::BuildEnd::Cancelled { reason: "" },
            )
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn what_went_ahead_and_failed_by_the_farms_fault_waits_for_its_inputs_again() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    let zero = db.offer(build, 0, &agent, &[]).await;
    let one = db.offer(build, 1, &agent, &[own(0)]).await;
    let end = db
        .store
        .attempt_fail(agent.id, one, &failure(FailureKind::Farm), &at_once())
        .await
        .unwrap();
    assert_eq!(end.ready, []);
    assert_eq!(
        db.states(build).await,
        "running: running waiting waiting | missing missing missing | 0 offered 1 failed"
    );
    assert_eq!(db.view(build).await.stages[1].farm_failures, 1);
    db.store
        .attempt_succeed(agent.id, zero, &done(&[held_edge(0)]))
        .await
        .unwrap();
    db.run(build, 1, &agent, &[own(0)], &[held_edge(1)]).await;
}

#[tokio::test]
async fn what_fails_over_its_inputs_gives_way_at_nobodys_cost_and_what_has_them_does_not() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    let zero = db.offer(build, 0, &agent, &[]).await;
    let one = db.offer(build, 1, &agent, &[own(0)]).await;
    let two = db.offer(build, 2, &agent, &[own(1)]).await;
    let undone = db
        .store
        .attempt_yield(agent.id, one, "what it takes failed")
        .await
        .unwrap();
    let cancelled: Vec<_> = undone.cancelled.iter().map(|live| live.held).collect();
    assert_eq!(
        cancelled,
        [two],
        "it had gone ahead of the one that gave way"
    );
    assert_eq!(
        db.states(build).await,
        "running: running waiting waiting | missing missing missing | 0 offered 1 cancelled 2 cancelled"
    );
    assert_eq!(db.view(build).await.stages[1].farm_failures, 0);
    assert!(
        is_stale(db.try_offer(build, 1, &agent, &[own(0)]).await),
        "not before it is heard what became of its inputs"
    );
    assert!(is_stale(
        db.store.attempt_yield(agent.id, one, "once more").await
    ));
    let end = db
        .store
        .attempt_fail(agent.id, zero, &failure(FailureKind::Build), &at_once())
        .await
        .unwrap();
    assert_eq!(end.outcome, Outcome::Failed);

    let build = db.planned(&chain()).await;
    db.run(build, 0, &agent, &[], &[held_edge(0)]).await;
    let one = db.offer(build, 1, &agent, &[own(0)]).await;
    assert!(is_stale(
        db.store.attempt_yield(agent.id, one, "its own").await
    ));
    assert_eq!(
        db.states(build).await,
        "running: done running waiting | held missing missing | 0 succeeded 1 offered"
    );
}

#[tokio::test]
async fn an_offer_ahead_and_the_failure_that_undoes_it_leave_nothing_that_runs_on_what_is_gone() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..8 {
        let build = db.planned(&chain()).await;
        let zero = db.offer(build, 0, &agent, &[]).await;
        let (failed, bindings, budget) = (failure(FailureKind::Farm), [own(0)], at_once());
        let (offer, end) = tokio::join!(
            db.try_offer(build, 1, &agent, &bindings),
            rival.attempt_fail(agent.id, zero, &failed, &budget)
        );
        let Outcome::Retried { invalidated, .. } = end.unwrap().outcome else {
            panic!("the farm's failure is retried")
        };
        assert_eq!(
            invalidated.cancelled.len(),
            usize::from(!is_stale(offer)),
            "what was offered is undone"
        );
        let states = db.states(build).await;
        assert!(
            states
                .starts_with("running: ready waiting waiting | missing missing missing | 0 failed"),
            "{states}"
        );
        db.store
            .build_end(
                build,
                croft_coordinator::store::BuildEnd::Cancelled { reason: "" },
            )
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn waiting_for_inputs_is_no_part_of_what_a_command_costs() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    let zero = db.offer(build, 0, &agent, &[]).await;
    let one = db.offer(build, 1, &agent, &[own(0)]).await;
    db.store.attempt_accept(agent.id, one).await.unwrap();
    db.execute("UPDATE attempts SET started_at = now() - interval '1 hour' WHERE stage = 1")
        .await;
    db.store
        .attempt_succeed(agent.id, zero, &done(&[held_edge(0)]))
        .await
        .unwrap();
    db.store
        .attempt_succeed(agent.id, one, &done(&[held_edge(1)]))
        .await
        .unwrap();
    let longest: i64 = sqlx::query_scalar("SELECT max(cost_ms) FROM agent_cache")
        .fetch_one(&db.sql)
        .await
        .unwrap();
    assert!(longest < 60_000, "{longest} ms");
}
