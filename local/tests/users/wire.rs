//! Peers that speak gRPC and mean no good, or know no better: each gets a typed error, memory stays bounded, and nobody else notices.

use std::{fs, time::Duration};

use bollard_buildkit_proto::{
    moby::buildkit::v1::{
        BytesMessage, ListWorkersRequest, SolveRequest, StatusRequest,
        control_client::ControlClient,
        frontend::{self, llb_bridge_client::LlbBridgeClient},
    },
    pb,
};
use futures::future::join_all;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tonic::{Code, Request, Status, transport::Channel};

use crate::support::{Buildx, Context, farm, nonce, process::PATIENCE};

/// What a peer may make the coordinator hold for long: its own limits for one connection and one build, with room for what other tests do.
const BOUND: u64 = 160 << 20;

async fn channel() -> Channel {
    let address = format!("http://{}", farm().client_address());
    let endpoint = tonic::transport::Endpoint::from_shared(address).expect("a URL");
    endpoint.connect().await.expect("it listens")
}

/// The coordinator's resident memory, in bytes.
fn memory() -> u64 {
    let address = farm().client_address().to_string();
    let of_it = |line: &str| line.contains("croft-coordinator") && line.contains(&address);
    let process = fs::read_dir("/proc")
        .expect("Linux")
        .flatten()
        .find(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            // Not its guard, which has the same words behind its own.
            of_it(&line) && !line.starts_with("sh\0")
        })
        .expect("it runs");
    let status = fs::read_to_string(process.path().join("status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("VmRSS").parse::<u64>().expect("a number") << 10
}

/// The coordinator lives, and has never panicked.
async fn unharmed() {
    let mut control = ControlClient::new(channel().await);
    let workers = control.list_workers(ListWorkersRequest::default()).await;
    assert!(!workers.expect("it answers").into_inner().record.is_empty());
    let log = fs::read_to_string(farm().coordinator_log()).expect("a log");
    assert!(!log.contains("panicked"), "{log}");
}

fn op(inputs: &[(&str, i64)], op: Option<pb::op::Op>) -> Vec<u8> {
    let inputs = inputs.iter().map(|&(digest, index)| pb::Input {
        digest: digest.to_owned(),
        index,
    });
    pb::Op {
        inputs: inputs.collect(),
        op,
        ..pb::Op::default()
    }
    .encode_to_vec()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn source(identifier: &str) -> Vec<u8> {
    let source = pb::SourceOp {
        identifier: identifier.to_owned(),
        ..pb::SourceOp::default()
    };
    op(&[], Some(pb::op::Op::Source(source)))
}

fn exec() -> pb::op::Op {
    pb::op::Op::Exec(pb::ExecOp::default())
}

fn solve(def: Vec<Vec<u8>>) -> SolveRequest {
    SolveRequest {
        r#ref: nonce(),
        definition: Some(pb::Definition {
            def,
            ..pb::Definition::default()
        }),
        ..SolveRequest::default()
    }
}

#[tokio::test]
async fn a_malformed_definition_is_refused_with_what_is_wrong() {
    let base = source("docker-image://docker.io/library/busybox:latest");
    let at = digest(&base);
    let missing = digest(b"nothing");
    let looped = op(&[(&missing, 0)], Some(exec()));
    let pointer = |to: &[u8]| op(&[(&digest(to), 0)], None);
    let unfinished = op(&[(&at, 0)], Some(exec()));
    let backwards = op(&[(&at, -5)], None);
    let nested = op(&[(&at, 0)], Some(pb::op::Op::Build(pb::BuildOp::default())));
    let mut control = ControlClient::new(channel().await);
    for (what, def) in [
        (
            "a build within the build",
            vec![base.clone(), nested.clone(), pointer(&nested)],
        ),
        (
            "bytes that are no op",
            vec![vec![0xff; 40], pointer(&[0xff; 40])],
        ),
        (
            "an op that ends too early",
            vec![base[..base.len() - 3].to_vec(), pointer(&base)],
        ),
        (
            "an input that is missing",
            vec![looped.clone(), pointer(&looped)],
        ),
        (
            "an end that points nowhere",
            vec![base.clone(), op(&[(&missing, 0)], None)],
        ),
        ("an end without a result", vec![base.clone(), op(&[], None)]),
        ("an output that no op has", vec![base.clone(), backwards]),
        ("only an end", vec![op(&[], None)]),
        ("an op of no kind", {
            let none = op(&[(&at, 0)], None);
            vec![base.clone(), none.clone(), pointer(&none)]
        }),
        (
            "an exec without a command",
            vec![base.clone(), unfinished.clone(), pointer(&unfinished)],
        ),
    ] {
        let answer = timeout(PATIENCE, control.solve(solve(def)))
            .await
            .expect("an answer");
        let status = answer.expect_err(what);
        assert!(
            matches!(status.code(), Code::InvalidArgument | Code::Unknown),
            "{what}: {status:?}"
        );
        assert!(!status.message().is_empty(), "{what}");
    }
    unharmed().await;
}

#[tokio::test]
async fn a_definition_of_100_000_ops_on_one_another_whose_last_is_missing_is_refused() {
    // One that were whole would keep an engine busy for minutes, as it would without croft.
    let missing = digest(b"nothing");
    let mut def = vec![op(&[(&missing, 0)], Some(exec()))];
    for _ in 0..100_000 {
        let below = digest(def.last().expect("one"));
        let file = pb::FileOp {
            actions: vec![pb::FileAction {
                input: 0,
                secondary_input: -1,
                output: 0,
                action: Some(pb::file_action::Action::Mkdir(pb::FileActionMkDir {
                    path: "/x".into(),
                    mode: 0o755,
                    make_parents: true,
                    ..pb::FileActionMkDir::default()
                })),
            }],
        };
        def.push(op(&[(&below, 0)], Some(pb::op::Op::File(file))));
    }
    let end = op(&[(&digest(def.last().expect("one")), 0)], None);
    def.push(end);
    let mut control = ControlClient::new(channel().await).max_encoding_message_size(64 << 20);
    let answer = timeout(PATIENCE, control.solve(solve(def)))
        .await
        .expect("an answer");
    let status = answer.expect_err("it is not whole");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains(&missing), "{status:?}");
    unharmed().await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let mut control = ControlClient::new(channel().await).max_encoding_message_size(64 << 20);
    let mut request = solve(vec![]);
    let value = "x".repeat((16 << 20) + 1);
    request
        .frontend_attrs
        .insert("build-arg:X".to_owned(), value);
    let status = control.solve(request).await.expect_err("too long");
    assert!(
        matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted),
        "{status:?}"
    );
    assert!(status.message().contains("too large"), "{status:?}");
    unharmed().await;
}

