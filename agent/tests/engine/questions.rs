//! Questions that are no attempts.

use croft_buildkit::api::{
    control::{DiskUsageRequest, DiskUsageResponse, PruneRequest},
    frontend::{self, result::Result as Refs},
    pb,
};
use croft_proto::v1::{
    self, agent_message::Message as FromAgent, answer::Answer, request::Request,
};
use prost::Message;

use crate::{
    Farm, Gate,
    coordinator::{Manners, build, held, offer, pushed},
    llb::Llb,
    nonce, repository,
};

fn definition(bytes: &[u8]) -> pb::Definition {
    pb::Definition::decode(bytes).expect("a definition")
}

#[tokio::test]
async fn a_frontend_returns_definitions_and_runs_nothing() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let gate = Gate::new().await;
    let dockerfile = format!("FROM busybox\nRUN --network=host {}\n", gate.wait());
    let mut llb = Llb::default();
    let file = llb.file("/Dockerfile", &dockerfile);
    let input = definition(&llb.definition(&file));
    let request = frontend::SolveRequest {
        frontend: "dockerfile.v0".into(),
        frontend_inputs: [
            ("dockerfile".into(), input.clone()),
            ("context".into(), input),
        ]
        .into(),
        allow_result_return: true,
        allow_result_array_ref: true,
        // The agent is not to execute anything even if it is asked to.
        evaluate: true,
        ..Default::default()
    };
    let context = build();
    let ask = v1::FrontendSolve {
        context: Some(context.clone()),
        request: request.encode_to_vec(),
        exporters: Vec::new(),
    };
    let answers = link.ask(Request::FrontendSolve(ask)).await;
    let [Answer::FrontendResult(result)] = &answers[..] else {
        panic!("{answers:?}")
    };
    let result = frontend::Result::decode(result.as_slice()).expect("a result");
    assert!(result.metadata.contains_key("containerimage.config"));
    let Some(Refs::Ref(result)) = result.result else {
        panic!("one platform is one ref")
    };
    assert_eq!(gate.others(), 0, "nothing has run");
    let planned = result.def.expect("a definition").encode_to_vec();
    let attempt = offer(&context, vec![held("o", planned)]);
    let id = attempt.attempt.clone();
    link.offer(attempt).await;
    gate.arrived().await.open();
    let done = link.end_of(&id).await.done();
    assert!(done.vertices_run > 0);
}

#[tokio::test]
async fn a_frontends_error_comes_back_whole_and_does_not_stick() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let context = build();
    for _ in 0..2 {
        let mut llb = Llb::default();
        let file = llb.file("/Dockerfile", "FROM busybox\nNONSENSE\n");
        let input = definition(&llb.definition(&file));
        let request = frontend::SolveRequest {
            frontend: "dockerfile.v0".into(),
            frontend_inputs: [
                ("dockerfile".into(), input.clone()),
                ("context".into(), input),
            ]
            .into(),
            allow_result_return: true,
            ..Default::default()
        };
        let ask = v1::FrontendSolve {
            context: Some(context.clone()),
            request: request.encode_to_vec(),
            exporters: Vec::new(),
        };
        let answers = link.ask(Request::FrontendSolve(ask)).await;
        let [Answer::Failure(failure)] = &answers[..] else {
            panic!("{answers:?}")
        };
        assert_eq!(failure.kind(), v1::failure::Kind::Build);
        assert!(failure.message.contains("NONSENSE"), "{failure:?}");
        let status =
            croft_buildkit::api::rpc::Status::decode(failure.status.as_slice()).expect("a status");
        assert!(
            status
                .details
                .iter()
                .any(|detail| detail.type_url.ends_with("Source+json")),
            "the line is there"
        );
    }
}

#[tokio::test]
async fn outputs_that_the_engine_cannot_make_are_told_before_the_frontend_is_asked() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let exporter = |kind: &str, attrs: &[(&str, &str)]| {
        let attrs = attrs.iter();
        let exporter = croft_buildkit::api::control::Exporter {
            r#type: kind.into(),
            attrs: attrs.map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        };
        exporter.encode_to_vec()
    };
    let good = [exporter("local", &[]), exporter("oci", &[("tar", "false")])];
    let request = frontend::SolveRequest {
        frontend: "none.v0".into(),
        ..Default::default()
    };
    for (last, why) in [
        (
            exporter("local", &[("platform-split", "perhaps")]),
            "platform-split",
        ),
        (exporter("oci", &[("compression", "much")]), "compression"),
        (exporter("tar", &[]), "none.v0"),
    ] {
        let ask = v1::FrontendSolve {
            context: Some(build()),
            request: request.encode_to_vec(),
            exporters: good.iter().cloned().chain([last]).collect(),
        };
        let answers = link.ask(Request::FrontendSolve(ask)).await;
        let [Answer::Failure(failure)] = &answers[..] else {
            panic!("{answers:?}")
        };
        assert_eq!(failure.kind(), v1::failure::Kind::Build, "{failure:?}");
        assert!(failure.message.contains(why), "{failure:?}");
    }
}

