//! BuildKit's LLBBridge: the calls of a client's gateway function. Each names the solve that it belongs to in its metadata.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::apicaps::ApiCap;
use bollard_buildkit_proto::moby::buildkit::v1::frontend as api;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridge as Service;
use futures::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::control::returned_error;
use super::convert;
use super::jobs::{Job, Jobs, NoJob, Solved};
use super::maps;
use crate::control::image::Shape;
use crate::control::{Control, ResultTarget, Results};

/// Clients show the first error that they get: that of a refused solve should be its own, with all that it says.
const SOLVE_FIRST: Duration = Duration::from_millis(100);

/// The gateway over the whole farm.
pub struct Bridge {
    control: Arc<Control>,
    jobs: Arc<Jobs>,
}

impl Bridge {
    pub(super) fn new(control: Arc<Control>, jobs: Arc<Jobs>) -> Self {
        Self { control, jobs }
    }

    async fn job(&self, metadata: &MetadataMap) -> Result<Arc<Job>, Status> {
        let client_ref = metadata
            .get("buildkit-controlapi-buildid")
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| {
                Status::invalid_argument(
                    "no buildid found in context: the call belongs to no solve",
                )
            })?;
        match self.jobs.wait(client_ref).await {
            Ok(job) => Ok(job),
            Err(NoJob::Refused(why)) => {
                tokio::time::sleep(SOLVE_FIRST).await;
                Err(why)
            }
            Err(NoJob::Over(_)) => Err(Status::not_found(format!(
                "no such job {client_ref}: it is over"
            ))),
            Err(NoJob::Unknown(why)) => Err(why),
        }
    }

    /// Has the results of one solve made, once however often it is asked for.
    async fn make(&self, job: &Job, solved: &Solved, results: Results) -> Result<(), Status> {
        let make = || async {
            let made = self.control.evaluate(&job.build, results).await;
            made.map_err(|failure| convert::status(&failure))
        };
        solved.made.get_or_init(make).await.clone()
    }

    /// Passes a question on to the engine that plans the build, as it came.
    async fn ask<Q, A>(&self, method: &str, request: Request<Q>) -> Result<Response<A>, Status>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        let job = self.job(request.metadata()).await?;
        let answer = self
            .control
            .gateway_call(&job.build, method, request.into_inner().encode_to_vec())
            .await
            .map_err(|failure| convert::status(&failure))?;
        A::decode(&answer[..]).map(Response::new).map_err(|error| {
            Status::internal(format!("the engine's answer can't be read: {error}"))
        })
    }
}

fn no_containers() -> Status {
    Status::unimplemented(
        "containers and files of unfinished builds are not offered by this farm: debug with an engine of your own",
    )
}

fn caps(ids: impl IntoIterator<Item = String>) -> Vec<ApiCap> {
    ids.into_iter()
        .map(|id| ApiCap {
            id,
            enabled: true,
            ..ApiCap::default()
        })
        .collect()
}

fn target(definition: Option<bollard_buildkit_proto::pb::Definition>) -> Results {
    Results {
        shape: Shape::Bare,
        targets: vec![ResultTarget {
            definition,
            ..ResultTarget::default()
        }],
        listed: vec![0],
    }
}

#[tonic::async_trait]
impl Service for Bridge {
    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<api::ExecMessage, Status>> + Send>>;

    async fn ping(
        &self,
        request: Request<api::PingRequest>,
    ) -> Result<Response<api::PongResponse>, Status> {
        self.job(request.metadata()).await?;
        let offered = self.control.offered().await;
        let offered = offered.map_err(|failure| convert::status(&failure))?;
        Ok(Response::new(api::PongResponse {
            frontend_api_caps: caps(offered.frontend),
            llb_caps: caps(offered.llb),
            workers: vec![convert::worker(&offered.platforms)],
        }))
    }

