//! Making a connection on which the engine speaks HTTP/2: at once for buildkitd, after an upgrade for Docker Engine.

use std::{
    error::Error,
    io,
    path::Path,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONNECTION, HOST, UPGRADE},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::net::UnixStream;
use tower::{Service, ServiceExt};

use super::Address;

type BoxError = Box<dyn Error + Send + Sync>;

/// How much of an answer's text is read, in bytes.
const ANSWER_LIMIT: usize = 64 << 10;

/// A connection to an engine.
pub(crate) trait Io: hyper::rt::Read + hyper::rt::Write + Send + Unpin {}
impl<T: hyper::rt::Read + hyper::rt::Write + Send + Unpin> Io for T {}

/// Connects to one address, whatever URI it is asked for.
#[derive(Clone)]
pub(super) struct Connector {
    address: Address,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(address: Address, timeout: Duration) -> Self {
        Self { address, timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = Box<dyn Io>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, timeout } = self.clone();
        Box::pin(async move {
            tokio::time::timeout(timeout, dial(&address))
                .await
                .map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no answer within {} s", timeout.as_secs()),
                    )
                })?
        })
    }
}

async fn dial(address: &Address) -> Result<Box<dyn Io>, BoxError> {
    match address {
        Address::Unix(path) => Ok(Box::new(TokioIo::new(UnixStream::connect(path).await?))),
        Address::DockerUnix(path) => Ok(Box::new(upgrade(path, "/grpc", HeaderMap::new()).await?)),
        Address::Tcp { host, port } => {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            connector.set_keepalive(Some(Duration::from_secs(30)));
            connector.set_keepalive_interval(Some(Duration::from_secs(10)));
            connector.set_keepalive_retries(Some(3));
            let uri = Uri::builder()
                .scheme("http")
                .authority(format!("{host}:{port}"))
                .path_and_query("/")
                .build()?;
            Ok(Box::new(connector.oneshot(uri).await?))
        }
    }
}

/// Why Docker Engine did not hand its connection over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// It answered with an error.
    #[error("it refused the upgrade to BuildKit's API with HTTP {status} {text}")]
    Refused {
        /// Of what kind.
        status: StatusCode,
        /// What it said.
        text: String,
    },
    /// It did not answer, or not in HTTP.
    #[error(transparent)]
    Unreachable(#[from] BoxError),
}

/// Docker Engine hands its connection over to BuildKit after `POST /grpc` (to its gRPC server) or `POST /session` (to a session, in which
/// we are the server) with an upgrade to `h2c`.
pub(crate) async fn upgrade(
    path: &Path,
    route: &str,
    mut headers: HeaderMap,
) -> Result<Upgraded, UpgradeError> {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("h2c"));
    let mut request = Request::post(route)
        .body(Empty::new())
        .map_err(BoxError::from)?;
    *request.headers_mut() = headers;
    let response = ask_docker(path, request).await?;
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(hyper::upgrade::on(response).await.map_err(BoxError::from)?);
    }
    let text = read_text(response).await.unwrap_or_default();
    let text = text.trim().to_owned();
    Err(UpgradeError::Refused { status, text })
}

/// Docker Engine's own version, which BuildKit's API does not tell.
pub(super) async fn docker_version(path: &Path) -> Result<String, BoxError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        version: String,
    }
    let request = Request::get("/version").body(Empty::new())?;
    let response = ask_docker(path, request).await?;
    Ok(serde_json::from_str::<Answer>(&read_text(response).await?)?.version)
}

/// Makes a request of Docker Engine's own API, over a connection of its own.
async fn ask_docker(
    path: &Path,
    mut request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, BoxError> {
    let stream = UnixStream::connect(path).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    request
        .headers_mut()
        .insert(HOST, HeaderValue::from_static("docker"));
    Ok(sender.send_request(request).await?)
}

async fn read_text(response: Response<Incoming>) -> Result<String, BoxError> {
    let body = Limited::new(response.into_body(), ANSWER_LIMIT)
        .collect()
        .await?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
