//! Whether the engine answers, and whether it still is the one that the coordinator was told of.

use std::{sync::Arc, time::Duration};

use croft_buildkit::engine::{Engine, EngineInfo};
use tokio::sync::watch;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of the engine just now.
#[derive(Debug, Clone)]
pub struct Health {
    /// It answers.
    pub healthy: bool,
    /// What it said of itself when it was last asked.
    pub info: Arc<EngineInfo>,
}

/// Watches an engine that has just answered with `info`, until all receivers are gone.
pub fn watch(engine: Engine, info: EngineInfo) -> watch::Receiver<Health> {
    let (sender, receiver) = watch::channel(Health {
        healthy: true,
        info: Arc::new(info),
    });
    tokio::spawn(async move {
        let mut looks = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => look(&engine, &sender).await,
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

async fn look(engine: &Engine, health: &watch::Sender<Health>) {
    let was_healthy = health.borrow().healthy;
    match engine.healthy(TIMEOUT).await {
        Err(error) if was_healthy => {
            tracing::warn!(%error, "the engine does not answer: no new work until it does");
            health.send_modify(|health| health.healthy = false);
        }
        Err(_) => {}
        Ok(()) if was_healthy => {}
        // It may have been restarted, as another version even.
        Ok(()) => {
            if let Ok(info) = engine.info().await {
                tracing::info!(version = info.version, "the engine answers again");
                health.send_modify(|health| {
                    *health = Health {
                        healthy: true,
                        info: Arc::new(info),
                    }
                });
            }
        }
    }
}
