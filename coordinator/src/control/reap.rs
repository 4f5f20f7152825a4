//! Reaping: leases that ended without a word, agents that nothing is heard of and what they hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Control;
use super::failure::{Failure, Result};
use super::presence::Linked;
use crate::store::{Holding, SilentAgent};

/// How often the loop looks: whoever waits for a stage of an agent that died waits for its lease, and not much longer.
const PACE: Duration = Duration::from_millis(250);
/// A look that takes longer is one at a database that was away.
const SLOW: Duration = Duration::from_secs(1);
/// Why an agent is taken for away.
const UNHEARD: &str = "it was not heard of for a lease";
/// Attempts that it gives up in one go.
const BATCH: u32 = 100;

/// The reaping loop.
pub(super) async fn run(control: Arc<Control>) {
    let terms = control.settings.leases;
    let mut listening = Instant::now();
    let mut unheard = false;
    loop {
        tokio::time::sleep(PACE).await;
        let begun = Instant::now();
        let looked = async {
            if unheard {
                control
                    .store
                    .hurried(terms.heartbeat)?
                    .attempt_adopt(&terms)
                    .await?;
            }
            let due = control.store.hurried(terms.heartbeat)?.due(&terms).await?;
            if due.leases {
                leases(&control).await?;
            }
            if due.builds {
                control.end_overdue().await?;
            }
            let silent = match due.silence {
                true => (
                    control.store.agent_silent(&terms).await?,
                    control.store.output_held_in_silence(&terms).await?,
                ),
                false => Default::default(),
            };
            Ok::<_, Failure>(silent)
        };
        let looked = looked.await;
        let missed = looked.is_err();
        let done = match looked {
            // A database that was away has stored no heartbeat meanwhile: that is not the agents' silence.
            Ok(_) if begun.elapsed() > SLOW => {
                listening = Instant::now();
                Ok(())
            }
            // Nor is that they had nobody to talk to.
            Ok(_) if listening.elapsed() <= terms.lease + terms.grace => Ok(()),
            Ok((silent, held)) => silence(&control, silent, held).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = done {
            if control.store.is_closed() {
                return;
            }
            if !unheard {
                tracing::warn!(%failure, "nothing is reaped");
            }
            listening = Instant::now();
        }
        // Nor could a lease be renewed: whoever runs something gets the time to.
        unheard = missed;
    }
}

/// Takes agents for away that have not been heard of for a lease, and what only they hold for lost: it is made again elsewhere. One that
/// comes back later keeps what it holds, as that harms nobody: each input is bound to where the store says it is, and it says nothing any
/// more of what was lost.
async fn silence(control: &Control, silent: Vec<SilentAgent>, held: Vec<Holding>) -> Result<()> {
    for silent in silent {
        let link = Linked {
            agent: silent.id,
            name: silent.name.as_str().into(),
            epoch: u64::try_from(silent.epoch.0).unwrap_or_default(),
        };
        control.agent_away(&link, UNHEARD).await;
    }
    for held in held {
        control
            .keeper_lost(held.build, held.agent, &held.name, UNHEARD)
            .await?;
    }
    Ok(())
}

/// Gives up attempts whose leases ended.
async fn leases(control: &Control) -> Result<()> {
    // Not after a wait: leases that end while the database is away are none's fault.
    let store = control.store.hurried(control.settings.leases.heartbeat)?;
    for lost in store.attempt_expired(BATCH).await? {
        match control
            .store
            .attempt_lose(&lost, &control.settings.budget)
            .await
        {
            Ok(end) => {
                control.cancel_attempt(&lost, "its lease ended");
                let name = control.store.agent_name(lost.agent).await?;
                let why = format!("{name} was not heard of until its lease ended");
                control.after(end, Some(Failure::farm(why))).await;
            }
            Err(error) if error.is_stale() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
