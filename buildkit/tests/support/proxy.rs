//! A BuildKit that passes everything on to a real one, sessions included: what a client must not be able to tell from it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use croft_buildkit::{
    MESSAGE_LIMIT,
    api::{
        control::{
            self,
            control_server::{Control, ControlServer},
        },
        frontend::{
            self,
            llb_bridge_server::{LlbBridge, LlbBridgeServer},
        },
    },
    engine::{Bridge, Engine},
    errors,
    gateway::{BUILD_ID_HEADER, BuildRef},
    session::{ClientSession, EngineSession, SessionReply, SessionRequest, grpc::status_response},
    trace::TraceContext,
};
use futures::{FutureExt, StreamExt, stream::BoxStream};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap, service::Routes};

use super::Serving;

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

#[derive(Clone)]
struct Proxy {
    engine: Engine,
    /// How often each session method was forwarded.
    calls: Arc<Mutex<HashMap<String, usize>>>,
}

/// A running proxy.
pub struct Running {
    pub server: Serving,
    calls: Arc<Mutex<HashMap<String, usize>>>,
}

impl Running {
    pub async fn start(engine: &str) -> Self {
        let calls = Arc::<Mutex<HashMap<_, _>>>::default();
        let (engine, counted) = (engine.to_owned(), calls.clone());
        let routes = async move {
            let engine = super::connect(&engine).await;
            let proxy = Proxy {
                engine,
                calls: counted,
            };
            let sessions = proxy.clone();
            let control = ControlServer::new(proxy.clone())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT);
            let bridge = LlbBridgeServer::new(proxy)
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT);
            super::with_sessions(Routes::new(control).add_service(bridge), move |call| {
                let proxy = sessions.clone();
                async move { proxy.enter(call).await }
            })
        };
        let server = super::serve("127.0.0.1:0".parse().unwrap(), routes).await;
        Self { server, calls }
    }

    /// How often this method of the client was called through the proxy.
    pub fn calls(&self, method: &str) -> usize {
        self.calls
            .lock()
            .unwrap()
            .get(method)
            .copied()
            .unwrap_or_default()
    }
}

impl Proxy {
    /// The engine, within the caller's trace.
    fn engine(&self, metadata: &MetadataMap) -> Engine {
        TraceContext::from_metadata(metadata)
            .map_or_else(|| self.engine.clone(), |trace| self.engine.traced(trace))
    }

    /// Takes a session, and opens it on the engine.
    async fn enter(
        self,
        call: http::Request<axum::body::Body>,
    ) -> Result<http::Response<tonic::body::Body>, Status> {
        let metadata = MetadataMap::from_headers(call.headers().clone());
        let (client, output) = ClientSession::accept(call).await?;
        let (forwarded, calls) = (client.clone(), self.calls.clone());
        let handler = move |request: SessionRequest| -> SessionReply {
            *calls
                .lock()
                .unwrap()
                .entry(request.uri().path().to_owned())
                .or_default() += 1;
            let client = forwarded.clone();
            async move {
                client
                    .call(request)
                    .await
                    .unwrap_or_else(|e| status_response(e.into()))
            }
            .boxed()
        };
        let session =
            EngineSession::open(&self.engine(&metadata), client.spec(), Arc::new(handler)).await?;
        tokio::spawn(async move {
            tokio::select! {
                () = client.closed() => session.close().await,
                () = session.closed() => client.close(),
            }
        });
        Ok(output)
    }

    fn bridge<T>(&self, request: Request<T>) -> Result<(Bridge, T), Status> {
        let build = request
            .metadata()
            .get(BUILD_ID_HEADER)
            .and_then(|id| BuildRef::try_from(id.to_str().ok()?).ok());
        let build = build.ok_or_else(|| Status::invalid_argument("no build is named"))?;
        Ok((
            self.engine(request.metadata()).bridge(&build),
            request.into_inner(),
        ))
    }
}

fn answer<T>(result: Answer<T>) -> Answer<T> {
    result
        .map(|response| Response::new(response.into_inner()))
        .map_err(|status| errors::said_again(&status))
}

fn stream<T: Send + 'static>(result: Answer<Streaming<T>>) -> Answer<Stream<T>> {
    let response = result.map_err(|status| errors::said_again(&status))?;
    let timestamp = response
        .metadata()
        .get("buildkit-current-timestamp")
        .cloned();
    let messages = response
        .into_inner()
        .map(|message| message.map_err(|status| errors::said_again(&status)));
    let mut response = Response::new(messages.boxed());
    if let Some(timestamp) = timestamp {
        response
            .metadata_mut()
            .insert("buildkit-current-timestamp", timestamp);
    }
    Ok(response)
}

#[tonic::async_trait]
impl Control for Proxy {
    type SessionStream = Stream<control::BytesMessage>;
    type StatusStream = Stream<control::StatusResponse>;
    type PruneStream = Stream<control::UsageRecord>;
    type ListenBuildHistoryStream = Stream<control::BuildHistoryEvent>;

    async fn session(
        &self,
        _: Request<Streaming<control::BytesMessage>>,
    ) -> Answer<Self::SessionStream> {
        Err(Status::internal("sessions are taken by `enter`"))
    }

