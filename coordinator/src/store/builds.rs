//! Builds: how they come, how they stand, how they end.

use std::time::Duration;

use chrono::{DateTime, Utc};
use croft_planner::Platform;
use croft_scheduler::{BuildId, BuildState, ConnectionId, Project};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::attempts::{LiveAttempt, LiveRow};
use super::convert::{millis, read};
use super::error::changed;
use super::{Store, StoreError};

/// A build that comes.
#[derive(Debug, Clone)]
pub struct NewBuild {
    /// Made by the caller, version 7.
    pub id: BuildId,
    /// The client's own name for it.
    pub client_ref: String,
    /// Whose share of the farm it takes.
    pub project: Project,
    /// Greater goes first; 0 is usual.
    pub priority: i32,
    /// The platforms as the client asked for them.
    pub platforms: Vec<String>,
    /// The id of its session; empty if it has none.
    pub session: String,
    /// What it came by.
    pub connection: ConnectionId,
    /// "dockerfile.v0"; empty for a definition.
    pub frontend: String,
    /// How long it may take from now before it is to be ended.
    pub deadline: Option<Duration>,
}

/// A build as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildRow {
    /// Its id.
    pub id: BuildId,
    /// The client's own name for it.
    pub client_ref: String,
    /// Whose share of the farm it takes.
    pub project: Project,
    /// Greater goes first.
    pub priority: i32,
    /// Where it stands.
    pub state: BuildState,
    /// Why it failed or was cancelled.
    pub error: Option<String>,
    /// The platforms as the client asked for them; if it asked for none, those of its plan.
    pub platforms: Vec<String>,
    /// Where its frontend ran; unset while it is planned.
    pub build_platform: Option<Platform>,
    /// The id of its session.
    pub session: String,
    /// "dockerfile.v0"; empty for a definition.
    pub frontend: String,
    /// When it came.
    pub created_at: DateTime<Utc>,
    /// When its plan was there.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// When it is to be ended.
    pub deadline: Option<DateTime<Utc>>,
    /// The exporters' response as the client got it.
    pub response: Option<Value>,
    /// Of the index or manifest that it published.
    pub digest: Option<String>,
    /// The references that it published: `repository:tag`, or the repository alone where it was by digest.
    pub published: Vec<String>,
}

/// Which builds to list.
#[derive(Debug, Clone, Default)]
pub struct BuildFilter {
    /// Only these; empty means all.
    pub states: Vec<BuildState>,
    /// Only those of this project.
    pub project: Option<String>,
    /// Only those for this platform among others, as the client asked for it.
    pub platform: Option<String>,
    /// Only those that came then or later.
    pub since: Option<DateTime<Utc>>,
    /// Only those that published this: a `repository:tag`, or a repository under any tag.
    pub published: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// What a person's name for a build fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No build.
    Nothing,
    /// This one.
    One(BuildId),
    /// Several whose ids begin so.
    Several,
}

/// How a build ends.
#[derive(Debug, Clone, Copy)]
pub enum BuildEnd<'a> {
    /// Everything is published.
    Succeeded {
        /// The exporters' response as the client gets it.
        response: &'a Value,
        /// Of the index or manifest, if one was published.
        digest: Option<&'a str>,
    },
    /// It can't succeed any more.
    Failed {
        /// Why, for people.
        error: &'a str,
    },
    /// Somebody doesn't want it any more.
    Cancelled {
        /// Who and why, for people.
        reason: &'a str,
    },
}

impl Store {
    /// Adds a build, in planning.
    pub async fn build_insert(&self, build: &NewBuild) -> Result<(), StoreError> {
        self.again(|| async {
        sqlx::query!(
            "INSERT INTO builds (id, client_ref, project, priority, platforms, session, connection, frontend, deadline)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + $9::bigint * interval '1 millisecond')
             ON CONFLICT (id) DO NOTHING",
            build.id.0,
            build.client_ref,
            build.project.0,
            build.priority,
            &build.platforms,
            build.session,
            build.connection.0,
            build.frontend,
            build.deadline.map(millis),
        )
        .execute(&mut *self.connection().await?)
        .await?;
        Ok(())
    }).await
    }

    /// The builds that have taken longer than they may. One that publishes by now is let alone: it is nearly done, and tags move.
    pub async fn build_overdue(&self) -> Result<Vec<BuildId>, StoreError> {
        let ids = sqlx::query_scalar!(
            "SELECT id FROM builds WHERE state IN ('planning', 'running') AND deadline < now() ORDER BY deadline, id"
        )
        .fetch_all(&mut *self.connection().await?)
        .await?;
        Ok(ids.into_iter().map(BuildId).collect())
    }

