//! Wires the parts together and serves: the one place that knows them all.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use croft_scheduler::{LeaseTerms, Project};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::{Config, Listen, StageRegistry as StageFlags};
use crate::control::{Control, RegistrySecrets, Retention, Settings, StageRegistry};
use crate::ports::{self, Gate};
use crate::registry::{Login, RegistryError};
use crate::store::{
    Addresses, Candidate, Database, DatabaseConfig, Holder, LeaseError, Store, Tenure,
};
use crate::{api, front, tls};

/// How long a graceful stop waits for calls to end.
const STOP: Duration = Duration::from_secs(5);
/// How long it waits for what is under way in the database. What takes longer is ended by whoever takes over.
const CLOSE: Duration = Duration::from_secs(3);

/// Runs the coordinator until it is told to stop, or another one takes over.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    // The process has one TLS back end; a second call to install it would only say that it is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listen = &config.listen;
    let (client_tls, agent_tls) = tls::acceptors(listen)?;
    loopback_only(listen)?;
    let clients = ports::bind(listen.client_addr, "--client-addr").await?;
    let agents = ports::bind(listen.agent_addr, "--agent-addr").await?;
    let (client_addr, agent_addr) = (clients.local_addr()?, agents.local_addr()?);

    let database = DatabaseConfig {
        patience: config.database.wait,
        ..DatabaseConfig::new(&config.database.url, config.database.connections)
    };
    let database = Database::reach(&database).await?;
    let stages = stages(&config.stages, &config.policy.project)?;
    let settings = settings(&config)?;
    match stages.check().await {
        // What runs goes on without it for a while, but not without a coordinator.
        Err(error @ RegistryError::Away { .. }) => {
            tracing::warn!(%error, "the stage registry is away: no result travels until it is back");
        }
        checked => checked.with_context(|| {
            format!(
                "the stage registry {} can't be used: check --stage-registry and its user and password file",
                stages.host()
            )
        })?,
    }
    if listen.tls_cert.is_none() {
        tracing::warn!("no TLS is set up: listening on loopback only");
    }

    let doors = Doors::new();
    let told = stop_signal();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    for (listener, tls, gate) in [
        (clients, client_tls, &doors.clients),
        (agents, agent_tls, &doors.agents),
    ] {
        let accepting = ports::accept(listener, tls, gate.clone(), stop.clone(), tasks.clone());
        tasks.spawn(accepting);
    }
    let standby = Standby {
        addresses: Addresses {
            clients: advertised(listen.advertise_client.as_deref(), client_addr),
            agents: advertised(listen.advertise_agent.as_deref(), agent_addr),
        },
        listening: (client_addr, agent_addr),
        doors: &doors,
    };
    let won = tokio::select! {
        tenure = standby.wait(&database, config.lease.coordinator_lease) => Some(tenure?),
        () = told.cancelled() => None,
    };
    let ended = match won {
        Some(tenure) => {
            let active = Active {
                database,
                tenure,
                standby: &standby,
            };
            active.run(settings, stages, &told).await
        }
        None => Ok(()),
    };
    tracing::info!("stopping");
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP, tasks.wait()).await.is_err() {
        tracing::info!("some calls were cut off");
    }
    ended
}

/// What both ports answer.
struct Doors {
    clients: Gate,
    agents: Gate,
    health: HealthReporter,
}

impl Doors {
    fn new() -> Doors {
        let (health, service) = tonic_health::server::health_reporter();
        let service = Routes::new(service).into_axum_router();
        let gate = || Gate::shut_with(service.clone(), "this coordinator is starting");
        Doors {
            clients: gate(),
            agents: gate(),
            health,
        }
    }

    async fn health(&self, status: ServingStatus) {
        self.health.set_service_status("", status).await;
    }

    /// Refuses all calls, on the clients' port and on the agents'.
    async fn shut(&self, clients: &str, agents: &str) {
        self.health(ServingStatus::NotServing).await;
        self.clients.shut(clients);
        self.agents.shut(agents);
    }
}

