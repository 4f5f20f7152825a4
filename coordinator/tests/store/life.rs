//! Lives of whole builds: at each step a coordinator that just started finds the same in the database as the one that made the step.

use croft_coordinator::store::{
    BuildEnd, BuildFilter, Found, Hold, LogChunk, NewPublication, Outcome, PublicationState, Wants,
};
use croft_planner::{EdgeId, StageId};
use croft_scheduler::{BuildId, BuildState, FailureKind};
use futures::FutureExt as _;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn a_build_of_three_platforms_is_in_the_database_at_every_step() {
    let db = Db::new().await;
    let (amd64, arm64) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("arm64-1", "linux/arm64").await,
    );
    let s390x = db.agent("s390x-1", "linux/s390x").await;

    let build = db.build().await;
    assert_eq!(db.states(build).await, "planning");
    let ready = db.store.build_plan(build, &fan().rows()).await.unwrap();
    assert_eq!(ready, [StageId(0)]);
    let nothing = "missing missing missing missing";
    assert_eq!(
        db.states(build).await,
        format!("running: ready waiting waiting waiting | {nothing}")
    );

    let shared = db.offer(build, 0, &amd64, &[]).await;
    assert_eq!(
        db.states(build).await,
        format!("running: running waiting waiting waiting | {nothing} | 0 offered")
    );
    db.store.attempt_accept(amd64.id, shared).await.unwrap();
    assert_eq!(
        db.states(build).await,
        format!("running: running waiting waiting waiting | {nothing} | 0 running")
    );

    // Its result is there before it is done: its consumers are ready at once.
    let ready = db
        .store
        .attempt_output(amd64.id, shared, &[held_edge(0)])
        .await
        .unwrap();
    assert_eq!(ready, [StageId(1), StageId(2), StageId(3)]);
    assert_eq!(
        db.states(build).await,
        "running: running ready ready ready | held missing missing missing | 0 running"
    );
    let end = db
        .store
        .attempt_succeed(amd64.id, shared, &done(&[]))
        .await
        .unwrap();
    assert_eq!((end.outcome, end.ready), (Outcome::Done, vec![]));
    db.store
        .output_export(build, EdgeId(0), amd64.id, &exported("sha256:shared"))
        .await
        .unwrap();
    assert_eq!(
        db.states(build).await,
        "running: done ready ready ready | exported missing missing missing | 0 succeeded"
    );

    let end = db.run(build, 1, &amd64, &[own(0)], &[target(0)]).await;
    assert_eq!(end.outcome, Outcome::Done);
    db.run(build, 2, &arm64, &[image(0, "sha256:shared")], &[target(1)])
        .await;
    let end = db
        .run(build, 3, &s390x, &[image(0, "sha256:shared")], &[target(2)])
        .await;
    assert_eq!(end.outcome, Outcome::BuildDone);
    let built = "done done done done | exported exported exported exported | \
                 0 succeeded 1 succeeded 2 succeeded 3 succeeded";
    assert_eq!(db.states(build).await, format!("running: {built}"));

    db.store.build_publish(build).await.unwrap();
    assert_eq!(db.states(build).await, format!("publishing: {built}"));
    let response = json!({"containerimage.digest": "sha256:index"});
    let end = BuildEnd::Succeeded {
        response: &response,
        digest: Some("sha256:index"),
    };
    assert_eq!(db.store.build_end(build, end).await.unwrap(), []);
    assert_eq!(db.states(build).await, format!("succeeded: {built}"));

    let view = db.view(build).await;
    assert_eq!(
        (view.build.response, view.build.digest.as_deref()),
        (Some(response), Some("sha256:index"))
    );
    assert_eq!(
        view.build.build_platform,
        Some("linux/amd64".parse().unwrap())
    );
    assert!(
        view.build.created_at <= view.build.started_at.unwrap()
            && view.build.started_at < view.build.finished_at
    );
    let shared = &view.attempts[0];
    assert_eq!(
        (&*shared.agent_name, &*shared.reason),
        ("amd64-1", "a test")
    );
    assert_eq!((shared.vertices_cached, shared.vertices_run), (1, 2));
    assert!(shared.started_at.unwrap() <= shared.finished_at.unwrap());
    assert_eq!(view.attempts[2].bindings, [image(0, "sha256:shared")]);
    let edge = &view.outputs[0];
    assert_eq!(
        (edge.stage, &edge.consumers[..]),
        (StageId(0), &[1, 2, 3].map(StageId)[..])
    );
    assert_eq!((edge.bytes, edge.agent), (Some(1234), Some(amd64.id)));
    assert_eq!(
        db.store.build_plan_source(build).await.unwrap().as_deref(),
        Some(&b"the plan's source"[..])
    );
}

