//! A request's way through the farm: the solve, its progress beside it, and its end, whether it comes by itself or is wanted.

use std::{collections::HashMap, time::Duration};

use croft_buildkit::{
    MESSAGE_LIMIT,
    api::{
        control::{
            CacheOptions, CacheOptionsEntry, Exporter, SolveRequest, StatusRequest, StatusResponse,
            control_client::ControlClient,
        },
        frontend::{
            self, PingRequest, Ref, ReturnRequest, llb_bridge_client::LlbBridgeClient,
            result::Result as Refs,
        },
    },
    errors,
    gateway::{BUILD_ID_HEADER, BuildRef},
    session::SessionId,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::{Code, Request as Call, Status, metadata::AsciiMetadataValue, transport::Channel};

use super::{
    error::BuildError,
    failure::Failure,
    outcome::Response,
    progress::{self, Progress},
    request::{Cache, Question, Request},
};
use crate::connect::Connection;

/// Status messages that wait to be shown; then the farm waits.
const WAITING: usize = 64;
/// How long progress may be silent when the build is over, before its end is no longer waited for.
const SILENT: Duration = Duration::from_secs(5);
/// How long a build that is wanted no more has for coming to its end.
const CANCELLED_WITHIN: Duration = Duration::from_secs(10);
/// What a build that was cancelled here is said to have ended for.
const WHY: &str = "its user cancelled it";

/// The farm's BuildKit face.
#[derive(Clone)]
pub(super) struct Farm {
    channel: Channel,
}

impl Farm {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    fn bridge(&self) -> LlbBridgeClient<Channel> {
        LlbBridgeClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// Refuses attestations where the farm makes none.
    pub(super) async fn check_attestations(&self) -> Result<(), Failure> {
        let solve = SolveRequest {
            r#ref: BuildRef::unique().to_string(),
            internal: true,
            ..SolveRequest::default()
        };
        let reference = solve.r#ref.clone();
        let pong = async {
            let ping = named(PingRequest {}, &reference)?;
            let pong = self.bridge().ping(ping).await?.into_inner();
            self.bridge()
                .r#return(named(nothing(), &reference)?)
                .await?;
            Ok::<_, Status>(pong)
        };
        let mut control = self.control();
        let (solved, pong) = tokio::join!(control.solve(solve), pong);
        let pong = pong.and_then(|pong| solved.map(|_| pong));
        let pong = pong.map_err(|status| Failure::of(&status))?;
        let can = pong
            .llb_caps
            .iter()
            .any(|one| one.id == "exporter.image.attestations" && one.enabled);
        match can {
            true => Ok(()),
            false => Err(BuildError::usage(
                "this farm makes no attestations: leave --attest, --provenance and --sbom out, or set them to false",
            )
            .into()),
        }
    }

    /// Builds: solves the request and shows its progress, until it is over or `stop` is set.
    pub(super) async fn build(
        &self,
        request: &Request,
        session: &SessionId,
        connection: &Connection,
        progress: &mut Progress,
        stop: watch::Receiver<bool>,
    ) -> Result<Response, Failure> {
        let mut control = self.control();
        let solve = solve_request(request, session);
        let solving = tokio::spawn(async move { control.solve(solve).await });
        let answer = self
            .follow(request, solving, connection, progress, stop)
            .await?;
        Ok(answer.into_inner().exporter_response.into_iter().collect())
    }

    /// Asks the frontend: gives what it says.
    pub(super) async fn ask(
        &self,
        request: &Request,
        question: &Question,
        session: &SessionId,
        connection: &Connection,
        progress: &mut Progress,
        stop: watch::Receiver<bool>,
    ) -> Result<HashMap<String, Vec<u8>>, Failure> {
        let farm = self.clone();
        let solve = SolveRequest {
            r#ref: request.reference.to_string(),
            session: session.to_string(),
            frontend_attrs: map(&request.attrs),
            entitlements: request.entitlements.clone(),
            internal: true,
            ..SolveRequest::default()
        };
        let mut attrs: HashMap<String, String> = map(&request.attrs);
        attrs.insert("requestid".to_owned(), question.request.clone());
        let caps = attrs.entry("frontend.caps".to_owned()).or_default();
        if !caps.is_empty() {
            caps.push(',');
        }
        caps.push_str("moby.buildkit.frontend.subrequests+forward");
        let asked = frontend::SolveRequest {
            frontend: request.frontend.clone(),
            frontend_opt: attrs,
            allow_result_return: true,
            allow_result_array_ref: true,
            ..frontend::SolveRequest::default()
        };
        let reference = request.reference.to_string();
        let asking = async move {
            let asked = named(asked, &reference)?;
            let answer = farm.bridge().solve(asked).await;
            let (given, returned) = match answer {
                Ok(answer) => {
                    let result = answer.into_inner().result.unwrap_or_default();
                    let returned = ReturnRequest {
                        result: Some(frontend::Result {
                            metadata: result.metadata.clone(),
                            ..empty()
                        }),
                        ..ReturnRequest::default()
                    };
                    (Ok(result.metadata), returned)
                }
                Err(status) => {
                    let returned = ReturnRequest {
                        error: Some(errors::to_rpc(&status)),
                        ..ReturnRequest::default()
                    };
                    (Err(status), returned)
                }
            };
            // How the solve ends is what counts.
            let _ = farm.bridge().r#return(named(returned, &reference)?).await;
            given
        };
        let mut control = self.control();
        let solving = tokio::spawn(async move {
            let (solved, asked) = tokio::join!(control.solve(solve), asking);
            asked.and_then(|asked| solved.map(|_| asked))
        });
        self.follow(request, solving, connection, progress, stop)
            .await
    }

    /// Shows a build's progress until what runs it is over.
    async fn follow<T: Send + 'static>(
        &self,
        request: &Request,
        mut solving: JoinHandle<Result<T, Status>>,
        connection: &Connection,
        progress: &mut Progress,
        mut stop: watch::Receiver<bool>,
    ) -> Result<T, Failure> {
        let mut statuses = self.statuses(request.reference.to_string());
        let mut tick = tokio::time::interval(progress::TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut telling = true;
        let mut stopping = false;
        let deadline = tokio::time::sleep(Duration::MAX);
        tokio::pin!(deadline);
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut solving => break answer,
                Ok(_) = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    progress.say("cancelling the build; press Ctrl-C again to leave at once");
                    deadline.as_mut().reset(tokio::time::Instant::now() + CANCELLED_WITHIN);
                    let mut connection = connection.clone();
                    let reference = request.reference.to_string();
                    let gone = solving.abort_handle();
                    tokio::spawn(async move {
                        // A build that the farm doesn't know yet ends with its solve.
                        if connection.cancel(&reference, WHY).await.is_err() {
                            gone.abort();
                        }
                    });
                }
                () = &mut deadline, if stopping => {
                    solving.abort();
                    return Err(BuildError::Interrupted.into());
                }
                status = statuses.recv(), if telling => match status {
                    Some(status) => progress.take(&status),
                    None => telling = false,
                },
                _ = tick.tick() => progress.tick(),
            }
        };
        // Its progress ends a moment after it.
        while telling {
            match tokio::time::timeout(SILENT, statuses.recv()).await {
                Ok(Some(status)) => progress.take(&status),
                Ok(None) | Err(_) => telling = false,
            }
        }
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) if stopping => Err(BuildError::Interrupted.into()),
            Ok(Err(status)) => Err(Failure::of(&status)),
            Err(_) => Err(BuildError::Gone("the call was given up".to_owned()).into()),
        }
    }

    /// The build's status messages, as they come.
    fn statuses(&self, reference: String) -> mpsc::Receiver<StatusResponse> {
        let (tell, statuses) = mpsc::channel(WAITING);
        let mut control = self.control();
        tokio::spawn(async move {
            // Without progress a build is no worse; if the farm is gone, its solve says so.
            let Ok(stream) = control.status(StatusRequest { r#ref: reference }).await else {
                return;
            };
            let mut stream = stream.into_inner();
            while let Ok(Some(status)) = stream.message().await {
                if tell.send(status).await.is_err() {
                    return;
                }
            }
        });
        statuses
    }
}