/// A coordinator that isn't active, yet or any more.
struct Standby<'a> {
    addresses: Addresses,
    listening: (SocketAddr, SocketAddr),
    doors: &'a Doors,
}

impl Standby<'_> {
    /// Waits for the lease, and tells whoever asks where the active one is.
    async fn wait(&self, database: &Database, lease: Duration) -> Result<Tenure, LeaseError> {
        let candidate = Candidate::new(database, self.addresses.clone(), lease);
        self.doors.health(ServingStatus::NotServing).await;
        let mut known = None;
        candidate
            .win(|holder| {
                let Some(holder) = holder else {
                    return;
                };
                self.refuse(holder);
                if known.as_ref() != Some(holder) {
                    tracing::info!(active = holder.addresses.clients, term = %holder.term, "standing by");
                    announce("standing by", self.listening);
                    known = Some(holder.clone());
                }
            })
            .await
    }

    fn refuse(&self, holder: &Holder) {
        let why = |at: &str| format!("this coordinator stands by; the active one is at {at}");
        self.doors.clients.shut(&why(&holder.addresses.clients));
        self.doors.agents.shut(&why(&holder.addresses.agents));
    }
}

/// The coordinator that holds the lease.
struct Active<'a> {
    database: Database,
    tenure: Tenure,
    standby: &'a Standby<'a>,
}

/// Why an active coordinator ends.
enum Over {
    /// It was told to.
    Told,
    /// Another one has taken over.
    Deposed(Holder),
}

impl Active<'_> {
    /// Takes over, serves, and leaves so that another one can take over.
    async fn run(
        self,
        settings: Settings,
        stages: StageRegistry,
        told: &CancellationToken,
    ) -> anyhow::Result<()> {
        let deposed = CancellationToken::new();
        let store = self.database.store(&self.tenure, deposed.clone());
        let mut keeping = self.keep(&store);
        let control = Control::new(settings, store.clone(), stages);
        let over = async {
            tokio::select! {
                holder = &mut keeping => Over::Deposed(holder),
                // Whoever it is, the lease says it too.
                () = deposed.cancelled() => Over::Deposed((&mut keeping).await),
                () = told.cancelled() => Over::Told,
            }
        };
        let over = tokio::select! {
            over = over => Ok(over),
            Err(error) = self.serve(&control) => Err(error),
        };
        let why = match &over {
            Ok(Over::Told) => "this coordinator was told to stop, and what runs is left to the next one: run the build again".to_owned(),
            Ok(Over::Deposed(holder)) => format!(
                "this coordinator has lost the lead to the one at {}: run the build again there",
                holder.addresses.clients
            ),
            Err(_) => "this coordinator has failed".to_owned(),
        };
        // First nothing is decided any more. So nobody takes what is cut off from here on for the end of a build.
        let _ = tokio::time::timeout(CLOSE, store.close()).await;
        if !matches!(over, Ok(Over::Deposed(_)))
            && let Err(error) = self.tenure.release().await
        {
            tracing::warn!(%error, "the lease can't be given back: another coordinator takes it when it runs out");
        }
        control.fleet().cut_all();
        self.standby.doors.shut(&why, &why).await;
        match over? {
            Over::Told => Ok(()),
            Over::Deposed(holder) => bail!(
                "another coordinator, at {}, has taken over (term {}, after our term {}): start this one again to have it stand by",
                holder.addresses.clients,
                holder.term,
                self.tenure.term()
            ),
        }
    }

    /// Keeps the lease; resolves when another one has it.
    fn keep(&self, store: &Store) -> Keeping {
        let (tenure, store) = (self.tenure.clone(), store.clone());
        let keeping = async move { tenure.keep(|contact| store.contact(contact)).await };
        Box::pin(keeping)
    }

    /// Takes over what an earlier coordinator left, and serves for ever.
    async fn serve(&self, control: &Arc<Control>) -> anyhow::Result<()> {
        self.tenure.evict().await?;
        control
            .recover()
            .await
            .context("the farm's state can't be taken over")?;
        control.start();
        let doors = self.standby.doors;
        let clients = front::routes(Arc::clone(control)).add_service(api::farm_routes(control));
        doors.clients.open(clients.into_axum_router());
        doors.agents.open(api::agent_router(Arc::clone(control)));
        doors.health(ServingStatus::Serving).await;
        let (clients, agents) = self.standby.listening;
        tracing::info!(%clients, %agents, term = %self.tenure.term(), "ready");
        announce("ready", self.standby.listening);
        std::future::pending().await
    }
}

