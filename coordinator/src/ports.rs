//! The two ports: connections as they come, HTTP/2 on them, and what is answered when.
//!
//! A port is open from the start. What it answers depends on its gate: while this coordinator stands by, and again once it stops, every
//! call is refused with the reason; in between calls go to the active coordinator's services. Health is told all the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use croft_buildkit::session::grpc::status_response;
use croft_proto::TUNNEL_BUILD;
use croft_scheduler::ConnectionId;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::tls;

/// What one HTTP/2 stream may have in flight, in bytes: enough to keep a fast link busy.
const STREAM_WINDOW: u32 = 2 << 20;
/// What one connection may have in flight, in bytes: this bounds what a client that floods us can make us hold.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// What is read of a connection in one system call at most, in bytes. By itself HTTP/2 here reads half a frame with each.
const READ_AT_ONCE: usize = 64 << 10;
/// Calls that one connection may have open.
const STREAMS: u32 = 1000;

/// What a port answers now. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    /// Answers questions about our health; session calls that agents pass on have the same path and are not for us.
    health: Router,
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone)]
enum State {
    /// Every call is refused, with these words.
    Shut(Arc<str>),
    /// Calls go there.
    Open(Router),
}

impl Gate {
    /// A gate that is shut.
    pub fn shut_with(health: Router, why: &str) -> Gate {
        let (state, _) = watch::channel(State::Shut(why.into()));
        Gate {
            health,
            state: Arc::new(state),
        }
    }

    /// Lets calls in.
    pub fn open(&self, to: Router) {
        self.state.send_replace(State::Open(to));
    }

    /// Refuses calls from now on, and what waits for its answer too.
    pub fn shut(&self, why: &str) {
        self.state.send_if_modified(|state| {
            let same = matches!(state, State::Shut(known) if **known == *why);
            *state = State::Shut(why.into());
            !same
        });
    }

    async fn call(self, request: Request) -> Response {
        let for_us = !request.headers().contains_key(TUNNEL_BUILD);
        if for_us && request.uri().path().starts_with("/grpc.health.v1.Health/") {
            return answered(self.health.oneshot(request).await);
        }
        let mut state = self.state.subscribe();
        let now = state.borrow_and_update().clone();
        match now {
            State::Shut(why) => refusal(&why),
            State::Open(router) => tokio::select! {
                biased;
                response = router.oneshot(request) => answered(response),
                why = shut(&mut state) => refusal(&why),
            },
        }
    }
}

async fn shut(state: &mut watch::Receiver<State>) -> Arc<str> {
    let shut = state.wait_for(|state| matches!(state, State::Shut(_)));
    match shut.await.as_deref() {
        Ok(State::Shut(why)) => Arc::clone(why),
        // Whoever would shut it is gone, and so is all else.
        Ok(State::Open(_)) | Err(_) => "the coordinator stops".into(),
    }
}

fn answered(response: Result<Response, std::convert::Infallible>) -> Response {
    match response {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn refusal(why: &str) -> Response {
    status_response(Status::unavailable(why)).map(axum::body::Body::new)
}

/// Listens on an address; `flag` is where it came from.
pub async fn bind(addr: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("can't listen on {addr}: choose another address with {flag}"))
}

/// Takes connections until `stop` is cancelled.
pub async fn accept(
    listener: TcpListener,
    tls: Option<tls::Acceptor>,
    gate: Gate,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: what is open may end meanwhile.
                    tracing::warn!(%error, "a connection can't be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (tls, gate, stop) = (tls.clone(), gate.clone(), stop.clone());
        tasks.spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => connection(stream, gate, stop).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => connection(stream, gate, stop).await,
                    // The peer may not hear why: of a certificate that is refused it sees but a closed connection.
                    Err(error) => tracing::info!(%peer, %error, "a peer's TLS failed"),
                },
            }
        });
    }
}

async fn connection<S>(stream: S, gate: Gate, stop: CancellationToken)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let connection = ConnectionId(Uuid::new_v4());
    let service = hyper::service::service_fn(move |request: http::Request<_>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(connection);
        let answer = gate.clone().call(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let stream = TokioIo::new(BufReader::with_capacity(READ_AT_ONCE, stream));
    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str) -> Request {
        let request = http::Request::builder().uri(path);
        request.body(axum::body::Body::empty()).unwrap()
    }

    fn status(response: &Response) -> (&str, &str) {
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        (
            header("grpc-status").unwrap_or_default(),
            header("grpc-message").unwrap_or_default(),
        )
    }

    fn gate() -> Gate {
        let health = Router::new().fallback(async || "well");
        Gate::shut_with(health, "another one is active")
    }

    async fn body(response: Response) -> Vec<u8> {
        let all = axum::body::to_bytes(response.into_body(), 100).await;
        all.unwrap().to_vec()
    }

    #[tokio::test]
    async fn a_gate_that_is_shut_refuses_calls_with_its_reason_and_still_tells_its_health() {
        let refused = gate().call(asked("/croft.v1.Farm/ListAgents")).await;
        assert_eq!(status(&refused), ("14", "another%20one%20is%20active"));
        let health = gate().call(asked("/grpc.health.v1.Health/Check")).await;
        assert_eq!(body(health).await, b"well");
    }

    #[tokio::test]
    async fn a_session_call_about_health_is_passed_on() {
        let gate = gate();
        gate.open(Router::new().fallback(async || "tunnelled"));
        let mut call = asked("/grpc.health.v1.Health/Check");
        call.headers_mut()
            .insert(TUNNEL_BUILD, http::HeaderValue::from_static("b"));
        assert_eq!(body(gate.call(call).await).await, b"tunnelled");
    }

    #[tokio::test]
    async fn what_waits_for_its_answer_is_told_when_the_gate_shuts() {
        let gate = gate();
        gate.open(Router::new().fallback(async || std::future::pending::<&str>().await));
        let waits = gate.clone().call(asked("/moby.buildkit.v1.Control/Solve"));
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        gate.shut("it stops");
        assert_eq!(status(&waits.await), ("14", "it%20stops"));
    }
}
