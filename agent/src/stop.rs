//! How an attempt is told to stop, and why.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Why an attempt has to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The coordinator doesn't want it any more, for this reason.
    Cancelled(String),
    /// The lease ended: nobody waits for a result.
    LeaseLost,
    /// The agent itself ends.
    AgentEnds,
}

/// How an attempt is told to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Stop {
    pub(crate) fn now(&self, reason: StopReason) {
        // Of two reasons the first counts.
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Whether the attempt has to stop.
    pub(crate) fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the attempt has to stop.
    pub async fn requested(&self) -> StopReason {
        self.token.cancelled().await;
        self.reason.get().cloned().unwrap_or(StopReason::LeaseLost)
    }
}
