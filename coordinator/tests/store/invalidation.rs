//! One set of artifacts: what a loss undoes, and what it leaves.

use croft_coordinator::store::{Invalidated, Outcome};
use croft_planner::{EdgeId, StageId};
use croft_scheduler::FailureKind;

use crate::support::*;

#[tokio::test]
async fn a_lost_result_that_is_still_needed_is_made_again_with_all_that_came_from_it() {
    let db = Db::new().await;
    let (amd64, arm64) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("arm64-1", "linux/arm64").await,
    );
    let s390x = db.agent("s390x-1", "linux/s390x").await;
    // 0 gives to 1 and 2, 1 to 3; 4 has nothing to do with them.
    let build = db
        .planned(&shape(&[
            ("linux/amd64", &[]),
            ("linux/amd64", &[0]),
            ("linux/arm64", &[0]),
            ("linux/s390x", &[1]),
            ("linux/amd64", &[]),
        ]))
        .await;
    db.run(build, 4, &amd64, &[], &[target(2)]).await;
    db.run(build, 0, &amd64, &[], &[held_edge(0)]).await;
    db.run(
        build,
        1,
        &amd64,
        &[own(0)],
        &[exported_edge(1, "sha256:one")],
    )
    .await;
    let running = db.offer(build, 3, &s390x, &[image(1, "sha256:one")]).await;
    assert_eq!(
        db.states(build).await,
        "running: done done ready running done | held exported missing missing exported | \
         0 succeeded 1 succeeded 3 offered 4 succeeded"
    );

    let undone = db.store.output_lose_held(build, amd64.id).await.unwrap();
    assert_eq!(
        undone.stages,
        [0, 1, 2, 3].map(StageId),
        "what 3 runs on came from what is made anew"
    );
    assert_eq!(
        undone
            .cancelled
            .iter()
            .map(|live| (live.held, live.agent))
            .collect::<Vec<_>>(),
        [(running, s390x.id)]
    );
    assert_eq!(undone.ready, [StageId(0)]);
    assert_eq!(
        db.states(build).await,
        "running: ready waiting waiting waiting done | missing missing missing missing exported | \
         0 succeeded 1 succeeded 3 cancelled 4 succeeded"
    );
    assert!(is_stale(
        db.store
            .attempt_succeed(s390x.id, running, &done(&[target(1)]))
            .await
    ));

    // All of it is made again, elsewhere if need be.
    db.run(build, 0, &amd64, &[], &[exported_edge(0, "sha256:zero")])
        .await;
    db.run(
        build,
        1,
        &amd64,
        &[own(0)],
        &[exported_edge(1, "sha256:one again")],
    )
    .await;
    db.run(build, 2, &arm64, &[image(0, "sha256:zero")], &[target(0)])
        .await;
    assert!(
        is_stale(
            db.try_offer(build, 3, &s390x, &[image(1, "sha256:one")])
                .await
        ),
        "the old image is not mixed in"
    );
    let end = db
        .run(
            build,
            3,
            &s390x,
            &[image(1, "sha256:one again")],
            &[target(1)],
        )
        .await;
    assert_eq!(end.outcome, Outcome::BuildDone);
}

#[tokio::test]
async fn a_lost_result_that_nobody_needs_any_more_undoes_nothing() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    db.run(build, 0, &agent, &[], &[held_edge(0)]).await;
    db.run(
        build,
        1,
        &agent,
        &[own(0)],
        &[exported_edge(1, "sha256:one")],
    )
    .await;
    assert_eq!(
        db.store.output_lose_held(build, agent.id).await.unwrap(),
        Invalidated::default()
    );
    assert_eq!(
        db.states(build).await,
        "running: done done ready | missing exported missing | 0 succeeded 1 succeeded"
    );
    // The image stands for the result that the keeper held.
    assert!(is_stale(db.try_offer(build, 2, &agent, &[own(1)]).await));
    db.offer(build, 2, &agent, &[image(1, "sha256:one")]).await;
}

#[tokio::test]
async fn a_result_that_its_engine_can_not_export_is_made_again_elsewhere_until_the_farm_has_tried_enough()
 {
    let db = Db::new().await;
    let agents = [
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("amd64-2", "linux/amd64").await,
    ];
    let build = db.planned(&chain()).await;
    let refute = async |agent: &croft_coordinator::store::AgentLink| {
        let (why, budget) = ("it is broken", at_once());
        db.store
            .output_refute(build, EdgeId(0), agent.id, why, &budget)
            .await
    };
    // Its attempt had ended long ago, and what came of it goes with it.
    db.run(build, 0, &agents[0], &[], &[held_edge(0)]).await;
    db.run(build, 1, &agents[0], &[own(0)], &[held_edge(1)])
        .await;
    let last = db.offer(build, 2, &agents[0], &[own(1)]).await;
    assert!(
        is_stale(refute(&agents[1]).await),
        "it is not there that it is held"
    );
    let end = refute(&agents[0]).await.unwrap();
    let Outcome::Retried { invalidated, .. } = &end.outcome else {
        panic!("{end:?}")
    };
    assert_eq!(invalidated.stages, [0, 1, 2].map(StageId));
    assert_eq!(
        invalidated
            .cancelled
            .iter()
            .map(|one| one.held)
            .collect::<Vec<_>>(),
        [last]
    );
    assert_eq!(
        db.states(build).await,
        "running: ready waiting waiting | missing missing missing | 0 failed 1 succeeded 2 cancelled"
    );
    let failed = &db.view(build).await.attempts[0];
    assert_eq!(
        (failed.failure, failed.error.as_deref()),
        (Some(FailureKind::Farm), Some("it is broken"))
    );
    let ready = &db.store.snapshot(10).await.unwrap().ready[0];
    assert_eq!(ready.failed_on.get(&agents[0].id), Some(&1));
    assert!(is_stale(refute(&agents[0]).await), "once");

    // While the attempt goes on with its other outputs.
    let held = db.offer(build, 0, &agents[1], &[]).await;
    db.store
        .attempt_output(agents[1].id, held, &[held_edge(0)])
        .await
        .unwrap();
    let end = refute(&agents[1]).await.unwrap();
    assert_eq!(end.attempt.held, held);
    assert!(
        is_stale(
            db.store
                .attempt_succeed(agents[1].id, held, &done(&[]))
                .await
        ),
        "it has failed"
    );

    // An image stands for a result that its engine has broken since.
    db.run(
        build,
        0,
        &agents[1],
        &[],
        &[exported_edge(0, "sha256:zero")],
    )
    .await;
    assert!(is_stale(refute(&agents[1]).await));
    let lost = db
        .store
        .output_lose_image(build, EdgeId(0), "sha256:zero")
        .await;
    assert_eq!(lost.unwrap(), Invalidated::default());
    assert_eq!(refute(&agents[1]).await.unwrap().outcome, Outcome::Failed);
    assert!(db.states(build).await.starts_with("running: failed "));
}

