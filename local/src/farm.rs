//! A whole farm: database, registries, engines, coordinator and agents, started together and ended together.

use std::{
    fmt, fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread::{Scope, ScopedJoinHandle},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    base::{BASE_REPOSITORY, BaseImage},
    engine::{Engine, EngineOptions},
    error::{Doing, Error, Result},
    guard::{Launch, Part, Stop},
    home::{Home, Place, temporary},
    http,
    options::{AgentName, Architecture, Binaries, EngineAddress, FarmOptions},
    parts,
    ports::Ports,
    postgres::{Postgres, PostgresOptions},
    registry::{Access, Credentials, Registry, RegistryOptions},
};

const COORDINATOR_WITHIN: Duration = Duration::from_secs(60);
const AGENT_WITHIN: Duration = Duration::from_secs(60);
/// Both wind up what they can within this and are then killed.
const STOP: Stop = Stop {
    signal: "TERM",
    grace: 5,
};
/// The repositories of stage images are below this.
const STAGE_PREFIX: &str = "croft";

/// A running farm; ends when this is dropped or this process ends in whatever way.
#[derive(Debug)]
pub struct Farm {
    // What depends on others ends first.
    agents: Vec<FarmAgent>,
    coordinator: Coordinator,
    stage: Registry,
    private: Registry,
    registry: Registry,
    postgres: Postgres,
    database_url: String,
    binaries: Binaries,
    buildx: PathBuf,
    _folder: Folder,
}

/// An agent and its engine.
#[derive(Debug)]
pub struct FarmAgent {
    /// Its name, by which the coordinator shows it.
    pub name: AgentName,
    part: Part,
    engine: FarmEngine,
}

impl FarmAgent {
    /// Where its engine is.
    pub fn engine(&self) -> &str {
        match &self.engine {
            FarmEngine::Own(engine) => engine.address(),
            FarmEngine::Given(address) => address.as_str(),
        }
    }

    /// The agent's log.
    pub fn log(&self) -> PathBuf {
        self.part.log()
    }
}

#[derive(Debug)]
enum FarmEngine {
    Own(Engine),
    Given(EngineAddress),
}

#[derive(Debug)]
struct Coordinator {
    part: Part,
    client: SocketAddr,
    agents: SocketAddr,
}

/// The ports that people type, drawn in this order so that CROFT_PORT_BASE makes them predictable.
struct Addresses {
    client: SocketAddr,
    agents: SocketAddr,
    registry: SocketAddr,
    private: SocketAddr,
    stage: SocketAddr,
    postgres: SocketAddr,
}

impl Addresses {
    fn draw(ports: Ports) -> Result<Addresses> {
        Ok(Addresses {
            client: ports.draw()?,
            agents: ports.draw()?,
            registry: ports.draw()?,
            private: ports.draw()?,
            stage: ports.draw()?,
            postgres: ports.draw()?,
        })
    }
}

/// The farm's folder; if it is a temporary one and nothing is left in it, it goes.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

impl Farm {
    /// Starts a farm and waits until every agent is connected.
    pub fn start(options: FarmOptions) -> Result<Farm> {
        let folder = match &options.place {
            Place::Temporary => temporary()?,
            Place::Within(folder) => folder.clone(),
        };
        fs::create_dir_all(&folder).doing("make", &folder)?;
        let folder = Folder {
            path: folder.canonicalize().doing("find", &folder)?,
        };
        let place = Place::Within(folder.path.clone());
        let addresses = Addresses::draw(options.ports)?;
        let buildx = parts::buildx()?.path().to_owned();

        let (registry, private, stage, postgres, engines) = std::thread::scope(|scope| {
            let postgres = in_parallel(scope, || {
                Postgres::start_with(PostgresOptions {
                    place: place.clone(),
                    ports: Ports::At(addresses.postgres),
                    durability: options.durability,
                })
            });
            let registries = in_parallel(scope, || registries(&place, &addresses));
            let engines: Vec<_> = engines(scope, &options, &place, addresses.registry);
            // All are waited for before the first error is told: what has started ends with it.
            let (postgres, registries) = (joined(postgres), joined(registries));
            let engines: Result<Vec<_>> = engines
                .into_iter()
                .map(joined)
                .collect::<Vec<_>>()
                .into_iter()
                .collect();
            let (registry, private, stage) = registries?;
            Ok::<_, Error>((registry, private, stage, postgres?, engines?))
        })?;

        let database_url = postgres.create_database_named("croft", "template0")?;
        let mut coordinator = coordinator(&options, &place, &addresses, &database_url, &stage)?;
        coordinator.part.wait_ready(COORDINATOR_WITHIN, || {
            http::speaks_http2(TcpStream::connect(coordinator.client))
                .and_then(|()| http::speaks_http2(TcpStream::connect(coordinator.agents)))
                .map_err(|error| error.to_string())
        })?;
        let started = options
            .agents
            .iter()
            .zip(engines)
            .map(|(name, engine)| agent(&options, &place, &addresses, *name, engine));
        let mut agents = started.collect::<Result<Vec<_>>>()?;
        for FarmAgent { name, part, .. } in &mut agents {
            part.wait_ready(AGENT_WITHIN, || {
                connected(&options.binaries, addresses.client, *name)
            })?;
        }
        Ok(Farm {
            agents,
            coordinator,
            stage,
            private,
            registry,
            postgres,
            database_url,
            binaries: options.binaries,
            buildx,
            _folder: folder,
        })
    }

