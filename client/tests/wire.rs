//! The binary against a farm that speaks croft.v1 in this process: what it asks, what it prints, how it ends.

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
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

/// A farm with one build and one agent that remembers what it was asked.
#[derive(Clone, Default)]
struct Peer {
    asked: Arc<Mutex<Vec<String>>>,
    /// What the agent still runs, once it drains.
    draining: Arc<Mutex<Option<u32>>>,
}

impl Peer {
    fn note(&self, asked: impl std::fmt::Debug) {
        self.asked
            .lock()
            .expect("no panic")
            .push(format!("{asked:?}"));
    }

    fn asked(&self) -> String {
        self.asked.lock().expect("no panic").join("\n")
    }
}

fn build() -> Build {
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
async fn serve(peer: Peer, tls: Option<ServerTlsConfig>) -> SocketAddr {
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

async fn farm() -> (Peer, String) {
    let peer = Peer::default();
    let address = serve(peer.clone(), None).await;
    (peer, address.to_string())
}

async fn croft(args: &[&str], environment: &[(&str, &str)]) -> Output {
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Ends with `code`, with nothing on standard output and one line on standard error that has all of `parts`.
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    for part in parts {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
}

#[tokio::test]
async fn the_farm_s_address_comes_from_the_variable_or_the_flag_in_every_form() {
    let (_, address) = farm().await;
    for form in [
        address.clone(),
        format!("tcp://{address}"),
        format!("http://{address}/"),
    ] {
        for output in [
            croft(&["agents", "ls"], &[("CROFT_ADDR", &form)]).await,
            croft(
                &["--addr", &form, "agents", "ls"],
                &[("CROFT_ADDR", "nobody.invalid:1")],
            )
            .await,
        ] {
            assert_eq!(
                output.status.code(),
                Some(0),
                "{form}: {}",
                text(&output.stderr)
            );
            assert!(text(&output.stdout).contains("amd64-1"));
        }
    }
}

#[tokio::test]
async fn a_list_asks_for_just_what_its_flags_say() {
    let (peer, address) = farm().await;
    let output = croft(
        &[
            "builds",
            "ls",
            "-n",
            "7",
            "--state",
            "failed,running",
            "--addr",
            &address,
        ],
        &[],
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        peer.asked(),
        format!(
            "{:?}",
            ListBuildsRequest {
                limit: 7,
                states: vec!["failed".into(), "running".into()],
                ..ListBuildsRequest::default()
            }
        )
    );
    assert!(
        text(&output.stdout).contains("1m01s"),
        "{}",
        text(&output.stdout)
    );
}

#[tokio::test]
async fn show_asks_for_the_latest_build_by_default_and_orders_its_stages() {
    let (peer, address) = farm().await;
    let output = croft(
        &["builds", "show", "--format", "json", "--addr", &address],
        &[],
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(peer.asked(), "\"latest\"");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["stages"][0]["number"], 1);
    assert_eq!(json["stages"][0]["attempts"][0]["agent"], "amd64-1");
    assert_eq!(json["created_at"], "1970-01-01T00:00:00.000Z");
    assert_eq!(json["digest"], serde_json::Value::Null);
    assert_eq!(json["transfers"][0]["bytes"], 1500);
}

#[tokio::test]
async fn agents_as_json_have_their_fields_by_name() {
    let (_, address) = farm().await;
    let output = croft(&["agents", "ls", "--format=json", "--addr", &address], &[]).await;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let agent = json[0].as_object().expect("an object");
    for (name, value) in [
        ("name", serde_json::json!("amd64-1")),
        ("state", "connected".into()),
        ("native_platform", "linux/amd64".into()),
        ("platforms", serde_json::json!(["linux/amd64"])),
        ("emulated_platforms", serde_json::json!([])),
        ("slots", 2.into()),
        ("running", 0.into()),
        ("engine", "".into()),
        ("version", "".into()),
        ("draining", false.into()),
        ("last_seen", serde_json::Value::Null),
        ("disk_total_bytes", 0.into()),
        ("disk_free_bytes", 0.into()),
        ("id", "".into()),
    ] {
        assert_eq!(agent.get(name), Some(&value), "{name}");
    }
}

#[tokio::test]
async fn a_build_is_cancelled_for_a_reason_and_one_that_is_over_is_not() {
    let (peer, address) = farm().await;
    let words = ["builds", "cancel", "019a", "--reason", "wrong branch"];
    let output = croft(&[&words[..], &["--addr", &address]].concat(), &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "019aa6a1-6f02-7c31-9d54-3f1f6f0b7a10 is cancelled\n"
    );
    let asked = CancelBuildRequest {
        id: "019a".to_owned(),
        reason: "wrong branch".to_owned(),
    };
    assert_eq!(peer.asked(), format!("{asked:?}"));
    let over = croft(&["builds", "cancel", "over", "--addr", &address], &[]).await;
    assert_fails(&over, 1, &["croft: it is over"]);
    let which = croft(&["builds", "cancel", "--addr", &address], &[]).await;
    assert_eq!(which.status.code(), Some(2), "not the latest by accident");
}

#[tokio::test]
async fn a_log_is_printed_in_order_or_one_stage_of_it_without_what_a_terminal_acts_on() {
    let (peer, address) = farm().await;
    let all = croft(&["builds", "logs", "--follow", "--addr", &address], &[]).await;
    assert_eq!(all.status.code(), Some(0), "{}", text(&all.stderr));
    let shown = text(&all.stdout);
    let (one, two) = (shown.find("hello"), shown.find("world"));
    assert!(one.is_some() && one < two, "{shown}");
    assert!(
        !shown.chars().any(|c| c.is_control() && c != '\n'),
        "{shown:?}"
    );
    assert_eq!(
        peer.asked(),
        format!(
            "{:?}",
            ReadLogRequest {
                id: "latest".to_owned(),
                after: 0,
                follow: true
            }
        )
    );
    let part = croft(
        &["builds", "logs", "x", "--stage", "2", "--addr", &address],
        &[],
    )
    .await;
    let shown = text(&part.stdout);
    assert!(
        shown.contains("world") && !shown.contains("hello"),
        "{shown}"
    );
    let json = croft(
        &["builds", "logs", "--format", "json", "--addr", &address],
        &[],
    )
    .await;
    for line in text(&json.stdout).lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON");
    }
    let broken = croft(&["builds", "logs", "broken", "--addr", &address], &[]).await;
    assert_fails(&broken, 1, &["lacks a whole piece of the log"]);
}

#[tokio::test]
async fn of_several_builds_those_go_that_can_and_the_first_refusal_is_told() {
    let (_, address) = farm().await;
    let words = ["builds", "rm", "a", "runs", "none", "b", "--addr", &address];
    let output = croft(&words, &[]).await;
    assert_eq!(text(&output.stdout), "a is removed\nb is removed\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cancel it first"));
    let all = croft(&["builds", "rm", "--addr", &address], &[]).await;
    assert_eq!(all.status.code(), Some(2), "not the latest by accident");
}

#[tokio::test]
async fn an_agent_is_shown_and_forgotten_by_its_name() {
    let (_, address) = farm().await;
    let output = croft(&["agents", "show", "amd64-1", "--addr", &address], &[]).await;
    let shown = text(&output.stdout);
    assert!(
        shown.contains("12 commands") && shown.contains("can't be asked"),
        "{shown}"
    );
    let output = croft(&["agents", "rm", "amd64-1", "--addr", &address], &[]).await;
    assert_eq!(text(&output.stdout), "amd64-1 is forgotten\n");
    let refused = croft(&["agents", "rm", "here", "--addr", &address], &[]).await;
    assert_fails(&refused, 1, &["here is connected"]);
}

#[tokio::test]
async fn a_named_farm_is_used_until_a_flag_says_otherwise() {
    let (_, address) = farm().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("croft/config.toml");
    let file = [("CROFT_CONFIG", file.to_str().expect("a path"))];
    let run = async |words: &[&str]| croft(words, &file).await;

    let empty = run(&["context", "ls"]).await;
    assert!(text(&empty.stdout).contains("croft context add"));
    assert_fails(
        &run(&["context", "show"]).await,
        2,
        &["no context is in use"],
    );
    for (name, at) in [("one", address.as_str()), ("two", "127.0.0.1:1")] {
        let added = run(&["context", "add", name, "--addr", at]).await;
        assert_eq!(added.status.code(), Some(0), "{}", text(&added.stderr));
    }
    let agents = run(&["agents", "ls"]).await;
    assert!(
        text(&agents.stdout).contains("amd64-1"),
        "{}",
        text(&agents.stderr)
    );
    let two = run(&["agents", "ls", "--context", "two"]).await;
    assert_fails(&two, 4, &["127.0.0.1:1"]);
    assert_fails(
        &run(&["agents", "ls", "--context", "three"]).await,
        2,
        &["three", "there are one, two", "croft context add"],
    );
    let used = run(&["context", "use", "two"]).await;
    assert_eq!(text(&used.stdout), "two is in use\n");
    let listed = run(&["context", "ls", "--format", "json"]).await;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed[1]["name"], "two");
    assert_eq!(listed[1]["in_use"], true);
    // The address says which farm, whatever is in use.
    let agents = run(&["agents", "ls", "--addr", &address]).await;
    assert!(text(&agents.stdout).contains("amd64-1"));
    let gone = run(&["context", "rm", "two"]).await;
    assert_eq!(text(&gone.stdout), "two is removed\n");

    std::fs::write(
        file[0].1,
        "context = \"one\"\n\n[contexts.one]\nadresses = []\n",
    )
    .expect("written");
    assert_fails(
        &run(&["agents", "ls"]).await,
        2,
        &["config.toml:4:", "adresses"],
    );
}

