//! Wires the parts together and serves: the one place that knows them all.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use croft_scheduler::{ConnectionId, LeaseTerms, Project};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::config::{Config, Listen, StageRegistry as StageFlags};
use crate::control::{Control, Settings, StageRegistry};
use crate::registry::Login;
use crate::store::{DatabaseConfig, Store};
use crate::{api, front, tls};

/// What one HTTP/2 stream may have in flight, in bytes: enough to keep a fast link busy.
const STREAM_WINDOW: u32 = 2 << 20;
/// What one connection may have in flight, in bytes: this bounds what a client that floods us can make us hold.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls that one connection may have open.
const STREAMS: u32 = 1000;
/// How long a graceful stop waits for calls to end.
const STOP: Duration = Duration::from_secs(5);

/// Runs the coordinator until it is told to stop.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    // The process has one TLS back end; a second call to install it would only say that it is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listen = &config.listen;
    let (client_tls, agent_tls) = tls::acceptors(listen)?;
    loopback_only(listen)?;

    let database = DatabaseConfig::new(&config.database.url, config.database.connections);
    let store = Store::connect(&database).await?;
    let stages = stages(&config.stages, &config.policy.project)?;
    stages.check().await.with_context(|| {
        format!(
            "the stage registry {} can't be used: check --stage-registry and its user and password file",
            stages.host()
        )
    })?;

    let settings = Settings {
        build_platform: config.policy.build_platform.clone(),
        agent_wait: config.policy.agent_wait,
        leases: LeaseTerms::new(config.policy.lease),
        budget: croft_scheduler::FarmBudget::default(),
        policy: croft_scheduler::Policy::default(),
        entitlements: BTreeSet::from_iter(config.policy.allow_entitlement.clone()),
        project: Project(config.policy.project.clone()),
        plain_registries: config.stages.insecure_registry.clone(),
    };
    let control = Control::new(settings, store, stages);
    control
        .recover()
        .await
        .context("the farm's state can't be taken over")?;
    control.start();

    let clients = bind(listen.client_addr, "--client-addr").await?;
    let agents = bind(listen.agent_addr, "--agent-addr").await?;
    let (client_addr, agent_addr) = (clients.local_addr()?, agents.local_addr()?);
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let client_router = front::routes(Arc::clone(&control))
        .add_service(api::farm_routes(&control))
        .add_service(health_service)
        .into_axum_router();
    let agent_router = api::agent_router(Arc::clone(&control));
    tasks.spawn(accept(
        clients,
        client_tls,
        client_router,
        stop.clone(),
        tasks.clone(),
    ));
    tasks.spawn(accept(
        agents,
        agent_tls,
        agent_router,
        stop.clone(),
        tasks.clone(),
    ));
    if listen.tls_cert.is_none() {
        tracing::warn!("no TLS is set up: listening on loopback only");
    }
    tracing::info!(clients = %client_addr, agents = %agent_addr, "ready");
    announce(client_addr, agent_addr);

    stop_signal().await;
    tracing::info!("stopping");
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP, tasks.wait()).await.is_err() {
        tracing::info!("some calls were cut off");
    }
    Ok(())
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

fn stages(flags: &StageFlags, project: &str) -> anyhow::Result<StageRegistry> {
    let login = match (
        &flags.stage_registry_user,
        &flags.stage_registry_password_file,
    ) {
        (Some(user), Some(file)) => {
            let password = std::fs::read_to_string(file)
                .with_context(|| format!("the password file {} can't be read", file.display()))?;
            Login::Password {
                user: user.clone(),
                password: password.trim_end_matches(['\r', '\n']).to_owned(),
            }
        }
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

async fn bind(addr: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("can't listen on {addr}: choose another address with {flag}"))
}

/// Says on standard output that both ports take connections: whoever started us may wait for this line.
fn announce(clients: SocketAddr, agents: SocketAddr) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; then nobody waits for it either.
    let _ = writeln!(
        out,
        "croft-coordinator ready client={clients} agent={agents}"
    );
    let _ = out.flush();
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<tls::Acceptor>,
    router: Router,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: what is open may end meanwhile.
                    tracing::warn!(%error, "a connection can't be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        tasks.spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => connection(stream, router, stop).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => connection(stream, router, stop).await,
                    // The peer may not hear why: of a certificate that is refused it sees but a closed connection.
                    Err(error) => tracing::info!(%peer, %error, "a peer's TLS failed"),
                },
            }
        });
    }
}

async fn connection<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let connection = ConnectionId(Uuid::new_v4());
    let marked = router.map_request(move |mut request: http::Request<_>| {
        request.extensions_mut().insert(connection);
        request
    });
    let service = hyper_util::service::TowerToHyperService::new(marked);
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
