//! Attempts: who tries a stage, under which lease and token. What agents report of them is in `reports`.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use croft_planner::{EdgeId, StageId};
use croft_scheduler::fleet::AHEAD_FACTOR;
use croft_scheduler::{
    AgentId, AttemptId, AttemptState, BuildId, FailureKind, LeaseTerms, StageKey, Token,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::convert::{int, millis, read, token, token_int, ubigint, uint};
use super::error::changed;
use super::{Epoch, Store, StoreError};

/// An attempt and the token under which its agent holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// Which attempt.
    pub attempt: AttemptId,
    /// Its fencing token.
    pub token: Token,
}

/// A placement that is to be committed.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    /// Made by the caller, version 7.
    pub id: AttemptId,
    /// What is to run.
    pub key: StageKey,
    /// Where.
    pub agent: AgentId,
    /// The agent's connection that the offer will be sent over.
    pub epoch: Epoch,
    /// Why there, for people.
    pub reason: String,
    /// What stands for each of the stage's inputs.
    pub bindings: Vec<Binding>,
}

/// What stands for an input in an attempt's definitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Which input.
    pub edge: EdgeId,
    /// The exported image's digest; `None`: the agent's keeper holds the result itself, or will, as an attempt there is making it.
    pub digest: Option<String>,
}

/// A placement that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// What every report about it must name.
    pub token: Token,
    /// When its lease ends if it isn't renewed.
    pub lease_until: DateTime<Utc>,
}

/// An attempt that lives, or lived until just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveAttempt {
    /// The attempt and its token.
    pub held: Held,
    /// What it runs.
    pub key: StageKey,
    /// Where.
    pub agent: AgentId,
}

/// Everything about an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// Its id.
    pub id: AttemptId,
    /// Its stage.
    pub stage: StageId,
    /// Where it ran.
    pub agent: AgentId,
    /// That agent's name.
    pub agent_name: String,
    /// Its fencing token.
    pub token: Token,
    /// Where it stands.
    pub state: AttemptState,
    /// Why that agent, for people.
    pub reason: String,
    /// When its lease ends, or ended.
    pub lease_until: DateTime<Utc>,
    /// When it was offered.
    pub created_at: DateTime<Utc>,
    /// When the agent took it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Whose fault its failure was.
    pub failure: Option<FailureKind>,
    /// Why it went wrong or was ended.
    pub error: Option<String>,
    /// Vertices that its engine took from the cache.
    pub vertices_cached: u32,
    /// Vertices that its engine ran.
    pub vertices_run: u32,
    /// What stands for each of its inputs.
    pub bindings: Vec<Binding>,
    /// How long its engine took to fetch and unpack inputs, as far as it fetched any.
    pub fetched: BTreeMap<EdgeId, Duration>,
}

/// What a statement gives of an attempt that lives.
pub(super) struct LiveRow {
    pub id: Uuid,
    pub token: i64,
    pub build: Uuid,
    pub stage: i32,
    pub agent: Uuid,
}

impl From<LiveRow> for LiveAttempt {
    fn from(row: LiveRow) -> LiveAttempt {
        LiveAttempt {
            held: Held {
                attempt: AttemptId(row.id),
                token: token(row.token),
            },
            key: StageKey {
                build: BuildId(row.build),
                stage: StageId(uint(row.stage)),
            },
            agent: AgentId(row.agent),
        }
    }
}

impl Store {
    /// Commits a placement. Stale if the stage isn't ready any more, the agent is gone, drains, is full or connected anew, or an input
    /// isn't where the binding says. A stage that still waits may go ahead of its inputs, to the agent that is making the rest.
    pub async fn attempt_offer(
        &self,
        new: &NewAttempt,
        terms: &LeaseTerms,
    ) -> Result<Offered, StoreError> {
        self.again_unless(
            || self.offer(new, terms),
            || async {
                let known = sqlx::query!(
                    "SELECT token, lease_until FROM attempts WHERE id = $1 AND state = 'offered'",
                    new.id.0,
                )
                .fetch_optional(&mut *self.connection().await?)
                .await?;
                Ok(known.map(|row| Offered {
                    token: token(row.token),
                    lease_until: row.lease_until,
                }))
            },
        )
        .await
    }