#[tokio::test]
async fn of_several_coordinators_the_active_one_is_asked() {
    let (_, address) = farm().await;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let standby = listener.local_addr().expect("bound").to_string();
    let router = Server::builder().add_service(health);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    for all in [
        format!("127.0.0.1:1,{standby},{address}"),
        format!("{standby},{address}"),
    ] {
        let output = croft(&["agents", "ls", "--addr", &all], &[]).await;
        assert!(
            text(&output.stdout).contains("amd64-1"),
            "{}",
            text(&output.stderr)
        );
    }
    let nobody = format!("{standby},{standby}");
    let output = croft(&["agents", "ls", "--addr", &nobody], &[]).await;
    assert_fails(&output, 4, &["no coordinator of", "is active"]);
}

#[tokio::test]
async fn every_shell_gets_its_completions() {
    for (shell, part) in [
        ("bash", "complete -F _croft"),
        ("zsh", "#compdef croft"),
        ("fish", "complete -c croft"),
    ] {
        let output = croft(&["completion", shell], &[]).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(part), "{shell}");
    }
    assert_eq!(
        croft(&["completion", "csh"], &[]).await.status.code(),
        Some(2)
    );
}

#[tokio::test]
async fn there_is_a_man_page_for_each_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a path");
    let output = croft(&["man", path], &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for page in ["croft.1", "croft-builds-show.1", "croft-context-add.1"] {
        let page = std::fs::read_to_string(folder.path().join(page)).expect("a page");
        assert!(page.contains(".TH"), "{page}");
    }
}

