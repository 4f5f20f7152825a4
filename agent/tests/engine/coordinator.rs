//! A coordinator that does what a test tells it: the other end of the protocol, not a stand-in for BuildKit.

use std::{
    collections::HashSet,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use croft_buildkit::{
    api::{control::StatusResponse, sourcepolicy},
    session::{SessionRequest, SessionResponse, grpc::boxed, grpc_error},
};
use croft_proto::v1::{
    self,
    agent_message::Message as FromAgent,
    coordinator_message::Message as FromCoordinator,
    fleet_server::{Fleet, FleetServer},
};
use futures::future::BoxFuture;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, UnboundedReceiver},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::ServerTlsConfig};
use tower::Service;

/// Nothing here takes long; what is not there by then will not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers session calls that come through the tunnel.
pub type SessionCalls =
    Arc<dyn Fn(SessionRequest) -> BoxFuture<'static, SessionResponse> + Send + Sync>;

/// How the coordinator treats agents.
#[derive(Clone)]
pub struct Manners {
    pub heartbeat: Duration,
    pub lease: Duration,
    /// What `Welcome` says of the stage registry.
    pub stage_registry: String,
    /// Refuses every agent so.
    pub refuses: Option<Status>,
    pub sessions: SessionCalls,
    /// How far its clock is ahead of everyone else's.
    pub ahead: Duration,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            lease: Duration::from_secs(60),
            stage_registry: String::new(),
            refuses: None,
            ahead: Duration::ZERO,
            sessions: Arc::new(|_| {
                Box::pin(async { grpc_error(tonic::Code::Unavailable, "no client") })
            }),
        }
    }
}

/// A listening coordinator.
pub struct Coordinator {
    pub address: SocketAddr,
    links: UnboundedReceiver<Link>,
    _end: tokio_util::sync::DropGuard,
}

/// One link, from its Hello on. Answers heartbeats by itself.
pub struct Link {
    pub hello: v1::Hello,
    messages: UnboundedReceiver<FromAgent>,
    to: mpsc::Sender<Result<v1::CoordinatorMessage, Status>>,
    /// Attempts that are renewed no more.
    over: Arc<Mutex<HashSet<String>>>,
    /// No heartbeat is answered while this is set.
    silent: Arc<std::sync::atomic::AtomicBool>,
    cut: CancellationToken,
}

struct Server {
    manners: Manners,
    links: mpsc::UnboundedSender<Link>,
    over: Arc<Mutex<HashSet<String>>>,
}

