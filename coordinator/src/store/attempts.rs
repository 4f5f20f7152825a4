//! Attempts: offers, leases, reports. Each write names the attempt, the state that it expects and the token.

use std::time::Duration;

use chrono::{DateTime, Utc};
use croft_planner::{EdgeId, StageId};
use croft_scheduler::{
    AgentId, AttemptId, AttemptState, BuildId, FailureKind, FarmBudget, LeaseTerms, Retry,
    StageKey, Token, retry,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::convert::{bigint, int, millis, read, token, token_int, uint};
use super::error::changed;
use super::invalidate::{Invalidated, invalidate};
use super::outputs::{OutputDone, outputs_done};
use super::stages::settle;
use super::wake::wake;
use super::{Epoch, Store, StoreError, Wake};

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
    /// The exported image's digest; `None`: the agent's keeper holds the result itself.
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

/// An attempt that went well.
#[derive(Debug, Clone, Default)]
pub struct AttemptDone {
    /// Its outputs; those that [`Store::attempt_output`] reported before may be left out.
    pub outputs: Vec<OutputDone>,
    /// Vertices that its engine took from the cache.
    pub vertices_cached: u32,
    /// Vertices that its engine ran.
    pub vertices_run: u32,
    /// What its commands took, by cache identity, as far as it is known. Remembered for placement.
    pub costs: Vec<(croft_planner::CacheIdentity, Duration)>,
}

/// An attempt that went wrong.
#[derive(Debug, Clone)]
pub struct AttemptFailure {
    /// Whose fault it was.
    pub kind: FailureKind,
    /// Why, for people.
    pub error: String,
}

/// What follows from the end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptEnd {
    /// What it ran, and where.
    pub attempt: LiveAttempt,
    /// What became of its stage.
    pub outcome: Outcome,
    /// Stages that became ready.
    pub ready: Vec<StageId>,
}

/// What became of a stage when an attempt at it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; others of its build aren't.
    Done,
    /// It is done, and so are all others of its build: on to [`Store::build_publish`].
    BuildDone,
    /// It is ready again, after a pause.
    Retried {
        /// How long the pause is.
        after: Duration,
        /// What had been made from its outputs so far and is not valid any more.
        invalidated: Invalidated,
    },
    /// It failed: the caller is to end its build.
    Failed,
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
}

impl LiveAttempt {
    pub(super) fn new(
        id: Uuid,
        token_number: i64,
        build: BuildId,
        stage: i32,
        agent: Uuid,
    ) -> LiveAttempt {
        LiveAttempt {
            held: Held {
                attempt: AttemptId(id),
                token: token(token_number),
            },
            key: StageKey {
                build,
                stage: StageId(uint(stage)),
            },
            agent: AgentId(agent),
        }
    }
}