fn session_request<S>(id: Option<&str>, messages: S) -> Request<S> {
    let mut request = Request::new(messages);
    let metadata = request.metadata_mut();
    if let Some(id) = id {
        metadata.insert(
            "x-docker-expose-session-uuid",
            id.parse().expect("a header"),
        );
    }
    request
}

#[tokio::test]
async fn a_session_of_garbage_ends_with_an_error() {
    let garbage = |byte: u8| BytesMessage {
        data: (0..64 << 10).map(|at| byte ^ (at % 251) as u8).collect(),
    };
    let mut control = ControlClient::new(channel().await);
    let messages = futures::stream::iter((0..100).map(garbage));
    // What came before the end may have been an answer to the beginning of it.
    let ended = async {
        let stream = control
            .session(session_request(Some(&nonce()), messages))
            .await?;
        let mut stream = stream.into_inner();
        while stream.message().await?.is_some() {}
        Ok::<(), Status>(())
    };
    let status = timeout(PATIENCE, ended)
        .await
        .expect("an end")
        .expect_err("it was garbage");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");

    let messages = futures::stream::iter([garbage(1)]);
    let status = control
        .session(session_request(None, messages))
        .await
        .expect_err("no id");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    unharmed().await;
}

#[tokio::test]
async fn garbage_instead_of_http_is_cut_off() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: farm\r\n\r\n".to_vec(),
        vec![0xa5; 1 << 20],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand now for something else".to_vec(),
    ] {
        for address in [farm().client_address(), farm().agent_address()] {
            let mut stream = tokio::net::TcpStream::connect(address)
                .await
                .expect("it listens");
            // It may be cut off before all is written.
            let _ = stream.write_all(&bytes).await;
            let mut rest = Vec::new();
            let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            let _ = end.expect("it is cut off");
        }
    }
    unharmed().await;
}

