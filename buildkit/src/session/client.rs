//! The daemon's end of a client's session: an HTTP/2 client inside the client's `Control.Session` call.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::Uri;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    body::Body,
    codec::{EncodeBody, SingleMessageCompressionOverride},
    metadata::MetadataMap,
};
use tonic_prost::ProstEncoder;
use tower::Service;

use super::{
    BoxError, CONNECTION_WINDOW, GATHERED, SEND_BUFFER, STREAM_WINDOW, SessionBody, SessionId,
    SessionRequest, SessionResponse, SessionSpec,
    auth::Credentials,
    carried::Carried,
    grpc::{boxed, passed_on},
    tunnel::{QUEUE, Tunnel},
};
use crate::{
    HEADER_LIMIT,
    api::filesync::{CredentialsRequest, auth_client::AuthClient},
};

/// A client's session. Clones share it; it ends when the client ends it, or by [`ClientSession::close`].
#[derive(Clone)]
pub struct ClientSession {
    spec: Arc<SessionSpec>,
    sender: http2::SendRequest<SessionBody>,
    closed: CancellationToken,
    close: CancellationToken,
}

/// Why a call in a session has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The client has gone.
    #[error("the client's session has ended")]
    Closed,
    /// The request can't be sent.
    #[error("the request has no path")]
    NoPath,
    /// The call broke off.
    #[error("the client did not answer: {0}")]
    Broken(#[from] hyper::Error),
}

impl From<SessionError> for Status {
    fn from(error: SessionError) -> Self {
        let code = match error {
            SessionError::Closed | SessionError::Broken(_) => Code::Unavailable,
            SessionError::NoPath => Code::InvalidArgument,
        };
        Status::new(code, error.to_string())
    }
}

impl ClientSession {
    /// The path of the calls that [`ClientSession::accept`] takes.
    pub const PATH: &str = "/moby.buildkit.v1.Control/Session";

    /// Takes a `Control.Session` call as it came, and gives the answer, to be sent at once; the session lives while the client keeps its half
    /// open, and the answer ends with it. A server leads these calls here past its Control service, which would take each message apart and
    /// copy it (`carried.rs`).
    ///
    /// Take client connections with TCP_NODELAY: window updates are small, and a delayed one stops a whole upload.
    pub async fn accept<B>(call: http::Request<B>) -> Result<(Self, http::Response<Body>), Status>
    where
        B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let (head, body) = call.into_parts();
        let spec = SessionSpec::from_metadata(&MetadataMap::from_headers(head.headers))
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let incoming = Carried::new(boxed(body));
        let half = incoming.half();
        let (outgoing, output) = mpsc::channel(QUEUE);
        let io = TokioIo::new(Tunnel::new(incoming, outgoing.clone(), Ok));
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            // A client's messages of files are of 32 KiB, and go in fewer pieces.
            .max_frame_size(GATHERED as u32)
            .max_header_list_size(HEADER_LIMIT)
            .handshake(io)
            .await
            .map_err(|e| Status::internal(format!("the session can't begin: {e}")))?;
        let session = Self {
            spec: Arc::new(spec),
            sender,
            closed: CancellationToken::new(),
            close: CancellationToken::new(),
        };
        let (closed, close) = (session.closed.clone().drop_guard(), session.close.clone());
        tokio::spawn(async move {
            tokio::select! {
                // hyper keeps to itself why a connection broke.
                _ = connection => {}
                () = close.cancelled() => return,
            }
            drop(closed);
            let error = match half.get() {
                Some(Ok(())) => return,
                Some(Err(status)) => status.clone(),
                None => Status::invalid_argument("what the session carries is not HTTP/2"),
            };
            tracing::debug!(%error, "a client's session broke");
            let _ = outgoing.send(Err(error)).await;
        });
        let answer = EncodeBody::new_server(
            ProstEncoder::default(),
            ReceiverStream::new(output),
            None,
            SingleMessageCompressionOverride::default(),
            None,
        );
        let mut answer = http::Response::new(Body::new(answer));
        answer.headers_mut().insert(
            http::header::CONTENT_TYPE,
            tonic::metadata::GRPC_CONTENT_TYPE,
        );
        Ok((session, answer))
    }

    /// What the client said of itself.
    pub fn spec(&self) -> &SessionSpec {
        &self.spec
    }

    /// Its id.
    pub fn id(&self) -> &SessionId {
        &self.spec.id
    }

    /// Forwards a request as it is: method, path, metadata and body, with its trailers. Dropping the answer cancels the call.
    pub async fn call(&self, mut request: SessionRequest) -> Result<SessionResponse, SessionError> {
        let path = request
            .uri()
            .path_and_query()
            .cloned()
            .ok_or(SessionError::NoPath)?;
        // HTTP/2 wants an authority; BuildKit's own is this one.
        *request.uri_mut() = Uri::builder()
            .scheme("http")
            .authority("localhost")
            .path_and_query(path)
            .build()
            .map_err(|_| SessionError::NoPath)?;
        *request.version_mut() = http::Version::HTTP_2;
        request.headers_mut().remove(http::header::HOST);
        let mut sender = self.sender.clone();
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(SessionError::Closed),
            answer = async {
                sender.ready().await?;
                Ok(passed_on(sender.send_request(request).await?))
            } => answer,
        }
    }

    /// The client's credentials for a registry; `None` if it has none.
    pub async fn credentials(&self, host: &str) -> Result<Option<Credentials>, Status> {
        let request = CredentialsRequest {
            host: host.to_owned(),
        };
        match AuthClient::new(self.clone()).credentials(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let empty = answer.username.is_empty() && answer.secret.is_empty();
                Ok((!empty).then_some(Credentials {
                    username: answer.username,
                    secret: answer.secret,
                }))
            }
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Resolves when the session is over.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Ends it from this side; calls that run are broken off.
    pub fn close(&self) {
        self.close.cancel();
    }
}

impl std::fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSession")
            .field("spec", &self.spec)
            .field("closed", &self.is_closed())
            .finish()
    }
}

/// So that generated clients can call the session's services.
impl Service<http::Request<tonic::body::Body>> for ClientSession {
    type Response = SessionResponse;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<SessionResponse, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let session = self.clone();
        Box::pin(async move {
            Ok(ClientSession::call(&session, request.map(boxed))
                .await
                .map_err(Status::from)?)
        })
    }
}