impl Store {
    /// Commits a placement. Stale if the stage isn't ready any more, the agent is gone, drains, is full or connected anew, or an input
    /// isn't where the binding says.
    pub async fn attempt_offer(
        &self,
        new: &NewAttempt,
        terms: &LeaseTerms,
    ) -> Result<Offered, StoreError> {
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
        let mut tx = self.pool.begin().await?;
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
             ), placed AS (
                 UPDATE stages AS s
                 SET state = 'running', since = now(), waiting_for = NULL, unserved_since = NULL, not_before = NULL
                 WHERE s.build = $1 AND s.number = $2 AND s.state = 'ready'
                   AND (s.not_before IS NULL OR s.not_before <= now())
                   AND (SELECT a.slots FROM agents AS a WHERE a.id = $3)
                     > (SELECT count(*) FROM attempts AS t WHERE t.agent = $3 AND t.state IN ('offered', 'running'))
                   AND (SELECT count(*) FROM bound)
                     = (SELECT count(*) FROM outputs AS o JOIN bound ON bound.edge = o.number
                        WHERE o.build = $1 AND o.kind = 'edge' AND $2 = ANY (o.consumers)
                          AND CASE WHEN bound.digest IS NULL THEN o.agent = $3 ELSE o.digest = bound.digest END)
                   AND (SELECT count(*) FROM bound)
                     = (SELECT count(*) FROM outputs AS o
                        WHERE o.build = $1 AND o.kind = 'edge' AND $2 = ANY (o.consumers))
                 RETURNING s.build, s.number
             )
             INSERT INTO attempts (id, build, stage, agent, reason, lease_until, bound_edges, bound_digests)
             SELECT $4, build, number, $3, $7, now() + $8::bigint * interval '1 millisecond', $5, $6 FROM placed
             RETURNING token, lease_until"#,
            new.key.build.0,
            int(new.key.stage.0),
            new.agent.0,
            new.id.0,
            &edges,
            &digests as &[Option<String>],
            new.reason,
            millis(terms.lease + terms.grace),
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Stale { what: "the stage, its inputs or the agent's slots" })?;
        wake(&mut tx, &[Wake::Build(new.key.build)]).await?;
        tx.commit().await?;
        Ok(Offered {
            token: token(offered.token),
            lease_until: offered.lease_until,
        })
    }

    /// The agent took the offer.
    pub async fn attempt_accept(&self, agent: AgentId, held: Held) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let build = sqlx::query_scalar!(
            "UPDATE attempts SET state = 'running', started_at = now()
             WHERE id = $1 AND token = $2 AND agent = $3 AND state = 'offered'
             RETURNING build",
            held.attempt.0,
            token_int(held.token),
            agent.0,
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(STALE)?;
        wake(&mut tx, &[Wake::Build(BuildId(build))]).await?;
        Ok(tx.commit().await?)
    }

    /// Renews the leases of what an agent says it runs, and returns those that were: of the others it must let go. A lease that ended
    /// is renewed too while nobody took the stage: the agent would have stopped by itself if it had waited too long.
    pub async fn attempt_renew(
        &self,
        agent: AgentId,
        held: &[Held],
        terms: &LeaseTerms,
    ) -> Result<Vec<AttemptId>, StoreError> {
        let ids: Vec<Uuid> = held.iter().map(|held| held.attempt.0).collect();
        let tokens: Vec<i64> = held.iter().map(|held| token_int(held.token)).collect();
        let renewed = sqlx::query_scalar!(
            "UPDATE attempts AS a SET lease_until = now() + $4::bigint * interval '1 millisecond'
             FROM UNNEST($2::uuid[], $3::bigint[]) AS h (id, token)
             WHERE a.id = h.id AND a.token = h.token AND a.agent = $1 AND a.state IN ('offered', 'running')
             RETURNING a.id",
            agent.0,
            &ids,
            &tokens,
            millis(terms.lease + terms.grace),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(renewed.into_iter().map(AttemptId).collect())
    }

    /// Some of the attempt's outputs are there; it goes on. Returns the stages that became ready.
    pub async fn attempt_output(
        &self,
        agent: AgentId,
        held: Held,
        outputs: &[OutputDone],
    ) -> Result<Vec<StageId>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let attempt = lock(&mut tx, agent, held).await?;
        outputs_done(&mut tx, &attempt, outputs).await?;
        let ready = settle(&mut tx, attempt.key.build).await?;
        wake(&mut tx, &[Wake::Build(attempt.key.build), Wake::Placement]).await?;
        tx.commit().await?;
        Ok(ready)
    }

    /// The attempt went well. Stale also if one of its stage's outputs is still missing.
    pub async fn attempt_succeed(
        &self,
        agent: AgentId,
        held: Held,
        done: &AttemptDone,
    ) -> Result<AttemptEnd, StoreError> {
        let mut tx = self.pool.begin().await?;
        let attempt = lock(&mut tx, agent, held).await?;
        outputs_done(&mut tx, &attempt, &done.outputs).await?;
        let rows = sqlx::query!(
            "WITH ended AS (
                 UPDATE attempts
                 SET state = 'succeeded', finished_at = now(), started_at = COALESCE(started_at, now()),
                     vertices_cached = $2, vertices_run = $3
                 WHERE id = $1 AND state IN ('offered', 'running')
                 RETURNING build, stage
             )
             UPDATE stages AS s SET state = 'done', since = now()
             FROM ended
             WHERE s.build = ended.build AND s.number = ended.stage AND s.state = 'running'
               AND NOT EXISTS (SELECT FROM outputs AS o
                               WHERE o.build = s.build AND o.stage = s.number AND o.state = 'missing')",
            held.attempt.0,
            int(done.vertices_cached),
            int(done.vertices_run),
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        changed(rows, "an output of the attempt's stage")?;
        remember(&mut tx, &attempt, &done.costs).await?;
        let ready = settle(&mut tx, attempt.key.build).await?;
        let unfinished = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM stages WHERE build = $1 AND state <> 'done') AS "unfinished!""#,
            attempt.key.build.0,
        )
        .fetch_one(&mut *tx)
        .await?;
        wake(&mut tx, &[Wake::Build(attempt.key.build), Wake::Placement]).await?;
        tx.commit().await?;
        let outcome = if unfinished {
            Outcome::Done
        } else {
            Outcome::BuildDone
        };
        Ok(AttemptEnd {
            attempt,
            outcome,
            ready,
        })
    }

    /// The attempt went wrong, as its agent says.
    pub async fn attempt_fail(
        &self,
        agent: AgentId,
        held: Held,
        failure: &AttemptFailure,
        budget: &FarmBudget,
    ) -> Result<AttemptEnd, StoreError> {
        let mut tx = self.pool.begin().await?;
        let attempt = lock(&mut tx, agent, held).await?;
        sqlx::query!(
            "UPDATE attempts SET state = 'failed', finished_at = now(), failure = $2, error = $3
             WHERE id = $1 AND state IN ('offered', 'running')",
            held.attempt.0,
            failure.kind.as_str(),
            failure.error,
        )
        .execute(&mut *tx)
        .await?;
        let end = after_failure(&mut tx, attempt, failure.kind, budget).await?;
        tx.commit().await?;
        Ok(end)
    }

    /// Attempts whose leases have ended, oldest first.
    pub async fn attempt_expired(&self, limit: u32) -> Result<Vec<LiveAttempt>, StoreError> {
        let rows = sqlx::query!(
            "SELECT id, token, build, stage, agent FROM attempts
             WHERE state IN ('offered', 'running') AND lease_until < now()
             ORDER BY lease_until, id LIMIT $1",
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|r| LiveAttempt::new(r.id, r.token, BuildId(r.build), r.stage, r.agent))
            .collect())
    }

    /// Gives up an attempt whose lease has ended. Stale if it was renewed or reported after all.
    pub async fn attempt_lose(
        &self,
        lost: &LiveAttempt,
        budget: &FarmBudget,
    ) -> Result<AttemptEnd, StoreError> {
        let mut tx = self.pool.begin().await?;
        let attempt = lock(&mut tx, lost.agent, lost.held).await?;
        let rows = sqlx::query!(
            "UPDATE attempts SET state = 'lost', finished_at = now(), error = 'its lease ended without a word from the agent'
             WHERE id = $1 AND state IN ('offered', 'running') AND lease_until < now()",
            lost.held.attempt.0,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        changed(rows, "the attempt")?;
        let end = after_failure(&mut tx, attempt, FailureKind::Farm, budget).await?;
        tx.commit().await?;
        Ok(end)
    }

    /// All attempts that live, or those on one agent: what a coordinator that starts, or an agent that connects, goes on with.
    pub async fn attempt_live(
        &self,
        agent: Option<AgentId>,
    ) -> Result<Vec<LiveAttempt>, StoreError> {
        let rows = sqlx::query!(
            "SELECT id, token, build, stage, agent FROM attempts
             WHERE state IN ('offered', 'running') AND ($1::uuid IS NULL OR agent = $1)
             ORDER BY token",
            agent.map(|agent| agent.0),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|r| LiveAttempt::new(r.id, r.token, BuildId(r.build), r.stage, r.agent))
            .collect())
    }
}