#[tokio::test]
async fn a_drain_is_waited_for_only_if_one_says_so() {
    let (peer, address) = farm().await;
    let drain = ["agents", "drain", "amd64-1", "--addr", &address];
    let output = croft(&drain, &[]).await;
    assert!(text(&output.stdout).contains("draining"));
    let output = croft(&[&drain[..], &["--wait"]].concat(), &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("drained"));
    let resume = ["agents", "resume", "amd64-1", "--addr", &address];
    let output = croft(&resume, &[]).await;
    assert!(text(&output.stdout).contains("connected"));
    let agent = "amd64-1".to_owned();
    let drained = DrainAgentRequest {
        agent: agent.clone(),
    };
    let resumed = ResumeAgentRequest { agent };
    assert_eq!(
        peer.asked(),
        format!("{drained:?}\n{drained:?}\n{resumed:?}")
    );
}

#[tokio::test]
async fn piped_output_has_no_control_characters() {
    let (_, address) = farm().await;
    for command in [["builds", "show"], ["builds", "ls"], ["agents", "ls"]] {
        let mut args = vec!["--addr", &address];
        args.extend(command);
        let output = croft(&args, &[("TERM", "xterm-256color")]).await;
        let shown = text(&output.stdout);
        assert!(
            !shown.is_empty() && !shown.chars().any(|c| c.is_control() && c != '\n'),
            "{shown:?}"
        );
    }
}

#[tokio::test]
async fn each_failure_has_its_exit_code_and_one_line_that_says_what_to_do() {
    let (_, address) = farm().await;
    for (id, code, parts) in [
        ("nothing", 3, ["no build nothing", "croft builds ls"]),
        ("01", 2, ["croft:", "several builds start with 01"]),
        ("empty", 1, ["lacks the build", "versions"]),
        ("broken", 1, ["the database is away", "log"]),
        ("forbidden", 1, ["not yours", "--tls-cert"]),
        ("missing", 1, ["does not speak croft.v1", "--addr"]),
    ] {
        assert_fails(
            &croft(&["builds", "show", id, "--addr", &address], &[]).await,
            code,
            &parts,
        );
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_a_usage_error() {
    for args in [
        &["builds"][..],
        &["builds", "ls", "--limit", "0"],
        &["builds", "ls", "--state", "gone"],
        &["agents", "ls", "--addr", "unix:///x"],
        &["agents", "ls", "--format", "yaml"],
        &[
            "--tls-ca",
            "/x",
            "--addr",
            "http://127.0.0.1:1",
            "agents",
            "ls",
        ],
        &["--addr", "https://127.0.0.1:1", "agents", "ls"],
    ] {
        let output = croft(args, &[]).await;
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            text(&output.stderr)
        );
        assert_eq!(text(&output.stdout), "");
    }
    let help = text(&croft(&["--help"], &[]).await.stdout);
    assert!(
        help.contains("Exit codes:") && help.contains("CROFT_ADDR"),
        "{help}"
    );
}

#[tokio::test]
async fn a_farm_that_is_not_there_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let output = croft(&["agents", "ls", "--addr", &address], &[]).await;
    assert_fails(
        &output,
        4,
        &[&address, "refused", "start the coordinator", "CROFT_ADDR"],
    );
}

