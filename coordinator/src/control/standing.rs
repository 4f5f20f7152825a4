//! Where builds stand by what the store says, for those that have missed it.
//!
//! What follows from a report is told to its build once, by whoever stored the report. If the database broke off before it said that the
//! report was stored, nobody is told: its repetition is stale. So each build that lives is looked up from time to time, and when the database
//! was away at once.

use std::sync::Arc;
use std::time::Duration;

use super::Control;
use super::failure::{Failure, Result};
use crate::store::Standing;

/// How often builds are looked up though nothing is known to have been missed.
const PACE: Duration = Duration::from_secs(10);

/// The loop.
pub(super) async fn run(control: Arc<Control>) {
    loop {
        let _ = tokio::time::timeout(PACE, control.store.wakes().missed.notified()).await;
        if let Err(failure) = control.catch_up().await {
            if control.store.is_closed() {
                return;
            }
            tracing::debug!(%failure, "builds can't be looked up");
            control.store.wakes().missed.notify_one();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

impl Control {
    /// Tells all builds what they may have missed.
    async fn catch_up(&self) -> Result<()> {
        let builds: Vec<_> = {
            let builds = self.builds();
            let waits = builds.values().filter(|build| build.planned().is_some());
            waits.map(|build| build.id()).collect()
        };
        if builds.is_empty() {
            return Ok(());
        }
        for (id, standing) in self.store.build_standing(&builds).await? {
            let Some(build) = self.build(id) else {
                continue;
            };
            match standing {
                Standing::Goes => {}
                Standing::Done => build.done(),
                Standing::Failed { error } => build.fail(Failure::build(error)),
            }
        }
        Ok(())
    }
}
