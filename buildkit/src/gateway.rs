//! A build held open on an engine: the job behind a planner's questions and an agent's keeper.
//!
//! As long as a [`Gateway`] is open the engine keeps the results of what was solved in it. Which sub-graphs are solved,
//! and when the build ends, is for the callers to say.

use std::{collections::HashMap, fmt, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::task::AbortHandle;
use tonic::{Code, Status, metadata::AsciiMetadataValue};
use uuid::Uuid;

use crate::{
    api::{
        control::{self, CacheOptions},
        frontend::{self, PongResponse, Ref, ReturnRequest, result::Result as Refs},
        sourcepolicy::Policy,
    },
    engine::{Bridge, Engine},
    session::SessionId,
};

/// Names the build on LLBBridge calls.
pub const BUILD_ID_HEADER: &str = "buildkit-controlapi-buildid";

/// How long an engine may take to get a build going. It answers within 3 s itself unless it is badly overloaded.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to let go of one.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The `Ref` of a `Control.Solve`. Engines remember one for 10 s after its end, so never use one twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildRef(AsciiMetadataValue);

/// Not every text can be a build's ref.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a build's ref must be 1 to 256 visible ASCII characters")]
pub struct BadBuildRef;

impl BuildRef {
    /// A ref that nobody else has.
    pub fn unique() -> Self {
        let text = Uuid::new_v4().simple().to_string();
        Self(AsciiMetadataValue::try_from(text).expect("hex digits are ASCII"))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(crate) fn metadata_value(&self) -> AsciiMetadataValue {
        self.0.clone()
    }
}

impl TryFrom<&str> for BuildRef {
    type Error = BadBuildRef;

    /// Takes a ref that a client chose.
    fn try_from(text: &str) -> Result<Self, BadBuildRef> {
        let fits = (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| AsciiMetadataValue::try_from(text).ok())
            .flatten()
            .map(Self)
            .ok_or(BadBuildRef)
    }
}

impl fmt::Display for BuildRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What belongs to a build as a whole. Everything may be left out.
#[derive(Clone, Debug, Default)]
pub struct GatewaySpec {
    /// The build's ref; a unique one by default.
    pub build: Option<BuildRef>,
    /// The session that local sources, secrets and credentials come from. Open it on this engine before.
    pub session: Option<SessionId>,
    /// What the build may do, `network.host` and the like.
    pub entitlements: Vec<String>,
    /// Rules that change or refuse sources.
    pub source_policy: Option<Policy>,
    /// Where to look for cache, with every solve that names none itself.
    pub cache_imports: Vec<control::CacheOptionsEntry>,
    /// What becomes of the result that [`Gateway::finish`] returns.
    pub exporters: Vec<control::Exporter>,
    /// What a frontend was asked for, with which the engine compares that result: `platform`, and labels as `label:NAME`.
    pub asked: HashMap<String, String>,
}

/// How a gateway's job ended: by [`Gateway::close`], or with the engine's error.
pub type Ended = Result<(), Status>;

/// What exporters answered, by key.
pub type ExporterResponse = HashMap<String, String>;

/// An open build. Dropping it cancels the build; [`Gateway::close`] ends it in good order.
pub struct Gateway {
    build: BuildRef,
    bridge: Bridge,
    pong: PongResponse,
    cache_imports: Vec<frontend::CacheOptionsEntry>,
    job: Job,
}

/// The `Control.Solve` that keeps the build alive.
struct Job {
    task: AbortHandle,
    ended: Shared<BoxFuture<'static, Result<ExporterResponse, Status>>>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gateway {
    /// Opens a build and waits until it takes calls. It is not recorded in the engine's history.
    pub async fn open(engine: &Engine, spec: GatewaySpec) -> Result<Self, Status> {
        let build = spec.build.unwrap_or_else(BuildRef::unique);
        let cache_imports = spec.cache_imports.iter().map(frontend_entry).collect();
        let job = Job::start(
            engine,
            control::SolveRequest {
                r#ref: build.to_string(),
                session: spec.session.map(String::from).unwrap_or_default(),
                entitlements: spec.entitlements,
                source_policy: spec.source_policy,
                cache: Some(CacheOptions {
                    imports: spec.cache_imports,
                    ..Default::default()
                }),
                exporters: spec.exporters,
                frontend_attrs: spec.asked,
                internal: true,
                ..Default::default()
            },
        );
        let mut bridge = engine.bridge(&build);
        let ready = async {
            loop {
                match bridge.ping(frontend::PingRequest {}).await {
                    Ok(pong) => return Ok(pong.into_inner()),
                    // The engine waits a moment for a build that is not there yet, then forgets the question.
                    Err(status) if status.code() == Code::NotFound => {}
                    Err(status) => return Err(status),
                }
            }
        };
        let pong = tokio::select! {
            biased;
            ended = job.ended.clone() => {
                return Err(ended.err().unwrap_or_else(|| Status::unavailable("the engine ended the build at once")));
            }
            pong = tokio::time::timeout(OPEN_TIMEOUT, ready) => {
                pong.map_err(|_| Status::unavailable("the engine did not open the build in time"))??
            }
        };
        Ok(Self {
            build,
            bridge,
            pong,
            cache_imports,
            job,
        })
    }

    /// The build's ref; its progress is `Control.Status` of this.
    pub fn build(&self) -> &BuildRef {
        &self.build
    }

    /// What the engine answered when the build was opened: capabilities and workers.
    pub fn pong(&self) -> &PongResponse {
        &self.pong
    }

    /// A client for the calls that have no method here.
    pub fn bridge(&self) -> Bridge {
        self.bridge.clone()
    }

    /// Solves a frontend or a definition; lazily, unless `request.evaluate` is set.
    pub async fn solve(
        &self,
        mut request: frontend::SolveRequest,
    ) -> Result<frontend::SolveResponse, Status> {
        if request.cache_imports.is_empty() {
            request.cache_imports.clone_from(&self.cache_imports);
        }
        Ok(self.bridge().solve(request).await?.into_inner())
    }

    /// Runs whatever a lazy result still needs. `reference` is the id of a [`Ref`] that this build returned.
    pub async fn evaluate(&self, reference: &str) -> Result<(), Status> {
        self.bridge()
            .evaluate(frontend::EvaluateRequest {
                r#ref: reference.to_owned(),
            })
            .await?;
        Ok(())
    }

    /// Ends the build with a result, and waits until the exporters have made of it what they are to. References are those of this build.
    pub async fn finish(&self, result: frontend::Result) -> Result<ExporterResponse, Status> {
        let request = ReturnRequest {
            result: Some(result),
            ..Default::default()
        };
        let mut bridge = self.bridge();
        let mut ended = self.job.ended.clone();
        tokio::select! {
            biased;
            ended = &mut ended => return ended,
            returned = bridge.r#return(request) => {
                // Where the build ended over it, how it ended says more.
                if let Err(status) = returned {
                    return match ended.now_or_never() {
                        Some(Err(why)) => Err(why),
                        Some(Ok(_)) | None => Err(status),
                    };
                }
            }
        }
        self.job.ended.clone().await
    }

    /// Ends the build without a result and waits until the engine has let go of it. A second call only waits.
    pub async fn close(&self) -> Ended {
        let nothing = frontend::Result {
            result: Some(Refs::Ref(Ref::default())),
            ..Default::default()
        };
        let returned = async {
            let request = ReturnRequest {
                result: Some(nothing),
                ..Default::default()
            };
            match self.bridge().r#return(request).await {
                // What counts is how the job ends; a repeated Return is refused without harm.
                Ok(_) | Err(_) => self.ended().await,
            }
        };
        tokio::time::timeout(CLOSE_TIMEOUT, returned)
            .await
            .unwrap_or_else(|_| {
                self.job.task.abort();
                Err(Status::unavailable(
                    "the engine did not end the build in time",
                ))
            })
    }

    /// Resolves when the engine's job is over: an error unless the build was closed. It may be awaited by many.
    pub fn ended(&self) -> impl Future<Output = Ended> + Send + 'static {
        self.job.ended.clone().map(|ended| ended.map(drop))
    }
}

impl Job {
    fn start(engine: &Engine, request: control::SolveRequest) -> Self {
        let mut control = engine.control();
        let task = tokio::spawn(async move {
            let solved = control.solve(request).await?;
            Ok(solved.into_inner().exporter_response)
        });
        let abort = task.abort_handle();
        let ended = async {
            task.await
                .unwrap_or_else(|_| Err(Status::cancelled("the build was given up")))
        };
        Self {
            task: abort,
            ended: ended.boxed().shared(),
        }
    }
}

fn frontend_entry(entry: &control::CacheOptionsEntry) -> frontend::CacheOptionsEntry {
    frontend::CacheOptionsEntry {
        r#type: entry.r#type.clone(),
        attrs: entry.attrs.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_ref_is_taken_only_if_it_can_travel_as_metadata() {
        let own = BuildRef::unique();
        assert_eq!(BuildRef::try_from(own.as_str()), Ok(own.clone()));
        assert_ne!(BuildRef::unique(), own);
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(257)] {
            assert_eq!(BuildRef::try_from(bad), Err(BadBuildRef), "{bad:?}");
        }
    }
}
