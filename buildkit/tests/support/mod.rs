//! What several tests need: a daemon that only takes sessions, and clients that open them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod buildx;
pub mod llb;
pub mod proxy;

use std::{net::SocketAddr, sync::Arc};

use croft_buildkit::{
    MESSAGE_LIMIT,
    api::{
        control::{control_server::ControlServer, *},
        types::BuildkitVersion,
    },
    engine::{Address, Engine},
    session::{ClientSession, EngineSession, SessionHandler, SessionId, SessionSpec},
};
use futures::stream::BoxStream;
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};
use tonic::{
    Request, Response, Status, Streaming,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

/// A daemon on a free port whose sessions the test gets. It ends with this value.
pub struct Daemon {
    pub address: SocketAddr,
    sessions: mpsc::UnboundedReceiver<ClientSession>,
    _server: Serving,
}

impl Daemon {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        let (sender, sessions) = mpsc::unbounded_channel();
        let service = ControlServer::new(InfoOnly)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        let routes = with_sessions(Routes::new(service), move |call| {
            let sender = sender.clone();
            async move {
                let (session, answer) = ClientSession::accept(call).await?;
                // Nobody listens any more only when the test is over.
                let _ = sender.send(session);
                Ok(answer)
            }
        });
        let server = serve(address, async { routes }).await;
        Self {
            address: server.address,
            sessions,
            _server: server,
        }
    }

    pub async fn engine(&self) -> Engine {
        connect(&format!("tcp://{}", self.address)).await
    }

    /// Both ends of a new session, whose client's calls `handler` answers.
    pub async fn session(
        &mut self,
        handler: impl SessionHandler,
    ) -> (EngineSession, ClientSession) {
        let ours = EngineSession::open(&self.engine().await, &spec(), Arc::new(handler))
            .await
            .unwrap();
        (ours, self.next_session().await)
    }

    pub async fn next_session(&mut self) -> ClientSession {
        self.sessions.recv().await.unwrap()
    }
}

/// A server on a runtime of its own, so that it dies with this value as a process would, its connections too.
pub struct Serving {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

/// Serves on `address`; `routes` are made where they will run.
pub async fn serve(
    address: SocketAddr,
    routes: impl Future<Output = Routes> + Send + 'static,
) -> Serving {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = TcpListener::bind(address)
        .await
        .unwrap()
        .into_std()
        .unwrap();
    let address = listener.local_addr().unwrap();
    let routes = runtime.spawn(routes).await.unwrap();
    let server = Server::builder()
        // HTTP/2 takes small pieces for an attack once they are many for the window.
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_max_header_list_size(croft_buildkit::HEADER_LIMIT)
        .add_routes(routes);
    runtime.spawn(async move {
        let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap());
        server
            .serve_with_incoming(incoming.with_nodelay(Some(true)))
            .await
    });
    Serving {
        address,
        runtime: Some(runtime),
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // To its end: its port is free when this returns, not some time after its connections are seen to be gone. On a thread of
        // its own, as a runtime can't be waited for within another one.
        let runtime = self.runtime.take();
        std::thread::spawn(move || drop(runtime)).join().unwrap();
    }
}

pub async fn connect(address: &str) -> Engine {
    Engine::connect(&address.parse::<Address>().unwrap())
        .await
        .unwrap()
}

pub fn spec() -> SessionSpec {
    SessionSpec {
        id: SessionId::unique(),
        name: "a test".into(),
        shared_key: "key".into(),
        methods: vec!["/test.Service/Method".into()],
    }
}

/// The same with sessions, which `enter` takes.
pub fn with_sessions<F>(
    routes: Routes,
    enter: impl Fn(http::Request<axum::body::Body>) -> F + Clone + Send + Sync + 'static,
) -> Routes
where
    F: Future<Output = Result<http::Response<tonic::body::Body>, Status>> + Send + 'static,
{
    let enter = axum::routing::post(move |call| {
        let answer = enter(call);
        async move { answer.await.unwrap_or_else(|status| status.into_http()) }
    });
    let routes = routes.into_axum_router();
    routes.route(ClientSession::PATH, enter).into()
}

struct InfoOnly;

#[tonic::async_trait]
impl control_server::Control for InfoOnly {
    type SessionStream = BoxStream<'static, Result<BytesMessage, Status>>;
    type StatusStream = BoxStream<'static, Result<StatusResponse, Status>>;
    type PruneStream = BoxStream<'static, Result<UsageRecord, Status>>;
    type ListenBuildHistoryStream = BoxStream<'static, Result<BuildHistoryEvent, Status>>;

    async fn session(
        &self,
        _: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(unserved())
    }
    async fn disk_usage(
        &self,
        _: Request<DiskUsageRequest>,
    ) -> Result<Response<DiskUsageResponse>, Status> {
        Err(unserved())
    }
    async fn prune(&self, _: Request<PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
        Err(unserved())
    }
    async fn solve(&self, _: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        Err(unserved())
    }
    async fn status(
        &self,
        _: Request<StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        Err(unserved())
    }
    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        Err(unserved())
    }
    /// Its version is the trace that the caller is in.
    async fn info(&self, call: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let trace = call
            .metadata()
            .get("traceparent")
            .and_then(|t| t.to_str().ok());
        let version = BuildkitVersion {
            version: trace.unwrap_or_default().into(),
            ..Default::default()
        };
        Ok(Response::new(InfoResponse {
            buildkit_version: Some(version),
        }))
    }
    async fn listen_build_history(
        &self,
        _: Request<BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        Err(unserved())
    }
    async fn update_build_history(
        &self,
        _: Request<UpdateBuildHistoryRequest>,
    ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
        Err(unserved())
    }
}

fn unserved() -> Status {
    Status::unimplemented("not in this test")
}