const STALE: StoreError = StoreError::Stale {
    what: "the attempt",
};

/// Locks the row of a running build by an attempt of it that lives, under that token and on that agent.
async fn lock(
    tx: &mut PgConnection,
    agent: AgentId,
    held: Held,
) -> Result<LiveAttempt, StoreError> {
    // The lock comes first: what the attempt's state is counts only after it.
    let build = sqlx::query_scalar!(
        "SELECT b.id FROM builds AS b
         WHERE b.id = (SELECT a.build FROM attempts AS a WHERE a.id = $1) AND b.state = 'running'
         FOR NO KEY UPDATE OF b",
        held.attempt.0,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(STALE)?;
    let stage = sqlx::query_scalar!(
        "SELECT stage FROM attempts
         WHERE id = $1 AND token = $2 AND agent = $3 AND state IN ('offered', 'running')
         FOR NO KEY UPDATE",
        held.attempt.0,
        token_int(held.token),
        agent.0,
    )
    .fetch_optional(tx)
    .await?
    .ok_or(STALE)?;
    let key = StageKey {
        build: BuildId(build),
        stage: StageId(uint(stage)),
    };
    Ok(LiveAttempt { held, key, agent })
}

/// The stage of an attempt that just failed: another try, or the end.
async fn after_failure(
    tx: &mut PgConnection,
    attempt: LiveAttempt,
    kind: FailureKind,
    budget: &FarmBudget,
) -> Result<AttemptEnd, StoreError> {
    let StageKey { build, stage } = attempt.key;
    let before = sqlx::query_scalar!(
        "SELECT farm_failures FROM stages WHERE build = $1 AND number = $2 AND state = 'running' FOR NO KEY UPDATE",
        build.0,
        int(stage.0),
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(StoreError::Stale { what: "the attempt's stage" })?;
    let retry = retry(budget, uint(before), kind);
    let (state, pause) = match retry {
        Retry::No => ("failed", Duration::ZERO),
        Retry::After(pause) => ("ready", pause),
    };
    sqlx::query!(
        "UPDATE stages SET state = $3, since = now(), not_before = now() + $4::bigint * interval '1 millisecond',
                           farm_failures = farm_failures + $5
         WHERE build = $1 AND number = $2 AND state = 'running'",
        build.0,
        int(stage.0),
        state,
        millis(pause),
        i32::from(kind == FailureKind::Farm),
    )
    .execute(&mut *tx)
    .await?;
    let (outcome, ready) = match retry {
        Retry::No => (Outcome::Failed, Vec::new()),
        Retry::After(after) => {
            // What it had delivered before it failed may be in others by now, and the next attempt makes it anew.
            let delivered = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM outputs WHERE build = $1 AND stage = $2 AND state <> 'missing') AS "there!""#,
                build.0,
                int(stage.0),
            )
            .fetch_one(&mut *tx)
            .await?;
            let invalidated = if delivered {
                invalidate(tx, build, &[stage]).await?
            } else {
                Invalidated::default()
            };
            let mut ready = invalidated.ready.clone();
            if !ready.contains(&stage) {
                ready.push(stage);
            }
            (Outcome::Retried { after, invalidated }, ready)
        }
    };
    wake(tx, &[Wake::Build(build), Wake::Placement]).await?;
    Ok(AttemptEnd {
        attempt,
        outcome,
        ready,
    })
}