#[tokio::test]
async fn a_stage_is_ready_when_the_last_of_its_inputs_is_there() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&diamond()).await;
    assert_eq!(
        db.run(build, 0, &agent, &[], &[held_edge(0)]).await.ready,
        [1, 2].map(StageId)
    );
    assert_eq!(
        db.run(build, 1, &agent, &[own(0)], &[held_edge(1)])
            .await
            .ready,
        []
    );
    let view = db.view(build).await;
    assert_eq!(
        view.waiting_for(&view.stages[3]).as_deref(),
        Some("the results of stage 2")
    );
    assert_eq!(view.inputs_of(StageId(3)), [1, 2].map(StageId).into());
    assert_eq!(
        db.run(build, 2, &agent, &[own(0)], &[held_edge(2)])
            .await
            .ready,
        [StageId(3)]
    );
}

#[tokio::test]
async fn a_stage_is_not_done_while_one_of_its_outputs_is_missing() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&single()).await;
    let held = db.offer(build, 0, &agent, &[]).await;
    let before = db.dump().await;
    assert!(is_stale(
        db.store.attempt_succeed(agent.id, held, &done(&[])).await
    ));
    assert_eq!(db.dump().await, before);
    // That the agent accepted may have been lost on the way.
    db.store
        .attempt_succeed(agent.id, held, &done(&[target(0)]))
        .await
        .unwrap();
    assert!(db.view(build).await.attempts[0].started_at.is_some());
}

#[tokio::test]
async fn a_build_is_not_published_before_all_its_stages_are_done() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    db.run(build, 0, &agent, &[], &[held_edge(0)]).await;
    assert!(is_stale(db.store.build_publish(build).await));
    let succeeded = BuildEnd::Succeeded {
        response: &json!({}),
        digest: None,
    };
    assert!(is_stale(db.store.build_end(build, succeeded).await));
}

#[tokio::test]
async fn the_end_of_a_build_ends_everything_of_it_and_names_what_ran() {
    let db = Db::new().await;
    let (amd64, arm64) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("arm64-1", "linux/arm64").await,
    );
    let build = db.planned(&fan()).await;
    let other = db.planned(&single()).await;
    db.run(build, 0, &amd64, &[], &[exported_edge(0, "sha256:shared")])
        .await;
    let first = db.offer(build, 1, &amd64, &[own(0)]).await;
    let second = db
        .offer(build, 2, &arm64, &[image(0, "sha256:shared")])
        .await;
    let end = db
        .store
        .attempt_fail(amd64.id, first, &failure(FailureKind::Build), &at_once())
        .await
        .unwrap();
    assert_eq!(end.outcome, Outcome::Failed);
    let cancelled = db
        .store
        .build_end(
            build,
            BuildEnd::Failed {
                error: "RUN false: exit code 1",
            },
        )
        .await
        .unwrap();
    assert_eq!(
        cancelled
            .iter()
            .map(|attempt| (attempt.held, attempt.agent))
            .collect::<Vec<_>>(),
        [(second, arm64.id)]
    );
    assert_eq!(
        db.states(build).await,
        "failed: done failed cancelled cancelled | exported missing missing missing | 0 succeeded 1 failed 2 cancelled"
    );
    let view = db.view(build).await;
    assert_eq!(view.build.error.as_deref(), Some("RUN false: exit code 1"));
    assert_eq!(view.attempts[1].error.as_deref(), Some("it went wrong"));
    assert_eq!(
        db.states(other).await,
        "running: ready | missing",
        "others are not touched"
    );
    // What ended stays ended.
    assert!(is_stale(
        db.store
            .build_end(build, BuildEnd::Cancelled { reason: "late" })
            .await
    ));
    assert!(is_stale(
        db.store
            .attempt_succeed(arm64.id, second, &done(&[target(1)]))
            .await
    ));
}