    async fn solve(
        &self,
        request: Request<control::SolveRequest>,
    ) -> Answer<control::SolveResponse> {
        let mut engine = self.engine(request.metadata()).control();
        answer(engine.solve(request.into_inner()).await)
    }
    async fn status(&self, request: Request<control::StatusRequest>) -> Answer<Self::StatusStream> {
        stream(self.engine.control().status(request.into_inner()).await)
    }
    async fn list_workers(
        &self,
        request: Request<control::ListWorkersRequest>,
    ) -> Answer<control::ListWorkersResponse> {
        answer(
            self.engine
                .control()
                .list_workers(request.into_inner())
                .await,
        )
    }
    async fn info(&self, request: Request<control::InfoRequest>) -> Answer<control::InfoResponse> {
        answer(self.engine.control().info(request.into_inner()).await)
    }
    async fn disk_usage(
        &self,
        request: Request<control::DiskUsageRequest>,
    ) -> Answer<control::DiskUsageResponse> {
        answer(self.engine.control().disk_usage(request.into_inner()).await)
    }
    async fn prune(&self, request: Request<control::PruneRequest>) -> Answer<Self::PruneStream> {
        stream(self.engine.control().prune(request.into_inner()).await)
    }
    async fn listen_build_history(
        &self,
        _: Request<control::BuildHistoryRequest>,
    ) -> Answer<Self::ListenBuildHistoryStream> {
        Err(Status::unimplemented("engines have crashed on these"))
    }
    async fn update_build_history(
        &self,
        _: Request<control::UpdateBuildHistoryRequest>,
    ) -> Answer<control::UpdateBuildHistoryResponse> {
        Err(Status::unimplemented("engines have crashed on these"))
    }
}

#[tonic::async_trait]
impl LlbBridge for Proxy {
    type ExecProcessStream = Stream<frontend::ExecMessage>;

    async fn ping(
        &self,
        request: Request<frontend::PingRequest>,
    ) -> Answer<frontend::PongResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.ping(request).await)
    }
    async fn solve(
        &self,
        request: Request<frontend::SolveRequest>,
    ) -> Answer<frontend::SolveResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.solve(request).await)
    }
    async fn evaluate(
        &self,
        request: Request<frontend::EvaluateRequest>,
    ) -> Answer<frontend::EvaluateResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.evaluate(request).await)
    }
    async fn r#return(
        &self,
        request: Request<frontend::ReturnRequest>,
    ) -> Answer<frontend::ReturnResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.r#return(request).await)
    }
    async fn inputs(
        &self,
        request: Request<frontend::InputsRequest>,
    ) -> Answer<frontend::InputsResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.inputs(request).await)
    }
    async fn warn(
        &self,
        request: Request<frontend::WarnRequest>,
    ) -> Answer<frontend::WarnResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.warn(request).await)
    }
    async fn resolve_image_config(
        &self,
        request: Request<frontend::ResolveImageConfigRequest>,
    ) -> Answer<frontend::ResolveImageConfigResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.resolve_image_config(request).await)
    }
    async fn resolve_source_meta(
        &self,
        request: Request<frontend::ResolveSourceMetaRequest>,
    ) -> Answer<frontend::ResolveSourceMetaResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.resolve_source_meta(request).await)
    }
    async fn read_file(
        &self,
        request: Request<frontend::ReadFileRequest>,
    ) -> Answer<frontend::ReadFileResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.read_file(request).await)
    }
    async fn read_dir(
        &self,
        request: Request<frontend::ReadDirRequest>,
    ) -> Answer<frontend::ReadDirResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.read_dir(request).await)
    }
    async fn stat_file(
        &self,
        request: Request<frontend::StatFileRequest>,
    ) -> Answer<frontend::StatFileResponse> {
        let (mut bridge, request) = self.bridge(request)?;
        answer(bridge.stat_file(request).await)
    }

    async fn new_container(
        &self,
        _: Request<frontend::NewContainerRequest>,
    ) -> Answer<frontend::NewContainerResponse> {
        Err(no_containers())
    }
    async fn release_container(
        &self,
        _: Request<frontend::ReleaseContainerRequest>,
    ) -> Answer<frontend::ReleaseContainerResponse> {
        Err(no_containers())
    }
    async fn exec_process(
        &self,
        _: Request<Streaming<frontend::ExecMessage>>,
    ) -> Answer<Self::ExecProcessStream> {
        Err(no_containers())
    }
    async fn read_file_container(
        &self,
        _: Request<frontend::ReadFileRequest>,
    ) -> Answer<frontend::ReadFileResponse> {
        Err(no_containers())
    }
    async fn read_dir_container(
        &self,
        _: Request<frontend::ReadDirRequest>,
    ) -> Answer<frontend::ReadDirResponse> {
        Err(no_containers())
    }
    async fn stat_file_container(
        &self,
        _: Request<frontend::StatFileRequest>,
    ) -> Answer<frontend::StatFileResponse> {
        Err(no_containers())
    }
}

fn no_containers() -> Status {
    Status::unimplemented("no build of these tests needs a debugger's containers")
}
