//! What agents report of attempts, and what follows: outputs, success, failure, silence. Each report names the attempt, the agent and the
//! token, and all that follows from it is in one transaction under the lock of the build's row.

use std::time::Duration;

use croft_planner::{CacheIdentity, EdgeId, Output, StageId};
use croft_scheduler::{
    AgentId, AttemptId, BuildId, FailureKind, FarmBudget, Retry, StageKey, retry,
};
use sqlx::PgConnection;

use super::attempts::{Held, LiveAttempt, STALE};
use super::convert::{int, millis, token, token_int, uint};
use super::error::changed;
use super::invalidate::{Invalidated, invalidate};
use super::outputs::{OutputDone, outputs_done};
use super::stages::settle;
use super::{Store, StoreError};

/// How long a stage is left alone that went ahead of its inputs and failed over them: until it is heard what became of those.
const YIELD: Duration = Duration::from_secs(1);

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
    pub costs: Vec<(CacheIdentity, Duration)>,
    /// How long its engine took to fetch and unpack inputs, as far as it fetched any and that is known.
    pub fetched: Vec<(EdgeId, Duration)>,
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

impl Store {
    /// Some of the attempt's outputs are there; it goes on. Returns the stages that became ready.
    pub async fn attempt_output(
        &self,
        agent: AgentId,
        held: Held,
        outputs: &[OutputDone],
    ) -> Result<Vec<StageId>, StoreError> {
        self.again(|| async {
            let mut tx = self.begin().await?;
            let attempt = lock(&mut tx, agent, held).await?;
            outputs_done(&mut tx, &attempt, outputs).await?;
            let edge = |done: &OutputDone| matches!(done.output, Output::Edge(_));
            if !outputs.iter().any(edge) {
                // No stage waits for a target.
                tx.commit().await?;
                return Ok(Vec::new());
            }
            let settled = settle(&mut tx, attempt.key.build).await?;
            self.commit_and_wake(tx).await?;
            Ok(settled.ready)
        })
        .await
    }

