//! The second connection to the coordinator: carries what engines ask their sessions, unparsed, so that a large upload can't delay a heartbeat.
//!
//! What a request means, and who answers it, is the coordinator's business.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use croft_buildkit::{
    HEADER_LIMIT,
    session::{
        GATHERED, SessionHandler, SessionId, SessionReply, SessionRequest, SessionResponse,
        grpc::passed_on, grpc_error,
    },
};
use croft_proto::{TUNNEL_AGENT, TUNNEL_BUILD, TUNNEL_SESSION};
use http::{HeaderMap, HeaderValue, Uri, header};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{io::BufReader, net::TcpStream};
use tonic::{
    Code,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt};

use crate::{ids::BuildId, work::BuildContext};

/// What one call and what all calls may have on its way to us unread, in bytes. The ratio is how many calls may stall before they stall the others.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// What is read of the connection in one system call at most, in bytes. By itself HTTP/2 here reads a part of a frame with each.
const READ_AT_ONCE: usize = 128 << 10;

/// Says which trace a call belongs to (W3C Trace Context).
const TRACE: &str = "traceparent";

/// How often a connection with calls on it is tried, so that one that is dead is found out.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Headers of one connection, which must not go on to the next (RFC 9110, 7.6.1). `te: trailers` is allowed in HTTP/2 and wanted by gRPC.
const HOP_BY_HOP: [header::HeaderName; 6] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The connection for session calls, to the coordinator that has taken us. It is made on first use, and anew whenever it broke.
#[derive(Debug, Default)]
pub struct Tunnel {
    channel: Mutex<Option<(Uri, Channel)>>,
    /// Our id, once a coordinator has given us one.
    agent: Mutex<Option<HeaderValue>>,
}

impl Tunnel {
    /// From now on calls go to the coordinator at `endpoint`.
    pub fn lead_to(&self, endpoint: &Endpoint) {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*channel, Some((to, _)) if to == endpoint.uri()) {
            return;
        }
        let tunnel = endpoint
            .clone()
            .http2_keep_alive_interval(KEEP_ALIVE)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            // The coordinator gathers what waits.
            .max_frame_size(GATHERED as u32)
            .http2_max_header_list_size(HEADER_LIMIT);
        let tunnel = tunnel.connect_with_connector_lazy(tower::service_fn(connect));
        *channel = Some((endpoint.uri().clone(), tunnel));
    }

    fn channel(&self) -> Option<Channel> {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        channel.as_ref().map(|(_, channel)| channel.clone())
    }

    /// The agent's id from `Welcome`: calls carry it from now on.
    pub fn introduce(&self, agent: &str) {
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner) =
            HeaderValue::try_from(agent).ok();
    }

    fn agent(&self) -> Option<HeaderValue> {
        self.agent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sends one call of a session to the coordinator, and brings back the answer, bodies streaming both ways.
    async fn forward(
        &self,
        session: &SessionId,
        user: Option<User>,
        cuts: Arc<AtomicUsize>,
        request: SessionRequest,
    ) -> SessionResponse {
        let (Some(user), Some(agent), Some(mut channel)) = (user, self.agent(), self.channel())
        else {
            return grpc_error(Code::Unavailable, "no build uses this session any more");
        };
        let build = user.build.clone();
        let Some(request) = addressed(session, user, agent, request) else {
            return grpc_error(Code::Internal, "the farm's own ids can't travel as headers");
        };
        let answer = match channel.ready().await {
            Ok(channel) => channel.call(request).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(mut response) => {
                strip(response.headers_mut());
                passed_on(response.map(|body| {
                    body.map_err(move |error| {
                        cuts.fetch_add(1, Ordering::Relaxed);
                        error
                    })
                }))
            }
            Err(error) => {
                cuts.fetch_add(1, Ordering::Relaxed);
                let cause = crate::root_cause(&error);
                tracing::warn!(%session, %build, %cause, "a session call did not reach the coordinator");
                grpc_error(
                    Code::Unavailable,
                    format!("the coordinator can't be reached for the client's session: {cause}"),
                )
            }
        }
    }
}

async fn connect(
    to: Uri,
) -> Result<TokioIo<BufReader<TcpStream>>, <HttpConnector as Service<Uri>>::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let stream = connector.oneshot(to).await?.into_inner();
    Ok(TokioIo::new(BufReader::with_capacity(READ_AT_ONCE, stream)))
}

