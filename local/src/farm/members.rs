//! The farm's own processes, the coordinator and the agents: their command lines, and when they are ready.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use serde::Deserialize;

use super::Addresses;
use crate::{
    engine::Engine,
    error::{Doing, Result},
    guard::{Launch, Part, Stop},
    home::{Home, Place, write_secret},
    http,
    options::{AgentName, Architecture, Binaries, EngineAddress, FarmOptions},
    parts,
    registry::{Credentials, Registry},
};

const COORDINATOR_WITHIN: Duration = Duration::from_secs(60);
pub(super) const AGENT_WITHIN: Duration = Duration::from_secs(60);
/// Both wind up what they can within this and are then killed.
const STOP: Stop = Stop {
    signal: "TERM",
    grace: 5,
};
/// The repositories of stage images are below this.
const STAGE_PREFIX: &str = "croft";

/// An agent and its engine.
#[derive(Debug)]
pub struct FarmAgent {
    /// Its name, by which the coordinator shows it.
    pub name: AgentName,
    pub(super) part: Part,
    pub(super) engine: FarmEngine,
}

impl FarmAgent {
    /// Where its engine is.
    pub fn engine(&self) -> &str {
        match &self.engine {
            FarmEngine::Own(engine) => engine.address(),
            FarmEngine::Given(address) => address.as_str(),
        }
    }

    /// The control group of what its engine runs, if this farm started the engine. See [`Engine::cgroup`].
    pub fn cgroup(&self) -> Option<&str> {
        match &self.engine {
            FarmEngine::Own(engine) => Some(engine.cgroup()),
            FarmEngine::Given(_) => None,
        }
    }

    /// The agent's process, while it runs.
    pub fn process(&self) -> Option<u32> {
        self.part.process()
    }

    /// The agent's log.
    pub fn log(&self) -> PathBuf {
        self.part.log()
    }
}

/// An engine that was started for an agent, or one that ran already.
#[derive(Debug)]
pub(super) enum FarmEngine {
    Own(Engine),
    Given(EngineAddress),
}

/// The running coordinator and its two ports.
#[derive(Debug)]
pub(super) struct Coordinator {
    pub part: Part,
    pub client: SocketAddr,
    pub agents: SocketAddr,
}

/// Starts the coordinator and waits until both ports answer.
pub(super) fn coordinator(
    options: &FarmOptions,
    place: &Place,
    addresses: &Addresses,
    database_url: &str,
    stage: &Registry,
) -> Result<Coordinator> {
    let home = Home::make(place, "coordinator")?;
    let mut command = Command::new(options.binaries.coordinator());
    command
        .args([
            "--client-addr",
            &addresses.client.to_string(),
            "--agent-addr",
            &addresses.agents.to_string(),
        ])
        .args([
            "--stage-registry",
            &format!("{}/{STAGE_PREFIX}", stage.address()),
            "--stage-registry-insecure",
        ])
        .args(&options.coordinator_flags)
        // Neither password is on a command line, which others can read.
        .env("CROFT_DATABASE_URL", database_url)
        .env("NO_COLOR", "1");
    if let Some(Credentials { user, password }) = stage.credentials() {
        let secret = home.path().join("stage-password");
        write_secret(&secret, password)?;
        command
            .args(["--stage-registry-user", user])
            .arg("--stage-registry-password-file")
            .arg(&secret);
    }
    let part = Launch {
        name: "the coordinator",
        home,
        stop: STOP,
        hooks: None,
        command,
    }
    .start()?;
    let mut coordinator = Coordinator {
        part,
        client: addresses.client,
        agents: addresses.agents,
    };
    coordinator.wait_ready()?;
    Ok(coordinator)
}

impl Coordinator {
    /// Waits until both ports answer.
    pub fn wait_ready(&mut self) -> Result<()> {
        let (client, agents) = (self.client, self.agents);
        self.part.wait_ready(COORDINATOR_WITHIN, || {
            http::speaks_http2(TcpStream::connect(client))
                .and_then(|()| http::speaks_http2(TcpStream::connect(agents)))
                .map_err(|error| error.to_string())
        })
    }
}

/// Starts an agent; [`connected`] tells when it is ready.
pub(super) fn agent(
    options: &FarmOptions,
    place: &Place,
    addresses: &Addresses,
    name: AgentName,
    engine: FarmEngine,
) -> Result<FarmAgent> {
    let text = name.to_string();
    let home = Home::make(place, &format!("agent-{text}"))?;
    let state = home.path().join("state");
    fs::create_dir(&state).doing("make", &state)?;
    let mut command = Command::new(options.binaries.agent());
    command.args([
        "--coordinator",
        &format!("http://{}", addresses.agents),
        "--name",
        &text,
    ]);
    match &engine {
        FarmEngine::Own(engine) => {
            command
                .args(["--engine", engine.address()])
                .arg("--engine-root")
                .arg(engine.home());
        }
        FarmEngine::Given(address) => {
            command.args(["--engine", address.as_str()]);
        }
    }
    command
        .arg("--state-dir")
        .arg(&state)
        .args(&options.agent_flags)
        .env("NO_COLOR", "1");
    match options
        .special
        .get(&name)
        .map(|special| &special.platforms[..])
    {
        Some(platforms) if !platforms.is_empty() => {
            command.args(["--platform", &platforms.join(",")]);
        }
        _ if Architecture::native() == Some(name.architecture) => {}
        _ => {
            command.args(["--platform", &format!("linux/{}", name.architecture)]);
        }
    }
    let part = Launch {
        name: &format!("the agent {text}"),
        home,
        stop: STOP,
        hooks: None,
        command,
    }
    .start()?;
    Ok(FarmAgent { name, part, engine })
}

/// Asks the coordinator, as a user would, whether it has the agent.
pub(super) fn connected(
    binaries: &Binaries,
    client: SocketAddr,
    name: AgentName,
) -> std::result::Result<(), String> {
    #[derive(Deserialize)]
    struct Listed {
        name: String,
        state: String,
    }
    let mut command = Command::new(binaries.croft());
    command.args([
        "agents",
        "ls",
        "--format",
        "json",
        "--addr",
        &client.to_string(),
    ]);
    let printed = parts::run(&mut command).map_err(|error| error.to_string())?;
    let agents: Vec<Listed> =
        serde_json::from_slice(&printed).map_err(|error| format!("croft agents ls: {error}"))?;
    match agents.iter().find(|agent| agent.name == name.to_string()) {
        Some(agent) if agent.state == "connected" => Ok(()),
        Some(agent) => Err(format!("the coordinator says it is {}", agent.state)),
        None => Err("the coordinator does not know it".to_owned()),
    }
}
