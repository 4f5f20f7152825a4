//! Engines that run nothing. Each speaks what an agent asks of BuildKit's API, over a socket of its own, and keeps BuildKit's promises about
//! jobs and sessions; but a solve ends when the test says so, and nothing can be exported.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bollard_buildkit_proto::{
    google::protobuf::Timestamp,
    moby::buildkit::v1::{
        self as control, control_server, frontend as gateway,
        frontend::llb_bridge_server::LlbBridgeServer, types,
    },
    pb,
};
use futures::Stream;
use prost::Message as _;
use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Handle, sync::watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{bridge::Bridge, session};
use crate::support::llb::digest;

/// Names the build on gateway calls.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// How long BuildKit waits for a job that a call names.
const JOB_WAIT: Duration = Duration::from_secs(3);
const MESSAGE_LIMIT: usize = 16 << 20;
/// How much a command says in one line.
const LINE: usize = 1 << 10;

/// So many engines; their sockets go with this.
pub struct Engines {
    work: Arc<Work>,
    sockets: Vec<String>,
    _folder: TempDir,
}

/// What goes on in all of them together.
#[derive(Default)]
pub(super) struct Work {
    tally: watch::Sender<Tally>,
    open: watch::Sender<Gate>,
    /// How often each vertex was solved.
    solved: Mutex<BTreeMap<String, usize>>,
    /// How much a command says, in bytes.
    says: watch::Sender<usize>,
}

/// How much of each there is just now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Solves.
    pub running: usize,
    /// The most solves that there were at once.
    pub most: usize,
    /// Gateway jobs.
    pub jobs: usize,
    /// Sessions.
    pub sessions: usize,
}

/// Whether solves end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Gate {
    Open,
    #[default]
    Shut,
}

/// One more of something, until this is dropped.
pub(super) struct Counted {
    work: Arc<Work>,
    of: fn(&mut Tally) -> &mut usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.work.tally.send_modify(|tally| *(self.of)(tally) -= 1);
    }
}

impl Work {
    pub(super) fn count(self: &Arc<Self>, of: fn(&mut Tally) -> &mut usize) -> Counted {
        self.tally.send_modify(|tally| {
            *of(tally) += 1;
            tally.most = tally.most.max(tally.running);
        });
        Counted {
            work: Arc::clone(self),
            of,
        }
    }

    fn solved(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.solved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engines {
    /// Starts them. Whatever is solved on them waits.
    pub fn start(runtime: &Handle, number: usize) -> Engines {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let work = Arc::<Work>::default();
        let sockets = (0..number).map(|index| folder.path().join(index.to_string()));
        let sockets = sockets.map(|path| {
            let _inside = runtime.enter();
            serve(&path, Arc::clone(&work));
            format!("unix://{}", path.display())
        });
        Engines {
            sockets: sockets.collect(),
            work,
            _folder: folder,
        }
    }

    /// Where they are.
    pub fn addresses(&self) -> &[String] {
        &self.sockets
    }

    /// Lets all solves end, those to come as well.
    pub fn open(&self) {
        self.work.open.send_replace(Gate::Open);
    }

    /// Lets no solve end from now on.
    pub fn shut(&self) {
        self.work.open.send_replace(Gate::Shut);
    }

    /// From now on each command says so many bytes before it waits.
    pub fn say(&self, bytes: usize) {
        self.work.says.send_replace(bytes);
    }

    /// How much there is of what just now.
    pub fn tally(&self) -> Tally {
        *self.work.tally.borrow()
    }

    /// How often each vertex was solved to its end.
    pub fn solved(&self) -> BTreeMap<String, usize> {
        self.work.solved().clone()
    }
}

fn serve(path: &Path, work: Arc<Work>) {
    let listener = UnixListener::bind(path).expect("a new socket");
    let engine = Arc::new(Engine {
        work,
        jobs: Mutex::default(),
        changed: watch::Sender::default(),
    });
    let control = control_server::ControlServer::from_arc(Arc::clone(&engine))
        .max_decoding_message_size(MESSAGE_LIMIT);
    let bridge = LlbBridgeServer::new(Bridge(engine)).max_decoding_message_size(MESSAGE_LIMIT);
    let server = tonic::transport::Server::builder()
        .add_service(control)
        .add_service(bridge)
        .serve_with_incoming(UnixListenerStream::new(listener));
    // It ends with the runtime.
    tokio::spawn(server);
}

/// One of them.
pub(super) struct Engine {
    work: Arc<Work>,
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    changed: watch::Sender<()>,
}

/// A gateway job, from its `Control.Solve` to its `Return`.
#[derive(Default)]
struct Job {
    said: watch::Sender<Said>,
}

/// What a job's status streams tell.
#[derive(Default)]
struct Said {
    all: Vec<control::StatusResponse>,
    returned: bool,
    over: bool,
}

/// Takes a job away, however its solve ends.
struct Open<'a> {
    engine: &'a Engine,
    id: String,
    job: Arc<Job>,
    _counted: Counted,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.engine.jobs().remove(&self.id);
        self.job.said.send_modify(|said| said.over = true);
    }
}

