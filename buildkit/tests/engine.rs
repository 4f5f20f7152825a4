//! A real engine: what it says of itself, builds held open on it, sessions lent to it.

mod support;

use std::{sync::Arc, time::Duration};

use croft_buildkit::{
    api::{control::DiskUsageRequest, frontend::PingRequest},
    engine::{Engine, EngineKind, ImageStore},
    errors::{self, Fault},
    gateway::{BuildRef, Gateway, GatewaySpec},
    platform,
    session::{EngineSession, SessionId, SessionReply, SessionRequest, grpc_error},
};
use croft_local::{EngineOptions, Workbench};
use futures::FutureExt;
use support::{
    connect,
    llb::{dockerfile, file, local, reference, solve},
    spec,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tonic::Code;

async fn engine() -> Engine {
    connect(Workbench::shared().unwrap().engine.address()).await
}

async fn open(engine: &Engine) -> Gateway {
    Gateway::open(engine, GatewaySpec::default()).await.unwrap()
}

/// Text that no earlier build had in it.
fn nonce() -> String {
    BuildRef::unique().to_string()
}

#[tokio::test]
async fn an_engine_says_what_it_is_and_can_do() {
    let engine = engine().await;
    let info = engine.info().await.unwrap();
    let docker = engine.address().to_string().starts_with("docker+");
    assert_eq!(
        info.kind,
        if docker {
            EngineKind::Docker
        } else {
            EngineKind::Buildkitd
        }
    );
    assert_eq!(info.image_store, ImageStore::Containerd);
    info.require_image_exporter().unwrap();
    assert!(
        !info.version.is_empty() && !info.version.contains("unknown"),
        "{}",
        info.version
    );
    let native = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    assert_eq!(
        platform::format(&info.platforms[0]),
        format!("linux/{native}")
    );
    assert!(info.llb_caps.contains("exec.meta.base") && info.llb_caps.contains("source.image"));
    // What a Docker Engine allows unless it is told otherwise; a buildkitd allows nothing.
    assert!(!info.allows("security.insecure"), "{:?}", info.entitlements);
    assert_eq!(info.allows("network.host"), info.kind == EngineKind::Docker);
    assert!(
        info.frontend_caps.contains("solve.base")
            && info.frontend_caps.contains("gateway.evaluate")
    );
    engine.healthy(Duration::from_secs(10)).await.unwrap();
}

/// Whether the engine has a record of this description, and whether something still uses it.
async fn in_use(engine: &Engine, description: &str) -> Option<bool> {
    let usage = engine
        .control()
        .disk_usage(DiskUsageRequest::default())
        .await
        .unwrap()
        .into_inner();
    let ours: Vec<_> = usage
        .record
        .iter()
        .filter(|r| r.description.contains(description))
        .collect();
    (!ours.is_empty()).then(|| ours.iter().any(|r| r.in_use))
}

/// The bridge of a build that is over does not answer.
async fn assert_gone(engine: &Engine, build: &BuildRef) {
    let status = engine.bridge(build).ping(PingRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

#[tokio::test]
async fn a_gateway_solves_lazily_holds_what_it_evaluated_and_leaves_nothing_when_closed() {
    let engine = engine().await;
    let gateway = open(&engine).await;
    let name = nonce();
    let answer = gateway.solve(solve(file(&name, "x"))).await.unwrap();
    assert_eq!(in_use(&engine, &name).await, None);
    gateway.evaluate(&reference(answer)).await.unwrap();
    assert_eq!(in_use(&engine, &name).await, Some(true));
    assert!(gateway.ended().now_or_never().is_none());
    gateway.close().await.unwrap();
    gateway.ended().await.unwrap();
    gateway.close().await.unwrap();
    assert_gone(&engine, gateway.build()).await;
    // Results are let go of in the background.
    let released = async { while in_use(&engine, &name).await == Some(true) {} };
    tokio::time::timeout(Duration::from_secs(30), released)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_gateway_that_is_dropped_ends_its_build() {
    let engine = engine().await;
    let gateway = open(&engine).await;
    let build = gateway.build().clone();
    let ended = gateway.ended();
    drop(gateway);
    assert_eq!(ended.await.unwrap_err().code(), Code::Cancelled);
    let gone = async {
        while engine.bridge(&build).ping(PingRequest {}).await.is_ok() {}
        assert_gone(&engine, &build).await;
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_build_that_the_engine_refuses_does_not_open() {
    let engine = engine().await;
    let spec = GatewaySpec {
        entitlements: vec!["nonsense".into()],
        ..Default::default()
    };
    let status = Gateway::open(&engine, spec).await.err().unwrap();
    assert!(status.message().contains("nonsense"), "{status:?}");
    assert_eq!(errors::fault(&status), Fault::Build);
}

#[tokio::test]
async fn a_failing_command_keeps_its_typed_details_however_long_the_dockerfile() {
    let gateway = open(&engine().await).await;
    let comment = format!("# {}\n", "long ".repeat(10)).repeat(2_000);
    let text = format!("FROM busybox\n{comment}RUN echo {} && exit 7\n", nonce());
    let answer = gateway.solve(dockerfile(&text)).await.unwrap();
    let status = gateway.evaluate(&reference(answer)).await.unwrap_err();
    assert!(
        status.message().contains("exit code: 7"),
        "{}",
        status.message()
    );
    assert_eq!(errors::fault(&status), Fault::Build);
    let vertices = errors::failed_vertices(&status);
    assert!(vertices[0].starts_with("sha256:"), "{vertices:?}");
    let rewritten = errors::rewrite_vertices(&status, |digest| digest.replace("sha256:", "farm:"));
    assert_eq!(
        errors::failed_vertices(&rewritten)[0],
        vertices[0].replace("sha256:", "farm:")
    );
    let source = errors::to_rpc(&rewritten)
        .details
        .into_iter()
        .find(|d| d.type_url.ends_with("errdefs.Source+json"));
    assert!(source.unwrap().value.len() > comment.len());
    gateway.close().await.unwrap();
}

/// A session whose calls are told to the test and refused.
async fn telling_session(
    engine: &Engine,
    id: &SessionId,
) -> (EngineSession, mpsc::UnboundedReceiver<String>) {
    let (sender, calls) = mpsc::unbounded_channel();
    let handler = move |request: SessionRequest| -> SessionReply {
        let _ = sender.send(request.uri().path().to_owned());
        async { grpc_error(Code::PermissionDenied, "this test has no files") }.boxed()
    };
    let mut spec = spec();
    spec.id = id.clone();
    spec.methods = vec!["/moby.filesync.v1.FileSync/DiffCopy".into()];
    (
        EngineSession::open(engine, &spec, Arc::new(handler))
            .await
            .unwrap(),
        calls,
    )
}

/// Lets the engine read a local source of this session, which must fail.
async fn read_local(engine: &Engine, id: &SessionId) -> tonic::Status {
    let spec = GatewaySpec {
        session: Some(id.clone()),
        ..Default::default()
    };
    let gateway = Gateway::open(engine, spec).await.unwrap();
    let answer = gateway.solve(solve(local(id.as_str()))).await.unwrap();
    let status = gateway.evaluate(&reference(answer)).await.unwrap_err();
    gateway.close().await.unwrap();
    status
}

/// The engine as if it were a buildkitd, which speaks its API at once and takes sessions in its messages only.
async fn as_buildkitd() -> (Engine, TempDir) {
    let address = Workbench::shared().unwrap().engine.address();
    let docker = address.strip_prefix("docker+unix://").map(str::to_owned);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("buildkitd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let Some(docker) = docker else {
        return (connect(address).await, folder);
    };
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = UnixStream::connect(&docker).await.unwrap();
            tokio::spawn(async move {
                let upgrade = "POST /grpc HTTP/1.1\r\nhost: docker\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n";
                far.write_all(upgrade.as_bytes()).await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(far.read_u8().await.unwrap());
                }
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let engine = connect(&format!("unix://{}", socket.display())).await;
    (engine, folder)
}

#[tokio::test]
async fn an_engine_without_sessions_of_their_own_connections_takes_them_in_messages() {
    let (engine, _folder) = as_buildkitd().await;
    let id = SessionId::unique();
    let (first, _calls) = telling_session(&engine, &id).await;
    first.close().await;
    let (second, mut calls) = telling_session(&engine, &id).await;
    let status = read_local(&engine, &id).await;
    assert!(
        status.message().contains("this test has no files"),
        "{status:?}"
    );
    assert!(calls.recv().await.is_some() && !second.is_closed());
}

#[tokio::test]
async fn an_engine_calls_the_session_that_was_lent_to_it() {
    let engine = engine().await;
    let id = SessionId::unique();
    let (session, mut calls) = telling_session(&engine, &id).await;
    let status = read_local(&engine, &id).await;
    assert!(
        status.message().contains("this test has no files"),
        "{status:?}"
    );
    assert_eq!(
        calls.recv().await.unwrap(),
        "/moby.filesync.v1.FileSync/DiffCopy"
    );
    assert!(!session.is_closed());
}

#[tokio::test]
async fn a_sessions_id_can_be_used_again_once_it_is_closed() {
    let engine = engine().await;
    let id = SessionId::unique();
    let (first, mut first_calls) = telling_session(&engine, &id).await;
    first.close().await;
    let (_second, mut calls) = telling_session(&engine, &id).await;
    read_local(&engine, &id).await;
    assert!(calls.recv().await.is_some());
    assert_eq!(first_calls.recv().await, None);
}

#[tokio::test]
async fn a_session_that_broke_off_can_be_opened_again() {
    let engine = engine().await;
    let id = SessionId::unique();
    let (first, _calls) = telling_session(&engine, &id).await;
    drop(first);
    let (_second, mut calls) = telling_session(&engine, &id).await;
    read_local(&engine, &id).await;
    assert!(calls.recv().await.is_some());
}

#[tokio::test]
async fn a_missing_session_is_told_from_a_build_that_fails() {
    let engine = engine().await;
    let status = read_local(&engine, &SessionId::unique()).await;
    assert_eq!(errors::fault(&status), Fault::Session, "{status:?}");
}

#[tokio::test]
async fn an_engine_that_dies_ends_its_builds_and_sessions_and_is_to_blame() {
    let own = croft_local::Engine::start(EngineOptions::default()).unwrap();
    let engine = connect(own.address()).await;
    let gateway = open(&engine).await;
    let (session, _calls) = telling_session(&engine, &SessionId::unique()).await;
    let ended = gateway.ended();
    drop(own);
    let status = ended.await.unwrap_err();
    assert_eq!(errors::fault(&status), Fault::Engine, "{status:?}");
    session.closed().await;
    assert!(engine.healthy(Duration::from_secs(10)).await.is_err());
}

#[tokio::test]
async fn a_docker_engine_addressed_as_buildkitd_is_explained() {
    // Any server that speaks no HTTP/2 will do.
    let registry = Workbench::shared().unwrap().registry.address();
    let error = connect(&format!("tcp://{registry}"))
        .await
        .info()
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("does not speak BuildKit") && error.contains("docker+unix://"),
        "{error}"
    );
}
