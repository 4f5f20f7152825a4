//! Logs: what a build said, in the order in which it was appended. What the bytes mean is the caller's business.

use chrono::{DateTime, Utc};
use croft_scheduler::BuildId;

use super::{Store, StoreError};

/// A piece of a build's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Greater than those of all earlier pieces; not without gaps.
    pub seq: i64,
    /// When it was appended.
    pub at: DateTime<Utc>,
    /// As it was appended.
    pub data: Vec<u8>,
}

impl Store {
    /// Appends a piece. Callers collect: one append for each 64 KiB or second.
    pub async fn log_append(&self, build: BuildId, data: &[u8]) -> Result<(), StoreError> {
        self.again(|| async {
            sqlx::query!(
                "INSERT INTO logs (build, data) VALUES ($1, $2)",
                build.0,
                data
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(())
        })
        .await
    }

    /// At most `limit` pieces after the one of this number (0: from the beginning).
    pub async fn log_read(
        &self,
        build: BuildId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LogChunk>, StoreError> {
        self.again(|| async {
        let rows = sqlx::query_as!(
            LogChunk,
            "SELECT seq, at, data FROM logs WHERE build = $1 AND seq > $2 ORDER BY seq LIMIT $3",
            build.0,
            after,
            i64::from(limit),
        );
        Ok(rows.fetch_all(&mut *self.connection().await?).await?)
    }).await
    }
}