impl Engine {
    fn jobs(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job of an id, waiting for it as BuildKit does.
    async fn job(&self, id: &str) -> Result<Arc<Job>, Status> {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.mark_unchanged();
                if let Some(job) = self.jobs().get(id) {
                    return Arc::clone(job);
                }
                let _ = changed.changed().await;
            }
        };
        let found = tokio::time::timeout(JOB_WAIT, wait).await;
        found.map_err(|_| Status::not_found(format!("no such job {id}")))
    }

    async fn job_of(&self, metadata: &MetadataMap) -> Result<Arc<Job>, Status> {
        let id = metadata.get(BUILD_ID).and_then(|id| id.to_str().ok());
        self.job(id.ok_or_else(|| Status::invalid_argument("of which build?"))?)
            .await
    }

    pub(super) async fn ping(
        &self,
        metadata: &MetadataMap,
    ) -> Result<gateway::PongResponse, Status> {
        self.job_of(metadata).await?;
        let caps = |ids: &[&str]| {
            let cap = |id: &&str| control::apicaps::ApiCap {
                id: (*id).to_owned(),
                enabled: true,
                ..Default::default()
            };
            ids.iter().map(cap).collect()
        };
        Ok(gateway::PongResponse {
            frontend_api_caps: caps(&["solve.base", "solve.inlinereturn", "return"]),
            llb_caps: caps(&["exec.meta.base", "platform"]),
            workers: vec![worker()],
        })
    }

    pub(super) async fn end(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let job = self.job_of(metadata).await?;
        job.said.send_modify(|said| said.returned = true);
        Ok(())
    }

    /// "Runs" a definition, until the gate is open or the caller has gone.
    pub(super) async fn solve(
        &self,
        metadata: &MetadataMap,
        request: gateway::SolveRequest,
    ) -> Result<gateway::SolveResponse, Status> {
        let job = self.job_of(metadata).await?;
        let definition = request.definition.filter(|_| request.evaluate);
        let definition =
            definition.ok_or_else(|| Status::unimplemented("a stub runs definitions alone"))?;
        let running = self.work.count(|tally| &mut tally.running);
        let mut vertices = vertices(&definition)?;
        let result = vertices.last().map(|vertex| vertex.digest.clone());
        let result = result.ok_or_else(|| Status::invalid_argument("nothing to run"))?;
        job.says(control::StatusResponse {
            vertexes: vertices.clone(),
            ..Default::default()
        });
        let says = *self.work.says.borrow();
        for at in (0..says).step_by(LINE) {
            let mut line = vec![b'x'; LINE.min(says - at)];
            if let Some(last) = line.last_mut() {
                *last = b'\n';
            }
            job.says(control::StatusResponse {
                logs: vec![control::VertexLog {
                    vertex: result.clone(),
                    timestamp: now(),
                    stream: 1,
                    msg: line,
                }],
                ..Default::default()
            });
        }
        let mut gate = self.work.open.subscribe();
        let opened = gate.wait_for(|gate| *gate == Gate::Open).await.map(drop);
        opened.map_err(|_| Status::unavailable("the engine ends"))?;
        for vertex in &mut vertices {
            vertex.completed = now();
        }
        job.says(control::StatusResponse {
            vertexes: vertices,
            ..Default::default()
        });
        *self.work.solved().entry(result.clone()).or_default() += 1;
        drop(running);
        let reference = gateway::Ref {
            id: result,
            def: None,
        };
        Ok(gateway::SolveResponse {
            result: Some(gateway::Result {
                result: Some(gateway::result::Result::Ref(reference)),
                ..Default::default()
            }),
            ..Default::default()
        })
    }
}