    async fn offer(&self, new: &NewAttempt, terms: &LeaseTerms) -> Result<Offered, StoreError> {
        let edges: Vec<i32> = new
            .bindings
            .iter()
            .map(|binding| int(binding.edge.0))
            .collect();
        let digests: Vec<Option<String>> = new
            .bindings
            .iter()
            .map(|binding| binding.digest.clone())
            .collect();
        let mut tx = self.begin().await?;
        // The build and the agent are held still, so that the next statement counts what all offers before it have taken.
        sqlx::query!(
            "SELECT b.id FROM builds AS b, agents AS a
             WHERE b.id = $1 AND b.state = 'running'
               AND a.id = $2 AND a.epoch = $3 AND a.state = 'connected' AND a.healthy AND NOT a.draining
             FOR NO KEY UPDATE OF b, a",
            new.key.build.0,
            new.agent.0,
            new.epoch.0,
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Stale { what: "the build or the agent" })?;
        let offered = sqlx::query!(
            r#"WITH bound AS (
                 SELECT * FROM UNNEST($5::int[], $6::text[]) AS b (edge, digest)
             ), taken AS (
                 SELECT o.state = 'missing' AS coming FROM outputs AS o JOIN bound ON bound.edge = o.number
                 WHERE o.build = $1 AND o.kind = 'edge' AND $2 = ANY (o.consumers)
                   AND CASE WHEN bound.digest IS NOT NULL THEN o.digest = bound.digest
                            WHEN o.state <> 'missing' THEN o.agent = $3
                            ELSE EXISTS (SELECT FROM attempts AS t
                                         WHERE t.build = $1 AND t.stage = o.stage AND t.agent = $3
                                           AND t.state IN ('offered', 'running')) END
             ), live AS (
                 SELECT EXISTS (SELECT FROM outputs AS o
                                WHERE o.build = t.build AND o.kind = 'edge' AND o.state = 'missing'
                                  AND o.number = ANY (t.bound_edges)) AS ahead
                 FROM attempts AS t WHERE t.agent = $3 AND t.state IN ('offered', 'running')
             ), placed AS (
                 UPDATE stages AS s
                 SET state = 'running', since = now(), waiting_for = NULL, unserved_since = NULL, not_before = NULL
                 WHERE s.build = $1 AND s.number = $2
                   AND s.state = CASE WHEN EXISTS (SELECT FROM taken WHERE coming) THEN 'waiting' ELSE 'ready' END
                   AND (s.not_before IS NULL OR s.not_before <= now())
                   AND CASE s.state
                       WHEN 'ready' THEN (SELECT a.slots FROM agents AS a WHERE a.id = $3)
                                       > (SELECT count(*) FROM live WHERE NOT ahead)
                       ELSE (SELECT a.slots FROM agents AS a WHERE a.id = $3) > (SELECT count(*) FROM live WHERE ahead)
                        AND (SELECT a.slots FROM agents AS a WHERE a.id = $3) * $9::bigint > (SELECT count(*) FROM live) END
                   AND (SELECT count(*) FROM bound) = (SELECT count(*) FROM taken)
                   AND (SELECT count(*) FROM bound)
                     = (SELECT count(*) FROM outputs AS o
                        WHERE o.build = $1 AND o.kind = 'edge' AND $2 = ANY (o.consumers))
                 RETURNING s.build, s.number
             ), offered AS (
                 INSERT INTO attempts (id, build, stage, agent, reason, lease_until, bound_edges, bound_digests)
                 SELECT $4, build, number, $3, $7, now() + $8::bigint * interval '1 millisecond', $5, $6 FROM placed
                 RETURNING token, lease_until
             )
             SELECT token AS "token!", lease_until AS "lease_until!" FROM offered"#,
            new.key.build.0,
            int(new.key.stage.0),
            new.agent.0,
            new.id.0,
            &edges,
            &digests as &[Option<String>],
            new.reason,
            millis(terms.lease + terms.grace),
            i64::from(AHEAD_FACTOR),
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Stale { what: "the stage, its inputs or the agent's slots" })?;
        tx.commit().await?;
        Ok(Offered {
            token: token(offered.token),
            lease_until: offered.lease_until,
        })
    }

    /// The agent took the offer.
    pub async fn attempt_accept(&self, agent: AgentId, held: Held) -> Result<(), StoreError> {
        self.again(|| async {
            let rows = sqlx::query!(
                "UPDATE attempts SET state = 'running', started_at = now()
                 WHERE id = $1 AND token = $2 AND agent = $3 AND state = 'offered'",
                held.attempt.0,
                token_int(held.token),
                agent.0,
            )
            .execute(&mut *self.connection().await?)
            .await?
            .rows_affected();
            changed(rows, "the attempt")
        })
        .await
    }

    /// Renews the leases of what an agent says it runs, and returns those that were: of the others it must let go. A lease that ended
    /// is renewed too while nobody took the stage: the agent would have stopped by itself if it had waited too long.
    pub async fn attempt_renew(
        &self,
        agent: AgentId,
        held: &[Held],
        terms: &LeaseTerms,
    ) -> Result<Vec<AttemptId>, StoreError> {
        self.again(|| async {
        let ids: Vec<Uuid> = held.iter().map(|held| held.attempt.0).collect();
        let tokens: Vec<i64> = held.iter().map(|held| token_int(held.token)).collect();
        let renewed = sqlx::query_scalar!(
            "WITH own AS (
                 SELECT a.id FROM attempts AS a
                 JOIN UNNEST($2::uuid[], $3::bigint[]) AS h (id, token) ON a.id = h.id AND a.token = h.token
                 WHERE a.agent = $1 AND a.state IN ('offered', 'running')
                 ORDER BY a.id FOR NO KEY UPDATE OF a
             )
             UPDATE attempts AS a SET lease_until = now() + $4::bigint * interval '1 millisecond'
             FROM own WHERE a.id = own.id
             RETURNING a.id",
            agent.0,
            &ids,
            &tokens,
            millis(terms.lease + terms.grace),
        )
        .fetch_all(&mut *self.connection().await?)
        .await?;
        Ok(renewed.into_iter().map(AttemptId).collect())
    }).await
    }

    /// Gives every attempt that lives a whole lease from now: a coordinator that starts has heard nobody yet.
    pub async fn attempt_adopt(&self, terms: &LeaseTerms) -> Result<u64, StoreError> {
        self.again(|| async {
        let adopted = sqlx::query!(
            "WITH live AS (
                 SELECT id FROM attempts WHERE state IN ('offered', 'running')
                 ORDER BY id FOR NO KEY UPDATE
             )
             UPDATE attempts AS a
             SET lease_until = GREATEST(a.lease_until, now() + $1::bigint * interval '1 millisecond')
             FROM live WHERE a.id = live.id",
            millis(terms.lease + terms.grace),
        )
        .execute(&mut *self.connection().await?)
        .await?;
        Ok(adopted.rows_affected())
    }).await
    }

    /// Attempts whose leases have ended, oldest first.
    pub async fn attempt_expired(&self, limit: u32) -> Result<Vec<LiveAttempt>, StoreError> {
        self.again(|| async {
            let rows = sqlx::query_as!(
                LiveRow,
                "SELECT id, token, build, stage, agent FROM attempts
             WHERE state IN ('offered', 'running') AND lease_until < now()
             ORDER BY lease_until, id LIMIT $1",
                i64::from(limit),
            )
            .fetch_all(&mut *self.connection().await?)
            .await?;
            Ok(rows.into_iter().map(LiveAttempt::from).collect())
        })
        .await
    }

    /// All attempts that live, or those on one agent: what a coordinator that starts, or an agent that connects, goes on with.
    pub async fn attempt_live(
        &self,
        agent: Option<AgentId>,
    ) -> Result<Vec<LiveAttempt>, StoreError> {
        self.again(|| async {
            let rows = sqlx::query_as!(
                LiveRow,
                "SELECT id, token, build, stage, agent FROM attempts
             WHERE state IN ('offered', 'running') AND ($1::uuid IS NULL OR agent = $1)
             ORDER BY token",
                agent.map(|agent| agent.0),
            )
            .fetch_all(&mut *self.connection().await?)
            .await?;
            Ok(rows.into_iter().map(LiveAttempt::from).collect())
        })
        .await
    }
}