#[tokio::test]
async fn builds_are_found_as_people_name_them() {
    let db = Db::new().await;
    assert_eq!(db.store.build_find("latest").await.unwrap(), Found::Nothing);
    let with_id = |text: &str| BuildId(text.parse().unwrap());
    let ids = [
        "0190aaaa-0000-7000-8000-000000000001",
        "0190aaab-0000-7000-8000-000000000002",
    ]
    .map(with_id);
    for id in ids {
        db.store
            .build_insert(&croft_coordinator::store::NewBuild { id, ..new_build() })
            .await
            .unwrap();
    }
    let find = async |name: &str| db.store.build_find(name).await.unwrap();
    assert_eq!(find("latest").await, Found::One(ids[1]));
    assert_eq!(find(&ids[0].to_string()).await, Found::One(ids[0]));
    assert_eq!(find("0190aaaa").await, Found::One(ids[0]));
    assert_eq!(find("0190AAAB-00").await, Found::One(ids[1]));
    assert_eq!(find("0190aaa").await, Found::Several);
    assert_eq!(
        find("k3x").await,
        Found::One(ids[1]),
        "of several of one reference the newest"
    );
    assert_eq!(find("ffff").await, Found::Nothing);
    assert_eq!(find("' OR true --").await, Found::Nothing);
}

#[tokio::test]
async fn builds_are_listed_newest_first_and_by_state() {
    let db = Db::new().await;
    let (first, second, third) = (
        db.build().await,
        db.planned(&single()).await,
        db.build().await,
    );
    db.store
        .build_end(
            first,
            BuildEnd::Cancelled {
                reason: "its client is gone",
            },
        )
        .await
        .unwrap();
    let list = async |states: &[BuildState], limit| {
        let filter = BuildFilter {
            states: states.to_vec(),
            limit,
            ..BuildFilter::default()
        };
        db.store
            .build_list(&filter)
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&[], 50).await, [third, second, first]);
    assert_eq!(list(&[], 1).await, [third]);
    assert_eq!(
        list(&[BuildState::Planning, BuildState::Cancelled], 50).await,
        [third, first]
    );
    let live: Vec<BuildId> = db
        .store
        .build_live()
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.id)
        .collect();
    assert_eq!(live, [second, third], "oldest first");
}

#[tokio::test]
async fn why_a_stage_waits_is_kept_until_it_is_placed() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&single()).await;
    let hold = |why: &str, wants| Hold {
        key: key(build, 0),
        why: why.to_owned(),
        wants,
    };
    db.store
        .stage_hold(&[hold("an agent for linux/amd64", Wants::Agent)])
        .await
        .unwrap();
    let first = db.view(build).await.stages.remove(0);
    assert_eq!(
        first.waiting_for.as_deref(),
        Some("an agent for linux/amd64")
    );
    let since = first.unserved_since.unwrap();
    db.store
        .stage_hold(&[hold("another agent", Wants::Agent)])
        .await
        .unwrap();
    assert_eq!(
        db.view(build).await.stages[0].unserved_since,
        Some(since),
        "it waits as long as before"
    );
    let held = db.store.snapshot(10).await.unwrap().holds;
    assert_eq!(held[&key(build, 0)], hold("another agent", Wants::Agent));
    db.store
        .stage_hold(&[hold("a free slot on amd64-1", Wants::Slot)])
        .await
        .unwrap();
    assert_eq!(db.view(build).await.stages[0].unserved_since, None);
    db.offer(build, 0, &agent, &[]).await;
    db.store
        .stage_hold(&[hold("news that comes late", Wants::Agent)])
        .await
        .unwrap();
    assert_eq!(db.view(build).await.stages[0].waiting_for, None);
}