#[tokio::test]
async fn the_gateway_answers_for_images() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let request = frontend::ResolveImageConfigRequest {
        r#ref: "docker.io/library/busybox:latest".into(),
        ..Default::default()
    };
    let call = v1::GatewayCall {
        context: Some(build()),
        method: "ResolveImageConfig".into(),
        request: request.encode_to_vec(),
    };
    let answers = link.ask(Request::Gateway(call)).await;
    let [Answer::GatewayResponse(response)] = &answers[..] else {
        panic!("{answers:?}")
    };
    let response =
        frontend::ResolveImageConfigResponse::decode(response.as_slice()).expect("a response");
    assert!(response.digest.starts_with("sha256:") && !response.config.is_empty());
}

#[tokio::test]
async fn what_is_held_can_be_exported_later_and_is_the_same() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let repository = repository().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(
        &base,
        &format!(": {}; head -c 32 /dev/urandom > /random", nonce()),
    );
    llb.uncached(&run);
    let context = build();
    let first = link
        .run(offer(
            &context,
            vec![pushed("o", llb.definition(&run), &repository)],
        ))
        .await;
    let export = v1::ExportHeld {
        context: Some(context.clone()),
        output: Some(pushed("later", llb.definition(&run), &repository)),
    };
    let answers = link.ask(Request::Export(export)).await;
    let [Answer::Exported(exported)] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(
        exported.exporter_response["containerimage.digest"],
        first.digest("o")
    );
}

#[tokio::test]
async fn an_output_is_held_as_soon_as_it_is_ready_and_whatever_becomes_of_the_others() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let repository = repository().await;
    let gate = Gate::new().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let quick = llb.run(
        &base,
        &format!(": {}; head -c 32 /dev/urandom > /random", nonce()),
    );
    llb.uncached(&quick);
    let slow = llb.run(&base, &format!("{}; exit 1", gate.wait()));
    let context = build();
    let outputs = vec![
        pushed("quick", llb.definition(&quick), &repository),
        held("slow", llb.definition(&slow)),
    ];
    link.offer(offer(&context, outputs)).await;
    let waiting = gate.arrived().await;
    let ready = link.next("the quick output", |message| match message {
        FromAgent::OutputReady(ready) => {
            Some(ready.exporter_response["containerimage.digest"].clone())
        }
        _ => None,
    });
    let digest = ready.await;
    let output = pushed("later", llb.definition(&quick), &repository);
    let export = v1::ExportHeld {
        context: Some(context),
        output: Some(output),
    };
    let mut waiting = Some(waiting);
    for _ in ["while the other runs", "when it has failed"] {
        let answers = link.ask(Request::Export(export.clone())).await;
        let [Answer::Exported(exported)] = &answers[..] else {
            panic!("{answers:?}")
        };
        assert_eq!(exported.exporter_response["containerimage.digest"], digest);
        if let Some(waiting) = waiting.take() {
            waiting.open();
            let failed = link.next("the end", |message| match message {
                FromAgent::Finished(finished) => finished.result,
                _ => None,
            });
            assert!(matches!(failed.await, v1::finished::Result::Failure(_)));
        }
    }
}

#[tokio::test]
async fn what_is_not_held_is_not_made_again_to_be_exported() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let repository = repository().await;
    let mut llb = Llb::default();
    let (held_one, other) = (llb.file("/held", &nonce()), llb.file("/other", &nonce()));
    let context = build();
    link.run(offer(&context, vec![held("o", llb.definition(&held_one))]))
        .await
        .done();
    for (context, node) in [(context, &other), (build(), &held_one)] {
        let output = Some(pushed("later", llb.definition(node), &repository));
        let answers = link
            .ask(Request::Export(v1::ExportHeld {
                context: Some(context),
                output,
            }))
            .await;
        let [Answer::Failure(failure)] = &answers[..] else {
            panic!("{answers:?}")
        };
        assert_eq!(failure.kind(), v1::failure::Kind::Farm);
    }
}

#[tokio::test]
async fn disk_usage_is_told_and_a_prune_has_an_end() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let word = nonce();
    let run = llb.run(&base, &format!(": {word}"));
    link.run(offer(&build(), vec![held("o", llb.definition(&run))]))
        .await
        .done();
    let answers = link
        .ask(Request::DiskUsage(
            DiskUsageRequest::default().encode_to_vec(),
        ))
        .await;
    let [Answer::DiskUsage(usage)] = &answers[..] else {
        panic!("{answers:?}")
    };
    let usage = DiskUsageResponse::decode(usage.as_slice()).expect("a response");
    assert!(
        usage
            .record
            .iter()
            .any(|record| record.description.contains(&word))
    );
    // The engine is shared with other tests, so nothing is really pruned.
    let prune = PruneRequest {
        filter: vec!["id==nothing".into()],
        ..Default::default()
    };
    let answers = link.ask(Request::Prune(prune.encode_to_vec())).await;
    assert_eq!(answers, [Answer::End(v1::End {})]);
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_answered() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let call = v1::GatewayCall {
        context: Some(build()),
        method: "Return".into(),
        request: Vec::new(),
    };
    for ask in [Request::Gateway(call), Request::DiskUsage(b"\xff".to_vec())] {
        let answers = link.ask(ask).await;
        assert!(matches!(&answers[..], [Answer::Failure(_)]), "{answers:?}");
    }
}
