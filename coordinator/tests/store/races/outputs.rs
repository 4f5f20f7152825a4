//! Results: where they are, and what follows when they are lost.

use croft_coordinator::store::BuildEnd;
use croft_planner::{EdgeId, StageId};

use super::{ROUNDS, over};
use crate::support::*;

#[tokio::test]
async fn the_last_of_two_inputs_that_come_at_once_makes_their_consumer_ready() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db.planned(&diamond()).await;
        db.run(build, 0, &agent, &[], &[held_edge(0)]).await;
        let one = db.offer(build, 1, &agent, &[own(0)]).await;
        let two = db.offer(build, 2, &agent, &[own(0)]).await;
        let (left, right) = (done(&[held_edge(1)]), done(&[held_edge(2)]));
        let (first, second) = tokio::join!(
            db.store.attempt_succeed(agent.id, one, &left),
            rival.attempt_succeed(agent.id, two, &right)
        );
        let ready = [first.unwrap().ready, second.unwrap().ready].concat();
        assert_eq!(ready, [StageId(3)], "once, and by the last");
    }
}

#[tokio::test]
async fn an_output_is_exported_once_and_a_stage_fails_or_runs() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db.planned(&chain()).await;
        db.run(build, 0, &agent, &[], &[held_edge(0)]).await;
        let (one, two) = (exported("sha256:one"), exported("sha256:two"));
        let won = race!(
            db.store.output_export(build, EdgeId(0), agent.id, &one),
            rival.output_export(build, EdgeId(0), agent.id, &two)
        );
        let digest = db.view(build).await.outputs[0].digest.clone().unwrap();
        assert_eq!(digest, if won { "sha256:one" } else { "sha256:two" });
        let bindings = [own(0)];
        race!(
            db.store.stage_fail(key(build, 1)),
            db.try_offer(build, 1, &agent, &bindings)
        );
        db.store
            .build_end(build, BuildEnd::Failed { error: "" })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn an_image_is_lost_once_and_an_attempt_gives_way_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db.planned(&chain()).await;
        let zero = "sha256:zero";
        db.run(build, 0, &agent, &[], &[exported_edge(0, zero)])
            .await;
        // Only the image is left of it.
        db.store.output_lose_held(build, agent.id).await.unwrap();
        race!(
            db.store.output_lose_image(build, EdgeId(0), zero),
            rival.output_lose_image(build, EdgeId(0), zero)
        );
        assert_eq!(
            db.states(build).await,
            "running: ready waiting waiting | missing missing missing | 0 succeeded"
        );
        let producer = db.offer(build, 0, &agent, &[]).await;
        let ahead = db.offer(build, 1, &agent, &[own(0)]).await;
        race!(
            db.store.attempt_yield(agent.id, ahead, "it gives way"),
            rival.attempt_yield(agent.id, ahead, "it gives way")
        );
        let late = db
            .store
            .attempt_yield(agent.id, producer, "it has no inputs");
        assert!(is_stale(late.await));
        let end = BuildEnd::Cancelled { reason: "" };
        db.store.build_end(build, end).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_keeper_held_is_either_handed_over_in_time_or_lost() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for round in 0..ROUNDS {
        let build = db.planned(&chain()).await;
        db.run(build, 0, &agent, &[], &[held_edge(0)]).await;
        let (image, bindings) = (exported("sha256:zero"), [own(0)]);
        let budget = at_once();
        let expected = match round % 4 {
            0 => {
                let (lost, saved) = meet!(
                    db.store.output_lose_held(build, agent.id),
                    rival.output_export(build, EdgeId(0), agent.id, &image)
                );
                assert!(lost);
                match saved {
                    true => "running: done ready waiting | exported missing missing | 0 succeeded",
                    false => {
                        "running: ready waiting waiting | missing missing missing | 0 succeeded"
                    }
                }
            }
            1 => {
                let (lost, taken) = meet!(
                    db.store.output_lose_held(build, agent.id),
                    try_offer(&rival, build, 1, &agent, &bindings)
                );
                assert!(lost);
                match taken {
                    true => {
                        "running: ready waiting waiting | missing missing missing | 0 succeeded 1 cancelled"
                    }
                    false => {
                        "running: ready waiting waiting | missing missing missing | 0 succeeded"
                    }
                }
            }
            2 => {
                let refuted = race!(
                    db.store
                        .output_refute(build, EdgeId(0), agent.id, "no good", &budget),
                    rival.output_export(build, EdgeId(0), agent.id, &image)
                );
                match refuted {
                    true => "running: ready waiting waiting | missing missing missing | 0 failed",
                    false => "running: done ready waiting | exported missing missing | 0 succeeded",
                }
            }
            _ => {
                let both = meet!(
                    db.store.output_lose_held(build, agent.id),
                    rival.output_lose_held(build, agent.id)
                );
                assert_eq!(both, (true, true), "the second finds nothing to undo");
                "running: ready waiting waiting | missing missing missing | 0 succeeded"
            }
        };
        assert_eq!(db.states(build).await, expected);
        over(&db, build).await;
    }
}