#[tokio::test]
async fn a_producer_that_is_needed_again_needs_its_own_producer_again() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    db.run(build, 0, &agent, &[], &[held_edge(0)]).await;
    db.run(build, 1, &agent, &[own(0)], &[held_edge(1)]).await;
    let undone = db.store.output_lose_held(build, agent.id).await.unwrap();
    assert_eq!(
        (undone.stages, undone.ready),
        ([0, 1, 2].map(StageId).to_vec(), vec![StageId(0)])
    );
    assert_eq!(
        db.states(build).await,
        "running: ready waiting waiting | missing missing missing | 0 succeeded 1 succeeded"
    );
}

#[tokio::test]
async fn an_agent_loses_only_what_it_held_itself() {
    let db = Db::new().await;
    let (first, second) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("amd64-2", "linux/amd64").await,
    );
    let (build, other) = (db.planned(&chain()).await, db.planned(&chain()).await);
    db.run(build, 0, &first, &[], &[held_edge(0)]).await;
    db.run(other, 0, &second, &[], &[held_edge(0)]).await;
    assert_eq!(
        db.store.output_lose_held(build, second.id).await.unwrap(),
        Invalidated::default()
    );
    assert_eq!(
        db.store.output_lose_held(other, first.id).await.unwrap(),
        Invalidated::default()
    );
    assert_eq!(
        db.states(build).await,
        "running: done ready waiting | held missing missing | 0 succeeded"
    );
}

#[tokio::test]
async fn a_lost_image_is_made_again_unless_a_keeper_still_has_the_result() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&fan()).await;
    db.run(build, 0, &agent, &[], &[exported_edge(0, "sha256:zero")])
        .await;
    assert!(is_stale(
        db.store
            .output_lose_image(build, EdgeId(0), "sha256:another")
            .await
    ));
    let undone = db
        .store
        .output_lose_image(build, EdgeId(0), "sha256:zero")
        .await
        .unwrap();
    assert_eq!(undone, Invalidated::default());
    assert_eq!(
        db.states(build).await,
        "running: done ready ready ready | held missing missing missing | 0 succeeded"
    );
    db.store
        .output_export(build, EdgeId(0), agent.id, &exported("sha256:zero again"))
        .await
        .unwrap();
    assert_eq!(
        db.store.output_lose_held(build, agent.id).await.unwrap(),
        Invalidated::default()
    );
    let undone = db
        .store
        .output_lose_image(build, EdgeId(0), "sha256:zero again")
        .await
        .unwrap();
    assert_eq!(undone.ready, [StageId(0)]);
    assert_eq!(
        db.states(build).await,
        "running: ready waiting waiting waiting | missing missing missing missing | 0 succeeded"
    );
}

#[tokio::test]
async fn what_an_attempt_delivered_before_it_failed_is_not_used_beside_what_the_next_one_makes() {
    let db = Db::new().await;
    let (amd64, arm64) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("arm64-1", "linux/arm64").await,
    );
    let build = db.planned(&fan()).await;
    let failing = db.offer(build, 0, &amd64, &[]).await;
    db.store
        .attempt_output(amd64.id, failing, &[exported_edge(0, "sha256:early")])
        .await
        .unwrap();
    let eager = db
        .offer(build, 2, &arm64, &[image(0, "sha256:early")])
        .await;
    let end = db
        .store
        .attempt_fail(amd64.id, failing, &failure(FailureKind::Farm), &at_once())
        .await
        .unwrap();
    let Outcome::Retried { invalidated, .. } = end.outcome else {
        panic!("{end:?}")
    };
    assert_eq!(
        invalidated
            .cancelled
            .iter()
            .map(|live| live.held)
            .collect::<Vec<_>>(),
        [eager]
    );
    assert_eq!(end.ready, [StageId(0)]);
    assert_eq!(
        db.states(build).await,
        "running: ready waiting waiting waiting | missing missing missing missing | 0 failed 2 cancelled"
    );
    assert_eq!(
        db.view(build).await.stages[0].farm_failures,
        1,
        "the farm's budget is charged all the same"
    );
}

#[tokio::test]
async fn a_build_that_ended_loses_nothing_more() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    db.run(build, 0, &agent, &[], &[held_edge(0)]).await;
    db.store
        .build_end(
            build,
            croft_coordinator::store::BuildEnd::Cancelled { reason: "" },
        )
        .await
        .unwrap();
    let before = db.dump().await;
    assert_eq!(
        db.store.output_lose_held(build, agent.id).await.unwrap(),
        Invalidated::default()
    );
    assert_eq!(db.dump().await, before);
}