#[tokio::test]
async fn logs_and_events_come_back_in_their_order() {
    let db = Db::new().await;
    let (build, other) = (db.build().await, db.build().await);
    for data in [&b"one"[..], &[0, 255], b"three"] {
        db.store.log_append(build, data).await.unwrap();
        db.store.log_append(other, b"noise").await.unwrap();
    }
    let all = db.store.log_read(build, 0, 10).await.unwrap();
    let data = |chunks: &[LogChunk]| {
        chunks
            .iter()
            .map(|chunk| chunk.data.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        data(&all),
        [b"one".to_vec(), vec![0, 255], b"three".to_vec()]
    );
    let rest = db.store.log_read(build, all[0].seq, 1).await.unwrap();
    assert_eq!(data(&rest), [vec![0, 255]]);

    for number in 0..3 {
        db.store
            .event_append(Some(build), "placed", &json!({ "number": number }))
            .await
            .unwrap();
        db.store
            .event_append(None, "started", &json!({}))
            .await
            .unwrap();
    }
    let events = db.store.event_list(build, 0, 2).await.unwrap();
    assert_eq!(
        events
            .iter()
            .map(|event| event.data["number"].clone())
            .collect::<Vec<_>>(),
        [json!(0), json!(1)]
    );
    let rest = db.store.event_list(build, events[1].id, 9).await.unwrap();
    assert_eq!(rest.len(), 1);
}

#[tokio::test]
async fn tags_are_written_down_before_they_move() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&single()).await;
    let publication = |tag: Option<&str>, previous: Option<&str>| NewPublication {
        repository: "registry/app".to_owned(),
        tag: tag.map(str::to_owned),
        digest: "sha256:index".to_owned(),
        previous: previous.map(str::to_owned),
    };
    let intent = [
        publication(None, None),
        publication(Some("1"), None),
        publication(Some("latest"), Some("sha256:old")),
    ];
    assert!(
        is_stale(db.store.publication_intend(build, &intent).await),
        "only a build that publishes has intents"
    );
    db.run(build, 0, &agent, &[], &[target(0)]).await;
    db.store.build_publish(build).await.unwrap();
    db.store.publication_intend(build, &intent).await.unwrap();
    db.store
        .publication_done(build, "registry/app", None)
        .await
        .unwrap();
    db.store
        .publication_done(build, "registry/app", Some("1"))
        .await
        .unwrap();
    db.store
        .publication_leave(build, "registry/app", Some("latest"), "refused")
        .await
        .unwrap();
    assert!(is_stale(
        db.store
            .publication_done(build, "registry/app", Some("latest"))
            .await
    ));
    let rows = db.view(build).await.publications;
    assert_eq!(
        rows.iter()
            .map(|row| row.publication.clone())
            .collect::<Vec<_>>(),
        intent
    );
    assert_eq!(
        rows.iter()
            .map(|row| (row.state, row.error.as_deref()))
            .collect::<Vec<_>>(),
        [
            (PublicationState::Published, None),
            (PublicationState::Published, None),
            (PublicationState::Left, Some("refused"))
        ]
    );
}

#[tokio::test]
async fn placement_is_woken_by_what_makes_work_for_it_and_by_nothing_else() {
    let db = Db::new().await;
    let woken = || {
        db.store
            .wakes()
            .placement
            .notified()
            .now_or_never()
            .is_some()
    };
    let build = db.build().await;
    assert!(!woken(), "nothing of it is ready");
    // Refused: nothing was changed.
    assert!(is_stale(db.store.build_publish(build).await));
    assert!(!woken());
    db.store.build_plan(build, &single().rows()).await.unwrap();
    assert!(woken());
    let agent = db.agent("amd64-1", "linux/amd64").await;
    assert!(woken());
    let held = db.offer(build, 0, &agent, &[]).await;
    db.store.attempt_accept(agent.id, held).await.unwrap();
    let made = [target(0)];
    db.store
        .attempt_output(agent.id, held, &made)
        .await
        .unwrap();
    assert!(!woken(), "nobody waits for a target");
    db.store
        .attempt_succeed(agent.id, held, &done(&[]))
        .await
        .unwrap();
    assert!(woken(), "a slot is free");
    db.store.build_publish(build).await.unwrap();
    assert!(!woken());
}
