//! Stages: what is offered is run, once, and comes back as asked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use croft_buildkit::errors;
use croft_proto::v1::{
    self, agent_message::Message as FromAgent, coordinator_message::Message as FromCoordinator,
};

use crate::{
    Farm, Gate,
    coordinator::{Manners, build, held, offer, pushed, status_of},
    llb::Llb,
    nonce, repository,
};

#[tokio::test]
async fn an_agent_says_what_its_engine_is() {
    let (_farm, link) = Farm::start(Manners::default()).await;
    let hello = &link.hello;
    assert_eq!(hello.protocol, croft_proto::PROTOCOL);
    assert_eq!(hello.native_platform, "linux/amd64");
    assert_eq!(hello.platforms[0], "linux/amd64");
    assert!(
        hello.emulated_platforms.is_empty(),
        "not started with --emulate"
    );
    assert_eq!((hello.slots, hello.labels["disk"].as_str()), (8, "ssd"));
    let engine = hello.engine.as_ref().expect("an engine");
    assert!(
        engine.llb_caps.iter().any(|cap| cap == "source.image"),
        "{engine:?}"
    );
    assert!(
        engine.frontend_caps.iter().any(|cap| cap == "solve.base"),
        "{engine:?}"
    );
    assert!(hello.disk.expect("a disk").total_bytes > 0);
}

#[tokio::test]
async fn outputs_are_solved_and_pushed_and_come_back_with_their_digests() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let repository = repository().await;
    let mut llb = Llb::default();
    let file = llb.file("/nonce", &nonce());
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &format!("echo {} > /made", nonce()));
    let context = build();
    let outputs = vec![
        pushed("file", llb.definition(&file), &repository),
        pushed("run", llb.definition(&run), &repository),
        held("kept", llb.definition(&run)),
    ];
    let end = link.run(offer(&context, outputs)).await;
    // The base image may have been there already.
    let v1::Done {
        vertices_cached,
        vertices_run,
    } = end.done();
    assert!(
        vertices_run >= 2 && vertices_run + vertices_cached == 3,
        "{end:?}"
    );
    assert_eq!(end.outputs.len(), 3);
    for output in ["file", "run"] {
        let digest = end.digest(output);
        let mut again = Llb::default();
        let image = again.image(&format!("{repository}@{digest}"));
        let definition = again.definition(&image);
        link.run(offer(
            &context,
            vec![pushed("again", definition, &repository)],
        ))
        .await
        .done();
    }
}

#[tokio::test]
async fn the_scratch_image_can_be_exported() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let end = link
        .run(offer(
            &build(),
            vec![pushed("o", Vec::new(), &repository().await)],
        ))
        .await;
    assert_eq!(end.done(), v1::Done::default());
    assert!(end.digest("o").starts_with("sha256:"));
}

#[tokio::test]
async fn a_failing_command_ends_its_stage_as_the_builds_own_failure_with_buildkits_typed_error() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &format!("echo {} >&2; exit 7", nonce()));
    let gate = Gate::new().await;
    let slow = llb.run(&base, &gate.wait());
    let outputs = vec![
        held("slow", llb.definition(&slow)),
        held("bad", llb.definition(&run)),
    ];
    let end = link.run(offer(&build(), outputs)).await;
    let failure = end.failure();
    assert_eq!(failure.kind(), v1::failure::Kind::Build);
    assert!(failure.message.contains("exit code: 7"), "{failure:?}");
    let status = errors::decode(&failure.status).expect("a status");
    assert_eq!(errors::failed_vertices(&status), [run.digest()]);
}

#[tokio::test]
async fn what_a_failing_command_said_is_told_before_its_failure() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let word = nonce();
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &format!("echo last-{word} >&2; exit 7"));
    link.offer(offer(&build(), vec![held("o", llb.definition(&run))]))
        .await;
    let (mut said, mut ended) = (false, false);
    link.next("the end", |message| match message {
        FromAgent::Progress(progress) => {
            let status = status_of(&progress);
            let mut words = status
                .logs
                .iter()
                .map(|log| String::from_utf8_lossy(&log.msg));
            said |= words.any(|words| words.contains(&word));
            ended |= status
                .vertexes
                .iter()
                .any(|vertex| vertex.digest == run.digest() && !vertex.error.is_empty());
            None
        }
        FromAgent::Finished(_) => Some(()),
        _ => None,
    })
    .await;
    assert!(said && ended, "its last line: {said}, its error: {ended}");
}

#[tokio::test]
async fn a_cancelled_attempt_leaves_nothing_running_on_the_engine() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let gate = Gate::new().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &gate.wait());
    let offer = offer(&build(), vec![held("o", llb.definition(&run))]);
    let attempt = offer.attempt.clone();
    link.offer(offer).await;
    let waiting = gate.arrived().await;
    let cancel = v1::Cancel {
        attempt: attempt.clone(),
        reason: "nobody wants it".into(),
    };
    link.say(FromCoordinator::Cancel(cancel)).await;
    let end = link.end_of(&attempt).await;
    assert_eq!(end.failure().kind(), v1::failure::Kind::Cancelled);
    assert_eq!(end.failure().message, "nobody wants it");
    waiting.killed().await;
}

