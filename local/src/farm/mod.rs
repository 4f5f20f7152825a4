//! A whole farm: database, registries, engines, coordinator and agents, started together and ended together.

mod members;

use std::{
    fmt, fs,
    net::SocketAddr,
    path::PathBuf,
    sync::OnceLock,
    thread::{Scope, ScopedJoinHandle},
};

use members::{AGENT_WITHIN, CoordinatorPorts, FarmEngine, agent, connected, coordinator};
pub use members::{FarmAgent, FarmCoordinator};

use crate::{
    base::{BASE_REPOSITORY, BaseImage},
    engine::{Engine, EngineOptions, ImageStore},
    error::{Doing, Error, Result},
    home::{Place, temporary},
    options::{AgentName, Binaries, Coordinators, FarmOptions},
    parts,
    ports::Ports,
    postgres::{Postgres, PostgresOptions},
    registry::{Access, Registry, RegistryOptions},
};

/// A running farm; ends when this is dropped or this process ends in whatever way.
#[derive(Debug)]
pub struct Farm {
    // What depends on others ends first.
    agents: Vec<FarmAgent>,
    coordinators: Vec<FarmCoordinator>,
    /// Which of them is active, as far as we know.
    active: usize,
    stage: Registry,
    private: Registry,
    registry: Registry,
    postgres: Postgres,
    database_url: String,
    binaries: Binaries,
    buildx: PathBuf,
    _folder: Folder,
}

/// The ports that people type, drawn in this order so that CROFT_PORT_BASE makes them predictable.
struct Addresses {
    coordinator: CoordinatorPorts,
    registry: SocketAddr,
    private: SocketAddr,
    stage: SocketAddr,
    postgres: SocketAddr,
}

impl Addresses {
    fn draw(ports: Ports) -> Result<Addresses> {
        Ok(Addresses {
            coordinator: CoordinatorPorts::draw(ports)?,
            registry: ports.draw()?,
            private: ports.draw()?,
            stage: ports.draw()?,
            postgres: ports.draw()?,
        })
    }
}

impl CoordinatorPorts {
    fn draw(ports: Ports) -> Result<CoordinatorPorts> {
        Ok(CoordinatorPorts {
            client: ports.draw()?,
            agents: ports.draw()?,
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
        let start = |name, ports| coordinator(&options, &place, name, ports, &database_url, &stage);
        let mut coordinators = vec![start("coordinator", addresses.coordinator)?];
        coordinators[0].wait_active()?;
        if options.coordinators == Coordinators::Two {
            let mut standby = start("standby", CoordinatorPorts::draw(options.ports)?)?;
            standby.wait_standing_by()?;
            coordinators.push(standby);
        }
        let started = options
            .agents
            .iter()
            .zip(engines)
            .map(|(name, engine)| agent(&options, &place, &coordinators, *name, engine));
        let mut agents = started.collect::<Result<Vec<_>>>()?;
        for FarmAgent { name, part, .. } in &mut agents {
            part.wait_ready(AGENT_WITHIN, || {
                connected(&options.binaries, addresses.coordinator.client, *name)
            })?;
        }
        Ok(Farm {
            agents,
            coordinators,
            active: 0,
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
            ("CROFT_ADDR", self.client_address().to_string()),
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
        self.coordinators[self.active].client_address()
    }

    /// Where agents connect.
    pub fn agent_address(&self) -> SocketAddr {
        self.coordinators[self.active].agent_address()
    }

    /// Kills the coordinator as `kill -9` does.
    pub fn kill_coordinator(&mut self) -> Result<()> {
        self.coordinators[self.active].kill()
    }

    /// Starts the coordinator again, on the same ports and with the same flags, and waits until it is at work. It must have ended.
    pub fn start_coordinator(&mut self) -> Result<()> {
        self.coordinators[self.active].start_again()?;
        self.coordinators[self.active].wait_active()
    }

    /// The coordinators; the first is the active one when the farm has started.
    pub fn coordinators(&mut self) -> &mut [FarmCoordinator] {
        &mut self.coordinators
    }

    /// Waits until another coordinator has become the active one. From then on the farm is where that is.
    pub fn wait_taken_over(&mut self) -> Result<()> {
        self.active = (self.active + 1) % self.coordinators.len();
        self.coordinators[self.active].wait_active()
    }

    /// The coordinator's process, while it runs.
    pub fn coordinator_process(&self) -> Option<u32> {
        self.coordinators[self.active].process()
    }

    /// The coordinator's log.
    pub fn coordinator_log(&self) -> PathBuf {
        self.coordinators[self.active].log()
    }

    /// The agents, in the order in which they were asked for.
    pub fn agents(&self) -> &[FarmAgent] {
        &self.agents
    }

    /// The same, to be broken.
    pub fn agents_mut(&mut self) -> &mut [FarmAgent] {
        &mut self.agents
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

    /// The same, to be broken.
    pub fn stage_mut(&mut self) -> &mut Registry {
        &mut self.stage
    }

    /// The database server.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The same, to be broken.
    pub fn postgres_mut(&mut self) -> &mut Postgres {
        &mut self.postgres
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
        for standby in &self.coordinators[1..] {
            logs.push(("standby".to_owned(), standby.log()));
        }
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
        for coordinator in self.coordinators.iter_mut().rev() {
            coordinator.part.end();
        }
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
                let special = options.special.get(name).cloned().unwrap_or_default();
                Engine::start(EngineOptions {
                    name: format!("engine-{name}"),
                    place: special.engine_place.unwrap_or_else(|| place.clone()),
                    mirror: Some(mirror),
                    images: ImageStore::Containerd,
                    entitlements: special.entitlements,
                    devices: special.devices,
                })
                .map(FarmEngine::Own)
            }
        })
    };
    options.agents.iter().map(start).collect()
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
            self.client_address(),
            names.join(", ")
        )
    }
}
