//! Reaping: leases that ended without a word, builds that nobody drives any more.

use std::sync::Arc;
use std::time::Duration;

use super::Control;
use super::failure::{Failure, Result};
use crate::store::BuildEnd;

/// How often the loop looks.
const PACE: Duration = Duration::from_secs(1);
/// Attempts that it gives up in one go.
const BATCH: u32 = 100;

/// The reaping loop.
pub(super) async fn run(control: Arc<Control>) {
    loop {
        tokio::time::sleep(PACE).await;
        if let Err(failure) = pass(&control).await {
            tracing::warn!(%failure, "nothing is reaped while the database is away");
        }
    }
}

async fn pass(control: &Control) -> Result<()> {
    for lost in control.store.attempt_expired(BATCH).await? {
        match control
            .store
            .attempt_lose(&lost, &control.settings.budget)
            .await
        {
            Ok(end) => {
                control.cancel_attempt(&lost, "its lease ended");
                let why = "its agent was not heard of until its lease ended";
                control.after(end, Some(Failure::farm(why))).await;
            }
            Err(error) if error.is_stale() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Control {
    /// What a coordinator that starts finds of an earlier one: nobody is connected, and builds whose clients went with it end.
    pub async fn recover(&self) -> Result<()> {
        self.store.agent_all_away().await?;
        for build in self.store.build_live().await? {
            let reason = "the coordinator was restarted and the client is gone";
            match self
                .store
                .build_end(build.id, BuildEnd::Cancelled { reason })
                .await
            {
                Ok(_) => {
                    tracing::info!(build = %build.id, "a build of an earlier coordinator is ended")
                }
                Err(error) if error.is_stale() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