/// A request as `Control.Solve` takes it.
pub(super) fn solve_request(request: &Request, session: &SessionId) -> SolveRequest {
    let cache = |all: &[Cache]| {
        let entries = all.iter().map(|cache| CacheOptionsEntry {
            r#type: cache.kind.clone(),
            attrs: map(&cache.attrs),
        });
        entries.collect()
    };
    let exporters = request.exporters.iter().map(|exporter| Exporter {
        r#type: exporter.kind.clone(),
        attrs: map(&exporter.attrs),
    });
    let mut attrs: HashMap<String, String> = map(&request.attrs);
    for (kind, options) in &request.attestations {
        attrs.insert(format!("attest:{kind}"), options.clone());
    }
    SolveRequest {
        r#ref: request.reference.to_string(),
        session: session.to_string(),
        frontend: request.frontend.clone(),
        frontend_attrs: attrs,
        exporters: exporters.collect(),
        cache: Some(CacheOptions {
            imports: cache(&request.cache_from),
            exports: cache(&request.cache_to),
            ..CacheOptions::default()
        }),
        entitlements: request.entitlements.clone(),
        ..SolveRequest::default()
    }
}

fn map(attrs: &std::collections::BTreeMap<String, String>) -> HashMap<String, String> {
    attrs.clone().into_iter().collect()
}

/// A gateway call that belongs to a build.
fn named<T>(message: T, reference: &str) -> Result<Call<T>, Status> {
    let value = AsciiMetadataValue::try_from(reference)
        .map_err(|_| Status::new(Code::Internal, "a build's reference must be ASCII"))?;
    let mut call = Call::new(message);
    call.metadata_mut().insert(BUILD_ID_HEADER, value);
    Ok(call)
}

/// A result of nothing.
fn empty() -> frontend::Result {
    frontend::Result {
        result: Some(Refs::Ref(Ref::default())),
        ..frontend::Result::default()
    }
}

fn nothing() -> ReturnRequest {
    ReturnRequest {
        result: Some(empty()),
        ..ReturnRequest::default()
    }
}
