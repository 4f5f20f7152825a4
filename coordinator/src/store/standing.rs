//! Where builds stand that run: whether all their stages are done, or one has failed.

use croft_scheduler::BuildId;
use uuid::Uuid;

use super::{Store, StoreError};

/// Where a build stands that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// There is something to do, or being done.
    Goes,
    /// All stages are done: on to [`Store::build_publish`].
    Done,
    /// A stage has failed: the build is to be ended.
    Failed {
        /// Why, for people.
        error: String,
    },
}

impl Store {
    /// Where these builds stand, of which those that don't run (yet, or any more) are left out.
    pub async fn build_standing(
        &self,
        builds: &[BuildId],
    ) -> Result<Vec<(BuildId, Standing)>, StoreError> {
        let ids: Vec<Uuid> = builds.iter().map(|build| build.0).collect();
        let rows = sqlx::query!(
            r#"SELECT b.id, count(s.number) FILTER (WHERE s.state <> 'done') = 0 AS "done!",
                      bool_or(s.state = 'failed') AS "failed!", COALESCE(
                          (SELECT t.error FROM attempts AS t JOIN stages AS f ON f.build = t.build AND f.number = t.stage
                           WHERE t.build = b.id AND f.state = 'failed' ORDER BY t.token DESC LIMIT 1),
                          'a stage found no agent that could run it') AS "error!"
               FROM builds AS b JOIN stages AS s ON s.build = b.id
               WHERE b.id = ANY ($1) AND b.state = 'running'
               GROUP BY b.id"#,
            &ids,
        )
        .fetch_all(&mut *self.connection().await?)
        .await?;
        let standing = rows.into_iter().map(|row| {
            let standing = match (row.failed, row.done) {
                (true, _) => Standing::Failed { error: row.error },
                (false, true) => Standing::Done,
                (false, false) => Standing::Goes,
            };
            (BuildId(row.id), standing)
        });
        Ok(standing.collect())
    }
}
