//! BuildKit's Control service.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1 as api;
use bollard_buildkit_proto::moby::buildkit::v1::control_server::Control as Service;
use croft_buildkit::session::ClientSession;
use croft_scheduler::ConnectionId;
use futures::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tracing::Instrument as _;

use super::convert;
use super::jobs::{Jobs, NoJob, Open, Returned};
use crate::control::{Build, Control, Failure, Results};

/// A session that is not there by then belongs to a client that has none.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The Control service over the whole farm.
#[derive(Clone)]
pub struct Face {
    control: Arc<Control>,
    jobs: Arc<Jobs>,
}

impl Face {
    pub(super) fn new(control: Arc<Control>, jobs: Arc<Jobs>) -> Self {
        Self { control, jobs }
    }

    /// Takes a client's `Control.Session` call.
    pub(super) async fn enter(self, call: axum::extract::Request) -> axum::response::Response {
        let (session, answer) = match ClientSession::accept(call).await {
            Ok(accepted) => accepted,
            Err(status) => return status.into_http(),
        };
        self.control.sessions().add(session.clone());
        tokio::spawn(async move {
            session.closed().await;
            self.control.sessions().remove(&session);
            self.control.session_closed(session.id());
        });
        answer.map(axum::body::Body::new)
    }

    /// Opens the build and the job of a solve.
    fn begin(
        &self,
        solve: &api::SolveRequest,
        connection: ConnectionId,
    ) -> Result<(Arc<Build>, Open, Returned), Status> {
        let mut wanted = convert::request(solve, connection).map_err(|f| convert::status(&f))?;
        wanted.traceparent = crate::telemetry::traceparent();
        let build = self
            .control
            .open(wanted)
            .map_err(|failure| convert::status(&failure))?;
        let (open, returned) = self.jobs.open(&solve.r#ref, Arc::clone(&build))?;
        Ok((build, open, returned))
    }

    /// Waits until a session is past its opening. A client that is refused ends its session at once, and where the two ends are still
    /// greeting each other it takes the bytes under way for nonsense, and says so to its user.
    async fn settle(&self, session: &str) {
        let greeted = async {
            let session = self.control.sessions().wait(session).await?;
            let request = HealthCheckRequest::default();
            HealthClient::new(session).check(request).await.ok()
        };
        if !session.is_empty() {
            let _ = tokio::time::timeout(SETTLES_WITHIN, greeted).await;
        }
    }

    /// The result of a solve: its own definition or frontend, or what the client's gateway function returns.
    async fn result(
        &self,
        solve: &api::SolveRequest,
        build: &Arc<Build>,
        returned: Returned,
    ) -> Result<Results, Failure> {
        let own = solve.definition.as_ref().is_some_and(|d| !d.def.is_empty());
        if own || !solve.frontend.is_empty() {
            let request = convert::direct(solve);
            let result = self.control.gateway_solve(build, request).await?;
            return convert::results(result, |reference| {
                Ok(reference.def.clone().filter(|d| !d.def.is_empty()))
            })
            .map_err(|status| Failure::invalid(status.message()));
        }
        tokio::select! {
            result = returned => result.unwrap_or_else(|_| Err(Failure::cancelled("the build was abandoned"))),
            reason = build.cancelled() => Err(Failure::cancelled(reason)),
        }
    }
}

/// History is kept by the farm in its own way and not offered through this API yet. Said with this code, clients do without it.
fn no_history() -> Status {
    Status::unimplemented(
        "build history is not supported by this farm yet: `croft builds` shows it",
    )
}

#[tonic::async_trait]
impl Service for Face {
    type PruneStream = Answers<api::UsageRecord>;
    type StatusStream = Answers<api::StatusResponse>;
    type SessionStream = Answers<api::BytesMessage>;
    type ListenBuildHistoryStream = Answers<api::BuildHistoryEvent>;

    async fn info(
        &self,
        _: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        Ok(Response::new(api::InfoResponse {
            buildkit_version: Some(convert::version()),
        }))
    }

    async fn list_workers(
        &self,
        _: Request<api::ListWorkersRequest>,
    ) -> Result<Response<api::ListWorkersResponse>, Status> {
        let offered = self.control.offered().await;
        let platforms = offered
            .map_err(|failure| convert::status(&failure))?
            .platforms;
        if platforms.is_empty() {
            return Err(Status::unavailable(Failure::no_agents().message));
        }
        Ok(Response::new(api::ListWorkersResponse {
            record: vec![convert::worker(&platforms)],
        }))
    }

