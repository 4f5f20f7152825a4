//! The client's end of a session towards an engine: an HTTP/2 server on whatever carries it there.

use std::{convert::Infallible, future::poll_fn, sync::Arc, time::Duration};

use futures::StreamExt;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

use super::{
    CONCURRENT_CALLS, CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW, SessionReply, SessionRequest,
    SessionResponse, SessionSpec,
    batch::Batched,
    carrier::{Carrier, Ending},
    grpc::{boxed, grpc_error, unary_response},
};
use crate::{
    HEADER_LIMIT,
    api::health::{HealthCheckResponse, health_check_response::ServingStatus},
    engine::Engine,
};

/// How long calls that still run may take when a session is closed, and then how long the engine may take to forget it: at once, or, of a
/// connection of its own, at the second health check from then on. They are five seconds apart.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const UNHEALTHY_TIMEOUT: Duration = Duration::from_secs(15);

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
/// An engine has one session of an id. A Docker Engine refuses a second one until it has forgotten the first; with others a second one
/// silently takes the place of the first, and is forgotten when the first ends. So [`EngineSession::close`] one before its id is used again.
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
        Ok(Self::begin(Carrier::open(engine, spec).await?, handler))
    }

    /// Opens it over a connection that is there already, to whatever has the Control service.
    pub async fn open_over(
        channel: Channel,
        spec: &SessionSpec,
        handler: Arc<dyn SessionHandler>,
    ) -> Result<Self, Status> {
        Ok(Self::begin(
            Carrier::open_over(channel, spec).await?,
            handler,
        ))
    }

    fn begin(carrier: Carrier, handler: Arc<dyn SessionHandler>) -> Self {
        let (closing, closed) = (CancellationToken::new(), CancellationToken::new());
        let serving = serve(carrier, handler, closing.clone());
        let guard = closed.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _closed = guard;
            serving.await;
        });
        Self {
            closing,
            closed,
            task: task.abort_handle(),
        }
    }

    /// Ends it in good order; when this returns, the engine has forgotten it and its id may be used again. A Docker Engine takes up to ten
    /// seconds for that.
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

/// Serves a session until it breaks, or the engine has let go of it after `closing`.
async fn serve(carrier: Carrier, handler: Arc<dyn SessionHandler>, closing: CancellationToken) {
    let Carrier { io, ending } = carrier;
    let io = Batched::new(io);
    let refuse = closing.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (handler, closing) = (handler.clone(), refuse.is_cancelled());
        async move {
            Ok::<_, Infallible>(match closing {
                true => grpc_error(Code::Unavailable, "the session is over"),
                false => answer(&*handler, request.map(boxed)).await,
            })
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIMIT)
        .max_concurrent_streams(CONCURRENT_CALLS)
        .serve_connection(io.clone(), service);
    let mut connection = Box::pin(connection);
    let ended = tokio::select! {
        ended = poll_fn(|cx| io.turn(cx, connection.as_mut())) => ended,
        () = closing.cancelled() => {
            let patience = match ending {
                Ending::Unhealthy => UNHEALTHY_TIMEOUT,
                Ending::Half(_) => {
                    connection.as_mut().graceful_shutdown();
                    CLOSE_GRACE
                }
            };
            let rest = poll_fn(|cx| io.turn(cx, connection.as_mut()));
            tokio::time::timeout(patience, rest).await.unwrap_or(Ok(()))
        }
    };
    if let Err(e) = ended {
        tracing::debug!(
            error = &e as &dyn std::error::Error,
            "a session on an engine broke"
        );
    }
    // That ends our half of the stream.
    drop((connection, io));
    if let Ending::Half(mut engines) = ending {
        let rest = async { while let Some(Ok(_)) = engines.next().await {} };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, rest).await;
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