#[tonic::async_trait]
impl Fleet for Server {
    type LinkStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        if let Some(status) = &self.manners.refuses {
            return Err(status.clone());
        }
        let cut = request
            .extensions()
            .get::<CancellationToken>()
            .cloned()
            .expect("set by the connection");
        let mut incoming = request.into_inner();
        let Some(FromAgent::Hello(hello)) = incoming
            .message()
            .await?
            .and_then(|message| message.message)
        else {
            return Err(Status::invalid_argument(
                "the first message must be a Hello",
            ));
        };
        let (to, stream) = mpsc::channel(64);
        let now = std::time::SystemTime::now() + self.manners.ahead;
        let welcome = v1::Welcome {
            agent: "agent-1".into(),
            heartbeat_ms: self
                .manners
                .heartbeat
                .as_millis()
                .try_into()
                .expect("short"),
            lease_ms: self.manners.lease.as_millis().try_into().expect("short"),
            now: Some(now.into()),
            stage_registry: self.manners.stage_registry.clone(),
        };
        to.try_send(Ok(say(FromCoordinator::Welcome(welcome))))
            .expect("room");
        let (heard, messages) = mpsc::unbounded_channel();
        let (over, silent) = (self.over.clone(), Arc::new(false.into()));
        let link = Link {
            hello,
            messages,
            to: to.clone(),
            over: over.clone(),
            silent: Arc::clone(&silent),
            cut,
        };
        self.links
            .send(link)
            .map_err(|_| Status::unavailable("the test is over"))?;
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                let Some(message) = message.message else {
                    continue;
                };
                if let FromAgent::Heartbeat(heartbeat) = &message
                    && !silent.load(std::sync::atomic::Ordering::SeqCst)
                {
                    let over = over.lock().expect("a lock").clone();
                    let running = heartbeat.running.iter().map(|held| held.attempt.clone());
                    let attempts = running.filter(|attempt| !over.contains(attempt)).collect();
                    let _ = to
                        .send(Ok(say(FromCoordinator::Renewed(v1::Renewed { attempts }))))
                        .await;
                }
                if heard.send(message).is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn say(message: FromCoordinator) -> v1::CoordinatorMessage {
    v1::CoordinatorMessage {
        message: Some(message),
    }
}

impl Coordinator {
    /// Listens on loopback.
    pub async fn start(manners: Manners) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), manners).await
    }

    /// Listens with TLS. Links can't be cut, and session calls find nobody.
    pub async fn start_with_tls(manners: Manners, tls: ServerTlsConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, links) = mpsc::unbounded_channel();
        let server = Server {
            manners,
            links: sender,
            over: Arc::default(),
        };
        let end = CancellationToken::new();
        let ended = end.clone();
        let serving = tonic::transport::Server::builder()
            .tls_config(tls)
            .expect("good TLS")
            .layer(tonic::service::InterceptorLayer::new(
                |mut request: Request<()>| {
                    request.extensions_mut().insert(CancellationToken::new());
                    Ok(request)
                },
            ))
            .add_service(FleetServer::new(server))
            .serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                ended.cancelled_owned(),
            );
        tokio::spawn(serving);
        Self {
            address,
            links,
            _end: end.drop_guard(),
        }
    }

    /// Whether no agent has come by now.
    pub fn nobody_came(&mut self) -> bool {
        self.links.try_recv().is_err()
    }

    /// Listens at this address.
    pub async fn start_at(address: SocketAddr, manners: Manners) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, links) = mpsc::unbounded_channel();
        let sessions = manners.sessions.clone();
        let server = Server {
            manners,
            links: sender,
            over: Arc::default(),
        };
        let fleet = FleetServer::new(server);
        let end = CancellationToken::new();
        let ended = end.clone();
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection").0,
                    () = ended.cancelled() => return,
                };
                let (fleet, sessions, cut) = (fleet.clone(), sessions.clone(), ended.child_token());
                let cutting = cut.clone();
                let service = service_fn(move |mut request: http::Request<Incoming>| {
                    let (mut fleet, sessions) = (fleet.clone(), sessions.clone());
                    request.extensions_mut().insert(cutting.clone());
                    async move {
                        let response = if request.uri().path().starts_with("/croft.v1.Fleet/") {
                            fleet.call(request).await?.map(boxed)
                        } else {
                            sessions(request.map(boxed)).await
                        };
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(async move {
                    let connection = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
        Self {
            address,
            links,
            _end: end.drop_guard(),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next agent's link.
    pub async fn link(&mut self) -> Link {
        within("an agent", self.links.recv())
            .await
            .expect("a running coordinator")
    }
}

/// Waits, but not for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}

/// How an attempt ended, and what came before.
#[derive(Debug)]
pub struct End {
    pub finished: v1::Finished,
    pub outputs: Vec<v1::OutputReady>,
}

impl End {
    pub fn done(&self) -> v1::Done {
        match self.finished.result.as_ref().expect("a result") {
            v1::finished::Result::Done(done) => *done,
            v1::finished::Result::Failure(failure) => panic!("the attempt failed: {failure:?}"),
        }
    }

    pub fn failure(&self) -> &v1::Failure {
        match self.finished.result.as_ref().expect("a result") {
            v1::finished::Result::Done(_) => panic!("the attempt did not fail"),
            v1::finished::Result::Failure(failure) => failure,
        }
    }

    pub fn digest(&self, output: &str) -> String {
        let output = self
            .outputs
            .iter()
            .find(|ready| ready.output == output)
            .expect("the output");
        output.exporter_response["containerimage.digest"].clone()
    }
}

impl Link {
    pub async fn say(&self, message: FromCoordinator) {
        self.to.send(Ok(say(message))).await.expect("a link");
    }

    pub async fn offer(&self, offer: v1::Offer) {
        self.say(FromCoordinator::Offer(offer)).await;
    }

    /// The next message that `wanted` wants; others are passed over.
    pub async fn next<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(FromAgent) -> Option<T>,
    ) -> T {
        within(what, async {
            loop {
                let message = self
                    .messages
                    .recv()
                    .await
                    .unwrap_or_else(|| panic!("{what} did not come: the link ended"));
                if let Some(found) = wanted(message) {
                    return found;
                }
            }
        })
        .await
    }

    /// Waits for the end of an attempt.
    pub async fn end_of(&mut self, attempt: &str) -> End {
        let mut outputs = Vec::new();
        let finished = self
            .next(&format!("the end of {attempt}"), |message| match message {
                FromAgent::OutputReady(ready) if ready.attempt == attempt => {
                    outputs.push(ready);
                    None
                }
                FromAgent::Finished(finished) if finished.attempt == attempt => Some(finished),
                _ => None,
            })
            .await;
        End { finished, outputs }
    }

    /// Runs an attempt to its end.
    pub async fn run(&mut self, offer: v1::Offer) -> End {
        let attempt = offer.attempt.clone();
        self.offer(offer).await;
        let end = self.end_of(&attempt).await;
        self.confirm(&attempt);
        end
    }

    /// Asks a question; all answers to it.
    pub async fn ask(&mut self, request: v1::request::Request) -> Vec<v1::answer::Answer> {
        use v1::answer::Answer;
        let id = super::nonce();
        self.say(FromCoordinator::Request(v1::Request {
            id: id.clone(),
            request: Some(request),
        }))
        .await;
        let mut answers = Vec::new();
        loop {
            let answer = self
                .next("an answer", |message| match message {
                    FromAgent::Answer(answer) if answer.request == id => answer.answer,
                    _ => None,
                })
                .await;
            let more = matches!(answer, Answer::Pruned(_));
            answers.push(answer);
            if !more {
                return answers;
            }
        }
    }

    /// From now on the attempt is over for the coordinator.
    pub fn confirm(&self, attempt: &str) {
        self.over.lock().expect("a lock").insert(attempt.to_owned());
    }

    /// Answers no heartbeats any more.
    pub fn fall_silent(&self) {
        self.silent.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// Breaks the connection.
    pub fn cut(self) {
        self.cut.cancel();
    }

    /// Waits until the agent has left.
    pub async fn left(&mut self) {
        within("the link's end", async {
            while self.messages.recv().await.is_some() {}
        })
        .await;
    }
}

/// What progress says.
pub fn status_of(progress: &v1::Progress) -> StatusResponse {
    StatusResponse::decode(progress.status.as_slice()).expect("a status")
}

/// A build of its own that may use the host's network and has no session.
pub fn build() -> v1::BuildContext {
    v1::BuildContext {
        build: format!("build-{}", super::nonce()),
        entitlements: vec!["network.host".into()],
        source_policy: sourcepolicy::Policy {
            version: 1,
            rules: Vec::new(),
        }
        .encode_to_vec(),
        ..Default::default()
    }
}

/// An offer of one build.
pub fn offer(context: &v1::BuildContext, outputs: Vec<v1::Output>) -> v1::Offer {
    v1::Offer {
        attempt: format!("attempt-{}", super::nonce()),
        token: 1,
        stage: "a stage".into(),
        context: Some(context.clone()),
        outputs,
    }
}

/// An output that stays with the engine.
pub fn held(id: &str, definition: Vec<u8>) -> v1::Output {
    v1::Output {
        delivery: None,
        id: id.into(),
        definition,
        export: None,
    }
}

/// An output that is pushed by digest.
pub fn pushed(id: &str, definition: Vec<u8>, name: &str) -> v1::Output {
    let attrs = [
        ("name", name),
        ("push", "true"),
        ("push-by-digest", "true"),
        ("oci-mediatypes", "true"),
        ("store", "false"),
    ];
    let export = v1::Export {
        r#type: "image".into(),
        attrs: attrs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        title: "an image".into(),
        definition: Vec::new(),
    };
    v1::Output {
        delivery: None,
        id: id.into(),
        definition,
        export: Some(export),
    }
}