    /// Sessions have a way of their own: [`Face::enter`].
    async fn session(
        &self,
        _: Request<Streaming<api::BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::internal("a session took the wrong way in"))
    }

    async fn solve(
        &self,
        request: Request<api::SolveRequest>,
    ) -> Result<Response<api::SolveResponse>, Status> {
        let traceparent = request
            .metadata()
            .get("traceparent")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let connection = request.extensions().get().copied();
        // Without one it is alone on its own.
        let connection = connection.unwrap_or_else(|| ConnectionId(uuid::Uuid::new_v4()));
        let solve = request.into_inner();
        if solve.r#ref.is_empty() || solve.r#ref.len() > 256 {
            return Err(Status::invalid_argument(
                "the solve's ref must have 1 to 256 bytes",
            ));
        }
        let span =
            tracing::info_span!("solve", client_ref = %solve.r#ref, build = tracing::field::Empty);
        crate::telemetry::continue_trace(&span, &traceparent);
        async {
            let (build, open, returned) = match self.begin(&solve, connection) {
                Ok(begun) => begun,
                Err(why) => {
                    self.jobs.refuse(&solve.r#ref, &why);
                    self.settle(&solve.session).await;
                    return Err(why);
                }
            };
            tracing::Span::current().record("build", tracing::field::display(build.id()));
            // When the client goes away this future is dropped, and with it the build's only reason to run. What runs goes on by itself
            // until it has put everything in order.
            let _alive = build.cancel_when_dropped("the client is gone");
            let face = self.clone();
            let running = async move {
                let _open = open;
                let result = face.result(&solve, &build, returned).await;
                face.control.complete(&build, result).await
            };
            let response = tokio::spawn(running.in_current_span()).await;
            response
                .unwrap_or_else(|_| {
                    Err(Failure::farm(
                        "the build was cut off by a fault of the coordinator",
                    ))
                })
                .map(|exporter_response| {
                    Response::new(api::SolveResponse {
                        exporter_response: exporter_response.into_iter().collect(),
                    })
                })
                .map_err(|failure| convert::status(&failure))
        }
        .instrument(span)
        .await
    }

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let reader = match self.jobs.wait(&request.into_inner().r#ref).await {
            Ok(job) => Some(job.follow()),
            Err(NoJob::Over(progress)) => Some(progress.reader()),
            // The solve itself says why; an error here would be shown in its place.
            Err(NoJob::Refused(_)) => None,
            Err(NoJob::Unknown(why)) => return Err(why),
        };
        let stream = futures::stream::unfold(reader, |reader| async move {
            let mut reader = reader?;
            let status = reader.next().await?;
            Some((Ok((*status).clone()), Some(reader)))
        });
        let mut response = Response::new(Box::pin(stream) as Self::StatusStream);
        timestamped(response.metadata_mut());
        Ok(response)
    }

    async fn disk_usage(
        &self,
        request: Request<api::DiskUsageRequest>,
    ) -> Result<Response<api::DiskUsageResponse>, Status> {
        let record = self
            .control
            .disk_usage(request.into_inner())
            .await
            .map_err(|failure| convert::status(&failure))?;
        Ok(Response::new(api::DiskUsageResponse { record }))
    }

    async fn prune(
        &self,
        request: Request<api::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let pruned = self
            .control
            .prune(request.into_inner())
            .map_err(|failure| convert::status(&failure))?;
        let pruned = pruned.map(|record| record.map_err(|failure| convert::status(&failure)));
        Ok(Response::new(Box::pin(pruned)))
    }

    async fn listen_build_history(
        &self,
        _: Request<api::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        Err(no_history())
    }

    async fn update_build_history(
        &self,
        _: Request<api::UpdateBuildHistoryRequest>,
    ) -> Result<Response<api::UpdateBuildHistoryResponse>, Status> {
        Err(no_history())
    }
}

/// Clients set their clock by this header.
fn timestamped(metadata: &mut tonic::metadata::MetadataMap) {
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
    if let Ok(now) = now.parse() {
        metadata.insert("buildkit-current-timestamp", now);
    }
}

/// A client's error, as its gateway function returned it.
pub(super) fn returned_error(error: bollard_buildkit_proto::google::rpc::Status) -> Failure {
    let kind = match Code::from(error.code) {
        Code::Cancelled => crate::control::Kind::Cancelled,
        _ => crate::control::Kind::Build,
    };
    Failure {
        kind,
        message: error.message.clone(),
        status: Some(croft_buildkit::errors::from_rpc(error)),
    }
}