/// Writes down what the agent's engine holds now, for later placements.
async fn remember(
    tx: &mut PgConnection,
    attempt: &LiveAttempt,
    costs: &[(croft_planner::CacheIdentity, Duration)],
) -> Result<(), StoreError> {
    let identities: Vec<String> = costs
        .iter()
        .map(|(identity, _)| identity.to_string())
        .collect();
    let millis: Vec<i64> = costs
        .iter()
        .map(|(_, cost)| bigint(u64::try_from(cost.as_millis()).unwrap_or(u64::MAX)))
        .collect();
    sqlx::query!(
        "INSERT INTO agent_cache (agent, kind, project, key, cost_ms)
         SELECT $3, hint.kind, CASE WHEN hint.kind = 'command' THEN '' ELSE b.project END, hint.key, max(hint.cost)
         FROM stages AS s
         JOIN builds AS b ON b.id = s.build
         CROSS JOIN LATERAL (
             SELECT 'command' AS kind, i.identity AS key, COALESCE(c.cost, 0) AS cost
             FROM UNNEST(s.identities) AS i (identity)
             LEFT JOIN UNNEST($4::text[], $5::bigint[]) AS c (identity, cost) ON c.identity = i.identity
             UNION ALL SELECT 'mount', m, 0 FROM UNNEST(s.cache_mounts) AS m
             UNION ALL SELECT 'alike', s.name || ' for ' || array_to_string(s.users, ','), 0
             UNION ALL SELECT 'project', '', 0
         ) AS hint
         WHERE s.build = $1 AND s.number = $2
         GROUP BY 2, 3, 4
         ON CONFLICT (kind, key, project, agent) DO UPDATE
         SET last_used = now(), cost_ms = GREATEST(agent_cache.cost_ms, EXCLUDED.cost_ms)",
        attempt.key.build.0,
        int(attempt.key.stage.0),
        attempt.agent.0,
        &identities,
        &millis,
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn attempt_rows(
    connection: &mut PgConnection,
    build: BuildId,
) -> Result<Vec<AttemptRow>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT t.id, t.stage, t.agent, a.name AS agent_name, t.token, t.state, t.reason, t.lease_until, t.created_at,
                  t.started_at, t.finished_at, t.failure, t.error, t.vertices_cached, t.vertices_run,
                  t.bound_edges, t.bound_digests AS "bound_digests: Vec<Option<String>>"
           FROM attempts AS t JOIN agents AS a ON a.id = t.agent
           WHERE t.build = $1 ORDER BY t.stage, t.token"#,
        build.0,
    )
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|row| {
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
        })
    });
    rows.collect()
}
