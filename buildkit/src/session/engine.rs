//! The client's end of a session towards an engine: an HTTP/2 server inside a `Control.Session` call that we make.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{sync::mpsc, task::AbortHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::{
    CONCURRENT_CALLS, CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW, SessionReply, SessionRequest,
    SessionResponse, SessionSpec,
    grpc::{boxed, grpc_error, unary_response},
    tunnel::{QUEUE, Tunnel},
};
use crate::{
    HEADER_LIMIT,
    api::health::{HealthCheckResponse, health_check_response::ServingStatus},
    engine::Engine,
};

/// How long an engine may take to accept a session.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// What answers an engine's calls in a session.
pub trait SessionHandler: Send + Sync + 'static {
    /// Answers one call. It is dropped when the engine cancels the call. Health checks don't come here.
    fn handle(&self, request: SessionRequest) -> SessionReply;
}

/// Any function may be the handler.
impl<F: Fn(SessionRequest) -> SessionReply + Send + Sync + 'static> SessionHandler for F {
    fn handle(&self, request: SessionRequest) -> SessionReply {
        self(request)
    }
}

/// A session open on an engine, over a connection of its own. Dropping it ends it.
///
/// An engine has one session of an id: a second one silently takes the place of the first.
#[derive(Debug)]
pub struct EngineSession {
    closed: CancellationToken,
    task: AbortHandle,
}

impl EngineSession {
    /// Opens it; when this returns, the engine finds it by its id.
    pub async fn open(
        engine: &Engine,
        spec: &SessionSpec,
        handler: Arc<dyn SessionHandler>,
    ) -> Result<Self, Status> {
        let (outgoing, output) = mpsc::channel(QUEUE);
        let mut request = Request::new(ReceiverStream::new(output));
        *request.metadata_mut() = spec
            .to_metadata()
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut control = engine.separate().control();
        let incoming = tokio::time::timeout(OPEN_TIMEOUT, control.session(request))
            .await
            .map_err(|_| Status::unavailable("the engine did not accept the session in time"))??
            .into_inner();
        let io = TokioIo::new(Tunnel::new(incoming, outgoing, |message| message));
        let service = service_fn(move |request: http::Request<Incoming>| {
            let handler = handler.clone();
            async move { Ok::<_, Infallible>(answer(&*handler, request.map(boxed)).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADER_LIMIT)
            .max_concurrent_streams(CONCURRENT_CALLS)
            .serve_connection(io, service);
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _closed = guard;
            if let Err(e) = connection.await {
                tracing::debug!(
                    error = &e as &dyn std::error::Error,
                    "a session on an engine broke"
                );
            }
        });
        Ok(Self {
            closed,
            task: task.abort_handle(),
        })
    }

    /// Resolves when the session is over: the engine went away, or let go of it.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }
}

impl Drop for EngineSession {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(handler: &dyn SessionHandler, request: SessionRequest) -> SessionResponse {
    match request.uri().path() {
        "/grpc.health.v1.Health/Check" => unary_response(&HealthCheckResponse {
            status: ServingStatus::Serving.into(),
        }),
        path if path.starts_with("/grpc.health.v1.Health/") => {
            grpc_error(Code::Unimplemented, "only Check")
        }
        _ => handler.handle(request).await,
    }
}
