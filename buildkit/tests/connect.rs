//! Reaching an engine: what is refused and how that reads, coming back, calls' traces. No real engine is needed.

mod support;

use std::time::Duration;

use croft_buildkit::{
    api::control::InfoRequest,
    engine::{Address, Engine, EngineError},
    trace::TraceContext,
};
use support::{Daemon, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn cause_at(address: &str) -> String {
    let error = Engine::connect(&address.parse::<Address>().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, EngineError::Connect { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn an_address_where_nothing_listens_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    for scheme in ["unix", "docker+unix"] {
        let address = format!("{scheme}://{}", socket.display());
        let text = cause_at(&address).await;
        assert!(
            text.contains(&address) && text.contains("No such file"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_docker_engine_that_refuses_the_upgrade_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let n = stream.read(&mut request).await.unwrap();
        assert!(request[..n].starts_with(b"POST /grpc HTTP/1.1\r\n"));
        let answer =
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 27\r\n\r\n{\"message\":\"page not found\"}";
        stream.write_all(answer).await.unwrap();
    });
    let text = cause_at(&format!("docker+unix://{}", socket.display())).await;
    assert!(
        text.contains("404") && text.contains("page not found"),
        "{text}"
    );
}

#[tokio::test]
async fn an_engine_that_hangs_is_noticed_in_the_given_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let engine = connect(&format!("tcp://{}", listener.local_addr().unwrap())).await;
    let error = engine.healthy(Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, EngineError::Hangs { .. }), "{error}");
}

#[tokio::test]
async fn an_engine_that_came_back_is_reached_again() {
    // On an address of its own: elsewhere somebody's outgoing connection may have its port by the time it comes back.
    let daemon = Daemon::start_at("127.0.0.77:0".parse().unwrap()).await;
    let engine = daemon.engine().await;
    let timeout = Duration::from_secs(10);
    engine.healthy(timeout).await.unwrap();
    let address = daemon.address;
    drop(daemon);
    while engine.healthy(timeout).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let _again = Daemon::start_at(address).await;
    engine.healthy(timeout).await.unwrap();
}

#[tokio::test]
async fn calls_belong_to_the_trace_that_they_were_given() {
    let daemon = Daemon::start().await;
    let engine = daemon.engine().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let version = async |engine: Engine| {
        let info = engine.control().info(InfoRequest {}).await.unwrap();
        info.into_inner().buildkit_version.unwrap().version
    };
    assert_eq!(
        version(engine.traced(TraceContext::new(parent).unwrap())).await,
        parent
    );
    assert_eq!(version(engine).await, "");
}