    /// The attempt went well. Stale also if one of its stage's outputs is still missing.
    pub async fn attempt_succeed(
        &self,
        agent: AgentId,
        held: Held,
        done: &AttemptDone,
    ) -> Result<AttemptEnd, StoreError> {
        self.again(|| async {
        let mut tx = self.begin().await?;
        let attempt = lock(&mut tx, agent, held).await?;
        if !done.outputs.is_empty() {
            outputs_done(&mut tx, &attempt, &done.outputs).await?;
        }
        let fetched = done.fetched.iter().map(|(edge, took)| (int(edge.0), millis(*took)));
        let (edges, fetched): (Vec<i32>, Vec<i64>) = fetched.unzip();
        let rows = sqlx::query!(
            "WITH ended AS (
                 UPDATE attempts
                 SET state = 'succeeded', finished_at = now(), started_at = COALESCE(started_at, now()),
                     vertices_cached = $2, vertices_run = $3,
                     fetched_ms = ARRAY(SELECT f.ms FROM UNNEST(bound_edges) WITH ORDINALITY AS e (edge, place)
                                        LEFT JOIN UNNEST($4::int[], $5::bigint[]) AS f (edge, ms) ON f.edge = e.edge
                                        ORDER BY e.place)
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
            &edges,
            &fetched,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        changed(rows, "an output of the attempt's stage")?;
        remember(&mut tx, &attempt, &done.costs).await?;
        let settled = settle(&mut tx, attempt.key.build).await?;
        self.commit_and_wake(tx).await?;
        Ok(AttemptEnd {
            attempt,
            outcome: match settled.done {
                true => Outcome::BuildDone,
                false => Outcome::Done,
            },
            ready: settled.ready,
        })
    }).await
    }

    /// The attempt went wrong, as its agent says.
    pub async fn attempt_fail(
        &self,
        agent: AgentId,
        held: Held,
        failure: &AttemptFailure,
        budget: &FarmBudget,
    ) -> Result<AttemptEnd, StoreError> {
        self.again(|| async {
            let mut tx = self.begin().await?;
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
            let end = after_failure(&mut tx, attempt, &["running"], failure.kind, budget).await?;
            self.commit_and_wake(tx).await?;
            Ok(end)
        })
        .await
    }

    /// A result can't be got out of the engine that holds it: the attempt that made it has failed, whatever it said. Stale if the agent is
    /// not known any more to hold it, or only as one that went to the registry too.
    pub async fn output_refute(
        &self,
        build: BuildId,
        edge: EdgeId,
        holder: AgentId,
        error: &str,
        budget: &FarmBudget,
    ) -> Result<AttemptEnd, StoreError> {
        self.again(|| async {
        let mut tx = self.begin().await?;
        // The output's row too: an export of it may end just now, which takes no lock of the build's.
        let made = sqlx::query!(
            "SELECT a.id, a.token, a.stage FROM builds AS b
             JOIN outputs AS o ON o.build = b.id
             JOIN attempts AS a ON a.id = o.attempt
             WHERE b.id = $1 AND b.state = 'running' AND o.kind = 'edge' AND o.number = $2
               AND o.state = 'held' AND o.agent = $3 AND a.state IN ('offered', 'running', 'succeeded')
             FOR NO KEY UPDATE OF b, a, o",
            build.0,
            int(edge.0),
            holder.0,
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Stale { what: "the output" })?;
        let kind = FailureKind::Farm;
        sqlx::query!(
            "UPDATE attempts SET state = 'failed', finished_at = COALESCE(finished_at, now()), failure = $2, error = $3
             WHERE id = $1 AND state IN ('offered', 'running', 'succeeded')",
            made.id,
            kind.as_str(),
            error,
        )
        .execute(&mut *tx)
        .await?;
        let attempt = LiveAttempt {
            held: Held {
                attempt: AttemptId(made.id),
                token: token(made.token),
            },
            key: StageKey {
                build,
                stage: StageId(uint(made.stage)),
            },
            agent: holder,
        };
        let end = after_failure(&mut tx, attempt, &["running", "done"], kind, budget).await?;
        self.commit_and_wake(tx).await?;
        Ok(end)
        })
        .await
    }

    /// The attempt went ahead of its inputs and failed over what makes one of them, whose own attempt has its say about that: the stage waits
    /// for its inputs again, and so do those that went ahead of it. Stale if its inputs are all there: then the failure is its own.
    pub async fn attempt_yield(
        &self,
        agent: AgentId,
        held: Held,
        error: &str,
    ) -> Result<Invalidated, StoreError> {
        self.again(|| async {
        let mut tx = self.begin().await?;
        let attempt = lock(&mut tx, agent, held).await?;
        let StageKey { build, stage } = attempt.key;
        let rows = sqlx::query!(
            "WITH ended AS (
                 UPDATE attempts AS t SET state = 'cancelled', finished_at = now(), error = $2
                 WHERE t.id = $1 AND t.state IN ('offered', 'running')
                   AND EXISTS (SELECT FROM outputs AS o
                               WHERE o.build = t.build AND o.kind = 'edge' AND o.state = 'missing'
                                 AND o.number = ANY (t.bound_edges))
                 RETURNING t.build, t.stage
             )
             UPDATE stages AS s SET not_before = now() + $3::bigint * interval '1 millisecond'
             FROM ended WHERE s.build = ended.build AND s.number = ended.stage AND s.state = 'running'",
            held.attempt.0,
            error,
            millis(YIELD),
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        changed(rows, "the attempt")?;
        let invalidated = invalidate(&mut tx, build, &[stage]).await?;
        self.commit_and_wake(tx).await?;
        Ok(invalidated)
    }).await
    }

    /// Gives up an attempt whose lease has ended. Stale if it was renewed or reported after all.
    pub async fn attempt_lose(
        &self,
        lost: &LiveAttempt,
        budget: &FarmBudget,
    ) -> Result<AttemptEnd, StoreError> {
        let mut tx = self.begin().await?;
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
        let end = after_failure(&mut tx, attempt, &["running"], FailureKind::Farm, budget).await?;
        self.commit_and_wake(tx).await?;
        Ok(end)
    }
}

/// Locks the row of a running build by an attempt of it that lives, under that token and on that agent.
async fn lock(
    tx: &mut PgConnection,
    agent: AgentId,
    held: Held,
) -> Result<LiveAttempt, StoreError> {
    // The build's lock comes first, and the attempt's state is looked at once more when both are held: PostgreSQL locks in the order that
    // is named here, and checks the condition again on rows that changed while it waited.
    let row = sqlx::query!(
        "SELECT b.id, a.stage FROM builds AS b JOIN attempts AS a ON a.build = b.id
         WHERE a.id = $1 AND a.token = $2 AND a.agent = $3 AND a.state IN ('offered', 'running') AND b.state = 'running'
         FOR NO KEY UPDATE OF b, a",
        held.attempt.0,
        token_int(held.token),
        agent.0,
    )
    .fetch_optional(tx)
    .await?
    .ok_or(STALE)?;
    let key = StageKey {
        build: BuildId(row.id),
        stage: StageId(uint(row.stage)),
    };
    Ok(LiveAttempt { held, key, agent })
}

/// The stage of an attempt that just failed, if it is in one of these states: another try, or the end.
async fn after_failure(
    tx: &mut PgConnection,
    attempt: LiveAttempt,
    stage_in: &[&str],
    kind: FailureKind,
    budget: &FarmBudget,
) -> Result<AttemptEnd, StoreError> {
    let StageKey { build, stage } = attempt.key;
    let before = sqlx::query_scalar!(
        r#"SELECT CASE $3 WHEN 'registry'
                  THEN (SELECT count(*)::int FROM attempts AS t
                        WHERE t.build = s.build AND t.stage = s.number AND t.failure = 'registry' AND t.id <> $4)
                  ELSE s.farm_failures END AS "before!"
           FROM stages AS s WHERE s.build = $1 AND s.number = $2 AND s.state = ANY ($5::text[]) FOR NO KEY UPDATE OF s"#,
        build.0,
        int(stage.0),
        kind.as_str(),
        attempt.held.attempt.0,
        &stage_in as &[&str],
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
         WHERE build = $1 AND number = $2 AND state = ANY ($6::text[])",
        build.0,
        int(stage.0),
        state,
        millis(pause),
        i32::from(kind == FailureKind::Farm),
        &stage_in as &[&str],
    )
    .execute(&mut *tx)
    .await?;
    let (outcome, ready) = match retry {
        Retry::No => (Outcome::Failed, Vec::new()),
        Retry::After(after) => {
            // What it had delivered before it failed may be in others by now, and so may what it never delivered, in those that went ahead
            // of it: the next attempt makes it anew. And if it went ahead itself, it waits for its inputs again.
            let entangled = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM outputs AS o
                                  WHERE o.build = $1 AND o.stage = $2
                                    AND (o.state <> 'missing'
                                         OR EXISTS (SELECT FROM stages AS c
                                                    WHERE c.build = $1 AND c.number = ANY (o.consumers)
                                                      AND c.state IN ('running', 'done'))))
                       OR EXISTS (SELECT FROM outputs AS o
                                  WHERE o.build = $1 AND o.kind = 'edge' AND o.state = 'missing' AND $2 = ANY (o.consumers))
                   AS "entangled!""#,
                build.0,
                int(stage.0),
            )
            .fetch_one(&mut *tx)
            .await?;
            let invalidated = if entangled {
                invalidate(tx, build, &[stage]).await?
            } else {
                Invalidated::default()
            };
            let mut ready = invalidated.ready.clone();
            if !entangled {
                ready.push(stage);
            }
            (Outcome::Retried { after, invalidated }, ready)
        }
    };
    Ok(AttemptEnd {
        attempt,
        outcome,
        ready,
    })
}