    /// All stages are done: now to publishing.
    pub async fn build_publish(&self, build: BuildId) -> Result<(), StoreError> {
        self.again_unless(
            || async {
                let rows = sqlx::query!(
                    "UPDATE builds SET state = 'publishing'
             WHERE id = $1 AND state = 'running'
               AND NOT EXISTS (SELECT FROM stages WHERE build = $1 AND state <> 'done')",
                    build.0,
                )
                .execute(&mut *self.connection().await?)
                .await?
                .rows_affected();
                changed(rows, "the build")
            },
            || async {
                let row = self.build_get(build).await?;
                let publishing = row.is_some_and(|row| row.state == BuildState::Publishing);
                Ok(publishing.then_some(()))
            },
        )
        .await
    }

    /// Ends a build, and with it all its stages and attempts that live, and the tags that it would still have moved. Returns those attempts:
    /// their agents are to be told.
    pub async fn build_end(
        &self,
        build: BuildId,
        end: BuildEnd<'_>,
    ) -> Result<Vec<LiveAttempt>, StoreError> {
        self.again(|| async {
        let (state, error, response, digest) = match end {
            BuildEnd::Succeeded { response, digest } => {
                (BuildState::Succeeded, None, Some(response), digest)
            }
            BuildEnd::Failed { error } => (BuildState::Failed, Some(error), None, None),
            BuildEnd::Cancelled { reason } => (BuildState::Cancelled, Some(reason), None, None),
        };
        let mut tx = self.begin().await?;
        let rows = sqlx::query!(
            "UPDATE builds SET state = $2, error = $3, response = $4, digest = $5, finished_at = now()
             WHERE id = $1
               AND (state = 'publishing' OR (state IN ('planning', 'running') AND $2 <> 'succeeded'))",
            build.0,
            state.as_str(),
            error,
            response,
            digest,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        changed(rows, "the build")?;
        sqlx::query!(
            "UPDATE stages SET state = 'cancelled', since = now(), waiting_for = NULL, unserved_since = NULL
             WHERE build = $1 AND state IN ('waiting', 'ready', 'running')",
            build.0,
        )
        .execute(&mut *tx)
        .await?;
        let cancelled = sqlx::query_as!(
            LiveRow,
            "WITH live AS (
                 SELECT id FROM attempts WHERE build = $1 AND state IN ('offered', 'running')
                 ORDER BY id FOR NO KEY UPDATE
             )
             UPDATE attempts AS a SET state = 'cancelled', finished_at = now(), error = $2
             FROM live WHERE a.id = live.id
             RETURNING a.id, a.token, a.build, a.stage, a.agent",
            build.0,
            format!("its build {state}"),
        )
        .fetch_all(&mut *tx)
        .await?;
        // What is not known to be done by now won't be.
        sqlx::query!(
            "UPDATE publications SET state = 'left', error = $2 WHERE build = $1 AND state = 'intended'",
            build.0,
            format!("its build {state} before this was tried or known to be done"),
        )
        .execute(&mut *tx)
        .await?;
        self.commit_and_wake(tx).await?;
        Ok(cancelled.into_iter().map(LiveAttempt::from).collect())
    }).await
    }

    /// One build, if there is one of that id.
    pub async fn build_get(&self, build: BuildId) -> Result<Option<BuildRow>, StoreError> {
        self.again(async || build_row(&mut *self.connection().await?, build).await)
            .await
    }

    /// Builds, newest first.
    pub async fn build_list(&self, filter: &BuildFilter) -> Result<Vec<BuildRow>, StoreError> {
        self.again(|| async {
            build_rows(
                &mut *self.connection().await?,
                None,
                filter,
                filter.limit.into(),
            )
            .await
        })
        .await
    }

    /// All builds that have not ended, oldest first: what a coordinator that starts goes on with.
    pub async fn build_live(&self) -> Result<Vec<BuildRow>, StoreError> {
        self.again(|| async {
            let live = BuildState::ALL.iter().filter(|state| !state.is_final());
            let live = BuildFilter {
                states: live.copied().collect(),
                ..BuildFilter::default()
            };
            let mut rows =
                build_rows(&mut *self.connection().await?, None, &live, i64::MAX).await?;
            rows.reverse();
            Ok(rows)
        })
        .await
    }

    /// What a person means: an id, the beginning of one, the client's reference (of several the newest), or "latest".
    pub async fn build_find(&self, name: &str) -> Result<Found, StoreError> {
        self.again(|| async {
            if name == "latest" {
                let latest = sqlx::query_scalar!(
                    "SELECT id FROM builds ORDER BY created_at DESC, id DESC LIMIT 1"
                );
                let id = latest
                    .fetch_optional(&mut *self.connection().await?)
                    .await?;
                return Ok(id.map_or(Found::Nothing, |id| Found::One(BuildId(id))));
            }
            if let Some((least, greatest)) = id_range(name) {
                let ids = sqlx::query_scalar!(
                    "SELECT id FROM builds WHERE id BETWEEN $1 AND $2 LIMIT 2",
                    least,
                    greatest
                )
                .fetch_all(&mut *self.connection().await?)
                .await?;
                match ids[..] {
                    [] => {}
                    [id] => return Ok(Found::One(BuildId(id))),
                    _ => return Ok(Found::Several),
                }
            }
            let id = sqlx::query_scalar!(
            "SELECT id FROM builds WHERE client_ref = $1 ORDER BY created_at DESC, id DESC LIMIT 1",
            name,
        )
        .fetch_optional(&mut *self.connection().await?)
        .await?;
            Ok(id.map_or(Found::Nothing, |id| Found::One(BuildId(id))))
        })
        .await
    }

