//! Sessions as a Docker Engine takes them, over a connection that it hands over. Here the test is the Docker Engine.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use croft_buildkit::{
    api::health::HealthCheckRequest,
    engine::{Address, Engine},
    session::{
        EngineSession, SessionBody, SessionReply, SessionRequest,
        grpc::{boxed, unary_request},
    },
};
use futures::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::spec;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};
use tonic::{Code, Status};

const HANDED_OVER: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n";

fn refusal(code: u16, text: &str) -> String {
    let length = text.len();
    format!("HTTP/1.1 {code} Refused\r\ncontent-length: {length}\r\n\r\n{text}")
}

struct Docker {
    listener: UnixListener,
    address: Address,
    _folder: TempDir,
}

impl Docker {
    /// Takes connections, and hands the first one over, as every engine does for its gRPC server.
    async fn start() -> (Self, Engine) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let docker = Self {
            listener: UnixListener::bind(&socket).unwrap(),
            address: Address::DockerUnix(socket),
            _folder: folder,
        };
        let connected = tokio::spawn({
            let address = docker.address.clone();
            async move { Engine::connect(&address).await.unwrap() }
        });
        let (request, mut grpc) = docker.request().await;
        assert!(request.starts_with("POST /grpc HTTP/1.1\r\n"), "{request}");
        grpc.write_all(HANDED_OVER.as_bytes()).await.unwrap();
        tokio::spawn(async move { grpc.read_to_end(&mut Vec::new()).await });
        (docker, connected.await.unwrap())
    }

    /// The head of the next request, and its connection.
    async fn request(&self) -> (String, UnixStream) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        (String::from_utf8(head).unwrap(), stream)
    }

    /// The next request, which must be for a session, answered like this.
    async fn answer(&self, answer: &str) -> (String, UnixStream) {
        let (head, mut stream) = self.request().await;
        assert!(head.starts_with("POST /session HTTP/1.1\r\n"), "{head}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        (head, stream)
    }
}

/// A session that is being opened, all of whose calls are answered with this size of body.
fn opening(engine: &Engine, size: usize) -> JoinHandle<Result<EngineSession, Status>> {
    let engine = engine.clone();
    let answer = move |_: SessionRequest| -> SessionReply {
        let body = boxed(Full::new(Bytes::from(vec![7; size])));
        async { http::Response::new(body) }.boxed()
    };
    tokio::spawn(async move { EngineSession::open(&engine, &spec(), Arc::new(answer)).await })
}

/// The engine's end of a session.
async fn client(
    stream: UnixStream,
) -> (
    http2::SendRequest<SessionBody>,
    JoinHandle<hyper::Result<()>>,
) {
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    (client, tokio::spawn(connection))
}

async fn call(
    client: &mut http2::SendRequest<SessionBody>,
    path: &str,
) -> http::Response<Incoming> {
    let mut request = unary_request(path, &HealthCheckRequest::default()).unwrap();
    *request.uri_mut() = format!("http://localhost{path}").parse().unwrap();
    client.send_request(request).await.unwrap()
}

async fn health(client: &mut http2::SendRequest<SessionBody>) -> Code {
    let answer = call(client, "/grpc.health.v1.Health/Check").await;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    Status::from_header_map(&head.headers)
        .or_else(|| Status::from_header_map(body.trailers()?))
        .unwrap()
        .code()
}

#[tokio::test]
async fn it_says_what_it_is_and_asks_again_while_the_engine_remembers_one_of_its_id() {
    let (docker, engine) = Docker::start().await;
    let session = opening(&engine, 0);
    for _ in 0..2 {
        let text = r#"{"message":"session x already exists"}"#;
        docker.answer(&refusal(400, text)).await;
    }
    let (head, stream) = docker.answer(HANDED_OVER).await;
    for line in [
        "upgrade: h2c\r\n",
        "x-docker-expose-session-sharedkey: key\r\n",
        "x-docker-expose-session-grpc-method: /test.Service/Method\r\n",
    ] {
        assert!(head.contains(line), "{head}");
    }
    let (mut client, _connection) = client(stream).await;
    assert_eq!(health(&mut client).await, Code::Ok);
    session.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_engine_that_takes_no_session_is_quoted() {
    let (docker, engine) = Docker::start().await;
    let session = opening(&engine, 0);
    docker.answer(&refusal(400, "no such thing")).await;
    let status = session.await.unwrap().unwrap_err();
    assert!(status.message().contains("no such thing"), "{status:?}");
}

#[tokio::test]
async fn large_answers_arrive_whole_beside_each_other() {
    const SIZE: usize = (5 << 20) + 1;
    let (docker, engine) = Docker::start().await;
    let session = opening(&engine, SIZE);
    let (_, stream) = docker.answer(HANDED_OVER).await;
    let (client, _connection) = client(stream).await;
    let answers = (0..3).map(|_| {
        let mut client = client.clone();
        async move {
            let answer = call(&mut client, "/test.Service/Method").await;
            answer.into_body().collect().await.unwrap().to_bytes()
        }
    });
    for answer in futures::future::join_all(answers).await {
        assert!(answer.len() == SIZE && answer.iter().all(|byte| *byte == 7));
    }
    session.await.unwrap().unwrap();
}

#[tokio::test]
async fn it_closes_by_failing_health_checks_and_is_closed_when_the_engine_lets_go() {
    let (docker, engine) = Docker::start().await;
    let session = opening(&engine, 0);
    let (_, stream) = docker.answer(HANDED_OVER).await;
    let (mut client, connection) = client(stream).await;
    assert_eq!(health(&mut client).await, Code::Ok);
    let session = session.await.unwrap().unwrap();
    let mut closing = Box::pin(session.close());
    for _ in 0..2 {
        assert!(futures::poll!(&mut closing).is_pending());
        assert_eq!(health(&mut client).await, Code::Unavailable);
    }
    assert!(!session.is_closed());
    connection.abort();
    closing.await;
    assert!(session.is_closed());
}