impl Job {
    fn says(&self, status: control::StatusResponse) {
        self.said.send_modify(|said| said.all.push(status));
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl control_server::Control for Engine {
    type PruneStream = Answers<control::UsageRecord>;
    type StatusStream = Answers<control::StatusResponse>;
    type SessionStream = Answers<control::BytesMessage>;
    type ListenBuildHistoryStream = Answers<control::BuildHistoryEvent>;

    async fn info(
        &self,
        _: Request<control::InfoRequest>,
    ) -> Result<Response<control::InfoResponse>, Status> {
        Ok(Response::new(control::InfoResponse {
            buildkit_version: Some(types::BuildkitVersion {
                package: "stub".to_owned(),
                version: "v0.0.0-stub".to_owned(),
                revision: String::new(),
            }),
        }))
    }

    async fn list_workers(
        &self,
        _: Request<control::ListWorkersRequest>,
    ) -> Result<Response<control::ListWorkersResponse>, Status> {
        Ok(Response::new(control::ListWorkersResponse {
            record: vec![worker()],
        }))
    }

    async fn solve(
        &self,
        request: Request<control::SolveRequest>,
    ) -> Result<Response<control::SolveResponse>, Status> {
        let request = request.into_inner();
        if let Some(wanted) = request.entitlements.first() {
            return Err(Status::unknown(format!("{wanted} is not allowed")));
        }
        if request.definition.is_some() || !request.frontend.is_empty() {
            return Err(Status::unimplemented("a stub exports nothing"));
        }
        let id = request.r#ref;
        let job = Arc::<Job>::default();
        if self.jobs().insert(id.clone(), Arc::clone(&job)).is_some() {
            return Err(Status::unknown(format!("job ID {id} exists")));
        }
        let open = Open {
            engine: self,
            id,
            job,
            _counted: self.work.count(|tally| &mut tally.jobs),
        };
        self.changed.send_replace(());
        let mut said = open.job.said.subscribe();
        let returned = said.wait_for(|said| said.returned).await.map(drop);
        returned.map_err(|_| Status::unavailable("the engine ends"))?;
        Ok(Response::new(control::SolveResponse::default()))
    }

    async fn status(
        &self,
        request: Request<control::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let job = self.job(&request.into_inner().r#ref).await?;
        let stream = futures::stream::unfold(0, move |told| {
            let mut said = job.said.subscribe();
            async move {
                let said = said
                    .wait_for(|said| said.all.len() > told || said.over)
                    .await
                    .ok()?;
                let next = said.all.get(told)?.clone();
                Some((Ok(next), told + 1))
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn session(
        &self,
        request: Request<Streaming<control::BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let counted = self.work.count(|tally| &mut tally.sessions);
        let stream = session::hold(request.into_inner(), counted);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn disk_usage(
        &self,
        _: Request<control::DiskUsageRequest>,
    ) -> Result<Response<control::DiskUsageResponse>, Status> {
        Ok(Response::new(control::DiskUsageResponse::default()))
    }

    async fn prune(
        &self,
        _: Request<control::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        Ok(Response::new(Box::pin(futures::stream::empty())))
    }

    async fn listen_build_history(
        &self,
        _: Request<control::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        Err(Status::unimplemented("a stub has no history"))
    }

    async fn update_build_history(
        &self,
        _: Request<control::UpdateBuildHistoryRequest>,
    ) -> Result<Response<control::UpdateBuildHistoryResponse>, Status> {
        Err(Status::unimplemented("a stub has no history"))
    }
}

fn worker() -> types::WorkerRecord {
    types::WorkerRecord {
        id: "stub".to_owned(),
        platforms: vec![pb::Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A definition's ops as vertices that have just started, the last of them its result.
fn vertices(definition: &pb::Definition) -> Result<Vec<control::Vertex>, Status> {
    let Some((_, ops)) = definition.def.split_last() else {
        return Ok(Vec::new());
    };
    let vertex = |bytes: &Vec<u8>| {
        let op = pb::Op::decode(&bytes[..]).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let digest = digest(bytes);
        Ok(control::Vertex {
            name: format!("stub {digest}"),
            inputs: op.inputs.into_iter().map(|input| input.digest).collect(),
            digest,
            started: now(),
            ..Default::default()
        })
    };
    ops.iter().map(vertex).collect()
}

fn now() -> Option<Timestamp> {
    let since = SystemTime::UNIX_EPOCH.elapsed().ok()?;
    Some(Timestamp {
        seconds: since.as_secs().try_into().ok()?,
        nanos: since.subsec_nanos().try_into().ok()?,
    })
}
