//! A farm that speaks croft.v1 in this process, and the binary run against it.

use std::{
    net::SocketAddr,
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use croft_proto::v1::{
    Agent, Attempt, Build, CancelBuildRequest, CancelBuildResponse, DrainAgentRequest,
    DrainAgentResponse, GetAgentRequest, GetAgentResponse, GetBuildRequest, GetBuildResponse,
    ListAgentsRequest, ListAgentsResponse, ListBuildsRequest, ListBuildsResponse, LogExtras,
    PlanBuildRequest, PlanBuildResponse, ReadLogRequest, ReadLogResponse, RemoveAgentRequest,
    RemoveAgentResponse, RemoveBuildRequest, RemoveBuildResponse, ResumeAgentRequest,
    ResumeAgentResponse, Stage, Transfer, VertexStage,
    farm_server::{Farm, FarmServer},
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Server, ServerTlsConfig},
};

#[derive(Clone, Default)]
pub struct Peer {
    asked: Arc<Mutex<Vec<String>>>,
    /// What the agent still runs, once it drains.
    pub draining: Arc<Mutex<Option<u32>>>,
}

impl Peer {
    fn note(&self, asked: impl std::fmt::Debug) {
        self.asked
            .lock()
            .expect("no panic")
            .push(format!("{asked:?}"));
    }

    pub fn asked(&self) -> String {
        self.asked.lock().expect("no panic").join("\n")
    }
}

pub fn build() -> Build {
    Build {
        id: "019aa6a1-6f02-7c31-9d54-3f1f6f0b7a10".to_owned(),
        state: "succeeded".to_owned(),
        created_at: Some(SystemTime::UNIX_EPOCH.into()),
        finished_at: Some(prost_types::Timestamp {
            seconds: 61,
            nanos: 0,
        }),
        platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
        ..Build::default()
    }
}

fn agent() -> Agent {
    Agent {
        name: "amd64-1".to_owned(),
        state: "connected".to_owned(),
        native_platform: "linux/amd64".to_owned(),
        platforms: vec!["linux/amd64".to_owned()],
        slots: 2,
        ..Agent::default()
    }
}

/// A step of a stage of that number, and what it wrote.
fn piece(stage: u32, vertex: &str, wrote: &str) -> Result<ReadLogResponse, Status> {
    use croft_buildkit::api::control::{StatusResponse, Vertex, VertexLog};
    let digest = format!("sha256:{vertex}");
    let at = |seconds| Some(croft_buildkit::api::wkt::Timestamp { seconds, nanos: 0 });
    let status = StatusResponse {
        vertexes: vec![Vertex {
            digest: digest.clone(),
            name: vertex.to_owned(),
            started: at(1),
            completed: at(2),
            ..Vertex::default()
        }],
        logs: vec![VertexLog {
            vertex: digest.clone(),
            timestamp: at(1),
            stream: 1,
            msg: format!("{wrote}\n").into_bytes(),
        }],
        ..StatusResponse::default()
    };
    let extras = LogExtras {
        stages: vec![VertexStage {
            vertex: digest,
            stage,
        }],
    };
    let mut message = status.encode_to_vec();
    message.extend(extras.encode_to_vec());
    let mut data = Vec::new();
    prost::encode_length_delimiter(message.len(), &mut data).expect("room");
    data.extend(message);
    Ok(ReadLogResponse {
        position: u64::from(stage),
        data,
    })
}

#[tonic::async_trait]
impl Farm for Peer {
    async fn list_builds(
        &self,
        request: Request<ListBuildsRequest>,
    ) -> Result<Response<ListBuildsResponse>, Status> {
        self.note(request.into_inner());
        Ok(Response::new(ListBuildsResponse {
            builds: vec![build()],
        }))
    }

    async fn get_build(
        &self,
        request: Request<GetBuildRequest>,
    ) -> Result<Response<GetBuildResponse>, Status> {
        let id = request.into_inner().id;
        self.note(&id);
        match id.as_str() {
            "latest" => Ok(Response::new(GetBuildResponse {
                build: Some(build()),
                // Out of order, as a peer may send them.
                stages: vec![
                    Stage {
                        number: 2,
                        kind: "target".to_owned(),
                        inputs: vec![1],
                        ..Stage::default()
                    },
                    Stage {
                        number: 1,
                        kind: "shared".to_owned(),
                        attempts: vec![Attempt {
                            agent: "amd64-1".to_owned(),
                            ..Attempt::default()
                        }],
                        ..Stage::default()
                    },
                ],
                transfers: vec![Transfer {
                    from_stage: 1,
                    to_stages: vec![2],
                    bytes: 1500,
                    ..Transfer::default()
                }],
                ..GetBuildResponse::default()
            })),
            "01" => Err(Status::invalid_argument("several builds start with 01")),
            "empty" => Ok(Response::new(GetBuildResponse::default())),
            "broken" => Err(Status::internal("the database\nis away")),
            "forbidden" => Err(Status::permission_denied("not yours")),
            "missing" => Err(Status::unimplemented("")),
            other => Err(Status::not_found(format!("no build {other}"))),
        }
    }

