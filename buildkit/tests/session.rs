//! Both ends of the session tunnel, against each other over a real gRPC connection. No engine is needed.

mod support;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use croft_buildkit::{
    HEADER_LIMIT,
    api::{
        control::BytesMessage,
        filesync::CredentialsRequest,
        health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
    },
    session::{
        ClientSession, EngineSession, SessionBody, SessionError, SessionReply, SessionRequest,
        auth::{self, AuthCall, Credentials},
        grpc::{boxed, grpc_error, read_unary, status_response, unary_request},
    },
};
use futures::{FutureExt, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use support::{Daemon, spec};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tonic::{Code, Request, Status, Streaming, transport::Endpoint};
use tower::{Service, ServiceExt};

const PATH: &str = "/test.Service/Method";

fn call(path: &str) -> SessionRequest {
    unary_request(path, &CredentialsRequest { host: "x".into() }).unwrap()
}

/// The status that ends an answer, wherever it stands.
async fn status_of(answer: http::Response<SessionBody>) -> Status {
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    Status::from_header_map(&head.headers)
        .or_else(|| Status::from_header_map(body.trailers()?))
        .unwrap()
}

#[tokio::test]
async fn a_call_arrives_as_it_was_sent_and_its_trailers_come_back() {
    let mut daemon = Daemon::start().await;
    let echo = |request: SessionRequest| -> SessionReply {
        let trailer = request.headers()["x-marker"].clone();
        assert_eq!(request.uri().path(), PATH);
        let trailers = http::HeaderMap::from_iter([
            (
                http::HeaderName::from_static("grpc-status"),
                "0".parse().unwrap(),
            ),
            (http::HeaderName::from_static("x-trailer"), trailer),
        ]);
        let body = request
            .into_body()
            .with_trailers(async { Some(Ok(trailers)) }.boxed());
        async { http::Response::new(boxed(body)) }.boxed()
    };
    let (_ours, session) = daemon.session(echo).await;
    let mut request = call(PATH);
    request
        .headers_mut()
        .insert("x-marker", "7".parse().unwrap());
    let answer = session
        .call(request)
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    assert_eq!(answer.trailers().unwrap()["x-trailer"], "7");
    let body = boxed(Full::new(answer.to_bytes()));
    assert_eq!(
        read_unary::<CredentialsRequest>(body, 100)
            .await
            .unwrap()
            .host,
        "x"
    );
}

#[tokio::test]
async fn the_daemon_knows_what_the_client_said_of_itself() {
    let mut daemon = Daemon::start().await;
    let spec = spec();
    let _ours = EngineSession::open(&daemon.engine().await, &spec, Arc::new(refuse))
        .await
        .unwrap();
    assert_eq!(*daemon.next_session().await.spec(), spec);
}

fn refuse(_: SessionRequest) -> SessionReply {
    async { grpc_error(Code::Unimplemented, "nothing here") }.boxed()
}

#[tokio::test]
async fn health_is_answered_without_the_handler() {
    let mut daemon = Daemon::start().await;
    let (_ours, session) = daemon.session(refuse).await;
    let request = unary_request(
        "/grpc.health.v1.Health/Check",
        &HealthCheckRequest::default(),
    )
    .unwrap();
    let answer = session.call(request).await.unwrap();
    let health: HealthCheckResponse = read_unary(answer.into_body(), 100).await.unwrap();
    assert_eq!(health.status(), ServingStatus::Serving);
    assert_eq!(
        status_of(
            session
                .call(call("/grpc.health.v1.Health/Watch"))
                .await
                .unwrap()
        )
        .await
        .code(),
        Code::Unimplemented
    );
    assert_eq!(
        status_of(session.call(call(PATH)).await.unwrap())
            .await
            .message(),
        "nothing here"
    );
}

#[tokio::test]
async fn credentials_are_asked_of_the_client() {
    let mut daemon = Daemon::start().await;
    let answer = |request: SessionRequest| -> SessionReply {
        async {
            match AuthCall::read(request).await {
                Ok((AuthCall::Credentials(call), _)) if call.host == "known" => {
                    auth::credentials(Credentials {
                        username: "me".into(),
                        secret: "secret".into(),
                    })
                }
                Ok((AuthCall::Credentials(call), _)) if call.host == "denied" => {
                    grpc_error(Code::PermissionDenied, "no")
                }
                Ok(_) => auth::anonymous(),
                Err(status) => status_response(status),
            }
        }
        .boxed()
    };
    let (_ours, session) = daemon.session(answer).await;
    let known = session.credentials("known").await.unwrap().unwrap();
    assert_eq!(
        (known.username.as_str(), known.secret.as_str()),
        ("me", "secret")
    );
    assert_eq!(session.credentials("unknown").await.unwrap(), None);
    assert_eq!(
        session.credentials("denied").await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let (_ours, without) = daemon.session(refuse).await;
    assert_eq!(without.credentials("known").await.unwrap(), None);
}

/// How much is streamed, and how much of it may be under way while nobody reads: both tunnels' queues, the windows of
/// both HTTP/2 connections, and what each holds ready to send.
const STREAM: usize = 64 << 20;
const UNDER_WAY: usize = 5 << 20;

/// A body of `STREAM` bytes that counts what was taken from it.
fn long_body() -> (SessionBody, Arc<AtomicUsize>) {
    const PIECE: usize = 64 << 10;
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let piece = Bytes::from(vec![0; PIECE]);
    let pieces = futures::stream::iter(0..STREAM / PIECE).map(move |_| {
        counter.fetch_add(PIECE, Ordering::SeqCst);
        Ok::<_, Infallible>(Frame::data(piece.clone()))
    });
    (boxed(StreamBody::new(pieces)), taken)
}

/// Reads a frame, leaves the body alone while a hundred other calls go through the same session, then reads on.
async fn read_with_a_stall(mut body: SessionBody, taken: &AtomicUsize, session: &ClientSession) {
    let mut read = body
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap()
        .len();
    for _ in 0..100 {
        assert_eq!(
            status_of(session.call(call("/other")).await.unwrap())
                .await
                .code(),
            Code::Unimplemented
        );
    }
    loop {
        let under_way = taken.load(Ordering::SeqCst).saturating_sub(read);
        assert!(under_way <= UNDER_WAY, "{under_way} bytes are under way");
        match body.frame().await {
            Some(frame) => read += frame.unwrap().into_data().map_or(0, |data| data.len()),
            None => break,
        }
    }
    assert_eq!((read, taken.load(Ordering::SeqCst)), (STREAM, STREAM));
}

#[tokio::test]
async fn a_stalled_reader_of_an_answer_stops_its_sender_and_nobody_else() {
    let mut daemon = Daemon::start().await;
    let (body, taken) = long_body();
    let body = std::sync::Mutex::new(Some(body));
    let download = move |request: SessionRequest| match request.uri().path() {
        PATH => {
            let body = body.lock().unwrap().take().unwrap();
            async { http::Response::new(body) }.boxed()
        }
        _ => refuse(request),
    };
    let (_ours, session) = daemon.session(download).await;
    let answer = session.call(call(PATH)).await.unwrap();
    read_with_a_stall(answer.into_body(), &taken, &session).await;
}

#[tokio::test]
async fn a_stalled_reader_of_a_request_stops_its_sender_and_nobody_else() {
    let mut daemon = Daemon::start().await;
    let (body, taken) = long_body();
    let (sender, mut bodies) = mpsc::unbounded_channel();
    let upload = move |request: SessionRequest| match request.uri().path() {
        PATH => {
            sender.send(request.into_body()).unwrap();
            futures::future::pending().boxed()
        }
        _ => refuse(request),
    };
    let (_ours, session) = daemon.session(upload).await;
    let request = call(PATH).map(|_| body);
    let uploading = tokio::spawn({
        let session = session.clone();
        async move { session.call(request).await }
    });
    read_with_a_stall(bodies.recv().await.unwrap(), &taken, &session).await;
    uploading.abort();
}

/// A session in which a call hangs, the caller, and what resolves when the client's handler has been dropped.
async fn hanging_call(
    daemon: &mut Daemon,
) -> (EngineSession, JoinHandle<()>, oneshot::Receiver<()>) {
    struct Dropped(Option<oneshot::Sender<()>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }
    let (started, mut starts) = mpsc::unbounded_channel();
    let hang = move |_: SessionRequest| -> SessionReply {
        let (sender, dropped) = oneshot::channel();
        let (guard, started) = (Dropped(Some(sender)), started.clone());
        async move {
            let _guard = guard;
            started.send(dropped).unwrap();
            futures::future::pending().await
        }
        .boxed()
    };
    let (ours, session) = daemon.session(hang).await;
    let caller = tokio::spawn(async move { drop(session.call(call(PATH)).await) });
    (ours, caller, starts.recv().await.unwrap())
}

#[tokio::test]
async fn giving_up_an_answer_cancels_the_call_at_the_client() {
    let mut daemon = Daemon::start().await;
    let (_ours, caller, dropped) = hanging_call(&mut daemon).await;
    caller.abort();
    dropped.await.unwrap();
}

#[tokio::test]
async fn calls_end_at_the_client_when_the_daemon_dies() {
    let mut daemon = Daemon::start().await;
    let (_ours, _caller, dropped) = hanging_call(&mut daemon).await;
    drop(daemon);
    dropped.await.unwrap();
}

#[tokio::test]
async fn calls_end_at_the_client_when_it_drops_the_session() {
    let mut daemon = Daemon::start().await;
    let (ours, caller, dropped) = hanging_call(&mut daemon).await;
    drop(ours);
    dropped.await.unwrap();
    caller.await.unwrap();
}

#[tokio::test]
async fn a_session_ends_as_soon_as_the_client_closes_its_half() {
    let mut daemon = Daemon::start().await;
    let (ours, session) = daemon
        .session(|_: SessionRequest| futures::future::pending().boxed())
        .await;
    let running = tokio::spawn({
        let session = session.clone();
        async move { session.call(call(PATH)).await }
    });
    assert!(!session.is_closed());
    drop(ours);
    session.closed().await;
    running.await.unwrap().unwrap_err();
    assert!(matches!(
        session.call(call(PATH)).await,
        Err(SessionError::Closed)
    ));
}

#[tokio::test]
async fn a_session_ends_when_the_daemon_closes_it_or_dies() {
    let mut daemon = Daemon::start().await;
    let (ours, session) = daemon.session(refuse).await;
    session.close();
    ours.closed().await;
    session.closed().await;
    let (ours, _session) = daemon.session(refuse).await;
    drop((daemon, _session));
    ours.closed().await;
}

#[tokio::test]
async fn typed_errors_of_a_megabyte_arrive_whole() {
    let mut daemon = Daemon::start().await;
    let details = Bytes::from(vec![b'x'; 1 << 20]);
    let expect = details.clone();
    let fail = move |_: SessionRequest| -> SessionReply {
        let status = Status::with_details(Code::Unknown, "large", details.clone());
        async { status_response(status) }.boxed()
    };
    assert!(HEADER_LIMIT as usize > 2 * expect.len());
    let (_ours, session) = daemon.session(fail).await;
    assert_eq!(
        status_of(session.call(call(PATH)).await.unwrap())
            .await
            .details(),
        expect
    );
}

/// What the daemon answers to these messages.
async fn answer_to(daemon: &Daemon, messages: Vec<BytesMessage>) -> Status {
    let mut request =
        Request::new(futures::stream::iter(messages).chain(futures::stream::pending()));
    *request.metadata_mut() = spec().to_metadata().unwrap();
    end_of(daemon.engine().await.control().session(request).await)
        .await
        .expect("the session ended as if all were well")
}

/// The error that a session ends with.
async fn end_of(
    answer: Result<tonic::Response<Streaming<BytesMessage>>, Status>,
) -> Option<Status> {
    let mut messages = match answer {
        Err(status) => return Some(status),
        Ok(answer) => answer.into_inner(),
    };
    loop {
        match messages.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(status) => return Some(status),
        }
    }
}

#[tokio::test]
async fn a_peer_that_speaks_no_http2_gets_a_typed_error() {
    let mut daemon = Daemon::start().await;
    let garbage = BytesMessage {
        data: b"GET / HTTP/1.1\r\n\r\n".repeat(1000),
    };
    assert_eq!(
        answer_to(&daemon, vec![garbage]).await.code(),
        Code::InvalidArgument
    );
    daemon.next_session().await.closed().await;
}

#[tokio::test]
async fn a_call_of_other_messages_gets_a_typed_error() {
    let mut daemon = Daemon::start().await;
    let mut request = http::Request::post(ClientSession::PATH)
        .body(tonic::body::Body::new(Full::from(
            &b"\0\0\0\0\x02\x10\x01"[..],
        )))
        .unwrap();
    *request.headers_mut() = spec().to_metadata().unwrap().into_headers();
    let channel = Endpoint::from_shared(format!("http://{}", daemon.address));
    let mut channel = channel.unwrap().connect().await.unwrap();
    let answer = channel.ready().await.unwrap().call(request).await.unwrap();
    let end = answer.into_body().collect().await.unwrap();
    assert_eq!(end.trailers().unwrap()["grpc-status"], "3");
    daemon.next_session().await.closed().await;
}

#[tokio::test]
async fn a_session_without_an_id_is_refused() {
    let daemon = Daemon::start().await;
    let request = Request::new(futures::stream::pending::<BytesMessage>());
    let status = daemon
        .engine()
        .await
        .control()
        .session(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
