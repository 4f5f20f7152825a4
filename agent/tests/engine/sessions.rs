//! Sessions: what an engine asks its client reaches the coordinator through the tunnel, and the answer comes back.

use std::sync::{Arc, Mutex};

use croft_buildkit::session::{
    auth::{self, AuthCall, Credentials},
    grpc_error,
};
use croft_local::{Access, Registry, RegistryOptions};
use croft_proto::v1::{self, agent_message::Message as FromAgent};
use sha2::{Digest, Sha256};

use crate::{
    Farm,
    coordinator::{Manners, build, held, offer, pushed, status_of},
    files::Folder,
    llb::Llb,
    nonce,
};

#[tokio::test]
async fn the_credentials_of_a_private_registry_come_from_the_client() {
    let registry = tokio::task::spawn_blocking(|| {
        let access = Access::Password("somebody".into());
        Registry::start(RegistryOptions {
            access,
            ..RegistryOptions::default()
        })
        .expect("a registry")
    });
    let registry = registry.await.expect("a registry");
    let known = registry.credentials().expect("a password").clone();
    let asked: Arc<Mutex<Vec<http::HeaderMap>>> = Arc::default();
    let heard = asked.clone();
    let host = registry.address().to_string();
    let manners = Manners {
        sessions: Arc::new(move |request| {
            heard
                .lock()
                .expect("a lock")
                .push(request.headers().clone());
            let (known, host) = (known.clone(), host.clone());
            Box::pin(async move {
                match AuthCall::read(request).await.expect("an auth call").0 {
                    AuthCall::Credentials(call) if call.host == host => {
                        auth::credentials(Credentials {
                            username: known.user,
                            secret: known.password,
                        })
                    }
                    AuthCall::Credentials(_) => auth::anonymous(),
                    _ => auth::no_token_authority(),
                }
            })
        }),
        ..Manners::default()
    };
    let (_farm, mut link) = Farm::start(manners).await;
    let session = v1::Session {
        id: nonce(),
        shared_key: "key".into(),
        methods: auth::METHODS.map(str::to_owned).into(),
        ..Default::default()
    };
    let mut context = build();
    context.sessions = vec![session.clone()];
    let mut llb = Llb::default();
    let file = llb.file("/nonce", &nonce());
    let name = format!("{}/{}", registry.address(), nonce());
    let first = vec![pushed("o", llb.definition(&file), &name)];
    link.run(offer(&context, first)).await.done();

    // A second build of the same client joins its session; the first one's end does not take it away.
    let second = v1::BuildContext {
        build: format!("build-{}", nonce()),
        ..context.clone()
    };
    let other = llb.file("/nonce", &nonce());
    let other = vec![pushed("o", llb.definition(&other), &name)];
    link.run(offer(&second, other)).await.done();
    let close = v1::CloseKeeper {
        build: context.build.clone(),
    };
    link.say(v1::coordinator_message::Message::CloseKeeper(close))
        .await;
    let third = llb.file("/nonce", &nonce());
    let third = vec![pushed("o", llb.definition(&third), &name)];
    link.run(offer(&second, third)).await.done();

    let asked = asked.lock().expect("a lock");
    let header =
        |headers: &http::HeaderMap, name| headers[name].to_str().expect("a text").to_owned();
    assert!(!asked.is_empty());
    for headers in asked.iter() {
        let build = header(headers, croft_proto::TUNNEL_BUILD);
        assert!(build == context.build || build == second.build, "{build}");
        assert_eq!(header(headers, croft_proto::TUNNEL_SESSION), session.id);
        assert_eq!(header(headers, croft_proto::TUNNEL_AGENT), "agent-1");
    }
}

