//! Wakes: those who wait for work hear of it when the transaction that made it has committed.
//!
//! They are said within this process. One coordinator at a time changes the database, and all who wait are part of it; PostgreSQL's NOTIFY
//! would cost each transaction a statement, and lets no two of those that use it commit at once.

use sqlx::{Postgres, Transaction};
use tokio::sync::Notify;

use super::{Store, StoreError};

/// What is waited for. Each has one that waits.
#[derive(Debug, Default)]
pub struct Wakes {
    /// Stages became ready, slots became free, or agents came, went or changed: place again.
    pub placement: Notify,
    /// Builds may not have been told all that is in the store, as when the database was away.
    pub missed: Notify,
}

impl Store {
    /// What this store's callers wait for.
    pub fn wakes(&self) -> &Wakes {
        &self.wakes
    }

    /// Commits what makes work for placement.
    pub(super) async fn commit_and_wake(
        &self,
        transaction: Transaction<'_, Postgres>,
    ) -> Result<(), StoreError> {
        let committed = transaction.commit().await;
        // If the answer was lost it may have committed all the same.
        self.wakes.placement.notify_one();
        Ok(committed?)
    }
}