    /// One farm for all of this process, as the environment describes it, started at the first call; it ends with the process.
    pub fn shared() -> Result<&'static Farm> {
        static SHARED: OnceLock<std::result::Result<Farm, String>> = OnceLock::new();
        let start = || {
            FarmOptions::from_env()
                .and_then(Farm::start)
                .map_err(|error| error.to_string())
        };
        let shared = SHARED.get_or_init(start);
        shared.as_ref().map_err(|answer| Error::Peer {
            peer: "the shared farm".to_owned(),
            answer: answer.clone(),
        })
    }

    /// What a user of the farm needs to know, as variables.
    pub fn env(&self) -> Vec<(String, String)> {
        let private = self.private.credentials();
        let engines: Vec<_> = self
            .agents
            .iter()
            .map(|agent| format!("{}={}", agent.name, agent.engine()))
            .collect();
        [
            ("CROFT_ADDR", self.coordinator.client.to_string()),
            ("CROFT_REGISTRY", self.registry.address().to_string()),
            ("CROFT_PRIVATE", self.private.address().to_string()),
            (
                "CROFT_PRIVATE_USER",
                private.map(|one| one.user.clone()).unwrap_or_default(),
            ),
            (
                "CROFT_PRIVATE_PASSWORD",
                private.map(|one| one.password.clone()).unwrap_or_default(),
            ),
            (
                "CROFT_BASE",
                format!("{}/{BASE_REPOSITORY}:latest", self.registry.address()),
            ),
            ("CROFT_BUILDX", self.buildx.display().to_string()),
            ("CROFT_BIN", self.binaries.croft().display().to_string()),
            ("CROFT_DATABASE_URL", self.database_url.clone()),
            ("CROFT_ENGINES", engines.join(",")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Where clients connect.
    pub fn client_address(&self) -> SocketAddr {
        self.coordinator.client
    }

    /// Where agents connect.
    pub fn agent_address(&self) -> SocketAddr {
        self.coordinator.agents
    }

    /// The coordinator's log.
    pub fn coordinator_log(&self) -> PathBuf {
        self.coordinator.part.log()
    }

    /// The agents, in the order in which they were asked for.
    pub fn agents(&self) -> &[FarmAgent] {
        &self.agents
    }

    /// The users' open registry; the engines' docker.io.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The users' registry that wants a password.
    pub fn private(&self) -> &Registry {
        &self.private
    }

    /// The farm's own registry.
    pub fn stage(&self) -> &Registry {
        &self.stage
    }

    /// The database server.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The coordinator's database.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The farm's programs.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Every part's log, by the part's name.
    pub fn logs(&self) -> Vec<(String, PathBuf)> {
        let mut logs = vec![
            ("coordinator".to_owned(), self.coordinator_log()),
            ("postgres".to_owned(), self.postgres.log()),
            ("registry".to_owned(), self.registry.log()),
            ("private".to_owned(), self.private.log()),
            ("stage".to_owned(), self.stage.log()),
        ];
        for agent in &self.agents {
            logs.push((agent.name.to_string(), agent.log()));
            if let FarmEngine::Own(engine) = &agent.engine {
                logs.push((format!("engine of {}", agent.name), engine.log()));
            }
        }
        logs
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        // Agents say goodbye while the coordinator still listens; all else may go at once.
        for agent in &mut self.agents {
            agent.part.let_go();
        }
        for agent in &mut self.agents {
            agent.part.end();
        }
        self.coordinator.part.end();
        for agent in &mut self.agents {
            if let FarmEngine::Own(engine) = &mut agent.engine {
                engine.let_go();
            }
        }
    }
}

fn in_parallel<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    start: impl FnOnce() -> Result<T> + Send + 'scope,
) -> ScopedJoinHandle<'scope, Result<T>> {
    scope.spawn(start)
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The users' open one and the private one, both with the base image, and the farm's own.
fn registries(place: &Place, addresses: &Addresses) -> Result<(Registry, Registry, Registry)> {
    let start = |name: &str, address, access| {
        Registry::start(RegistryOptions {
            name: name.to_owned(),
            place: place.clone(),
            ports: Ports::At(address),
            access,
        })
    };
    let registry = start("registry", addresses.registry, Access::Open)?;
    let private = start(
        "private",
        addresses.private,
        Access::Password("user".to_owned()),
    )?;
    let stage = start(
        "stage",
        addresses.stage,
        Access::Password("croft".to_owned()),
    )?;
    let base = BaseImage::find_or_make()?;
    base.push(&registry)?;
    base.push(&private)?;
    Ok((registry, private, stage))
}

fn engines<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    options: &'env FarmOptions,
    place: &'env Place,
    mirror: SocketAddr,
) -> Vec<ScopedJoinHandle<'scope, Result<FarmEngine>>> {
    let mut given = options.engines.iter();
    let start = |name: &'env AgentName| {
        let given = given.next();
        in_parallel(scope, move || match given {
            Some(address) => Ok(FarmEngine::Given(address.clone())),
            None => {
                let name = format!("engine-{name}");
                Engine::start(EngineOptions {
                    name,
                    place: place.clone(),
                    mirror: Some(mirror),
                })
                .map(FarmEngine::Own)
            }
        })
    };
    options.agents.iter().map(start).collect()
}

fn coordinator(
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
    Ok(Coordinator {
        part,
        client: addresses.client,
        agents: addresses.agents,
    })
}

fn agent(
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
    if Architecture::native() != Some(name.architecture) {
        command.args(["--platform", &format!("linux/{}", name.architecture)]);
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
fn connected(
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

/// Writes what only we may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .doing("write", path)
}

impl fmt::Display for Farm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .agents
            .iter()
            .map(|agent| agent.name.to_string())
            .collect();
        write!(
            f,
            "the farm at {} with the agents {}",
            self.coordinator.client,
            names.join(", ")
        )
    }
}