#[tokio::test]
async fn a_session_can_be_used_again_as_soon_as_its_build_is_over() {
    let calls = Arc::new(Mutex::new(0));
    let counted = calls.clone();
    let manners = Manners {
        sessions: Arc::new(move |request| {
            *counted.lock().expect("a lock") += 1;
            Box::pin(async move {
                match AuthCall::read(request).await.expect("an auth call").0 {
                    AuthCall::Credentials(_) => auth::anonymous(),
                    _ => auth::no_token_authority(),
                }
            })
        }),
        ..Manners::default()
    };
    let registry = tokio::task::spawn_blocking(|| {
        let access = Access::Password("somebody".into());
        Registry::start(RegistryOptions {
            access,
            ..RegistryOptions::default()
        })
        .expect("a registry")
    });
    let registry = registry.await.expect("a registry");
    let (_farm, mut link) = Farm::start(manners).await;
    let session = v1::Session {
        id: nonce(),
        methods: auth::METHODS.map(str::to_owned).into(),
        ..Default::default()
    };
    let mut before = 0;
    for _ in 0..5 {
        let mut context = build();
        context.sessions = vec![session.clone()];
        let mut llb = Llb::default();
        let file = llb.file("/nonce", &nonce());
        let name = format!("{}/{}", registry.address(), nonce());
        // Refused by the registry; what counts is that the session was asked.
        let end = link
            .run(offer(
                &context,
                vec![pushed("o", llb.definition(&file), &name)],
            ))
            .await;
        assert_eq!(end.failure().kind(), v1::failure::Kind::Build, "{end:?}");
        let after = *calls.lock().expect("a lock");
        assert!(after > before, "the engine found the session");
        before = after;
        let close = v1::CloseKeeper {
            build: context.build,
        };
        link.say(v1::coordinator_message::Message::CloseKeeper(close))
            .await;
    }
}

#[tokio::test]
async fn a_clients_files_stream_through_the_tunnel_in_the_builds_own_trace() {
    let data: Vec<u8> = (0..20_u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let sum = hex::encode(Sha256::digest(&data));
    let traces: Arc<Mutex<Vec<http::HeaderValue>>> = Arc::default();
    let heard = traces.clone();
    let folder = Folder {
        name: "large",
        data: Arc::new(data),
    };
    let manners = Manners {
        sessions: Arc::new(move |request| {
            heard
                .lock()
                .expect("a lock")
                .push(request.headers()["traceparent"].clone());
            Box::pin(folder.clone().answer(request))
        }),
        ..Manners::default()
    };
    let (_farm, mut link) = Farm::start(manners).await;
    let methods = vec!["/moby.filesync.v1.FileSync/DiffCopy".to_owned()];
    let mut context = build();
    context.sessions = vec![v1::Session {
        id: nonce(),
        shared_key: nonce(),
        methods,
        ..Default::default()
    }];
    let trace = uuid::Uuid::new_v4().simple().to_string();
    context.traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let local = llb.local("context");
    let copied = llb.copy(&base, &local);
    let run = llb.run(&copied, &format!(": {}; sha256sum /large", nonce()));
    let offer = offer(&context, vec![held("o", llb.definition(&run))]);
    let attempt = offer.attempt.clone();
    link.offer(offer).await;
    let mut said = String::new();
    let end = link.next("the end", |message| match message {
        FromAgent::Progress(progress) => {
            for log in status_of(&progress).logs {
                said += &String::from_utf8_lossy(&log.msg);
            }
            None
        }
        FromAgent::Finished(finished) if finished.attempt == attempt => finished.result,
        _ => None,
    });
    let end = end.await;
    assert!(matches!(end, v1::finished::Result::Done(_)), "{end:?}");
    assert!(said.contains(&sum), "{said}");
    let traces = traces.lock().expect("a lock");
    assert!(
        traces
            .iter()
            .any(|parent| parent.to_str().is_ok_and(|parent| parent.contains(&trace))),
        "{traces:?}"
    );
}

#[tokio::test]
async fn a_session_that_a_build_names_later_is_opened_too() {
    let session = || v1::Session {
        id: nonce(),
        shared_key: nonce(),
        methods: vec!["/moby.filesync.v1.FileSync/DiffCopy".to_owned()],
        ..Default::default()
    };
    let (own, further) = (session(), session());
    let folder = Folder {
        name: "file",
        data: Arc::new(nonce().into_bytes()),
    };
    let has_it = further.id.clone();
    let manners = Manners {
        sessions: Arc::new(move |request| {
            // Asked for a session that is not there, the engine takes any other that the build has.
            let asked = request.headers()[croft_proto::TUNNEL_SESSION] == has_it.as_str();
            let folder = folder.clone();
            Box::pin(async move {
                match asked {
                    true => folder.answer(request).await,
                    false => grpc_error(tonic::Code::NotFound, "that folder is another session's"),
                }
            })
        }),
        ..Manners::default()
    };
    let (_farm, mut link) = Farm::start(manners).await;
    let mut context = build();
    context.sessions = vec![own];
    let mut llb = Llb::default();
    let file = llb.file("/nonce", &nonce());
    link.run(offer(&context, vec![held("o", llb.definition(&file))]))
        .await
        .done();

    context.sessions.push(further.clone());
    let local = llb.local_of("context", &further.id);
    let copied = llb.copy(&file, &local);
    link.run(offer(&context, vec![held("o", llb.definition(&copied))]))
        .await
        .done();
}