/// Writes down what the agent's engine holds now, for later placements. A command whose cost isn't known gets its share of what the attempt
/// took from when its inputs were there, if that ran anything.
async fn remember(
    tx: &mut PgConnection,
    attempt: &LiveAttempt,
    costs: &[(CacheIdentity, Duration)],
) -> Result<(), StoreError> {
    let identities: Vec<String> = costs
        .iter()
        .map(|(identity, _)| identity.to_string())
        .collect();
    let millis: Vec<i64> = costs.iter().map(|(_, cost)| millis(*cost)).collect();
    sqlx::query!(
        "INSERT INTO agent_cache (agent, kind, project, key, cost_ms)
         SELECT $3, hint.kind, CASE WHEN hint.kind = 'command' THEN '' ELSE b.project END, hint.key, max(hint.cost)
         FROM stages AS s
         JOIN builds AS b ON b.id = s.build
         CROSS JOIN (SELECT a.vertices_run,
                            CASE WHEN NOT COALESCE(bool_or(o.state = 'missing'), false) THEN
                                (EXTRACT(EPOCH FROM a.finished_at - GREATEST(a.started_at, max(m.finished_at))) * 1000)::bigint
                            END AS ms
                     FROM attempts AS a
                     LEFT JOIN outputs AS o ON o.build = a.build AND o.kind = 'edge' AND o.number = ANY (a.bound_edges)
                     LEFT JOIN attempts AS m ON m.id = o.attempt AND m.agent = a.agent
                     WHERE a.id = $6 GROUP BY a.id) AS t
         CROSS JOIN LATERAL (
             SELECT 'command' AS kind, i.identity AS key,
                    COALESCE(c.cost, CASE WHEN t.vertices_run > 0 AND t.ms > 0 THEN t.ms / cardinality(s.identities) END, 0)
                    AS cost
             FROM UNNEST(s.identities) AS i (identity)
             LEFT JOIN UNNEST($4::text[], $5::bigint[]) AS c (identity, cost) ON c.identity = i.identity
             UNION ALL SELECT 'mount', m, 0 FROM UNNEST(s.cache_mounts) AS m
             UNION ALL SELECT 'alike', s.name || ' for ' || array_to_string(s.users, ','), 0
             UNION ALL SELECT 'project', '', 0
         ) AS hint
         WHERE s.build = $1 AND s.number = $2
         GROUP BY 2, 3, 4
         ORDER BY 2, 4, 3
         ON CONFLICT (kind, key, project, agent) DO UPDATE
         SET last_used = now(), cost_ms = GREATEST(agent_cache.cost_ms, EXCLUDED.cost_ms)",
        attempt.key.build.0,
        int(attempt.key.stage.0),
        attempt.agent.0,
        &identities,
        &millis,
        attempt.held.attempt.0,
    )
    .execute(tx)
    .await?;
    Ok(())
}