type Keeping = std::pin::Pin<Box<dyn Future<Output = Holder> + Send>>;

fn settings(config: &Config) -> anyhow::Result<Settings> {
    let mut registry_secrets = RegistrySecrets::default();
    for secret in &config.stages.registry_secret {
        let password = password(&secret.password_file)?;
        registry_secrets.add(&secret.prefix, secret.user.clone(), password);
    }
    Ok(Settings {
        build_platform: config.policy.build_platform.clone(),
        agent_wait: config.policy.agent_wait,
        build_deadline: config.policy.build_deadline,
        leases: LeaseTerms::new(config.policy.lease),
        budget: croft_scheduler::FarmBudget::default(),
        policy: croft_scheduler::Policy::default(),
        retention: Retention {
            builds: config.retention.keep_builds,
            max_builds: config.retention.max_builds,
            logs: config.retention.keep_logs,
            max_log_bytes: config.retention.max_log_bytes,
            images: config.retention.keep_stage_images,
            max_image_bytes: config.retention.max_stage_bytes,
        },
        entitlements: BTreeSet::from_iter(config.policy.allow_entitlement.clone()),
        project: Project(config.policy.project.clone()),
        plain_registries: config.stages.insecure_registry.clone(),
        registry_secrets,
    })
}

/// Where others find a port of ours: as we are told, or where it listens, under this host's name if that is everywhere.
fn advertised(told: Option<&str>, listening: SocketAddr) -> String {
    match told {
        Some(told) => told.to_owned(),
        None if listening.ip().is_unspecified() => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("{}:{}", host.trim(), listening.port())
        }
        None => listening.to_string(),
    }
}

/// Without TLS anybody who reaches a port may build, or pose as an agent: then nobody but this machine may reach it.
fn loopback_only(listen: &Listen) -> anyhow::Result<()> {
    if listen.tls_cert.is_some() {
        return Ok(());
    }
    for (flag, addr) in [
        ("--client-addr", listen.client_addr),
        ("--agent-addr", listen.agent_addr),
    ] {
        if !addr.ip().is_loopback() {
            bail!(
                "{flag} {addr} is no loopback address, and there is no TLS: give --tls-cert, --tls-key and --tls-client-ca, or listen on 127.0.0.1"
            );
        }
    }
    Ok(())
}

/// What a file holds, without the end of its line.
fn password(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the password file {} can't be read", file.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn stages(flags: &StageFlags, project: &str) -> anyhow::Result<StageRegistry> {
    let login = match (
        &flags.stage_registry_user,
        &flags.stage_registry_password_file,
    ) {
        (Some(user), Some(file)) => Login::Password {
            user: user.clone(),
            password: password(file)?,
        },
        _ => Login::Anonymous,
    };
    let mut plain = flags.insecure_registry.clone();
    if flags.stage_registry_insecure {
        let host = flags.stage_registry.split('/').next().unwrap_or_default();
        plain.push(host.to_owned());
    }
    Ok(StageRegistry::new(
        &flags.stage_registry,
        project,
        login,
        &plain,
    )?)
}

/// Says on standard output that both ports take connections, and what for: whoever started us may wait for this line.
fn announce(what: &str, (clients, agents): (SocketAddr, SocketAddr)) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; then nobody waits for it either.
    let _ = writeln!(
        out,
        "croft-coordinator {what} client={clients} agent={agents}"
    );
    let _ = out.flush();
}

/// Cancelled when somebody tells us to stop.
fn stop_signal() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let told = CancellationToken::new();
    let tell = told.clone();
    tokio::spawn(async move {
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tell.cancel();
    });
    told
}
