//! The program `croft-agent`: reads its configuration, then serves until it is told to stop.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use croft_agent::{
    agent::{Agent, Emulation, Options},
    config::Config,
    link,
    space::Watermarks,
    telemetry::Telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let config = Config::parse();
    // One thread: an agent passes on what others say, and handing that from thread to thread costs a third of what it does. A task gives way
    // to the others after some pieces, so no upload keeps a heartbeat.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("croft-agent: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("croft-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let name = config.identity.name()?;
    let coordinators = config.coordinator.endpoints()?;
    let address = config.engine.address()?;
    let telemetry = Telemetry::start(&config.telemetry, &name)?;
    let options = Options {
        name,
        slots: config.engine.slots(),
        labels: config.identity.labels(),
        emulate: if config.engine.emulate {
            Emulation::Offered
        } else {
            Emulation::Refused
        },
        pretended: config.engine.platform.clone(),
        engine_root: config.engine.root.clone(),
        state_dir: config.identity.state_dir.clone(),
        engine_patience: config.engine.engine_timeout,
        watermarks: Watermarks {
            low: config.engine.disk_low,
            high: config.engine.disk_high,
        },
    };
    let mut terminate = signal(SignalKind::terminate()).context("no signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signals")?;
    let agent = Agent::new(options, &address).await?;
    let leaving = CancellationToken::new();
    let served = link::serve(&agent, &coordinators, &leaving);
    tokio::pin!(served);
    let mut told_to_stop = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let stopped = async {
        told_to_stop().await;
        tracing::info!("stopping when all is done that was begun");
        let drained = tokio::time::timeout(config.identity.stop_timeout, agent.drain());
        tokio::select! {
            drained = drained => match drained {
                Ok(()) => tracing::info!("stopping"),
                Err(_) => tracing::warn!("stopping, though not all is done"),
            },
            () = told_to_stop() => tracing::warn!("stopping at once"),
        }
    };
    let result = tokio::select! {
        served = &mut served => {
            agent.end().await;
            served
        }
        () = async { stopped.await; agent.end().await; leaving.cancel() } => served.await,
    };
    telemetry.end().await;
    Ok(result?)
}
