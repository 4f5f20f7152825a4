//! One set of artifacts: when a result is lost that somebody still needs, its producer runs again, and so does everything in this build that
//! came from it. Otherwise two results of one producer could meet in one image.

use croft_planner::{EdgeId, StageId};
use croft_scheduler::{AgentId, BuildId, LeaseTerms};
use sqlx::PgConnection;

use super::attempts::{LiveAttempt, LiveRow};
use super::convert::{int, millis, uint};
use super::error::changed;
use super::stages::settle;
use super::{Store, StoreError};

/// What a loss has undone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Invalidated {
    /// The stages that run again.
    pub stages: Vec<StageId>,
    /// The attempts that it ended: their agents are to be told.
    pub cancelled: Vec<LiveAttempt>,
    /// Those of `stages` that are ready at once.
    pub ready: Vec<StageId>,
}

/// What an agent holds of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Which build.
    pub build: BuildId,
    /// Which agent.
    pub agent: AgentId,
    /// That agent's name.
    pub name: String,
}

impl Store {
    /// What agents hold of running builds of which nothing was heard since a lease would have ended that was renewed then. Not while they
    /// run something: a lease may be younger than the last heartbeat, and nobody else gets its stage before it ends.
    pub async fn output_held_in_silence(
        &self,
        terms: &LeaseTerms,
    ) -> Result<Vec<Holding>, StoreError> {
        let rows = sqlx::query!(
            "SELECT DISTINCT o.build, a.id, a.name FROM builds AS b
             JOIN outputs AS o ON o.build = b.id
             JOIN agents AS a ON a.id = o.agent
             WHERE b.state = 'running' AND a.last_seen < now() - $1::bigint * interval '1 millisecond'
               AND NOT EXISTS (SELECT FROM attempts AS t WHERE t.agent = a.id AND t.state = 'running')
             ORDER BY o.build, a.name",
            millis(terms.lease + terms.grace),
        )
        .fetch_all(&mut *self.connection().await?)
        .await?;
        let rows = rows.into_iter().map(|row| Holding {
            build: BuildId(row.build),
            agent: AgentId(row.id),
            name: row.name,
        });
        Ok(rows.collect())
    }

    /// An agent's keeper for a build is gone, and with it the results that only it held. Nothing is undone that nobody needs any more.
    pub async fn output_lose_held(
        &self,
        build: BuildId,
        agent: AgentId,
    ) -> Result<Invalidated, StoreError> {
        self.again(|| async {
            let mut tx = self.begin().await?;
            if !lock_running(&mut tx, build).await? {
                return Ok(Invalidated::default());
            }
            // A target that is held was only to be built: that was done.
            sqlx::query!(
                "UPDATE outputs
             SET agent = NULL,
                 state = CASE WHEN state = 'held' AND kind = 'edge' THEN 'missing' ELSE state END,
                 attempt = CASE WHEN state = 'held' AND kind = 'edge' THEN NULL ELSE attempt END
             WHERE build = $1 AND agent = $2",
                build.0,
                agent.0,
            )
            .execute(&mut *tx)
            .await?;
            let invalidated = invalidate_lost(&mut tx, build).await?;
            self.commit_and_wake(tx).await?;
            Ok(invalidated)
        })
        .await
    }

