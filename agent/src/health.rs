//! Whether the engine answers, and whether it still is the one that the coordinator was told of.

use std::{sync::Arc, time::Duration};

use croft_buildkit::engine::{Engine, EngineInfo};
use tokio::sync::watch;

/// Looks in a row without an answer that make an engine one that hangs.
const LOOKS: u32 = 3;

/// What is known of the engine just now.
#[derive(Debug, Clone)]
pub struct Health {
    /// Whether it answers.
    pub pulse: Pulse,
    /// What it said of itself when it was last asked.
    pub info: Arc<EngineInfo>,
}

/// Whether the engine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// It does.
    Answers,
    /// It didn't when it was last asked: it may be busy, and gets no new work.
    Silent,
    /// It hasn't for so long that what runs on it is given up.
    Hangs,
}

impl Health {
    /// Whether it can be given work.
    pub fn is_good(&self) -> bool {
        self.pulse == Pulse::Answers
    }
}

/// Watches an engine that has just answered with `info`, until all receivers are gone. It hangs once it has not answered for `patience`.
pub fn watch(engine: Engine, info: EngineInfo, patience: Duration) -> watch::Receiver<Health> {
    let (sender, receiver) = watch::channel(Health {
        pulse: Pulse::Answers,
        info: Arc::new(info),
    });
    // Half of the time between looks, half of it for the answers.
    let every = patience / (2 * LOOKS);
    tokio::spawn(async move {
        let mut looks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Looks, not time: when we were frozen ourselves, only our own clock has gone on.
        let mut unanswered = 0;
        loop {
            tokio::select! {
                _ = looks.tick() => look(&engine, &sender, every, &mut unanswered).await,
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

async fn look(
    engine: &Engine,
    health: &watch::Sender<Health>,
    timeout: Duration,
    unanswered: &mut u32,
) {
    let before = health.borrow().clone();
    match engine.healthy(timeout).await {
        Err(error) => {
            *unanswered = unanswered.saturating_add(1);
            let pulse = match *unanswered >= LOOKS {
                true => Pulse::Hangs,
                false => Pulse::Silent,
            };
            match (before.pulse, pulse) {
                (Pulse::Answers, _) => {
                    tracing::warn!(%error, "the engine does not answer: no new work until it does");
                }
                (Pulse::Silent, Pulse::Hangs) => {
                    tracing::warn!(%error, "the engine still does not answer: what runs on it is given up");
                }
                _ => {}
            }
            if before.pulse != pulse {
                health.send_modify(|health| health.pulse = pulse);
            }
        }
        Ok(()) if before.is_good() => *unanswered = 0,
        // It may have been restarted, as another version even.
        Ok(()) => {
            if let Ok(info) = engine.info().await {
                *unanswered = 0;
                tracing::info!(version = info.version, "the engine answers again");
                health.send_modify(|health| {
                    health.pulse = Pulse::Answers;
                    // It is told anew only if there is something new to tell.
                    if *health.info != info {
                        health.info = Arc::new(info);
                    }
                });
            }
        }
    }
}