    async fn list_agents(
        &self,
        _: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let mut one = agent();
        let mut draining = self.draining.lock().expect("no panic");
        if let Some(left) = draining.as_mut() {
            // Each look finds one attempt less.
            *left -= 1;
            (one.draining, one.running) = (true, *left);
        }
        Ok(Response::new(ListAgentsResponse { agents: vec![one] }))
    }

    type ReadLogStream = tokio_stream::Iter<std::vec::IntoIter<Result<ReadLogResponse, Status>>>;

    async fn read_log(
        &self,
        request: Request<ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let asked = request.into_inner();
        let id = asked.id.clone();
        self.note(asked);
        let pieces = match id.as_str() {
            "broken" => vec![Ok(ReadLogResponse {
                position: 1,
                // Longer than what is there.
                data: vec![200, 1, 0],
            })],
            _ => vec![
                piece(1, "one", "\u{1b}]0;title\u{7}hello"),
                piece(2, "two", "world"),
            ],
        };
        Ok(Response::new(tokio_stream::iter(pieces)))
    }

    async fn remove_build(
        &self,
        request: Request<RemoveBuildRequest>,
    ) -> Result<Response<RemoveBuildResponse>, Status> {
        let id = request.into_inner().id;
        self.note(&id);
        match id.as_str() {
            "runs" => Err(Status::failed_precondition("it runs; cancel it first")),
            "none" => Err(Status::not_found("there is no build")),
            id => Ok(Response::new(RemoveBuildResponse {
                build: Some(Build {
                    id: id.to_owned(),
                    ..build()
                }),
            })),
        }
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        self.note(request.into_inner());
        Ok(Response::new(GetAgentResponse {
            agent: Some(agent()),
            known_commands: 12,
            ..GetAgentResponse::default()
        }))
    }

    async fn remove_agent(
        &self,
        request: Request<RemoveAgentRequest>,
    ) -> Result<Response<RemoveAgentResponse>, Status> {
        match request.into_inner().agent.as_str() {
            "here" => Err(Status::failed_precondition("here is connected")),
            _ => Ok(Response::new(RemoveAgentResponse {
                agent: Some(agent()),
            })),
        }
    }

    async fn plan_build(
        &self,
        _: Request<PlanBuildRequest>,
    ) -> Result<Response<PlanBuildResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cancel_build(
        &self,
        request: Request<CancelBuildRequest>,
    ) -> Result<Response<CancelBuildResponse>, Status> {
        let asked = request.into_inner();
        let over = asked.id == "over";
        self.note(asked);
        match over {
            true => Err(Status::failed_precondition("it is over")),
            false => Ok(Response::new(CancelBuildResponse {
                build: Some(build()),
            })),
        }
    }

    async fn drain_agent(
        &self,
        request: Request<DrainAgentRequest>,
    ) -> Result<Response<DrainAgentResponse>, Status> {
        self.note(request.into_inner());
        *self.draining.lock().expect("no panic") = Some(2);
        let agent = Agent {
            draining: true,
            running: 2,
            ..agent()
        };
        Ok(Response::new(DrainAgentResponse { agent: Some(agent) }))
    }

    async fn resume_agent(
        &self,
        request: Request<ResumeAgentRequest>,
    ) -> Result<Response<ResumeAgentResponse>, Status> {
        self.note(request.into_inner());
        Ok(Response::new(ResumeAgentResponse {
            agent: Some(agent()),
        }))
    }
}

/// Serves until the test ends.
pub async fn serve(peer: Peer, tls: Option<ServerTlsConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).expect("good TLS");
    }
    let router = server.add_service(FarmServer::new(peer));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

pub async fn farm() -> (Peer, String) {
    let peer = Peer::default();
    let address = serve(peer.clone(), None).await;
    (peer, address.to_string())
}

pub async fn croft(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_croft"));
    command
        .env_clear()
        .args(args)
        .envs(environment.iter().copied());
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("no panic")
        .expect("it runs")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Ends with `code`, with nothing on standard output and one line on standard error that has all of `parts`.
pub fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    for part in parts {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
}
