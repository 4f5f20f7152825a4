//! The gateway of an engine that runs nothing: agents ping it, solve and return. What frontends and debuggers ask it doesn't answer.

use std::{future::Future, pin::Pin, sync::Arc};

use bollard_buildkit_proto::moby::buildkit::v1::frontend as api;
use futures::stream::Empty;
use tonic::{Request, Response, Status, Streaming};

use super::engine::Engine;

/// The gateway of this engine.
pub(super) struct Bridge(pub Arc<Engine>);

/// Methods as `async_trait` writes them that are not answered.
macro_rules! unanswered {
    ($($method:ident($request:ty) -> $response:ty;)*) => {$(
        fn $method<'a, 'b>(
            &'a self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented("a stub only solves")) })
        }
    )*};
}

#[tonic::async_trait]
impl api::llb_bridge_server::LlbBridge for Bridge {
    type ExecProcessStream = Empty<Result<api::ExecMessage, Status>>;

    async fn ping(
        &self,
        request: Request<api::PingRequest>,
    ) -> Result<Response<api::PongResponse>, Status> {
        self.0.ping(request.metadata()).await.map(Response::new)
    }

    async fn solve(
        &self,
        request: Request<api::SolveRequest>,
    ) -> Result<Response<api::SolveResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.0.solve(&metadata, request).await.map(Response::new)
    }

    async fn r#return(
        &self,
        request: Request<api::ReturnRequest>,
    ) -> Result<Response<api::ReturnResponse>, Status> {
        self.0.end(request.metadata()).await?;
        Ok(Response::new(api::ReturnResponse {}))
    }

    unanswered! {
        resolve_image_config(api::ResolveImageConfigRequest) -> api::ResolveImageConfigResponse;
        resolve_source_meta(api::ResolveSourceMetaRequest) -> api::ResolveSourceMetaResponse;
        read_file(api::ReadFileRequest) -> api::ReadFileResponse;
        read_dir(api::ReadDirRequest) -> api::ReadDirResponse;
        stat_file(api::StatFileRequest) -> api::StatFileResponse;
        evaluate(api::EvaluateRequest) -> api::EvaluateResponse;
        inputs(api::InputsRequest) -> api::InputsResponse;
        new_container(api::NewContainerRequest) -> api::NewContainerResponse;
        release_container(api::ReleaseContainerRequest) -> api::ReleaseContainerResponse;
        exec_process(Streaming<api::ExecMessage>) -> Self::ExecProcessStream;
        read_file_container(api::ReadFileRequest) -> api::ReadFileResponse;
        read_dir_container(api::ReadDirRequest) -> api::ReadDirResponse;
        stat_file_container(api::StatFileRequest) -> api::StatFileResponse;
        warn(api::WarnRequest) -> api::WarnResponse;
    }
}