#[tokio::test]
async fn a_peer_that_is_no_farm_at_all_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                .await;
        }
    });
    let output = croft(&["agents", "ls", "--addr", &address], &[]).await;
    assert_fails(&output, 4, &[&address, "--addr"]);
}

/// An authority with a server's and a client's certificate, as PEM files in a folder.
struct Authority {
    folder: tempfile::TempDir,
    server: Identity,
    ca: Certificate,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut params = rcgen::CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer =
            rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().expect("a key"))
                .expect("a CA");
        let sign = |name: &str| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let names = vec![name.to_owned()];
            let cert = rcgen::CertificateParams::new(names)
                .expect("parameters")
                .signed_by(&key, &issuer)
                .expect("signed");
            (cert.pem(), key.serialize_pem())
        };
        let (cert, key) = sign("farm.example");
        let server = Identity::from_pem(cert, key);
        let (cert, key) = sign("client");
        for (name, pem) in [("ca", issuer.pem()), ("cert", cert), ("key", key)] {
            std::fs::write(folder.path().join(name), pem).expect("written");
        }
        Self {
            ca: Certificate::from_pem(issuer.pem()),
            folder,
            server,
        }
    }

    fn file(&self, name: &str) -> String {
        self.folder
            .path()
            .join(name)
            .to_str()
            .expect("a path")
            .to_owned()
    }
}

#[tokio::test]
async fn a_farm_with_mutual_tls_is_reached_with_the_right_files_only() {
    let ours = Authority::new();
    let tls = ServerTlsConfig::new()
        .identity(ours.server.clone())
        .client_ca_root(ours.ca.clone());
    let address = serve(Peer::default(), Some(tls)).await.to_string();
    let (ca, cert, key) = (ours.file("ca"), ours.file("cert"), ours.file("key"));

    let all = [
        ("CROFT_ADDR", address.as_str()),
        ("CROFT_TLS_CA", &ca),
        ("CROFT_TLS_CERT", &cert),
        ("CROFT_TLS_KEY", &key),
        ("CROFT_TLS_SERVER_NAME", "farm.example"),
    ];
    let output = croft(&["agents", "ls"], &all).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    // Without our certificate, with the wrong name, with another authority, without TLS.
    assert_fails(
        &croft(&["agents", "ls"], &[all[0], all[1], all[4]]).await,
        4,
        &[&address, "our certificate"],
    );
    assert_fails(
        &croft(&["agents", "ls"], &all[..4]).await,
        4,
        &[&address, "certificate", "--tls"],
    );
    let stranger = Authority::new();
    let (strangers, nowhere) = (stranger.file("ca"), stranger.file("nowhere"));
    assert_fails(
        &croft(&["agents", "ls", "--tls-ca", &strangers], &all).await,
        4,
        &[&address, "--tls"],
    );
    assert_fails(
        &croft(&["agents", "ls"], &all[..1]).await,
        4,
        &[&address, "--tls-ca"],
    );
    assert_fails(
        &croft(&["agents", "ls", "--tls-ca", &nowhere], &all).await,
        1,
        &[&nowhere, "cannot read"],
    );
}

#[tokio::test]
async fn tls_flags_for_a_farm_without_tls_are_named_as_the_cause() {
    let (_, address) = farm().await;
    let ours = Authority::new();
    let output = croft(
        &[
            "agents",
            "ls",
            "--addr",
            &address,
            "--tls-ca",
            &ours.file("ca"),
        ],
        &[],
    )
    .await;
    assert_fails(&output, 4, &[&address, "may not use TLS"]);
    let output = croft(
        &[
            "agents",
            "ls",
            "--addr",
            &address,
            "--tls-ca",
            &ours.file("ca"),
            "--tls-cert",
            &ours.file("cert"),
        ],
        &[],
    )
    .await;
    assert_fails(&output, 2, &["--tls-cert and --tls-key belong together"]);
}