pub(super) const STALE: StoreError = StoreError::Stale {
    what: "the attempt",
};

pub(super) async fn attempt_rows(
    connection: &mut PgConnection,
    build: BuildId,
) -> Result<Vec<AttemptRow>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT t.id, t.stage, t.agent, a.name AS agent_name, t.token, t.state, t.reason, t.lease_until, t.created_at,
                  t.started_at, t.finished_at, t.failure, t.error, t.vertices_cached, t.vertices_run,
                  t.bound_edges, t.bound_digests AS "bound_digests: Vec<Option<String>>",
                  t.fetched_ms AS "fetched_ms: Vec<Option<i64>>"
           FROM attempts AS t JOIN agents AS a ON a.id = t.agent
           WHERE t.build = $1 ORDER BY t.stage, t.token"#,
        build.0,
    )
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|row| {
        let fetched = row
            .bound_edges
            .iter()
            .zip(row.fetched_ms.unwrap_or_default());
        let fetched = fetched.filter_map(|(edge, ms)| {
            let took = Duration::from_millis(ubigint(ms?));
            Some((EdgeId(uint(*edge)), took))
        });
        let fetched = fetched.collect();
        let bindings = row.bound_edges.into_iter().zip(row.bound_digests);
        Ok(AttemptRow {
            id: AttemptId(row.id),
            stage: StageId(uint(row.stage)),
            agent: AgentId(row.agent),
            agent_name: row.agent_name,
            token: token(row.token),
            state: read("attempts.state", &row.state)?,
            reason: row.reason,
            lease_until: row.lease_until,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            failure: row
                .failure
                .map(|text| read("attempts.failure", &text))
                .transpose()?,
            error: row.error,
            vertices_cached: uint(row.vertices_cached),
            vertices_run: uint(row.vertices_run),
            bindings: bindings
                .map(|(edge, digest)| Binding {
                    edge: EdgeId(uint(edge)),
                    digest,
                })
                .collect(),
            fetched,
        })
    });
    rows.collect()
}