fn addressed(
    session: &SessionId,
    user: User,
    agent: HeaderValue,
    request: SessionRequest,
) -> Option<http::Request<Body>> {
    let (mut head, body) = request.into_parts();
    // The connection puts its own scheme and authority before the path.
    head.uri = Uri::from(head.uri.path_and_query()?.clone());
    strip(&mut head.headers);
    // A Docker Engine that records no traces itself passes none on to a session.
    if let Some(trace) = user.trace {
        head.headers.entry(TRACE).or_insert(trace);
    }
    head.headers.insert(
        TUNNEL_BUILD,
        HeaderValue::try_from(user.build.as_str()).ok()?,
    );
    head.headers.insert(
        TUNNEL_SESSION,
        HeaderValue::try_from(session.as_str()).ok()?,
    );
    head.headers.insert(TUNNEL_AGENT, agent);
    Some(http::Request::from_parts(head, Body::new(body)))
}

fn strip(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}

/// A build that uses a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Which.
    pub build: BuildId,
    /// The `traceparent` of what is done for it.
    pub trace: Option<HeaderValue>,
}

impl User {
    /// The build of this context.
    pub fn new(context: &BuildContext) -> Self {
        let trace = context.traceparent.as_deref();
        Self {
            build: context.build.clone(),
            trace: trace.and_then(|trace| HeaderValue::try_from(trace).ok()),
        }
    }
}

/// Which builds use a session, the newest last.
pub type Users = Arc<Mutex<Vec<User>>>;

/// Answers an engine's calls in one session.
#[derive(Debug)]
pub struct Forwarder {
    /// Where they go.
    pub tunnel: Arc<Tunnel>,
    /// The session.
    pub session: SessionId,
    /// For whom.
    pub users: Users,
    /// Counts the calls that did not get through to their end, for want of a connection.
    pub cuts: Arc<AtomicUsize>,
}

impl SessionHandler for Forwarder {
    fn handle(&self, request: SessionRequest) -> SessionReply {
        let (tunnel, session) = (self.tunnel.clone(), self.session.clone());
        let cuts = self.cuts.clone();
        let user = self
            .users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last()
            .cloned();
        Box::pin(async move { tunnel.forward(&session, user, cuts, request).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use croft_buildkit::session::grpc::unary_request;

    fn user() -> User {
        User {
            build: "b".to_owned().into(),
            trace: Some(HeaderValue::from_static("the build's")),
        }
    }

    #[test]
    fn a_call_keeps_its_path_and_headers_and_gets_an_address() {
        let message = croft_buildkit::api::filesync::CredentialsRequest::default();
        let mut request =
            unary_request("/moby.filesync.v1.Auth/Credentials", &message).expect("a request");
        *request.uri_mut() =
            Uri::from_static("http://localhost/moby.filesync.v1.Auth/Credentials?x");
        request
            .headers_mut()
            .insert("dir-name", HeaderValue::from_static("context"));
        request
            .headers_mut()
            .insert("upgrade", HeaderValue::from_static("h2c"));
        let session = SessionId::try_from("s".to_owned()).expect("an id");
        let request = addressed(&session, user(), HeaderValue::from_static("a"), request);
        let request = request.expect("good");
        assert_eq!(
            request.uri(),
            &Uri::from_static("/moby.filesync.v1.Auth/Credentials?x")
        );
        let header = |name| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        assert_eq!(
            [
                header("dir-name"),
                header("te"),
                header("upgrade"),
                header(TRACE)
            ],
            [Some("context"), Some("trailers"), None, Some("the build's")]
        );
        assert_eq!(
            [
                header(TUNNEL_BUILD),
                header(TUNNEL_SESSION),
                header(TUNNEL_AGENT)
            ],
            [Some("b"), Some("s"), Some("a")]
        );
    }

    #[tokio::test]
    async fn a_call_that_finds_no_coordinator_says_unavailable() {
        // Port 1 is reserved and nothing listens there.
        let tunnel = Tunnel::default();
        tunnel.lead_to(&Endpoint::from_static("http://127.0.0.1:1"));
        tunnel.introduce("a");
        let users = Users::default();
        users.lock().expect("a lock").push(user());
        let session = SessionId::unique();
        let forwarder = Forwarder {
            tunnel: Arc::new(tunnel),
            session,
            users,
            cuts: Arc::default(),
        };
        let message = croft_buildkit::api::filesync::CredentialsRequest::default();
        let request =
            unary_request("/moby.filesync.v1.Auth/Credentials", &message).expect("a request");
        let response = forwarder.handle(request).await;
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(forwarder.cuts.load(Ordering::Relaxed), 1);
    }
}