#[tokio::test]
async fn a_build_runs_each_op_once_however_many_attempts_need_it() {
    let (farm, mut link) = Farm::start(Manners::default()).await;
    let repository = repository().await;
    let gate = Gate::new().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(
        &base,
        &format!("head -c 32 /dev/urandom > /random; {}", gate.wait()),
    );
    llb.uncached(&run);
    let definition = llb.definition(&run);
    let context = build();
    let offers: Vec<_> = (0..2)
        .map(|_| offer(&context, vec![pushed("o", definition.clone(), &repository)]))
        .collect();
    for offer in &offers {
        link.offer(offer.clone()).await;
    }
    gate.arrived().await.open();
    let mut ends = Vec::new();
    while ends.len() < 2 {
        let finished = link
            .next("an end", |message| match message {
                FromAgent::Finished(finished) => Some(finished),
                FromAgent::OutputReady(ready) => {
                    ends.push(ready.exporter_response["containerimage.digest"].clone());
                    None
                }
                _ => None,
            })
            .await;
        assert!(
            matches!(finished.result, Some(v1::finished::Result::Done(_))),
            "{finished:?}"
        );
    }
    assert_eq!(ends[0], ends[1], "both got the same bytes");
    // One that comes when it is all over still gets the same, and runs nothing.
    let later = link
        .run(offer(
            &context,
            vec![pushed("o", definition.clone(), &repository)],
        ))
        .await;
    assert_eq!(
        (later.digest("o"), later.done().vertices_run),
        (ends[0].clone(), 0)
    );
    assert_eq!(gate.others(), 0);
    // Once the engine has let go of the build, another runs it again: it was not the cache that made them equal.
    farm.agent.end().await;
    let (_other_farm, mut link) = Farm::start(Manners::default()).await;
    let attempt = offer(&build(), vec![pushed("o", definition, &repository)]);
    let id = attempt.attempt.clone();
    link.offer(attempt).await;
    gate.arrived().await.open();
    assert_ne!(link.end_of(&id).await.digest("o"), ends[0]);
}

#[tokio::test]
async fn an_offer_beyond_the_slots_and_what_may_go_ahead_is_given_back_to_the_farm() {
    let (_farm, mut link) = Farm::with_slots(Manners::default(), 1).await;
    let gate = Gate::new().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &gate.wait());
    let context = build();
    let first = offer(&context, vec![held("o", llb.definition(&run))]);
    link.offer(first.clone()).await;
    let waiting = gate.arrived().await;
    // The coordinator may give one more for each slot, ahead of what it takes.
    let other_gate = Gate::new().await;
    let other = llb.run(&base, &other_gate.wait());
    let ahead = offer(&context, vec![held("o", llb.definition(&other))]);
    link.offer(ahead.clone()).await;
    let also_waiting = other_gate.arrived().await;
    let refused = link
        .run(offer(&context, vec![held("o", llb.definition(&run))]))
        .await;
    assert_eq!(refused.failure().kind(), v1::failure::Kind::Farm);
    waiting.open();
    link.end_of(&first.attempt).await.done();
    also_waiting.open();
    link.end_of(&ahead.attempt).await.done();
    link.run(offer(&context, vec![held("o", llb.definition(&run))]))
        .await
        .done();
}

#[tokio::test]
async fn a_malformed_offer_is_answered_and_harms_nothing() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let bad = link
        .run(offer(&build(), vec![held("o", b"\xff\xff".to_vec())]))
        .await;
    assert_eq!(bad.failure().kind(), v1::failure::Kind::Farm);
    let mut llb = Llb::default();
    let file = llb.file("/nonce", &nonce());
    link.run(offer(&build(), vec![held("o", llb.definition(&file))]))
        .await
        .done();
}

#[tokio::test]
async fn what_a_command_prints_is_told_once_and_in_the_coordinators_time() {
    let ahead = Duration::from_secs(86_400);
    let (_farm, mut link) = Farm::start(Manners {
        ahead,
        ..Manners::default()
    })
    .await;
    let begun = SystemTime::now() + ahead;
    let begun: i64 = begun
        .duration_since(UNIX_EPOCH)
        .expect("late")
        .as_secs()
        .try_into()
        .expect("not that late");
    let word = nonce();
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &format!("echo said-{word}"));
    let context = build();
    let repository = repository().await;
    let mut said = 0;
    let mut exports = Vec::new();
    for _ in 0..2 {
        let offer = offer(
            &context,
            vec![pushed("o", llb.definition(&run), &repository)],
        );
        let attempt = offer.attempt.clone();
        link.offer(offer).await;
        link.next("the end", |message| match message {
            FromAgent::Progress(progress) => {
                let status = status_of(&progress);
                assert_eq!(progress.build, context.build);
                for log in status.logs {
                    if String::from_utf8_lossy(&log.msg).contains(&format!("said-{word}")) {
                        said += 1;
                        let at = log.timestamp.expect("a time").seconds;
                        assert!((begun..begun + 600).contains(&at), "{at} against {begun}");
                    }
                }
                if !progress.attempt.is_empty() {
                    assert_eq!(
                        (&progress.attempt, progress.output.as_str()),
                        (&attempt, "o")
                    );
                    exports.extend(status.vertexes.into_iter().map(|vertex| vertex.name));
                }
                None
            }
            FromAgent::Finished(finished) if finished.attempt == attempt => Some(()),
            _ => None,
        })
        .await;
    }
    assert_eq!(said, 1, "two attempts and two exports share the vertex");
    assert!(
        exports.iter().any(|name| name.starts_with("exporting")),
        "{exports:?}"
    );
    assert!(
        !exports.iter().any(|name| name.contains("said")),
        "{exports:?}"
    );
}
