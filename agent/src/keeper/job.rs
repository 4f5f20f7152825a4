//! A gateway job in a keeper, from its opening to its end.

use std::{sync::Weak, time::Duration};

use croft_buildkit::{api::frontend, gateway::Gateway};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Keeper, LAST_WORDS, lock};
use crate::vertices::JobId;

/// How long the engine may take to let go of a job.
const CLOSING: Duration = Duration::from_secs(10);

/// A gateway job in a keeper. Dropping it cancels what runs in it.
pub struct Job {
    pub(super) gateway: Gateway,
    /// Its end is ours, not the engine's.
    pub(super) over: CancellationToken,
    /// All that the engine says of it has been told.
    pub(super) told: CancellationToken,
    pub(super) id: JobId,
    pub(super) keeper: Weak<Keeper>,
}

impl Job {
    /// Solves a frontend or a definition.
    pub async fn solve(
        &self,
        request: frontend::SolveRequest,
    ) -> Result<frontend::SolveResponse, Status> {
        self.gateway.solve(request).await
    }

    /// A client for the gateway's other calls.
    pub fn bridge(&self) -> croft_buildkit::engine::Bridge {
        self.gateway.bridge()
    }

    /// Ends it in good order, and waits for the engine to let go of it for as long as is sensible.
    pub async fn close(self) {
        self.retire();
        match tokio::time::timeout(CLOSING, self.gateway.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(status)) => {
                tracing::debug!(error = status.message(), "a job did not end in good order")
            }
            Err(_) => tracing::warn!("the engine does not let go of a job"),
        }
        let _ = tokio::time::timeout(LAST_WORDS, self.told.cancelled()).await;
    }
}

impl Job {
    fn retire(&self) {
        self.over.cancel();
        if let Some(keeper) = self.keeper.upgrade() {
            lock(&keeper.vertices).retire(self.id);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.retire();
    }
}
