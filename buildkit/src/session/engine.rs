//! The client's end of a session towards an engine: an HTTP/2 server inside a `Control.Session` call that we make.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::StreamExt;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{sync::mpsc, task::AbortHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::{
    CONCURRENT_CALLS, CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW, SessionReply, SessionRequest,
    SessionResponse, SessionSpec,
    gather::GatheredMessages,
    grpc::{boxed, grpc_error, unary_response},
    tunnel::{QUEUE, SharedStream, Tunnel},
};
use crate::{
    HEADER_LIMIT,
    api::health::{HealthCheckResponse, health_check_response::ServingStatus},
    engine::Engine,
};

/// How long an engine may take to accept a session.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long calls that still run may take when a session is closed, and then how long the engine may take to forget it.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

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
/// An engine has one session of an id: a second one silently takes the place of the first, and is forgotten when the first ends.
/// So [`EngineSession::close`] one before its id is used again.
#[derive(Debug)]
pub struct EngineSession {
    closing: CancellationToken,
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
        let mut request = Request::new(GatheredMessages(output));
        *request.metadata_mut() = spec
            .to_metadata()
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut control = engine.separate().control();
        let incoming = tokio::time::timeout(OPEN_TIMEOUT, control.session(request))
            .await
            .map_err(|_| Status::unavailable("the engine did not accept the session in time"))??
            .into_inner();
        let mut incoming = SharedStream::new(incoming);
        let io = TokioIo::new(Tunnel::new(incoming.clone(), outgoing, |message| message));
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
        let (closing, closed) = (CancellationToken::new(), CancellationToken::new());
        let guard = closed.clone().drop_guard();
        let close = closing.clone();
        let task = tokio::spawn(async move {
            let _closed = guard;
            let mut connection = Box::pin(connection);
            let result = tokio::select! {
                result = &mut connection => result,
                () = close.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(CLOSE_GRACE, &mut connection).await.unwrap_or(Ok(()))
                }
            };
            if let Err(e) = result {
                tracing::debug!(
                    error = &e as &dyn std::error::Error,
                    "a session on an engine broke"
                );
            }
            // That ends our half of the stream; the engine ends its own once it has forgotten the session.
            drop(connection);
            let rest = async { while let Some(Ok(_)) = incoming.next().await {} };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, rest).await;
        });
        Ok(Self {
            closing,
            closed,
            task: task.abort_handle(),
        })
    }

    /// Ends it in good order; when this returns, the engine has forgotten it and its id may be used again.
    pub async fn close(&self) {
        self.closing.cancel();
        self.closed.cancelled().await;
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
