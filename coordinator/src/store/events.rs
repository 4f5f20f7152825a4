//! Events: what happened to a build or to the farm, for people and for later questions. Nothing is decided by them.

use chrono::{DateTime, Utc};
use croft_scheduler::BuildId;
use serde_json::Value;
use sqlx::PgConnection;

use super::{Store, StoreError};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    /// Greater than those of all earlier events.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// What, in a word: "placed".
    pub kind: String,
    /// What else there is to say.
    pub data: Value,
}

impl Store {
    /// Notes that something happened, to a build or (`None`) to the farm.
    pub async fn event_append(
        &self,
        build: Option<BuildId>,
        kind: &str,
        data: &Value,
    ) -> Result<(), StoreError> {
        self.again(|| async {
            sqlx::query!(
                "INSERT INTO events (build, kind, data) VALUES ($1, $2, $3)",
                build.map(|build| build.0),
                kind,
                data,
            )
            .execute(&mut *self.connection().await?)
            .await?;
            Ok(())
        })
        .await
    }

    /// At most `limit` events of a build after the one of this id (0: from the beginning).
    pub async fn event_list(
        &self,
        build: BuildId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.again(async || event_rows(&mut *self.connection().await?, build, after, limit).await)
            .await
    }
}

pub(super) async fn event_rows(
    connection: &mut PgConnection,
    build: BuildId,
    after: i64,
    limit: u32,
) -> Result<Vec<EventRow>, StoreError> {
    let rows = sqlx::query_as!(
        EventRow,
        "SELECT id, at, kind, data FROM events WHERE build = $1 AND id > $2 ORDER BY id LIMIT $3",
        build.0,
        after,
        i64::from(limit),
    );
    Ok(rows.fetch_all(connection).await?)
}