    /// Deletes a build that is over, with all that belongs to it. Stale if it isn't, or is gone.
    pub async fn build_remove(&self, build: BuildId) -> Result<(), StoreError> {
        self.again(|| async {
            let done = sqlx::query!(
                "DELETE FROM builds WHERE id = $1 AND finished_at IS NOT NULL",
                build.0
            )
            .execute(&mut *self.connection().await?)
            .await?;
            changed(done.rows_affected(), "the build")
        })
        .await
    }

    /// The bytes from which the build's plan can be made again; `None` while it is planned.
    pub async fn build_plan_source(&self, build: BuildId) -> Result<Option<Vec<u8>>, StoreError> {
        self.again(|| async {
            let plan = sqlx::query_scalar!("SELECT plan FROM builds WHERE id = $1", build.0)
                .fetch_optional(&mut *self.connection().await?)
                .await?;
            Ok(plan.flatten())
        })
        .await
    }
}

pub(super) async fn build_row(
    connection: &mut PgConnection,
    build: BuildId,
) -> Result<Option<BuildRow>, StoreError> {
    let all = BuildFilter::default();
    Ok(build_rows(connection, Some(build.0), &all, 1).await?.pop())
}

/// The one statement that reads builds: by id, or by what the filter says.
async fn build_rows(
    connection: &mut PgConnection,
    id: Option<Uuid>,
    filter: &BuildFilter,
    limit: i64,
) -> Result<Vec<BuildRow>, StoreError> {
    let states: Vec<String> = filter.states.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        r#"SELECT id, client_ref, project, priority, state, error, platforms, build_platform, session, frontend,
                created_at, started_at, finished_at, deadline, response, digest,
                    ARRAY(SELECT p.repository || CASE p.tag WHEN '' THEN '' ELSE ':' || p.tag END
                          FROM publications AS p WHERE p.build = builds.id AND p.state = 'published'
                          ORDER BY p.repository, p.tag) AS "published!: Vec<String>"
             FROM builds
         WHERE ($1::uuid IS NULL OR id = $1) AND (cardinality($2::text[]) = 0 OR state = ANY ($2))
           AND ($4::text IS NULL OR project = $4) AND ($5::text IS NULL OR $5 = ANY (platforms))
           AND ($6::timestamptz IS NULL OR created_at >= $6)
           AND ($7::text IS NULL OR EXISTS (SELECT FROM publications AS p
                                            WHERE p.build = builds.id AND p.state = 'published'
                                              AND $7 IN (p.repository, p.repository || ':' || p.tag)))
         ORDER BY created_at DESC, id DESC
         LIMIT $3"#,
        id,
        &states,
        limit,
        filter.project,
        filter.platform,
        filter.since,
        filter.published,
    )
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|row| {
        Ok(BuildRow {
            id: BuildId(row.id),
            client_ref: row.client_ref,
            project: Project(row.project),
            priority: row.priority,
            state: read("builds.state", &row.state)?,
            error: row.error,
            platforms: row.platforms,
            build_platform: row
                .build_platform
                .map(|text| read("builds.build_platform", &text))
                .transpose()?,
            session: row.session,
            frontend: row.frontend,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            deadline: row.deadline,
            response: row.response,
            digest: row.digest,
            published: row.published,
        })
    });
    rows.collect()
}

/// The least and the greatest id that begins so; `None` if none can.
fn id_range(prefix: &str) -> Option<(Uuid, Uuid)> {
    let digits: String = prefix.chars().filter(|&c| c != '-').collect();
    if digits.is_empty() || digits.len() > 32 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let filled = |fill| {
        Uuid::parse_str(&format!(
            "{digits}{}",
            String::from(fill).repeat(32 - digits.len())
        ))
        .ok()
    };
    Some((filled('0')?, filled('f')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stands_for_all_ids_that_begin_so() {
        let (least, greatest) = id_range("0190ABcd-1").unwrap();
        assert_eq!(least.to_string(), "0190abcd-1000-0000-0000-000000000000");
        assert_eq!(greatest.to_string(), "0190abcd-1fff-ffff-ffff-ffffffffffff");
        let whole = "0190abcd-1000-7000-8000-000000000001";
        assert_eq!(
            id_range(whole),
            Some((whole.parse().unwrap(), whole.parse().unwrap()))
        );
    }

    #[test]
    fn what_is_no_prefix_of_an_id_is_not_looked_up_as_one() {
        for name in ["", "-", "k3x", "0190abcd-1000-7000-8000-0000000000011"] {
            assert_eq!(id_range(name), None, "{name:?}");
        }
    }
}