    /// The registry has lost an edge's image. Where a keeper still holds the result, only the image is forgotten.
    pub async fn output_lose_image(
        &self,
        build: BuildId,
        edge: EdgeId,
        digest: &str,
    ) -> Result<Invalidated, StoreError> {
        let mut tx = self.begin().await?;
        if !lock_running(&mut tx, build).await? {
            return Ok(Invalidated::default());
        }
        let rows = sqlx::query!(
            "UPDATE outputs
             SET state = CASE WHEN agent IS NULL THEN 'missing' ELSE 'held' END,
                 attempt = CASE WHEN agent IS NULL THEN NULL ELSE attempt END,
                 digest = NULL, bytes = NULL, response = NULL
             WHERE build = $1 AND kind = 'edge' AND number = $2 AND state = 'exported' AND digest = $3",
            build.0,
            int(edge.0),
            digest,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        changed(rows, "the output")?;
        let invalidated = invalidate_lost(&mut tx, build).await?;
        self.commit_and_wake(tx).await?;
        Ok(invalidated)
    }
}

async fn lock_running(tx: &mut PgConnection, build: BuildId) -> Result<bool, StoreError> {
    let locked = sqlx::query_scalar!(
        "SELECT id FROM builds WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE",
        build.0
    )
    .fetch_optional(tx)
    .await?;
    Ok(locked.is_some())
}

/// Runs again the stages that are done but whose results are missing where they are still needed.
async fn invalidate_lost(tx: &mut PgConnection, build: BuildId) -> Result<Invalidated, StoreError> {
    let roots = sqlx::query_scalar!(
        "SELECT DISTINCT o.stage FROM outputs AS o
         JOIN stages AS producer ON producer.build = o.build AND producer.number = o.stage
         JOIN stages AS consumer ON consumer.build = o.build AND consumer.number = ANY (o.consumers)
         WHERE o.build = $1 AND o.kind = 'edge' AND o.state = 'missing'
           AND producer.state = 'done' AND consumer.state IN ('waiting', 'ready', 'running')",
        build.0,
    )
    .fetch_all(&mut *tx)
    .await?;
    let roots: Vec<StageId> = roots
        .into_iter()
        .map(|number| StageId(uint(number)))
        .collect();
    if roots.is_empty() {
        return Ok(Invalidated::default());
    }
    invalidate(tx, build, &roots).await
}

/// Takes these stages back, all that came from them, and all that must run again so that they can. Under the lock of the build's row.
pub(super) async fn invalidate(
    tx: &mut PgConnection,
    build: BuildId,
    roots: &[StageId],
) -> Result<Invalidated, StoreError> {
    let roots: Vec<i32> = roots.iter().map(|stage| int(stage.0)).collect();
    let stages = sqlx::query_scalar!(
        "WITH RECURSIVE invalid (number) AS (
             SELECT UNNEST($2::int[])
           UNION
             SELECT next.number FROM invalid AS i CROSS JOIN LATERAL (
                 SELECT UNNEST(o.consumers) AS number FROM outputs AS o
                 WHERE o.build = $1 AND o.kind = 'edge' AND o.stage = i.number
               UNION ALL
                 SELECT o.stage FROM outputs AS o
                 JOIN stages AS producer ON producer.build = o.build AND producer.number = o.stage
                 WHERE o.build = $1 AND o.kind = 'edge' AND o.state = 'missing' AND i.number = ANY (o.consumers)
                   AND producer.state = 'done'
             ) AS next
         )
         UPDATE stages AS s SET state = 'waiting', since = now(), waiting_for = NULL, unserved_since = NULL
         FROM invalid
         WHERE s.build = $1 AND s.number = invalid.number AND s.state IN ('ready', 'running', 'done')
         RETURNING s.number",
        build.0,
        &roots,
    )
    .fetch_all(&mut *tx)
    .await?;
    let cancelled = sqlx::query_as!(
        LiveRow,
        "WITH live AS (
             SELECT id FROM attempts WHERE build = $1 AND stage = ANY ($2) AND state IN ('offered', 'running')
             ORDER BY id FOR NO KEY UPDATE
         )
         UPDATE attempts AS a
         SET state = 'cancelled', finished_at = now(), error = 'a result that it takes was lost'
         FROM live WHERE a.id = live.id
         RETURNING a.id, a.token, a.build, a.stage, a.agent",
        build.0,
        &stages,
    )
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query!(
        "UPDATE outputs
         SET state = 'missing', agent = NULL, attempt = NULL, digest = NULL, bytes = NULL, response = NULL
         WHERE build = $1 AND stage = ANY ($2) AND state <> 'missing'",
        build.0,
        &stages,
    )
    .execute(&mut *tx)
    .await?;
    let ready = settle(tx, build).await?.ready;
    let mut stages: Vec<StageId> = stages
        .into_iter()
        .map(|number| StageId(uint(number)))
        .collect();
    stages.sort();
    let mut cancelled: Vec<_> = cancelled.into_iter().map(LiveAttempt::from).collect();
    cancelled.sort_by_key(|attempt| attempt.held.token);
    Ok(Invalidated {
        stages,
        cancelled,
        ready,
    })
}
