//! The farm's own processes, the coordinator and the agents: their command lines, and when they are ready.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::{
    engine::Engine,
    error::{Doing, Result},
    guard::{Launch, Part, Stop},
    home::{Home, Place, write_secret},
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

    /// Its engine, to be broken, if this farm started it.
    pub fn engine_mut(&mut self) -> Option<&mut Engine> {
        match &mut self.engine {
            FarmEngine::Own(engine) => Some(engine),
            FarmEngine::Given(_) => None,
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

/// A coordinator and its two ports.
#[derive(Debug)]
pub struct FarmCoordinator {
    pub(super) part: Part,
    ports: CoordinatorPorts,
    binaries: Binaries,
}

/// Where a coordinator listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct CoordinatorPorts {
    pub client: SocketAddr,
    pub agents: SocketAddr,
}

/// Starts a coordinator. It may not serve yet: see [`FarmCoordinator::wait_active`].
pub(super) fn coordinator(
    options: &FarmOptions,
    place: &Place,
    name: &str,
    ports: CoordinatorPorts,
    database_url: &str,
    stage: &Registry,
) -> Result<FarmCoordinator> {
    let home = Home::make(place, name)?;
    let mut command = Command::new(options.binaries.coordinator());
    command
        .args([
            "--client-addr",
            &ports.client.to_string(),
            "--agent-addr",
            &ports.agents.to_string(),
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
        name: &format!("the {name}"),
        home,
        stop: STOP,
        hooks: None,
        command,
    }
    .start()?;
    Ok(FarmCoordinator {
        part,
        ports,
        binaries: options.binaries.clone(),
    })
}

impl FarmCoordinator {
    /// Where clients connect.
    pub fn client_address(&self) -> SocketAddr {
        self.ports.client
    }

    /// Where agents connect.
    pub fn agent_address(&self) -> SocketAddr {
        self.ports.agents
    }

    /// Its process, while it runs.
    pub fn process(&self) -> Option<u32> {
        self.part.process()
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.part.log()
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) -> Result<()> {
        self.part.kill()
    }

    /// Ends it as a service manager does, and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        self.part.stop(Signal::SIGTERM)
    }

    /// Starts it again, on the same ports and with the same flags. It must have ended; it may not serve yet.
    pub fn start_again(&mut self) -> Result<()> {
        self.part.start_again()
    }

    /// Waits until it is the active one.
    pub fn wait_active(&mut self) -> Result<()> {
        self.wait(|listed| listed.map(drop))
    }

    /// Waits until it says that it stands by.
    pub fn wait_standing_by(&mut self) -> Result<()> {
        self.wait(|listed| match listed {
            Ok(_) => Err("it is active".to_owned()),
            Err(answer) if answer.contains("stands by") => Ok(()),
            Err(answer) => Err(answer),
        })
    }

    fn wait(&mut self, there: impl Fn(Answered) -> std::result::Result<(), String>) -> Result<()> {
        let (binaries, client) = (&self.binaries, self.ports.client);
        self.part
            .wait_ready(COORDINATOR_WITHIN, || there(listed(binaries, client)))
    }
}

/// Starts an agent; [`connected`] tells when it is ready.
pub(super) fn agent(
    options: &FarmOptions,
    place: &Place,
    coordinators: &[FarmCoordinator],
    name: AgentName,
    engine: FarmEngine,
) -> Result<FarmAgent> {
    let text = name.to_string();
    let home = Home::make(place, &format!("agent-{text}"))?;
    let state = home.path().join("state");
    fs::create_dir(&state).doing("make", &state)?;
    let urls: Vec<_> = coordinators
        .iter()
        .map(|coordinator| format!("http://{}", coordinator.agent_address()))
        .collect();
    let mut command = Command::new(options.binaries.agent());
    command.args(["--coordinator", &urls.join(","), "--name", &text]);
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
    match listed(binaries, client)?
        .iter()
        .find(|agent| agent.name == name.to_string())
    {
        Some(agent) if agent.state == "connected" => Ok(()),
        Some(agent) => Err(format!("the coordinator says it is {}", agent.state)),
        None => Err("the coordinator does not know it".to_owned()),
    }
}

/// An agent as the coordinator shows it.
#[derive(Deserialize)]
struct Listed {
    name: String,
    state: String,
}

type Answered = std::result::Result<Vec<Listed>, String>;

/// All agents that the coordinator knows.
fn listed(binaries: &Binaries, client: SocketAddr) -> Answered {
    let mut command = Command::new(binaries.croft());
    let address = client.to_string();
    command.args(["agents", "ls", "--format", "json", "--addr", &address]);
    let printed = parts::run(&mut command).map_err(|error| error.to_string())?;
    serde_json::from_slice(&printed).map_err(|error| format!("croft agents ls: {error}"))
}