    async fn solve(
        &self,
        request: Request<api::SolveRequest>,
    ) -> Result<Response<api::SolveResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let mut request = request.into_inner();
        maps::request(&mut request);
        let evaluate = std::mem::take(&mut request.evaluate);
        let result = self
            .control
            .gateway_solve(&job.build, request)
            .await
            .map_err(|failure| convert::status(&failure))?;
        let solved = Arc::<Solved>::default();
        let mut result = convert::renamed(result, |definition| job.keep(definition, &solved))?;
        let answer = solved
            .answer
            .get_or_init(|| convert::without_definitions(&result));
        if evaluate {
            let results = convert::results(answer.clone(), |reference| job.kept(&reference.id))?;
            self.make(&job, &solved, results).await?;
        }
        maps::result(&mut result);
        Ok(Response::new(api::SolveResponse {
            r#ref: String::new(),
            result: Some(result),
        }))
    }

    async fn evaluate(
        &self,
        request: Request<api::EvaluateRequest>,
    ) -> Result<Response<api::EvaluateResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let id = request.into_inner().r#ref;
        if let Some(definition) = job.kept(&id)? {
            let solved = job.solved(&id)?;
            let lookup = |reference: &api::Ref| job.kept(&reference.id);
            let all = solved.answer.get().cloned();
            // What can't be published can still be made by itself.
            let results = all.and_then(|answer| convert::results(answer, lookup).ok());
            let results = results.unwrap_or_else(|| target(Some(definition)));
            self.make(&job, &solved, results).await?;
        }
        Ok(Response::new(api::EvaluateResponse {}))
    }

    async fn r#return(
        &self,
        request: Request<api::ReturnRequest>,
    ) -> Result<Response<api::ReturnResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let returned = request.into_inner();
        let result = match (returned.error, returned.result) {
            (Some(error), _) => Err(returned_error(error)),
            (None, result) => Ok(convert::results(result.unwrap_or_default(), |reference| {
                job.kept(&reference.id)
            })?),
        };
        job.finish(result)?;
        Ok(Response::new(api::ReturnResponse {}))
    }

    async fn resolve_image_config(
        &self,
        request: Request<api::ResolveImageConfigRequest>,
    ) -> Result<Response<api::ResolveImageConfigResponse>, Status> {
        self.control
            .refuse_image(&request.get_ref().r#ref)
            .map_err(|failure| convert::status(&failure))?;
        self.ask("ResolveImageConfig", request).await
    }

    async fn resolve_source_meta(
        &self,
        request: Request<api::ResolveSourceMetaRequest>,
    ) -> Result<Response<api::ResolveSourceMetaResponse>, Status> {
        if let Some(source) = &request.get_ref().source {
            self.control
                .refuse_source(&source.identifier)
                .map_err(|failure| convert::status(&failure))?;
        }
        self.ask("ResolveSourceMeta", request).await
    }

    async fn inputs(
        &self,
        request: Request<api::InputsRequest>,
    ) -> Result<Response<api::InputsResponse>, Status> {
        self.job(request.metadata()).await?;
        Ok(Response::new(api::InputsResponse::default()))
    }

    async fn warn(
        &self,
        request: Request<api::WarnRequest>,
    ) -> Result<Response<api::WarnResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        job.build.progress().warn(request.into_inner());
        Ok(Response::new(api::WarnResponse {}))
    }

    async fn read_file(
        &self,
        _: Request<api::ReadFileRequest>,
    ) -> Result<Response<api::ReadFileResponse>, Status> {
        Err(no_containers())
    }

    async fn read_dir(
        &self,
        _: Request<api::ReadDirRequest>,
    ) -> Result<Response<api::ReadDirResponse>, Status> {
        Err(no_containers())
    }

    async fn stat_file(
        &self,
        _: Request<api::StatFileRequest>,
    ) -> Result<Response<api::StatFileResponse>, Status> {
        Err(no_containers())
    }

    async fn new_container(
        &self,
        _: Request<api::NewContainerRequest>,
    ) -> Result<Response<api::NewContainerResponse>, Status> {
        Err(no_containers())
    }

    async fn release_container(
        &self,
        _: Request<api::ReleaseContainerRequest>,
    ) -> Result<Response<api::ReleaseContainerResponse>, Status> {
        Err(no_containers())
    }

    async fn exec_process(
        &self,
        _: Request<Streaming<api::ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        Err(no_containers())
    }

    async fn read_file_container(
        &self,
        _: Request<api::ReadFileRequest>,
    ) -> Result<Response<api::ReadFileResponse>, Status> {
        Err(no_containers())
    }

    async fn read_dir_container(
        &self,
        _: Request<api::ReadDirRequest>,
    ) -> Result<Response<api::ReadDirResponse>, Status> {
        Err(no_containers())
    }

    async fn stat_file_container(
        &self,
        _: Request<api::StatFileRequest>,
    ) -> Result<Response<api::StatFileResponse>, Status> {
        Err(no_containers())
    }
}