#[tokio::test]
async fn thousands_of_questions_about_builds_that_do_not_exist_are_answered_and_cost_nothing() {
    let before = memory();
    let ask = async |channel: Channel| {
        let mut control = ControlClient::new(channel);
        let request = StatusRequest { r#ref: nonce() };
        let answer = async {
            let mut stream = control.status(request).await?.into_inner();
            stream.message().await
        };
        answer.await.expect_err("no such job").code()
    };
    let channels = join_all((0..5).map(|_| channel())).await;
    let asked = channels
        .iter()
        .flat_map(|channel| (0..800).map(|_| ask(channel.clone())));
    let context = Context::new("FROM busybox\nRUN : $NONCE\n");
    let other = tokio::task::spawn_blocking(move || {
        Buildx::of(farm()).build(&context).run().succeeded();
    });
    let codes = timeout(PATIENCE, join_all(asked)).await.expect("answers");
    assert!(
        codes.iter().all(|code| *code == Code::NotFound),
        "{codes:?}"
    );
    other.await.expect("another build is not disturbed");
    assert!(memory() < before + BOUND, "{before} became {}", memory());
    unharmed().await;
}

#[tokio::test]
async fn gateway_calls_that_belong_to_no_build_are_refused() {
    let mut bridge = LlbBridgeClient::new(channel().await);
    let ping = |id: Option<&str>| {
        let mut request = Request::new(frontend::PingRequest::default());
        if let Some(id) = id {
            let metadata = request.metadata_mut();
            metadata.insert("buildkit-controlapi-buildid", id.parse().expect("a header"));
        }
        request
    };
    let status = bridge.ping(ping(None)).await.expect_err("no build");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let status = bridge
        .ping(ping(Some(&nonce())))
        .await
        .expect_err("no such build");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

#[tokio::test]
async fn the_progress_of_a_build_that_was_over_before_somebody_asked_has_an_end() {
    let channel = channel().await;
    let mut control = ControlClient::new(channel.clone());
    // Nothing to solve, which fails at once.
    let over = solve(vec![op(&[], None)]);
    let client_ref = over.r#ref.clone();
    control.solve(over).await.expect_err("there is nothing");
    let follow = async {
        let request = StatusRequest { r#ref: client_ref };
        let mut stream = control.status(request).await?.into_inner();
        while stream.message().await?.is_some() {}
        Ok::<(), Status>(())
    };
    // Clients give up after three seconds and call that a failure.
    let end = timeout(Duration::from_secs(3), follow)
        .await
        .expect("an end");
    end.expect("no error");
}

#[tokio::test]
async fn a_ref_in_use_is_refused_and_a_result_that_nobody_made_is_not_found() {
    let channel = channel().await;
    let mut control = ControlClient::new(channel.clone());
    let mut other = control.clone();
    let client_ref = nonce();
    // A gateway build: it lasts until its client returns a result.
    let request = || SolveRequest {
        r#ref: client_ref.clone(),
        ..SolveRequest::default()
    };
    let first = tokio::spawn({
        let request = request();
        async move { control.solve(request).await }
    });
    let bridge = LlbBridgeClient::new(channel);
    let call = |result: Option<frontend::Result>| {
        let mut request = Request::new(frontend::ReturnRequest {
            result,
            error: None,
        });
        let metadata = request.metadata_mut();
        metadata.insert(
            "buildkit-controlapi-buildid",
            client_ref.parse().expect("a header"),
        );
        let mut bridge = bridge.clone();
        async move { bridge.r#return(request).await }
    };
    let reference = |id: &str| frontend::Result {
        result: Some(frontend::result::Result::Ref(frontend::Ref {
            id: id.to_owned(),
            def: None,
        })),
        ..frontend::Result::default()
    };
    // Waits until the first is there.
    let status = call(Some(reference("made-up")))
        .await
        .expect_err("nobody made it");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let status = other.solve(request()).await.expect_err("in use");
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    for bad in ["", &"x".repeat(1000)] {
        let mut request = request();
        request.r#ref = bad.to_owned();
        let status = other.solve(request).await.expect_err("no ref");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    call(None).await.expect("it ends with nothing");
    let first = timeout(PATIENCE, first)
        .await
        .expect("an end")
        .expect("no panic");
    first.expect("nothing was asked for");
    // A build that is over: it is gone, or says so.
    let status = call(None).await.expect_err("it is over");
    assert!(
        matches!(
            status.code(),
            Code::NotFound | Code::FailedPrecondition | Code::AlreadyExists
        ),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_reader_that_stalls_while_a_build_prints_200_mb_holds_up_nothing_and_costs_little() {
    let line = "RUN : $NONCE-$N && head -c 25000000 /dev/zero | tr '\\0' x | fold -w 1000";
    let steps: String = (0..8)
        .map(|number| {
            let line = line.replace("$N ", &format!("{number} "));
            format!("FROM busybox AS s{number}\n{line}\n")
        })
        .collect();
    let copies: String = (0..8)
        .map(|number| format!("COPY --from=s{number} /etc/passwd /p{number}\n"))
        .collect();
    let context = Context::new(&format!("{steps}FROM scratch\n{copies}"));
    let before = memory();
    let (tell, told) = tokio::sync::oneshot::channel();
    let build = tokio::task::spawn_blocking(move || {
        let buildx = Buildx::of(farm());
        let mut running = buildx.build(&context).start();
        // Under its plain progress the ref is not shown; the farm knows it by what is built.
        running.wait_for(|line| line.contains("xxxxxxxxxx"));
        let _ = tell.send(());
        running.finish()
    });
    told.await.expect("it prints");
    let mut stalled = Vec::new();
    for client_ref in crate::builds::running(farm()) {
        let mut control = ControlClient::new(channel().await);
        let stream = control.status(StatusRequest { r#ref: client_ref }).await;
        let Ok(stream) = stream else { continue };
        let mut stream = stream.into_inner();
        // It begins, and then nobody reads on.
        let _ = timeout(Duration::from_secs(10), stream.message()).await;
        stalled.push(stream);
    }
    assert!(!stalled.is_empty());
    let finished = timeout(PATIENCE, build)
        .await
        .expect("an end")
        .expect("no panic");
    finished.succeeded();
    assert!(memory() < before + BOUND, "{before} became {}", memory());
    // What they missed is told in short, and the story has its end.
    for mut stream in stalled {
        let rest = async { while let Ok(Some(_)) = stream.message().await {} };
        timeout(PATIENCE, rest).await.expect("an end");
    }
    unharmed().await;
}
