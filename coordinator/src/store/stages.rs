//! Stages: the plan as rows, readiness, and why a ready one waits.

use chrono::{DateTime, Utc};
use croft_planner::{CutEdge, PlannedTarget, Platform, Stage, StageId};
use croft_scheduler::{BuildId, StageKey, StageState};
use sqlx::PgConnection;

use super::convert::{int, read, texts, uint};
use super::error::changed;
use super::{Store, StoreError};

/// A plan, to be stored.
#[derive(Debug, Clone, Copy)]
pub struct PlanRows<'a> {
    /// Where the frontend ran.
    pub build_platform: &'a Platform,
    /// From what the plan can be made again.
    pub source: &'a [u8],
    /// All stages.
    pub stages: &'a [Stage],
    /// All cut edges.
    pub edges: &'a [CutEdge],
    /// All targets.
    pub targets: &'a [PlannedTarget],
    /// The stage that hands results out, if there is one.
    pub delivery: Option<&'a Stage>,
}

/// A stage as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct StageRow {
    /// Its place in the plan.
    pub number: StageId,
    /// The planner's name for it.
    pub digest: String,
    /// "shared", "cross" or "target".
    pub kind: String,
    /// For people.
    pub name: String,
    /// The native platform of its class of agents; `None` if any agent can run it.
    pub home: Option<Platform>,
    /// The target platforms that need it.
    pub users: Vec<String>,
    /// Where it stands.
    pub state: StageState,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why it isn't placed, while it is ready.
    pub waiting_for: Option<String>,
    /// Since when it waits for an agent to come, not just for a slot.
    pub unserved_since: Option<DateTime<Utc>>,
    /// Attempts at it that failed by the farm's fault.
    pub farm_failures: u32,
}

/// Why a ready stage isn't placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Which stage.
    pub key: StageKey,
    /// Why, for people.
    pub why: String,
    /// What it wants.
    pub wants: Wants,
}

/// What a ready stage wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// A free slot, or a moment's patience.
    Slot,
    /// An agent that can run it: none is there now.
    Agent,
}

impl Store {
    /// Stores a build's plan, and sets the build running and its first stages ready, which are returned.
    pub async fn build_plan(
        &self,
        build: BuildId,
        plan: &PlanRows<'_>,
    ) -> Result<Vec<StageId>, StoreError> {
        self.again_unless(
            || async {
                let mut tx = self.begin().await?;
                let rows = sqlx::query!(
                    "UPDATE builds
             SET state = 'running', started_at = now(), build_platform = $2, plan = $3,
                 platforms = CASE WHEN cardinality(platforms) = 0 THEN $4::text[] ELSE platforms END
             WHERE id = $1 AND state = 'planning'",
                    build.0,
                    plan.build_platform.to_string(),
                    plan.source,
                    &texts(plan.targets.iter().map(|target| &target.platform)),
                )
                .execute(&mut *tx)
                .await?
                .rows_affected();
                changed(rows, "the build")?;
                insert_stages(&mut tx, build, plan).await?;
                insert_outputs(&mut tx, build, plan).await?;
                let settled = settle(&mut tx, build).await?;
                self.commit_and_wake(tx).await?;
                Ok(settled.ready)
            },
            || async {
                let stages = self.stage_list(build).await?;
                let ready = stages
                    .iter()
                    .filter(|stage| stage.state == StageState::Ready);
                Ok((!stages.is_empty()).then(|| ready.map(|stage| stage.number).collect()))
            },
        )
        .await
    }

    /// Writes down why stages wait. Those that aren't ready any more, or are just changed by somebody else, are left alone: a hold is news,
    /// not a claim.
    pub async fn stage_hold(&self, holds: &[Hold]) -> Result<(), StoreError> {
        let builds: Vec<_> = holds.iter().map(|hold| hold.key.build.0).collect();
        let stages: Vec<_> = holds.iter().map(|hold| int(hold.key.stage.0)).collect();
        let whys: Vec<_> = holds.iter().map(|hold| hold.why.clone()).collect();
        let for_agents: Vec<_> = holds
            .iter()
            .map(|hold| hold.wants == Wants::Agent)
            .collect();
        sqlx::query!(
            "WITH news AS (
                 SELECT s.build, s.number, h.why, h.for_agent FROM stages AS s
                 JOIN UNNEST($1::uuid[], $2::int[], $3::text[], $4::bool[]) AS h (build, number, why, for_agent)
                   ON s.build = h.build AND s.number = h.number
                 WHERE s.state = 'ready'
                   AND (s.waiting_for IS DISTINCT FROM h.why OR h.for_agent <> (s.unserved_since IS NOT NULL))
                 FOR NO KEY UPDATE OF s SKIP LOCKED
             )
             UPDATE stages AS s
             SET waiting_for = news.why,
                 unserved_since = CASE WHEN news.for_agent THEN COALESCE(s.unserved_since, now()) END
             FROM news WHERE s.build = news.build AND s.number = news.number",
            &builds,
            &stages,
            &whys,
            &for_agents,
        )
        .execute(&mut *self.connection().await?)
        .await?;
        Ok(())
    }

    /// Nobody came to run it in time. Ending its build is the caller's next step.
    pub async fn stage_fail(&self, key: StageKey) -> Result<(), StoreError> {
        self.again(|| async {
            let rows = sqlx::query!(
                "UPDATE stages SET state = 'failed', since = now()
             WHERE build = $1 AND number = $2 AND state = 'ready'",
                key.build.0,
                int(key.stage.0),
            )
            .execute(&mut *self.connection().await?)
            .await?
            .rows_affected();
            changed(rows, "the stage")
        })
        .await
    }

    /// The stages of a build, in the plan's order.
    pub async fn stage_list(&self, build: BuildId) -> Result<Vec<StageRow>, StoreError> {
        self.again(async || stage_rows(&mut *self.connection().await?, build).await)
            .await
    }
}

async fn insert_stages(
    tx: &mut PgConnection,
    build: BuildId,
    plan: &PlanRows<'_>,
) -> Result<(), StoreError> {
    let target = |id: &croft_planner::TargetId| {
        plan.targets
            .get(id.index())
            .map(|target| target.platform.to_string())
    };
    // Lists within a row travel as JSON: PostgreSQL's arrays of arrays must all be of one length.
    let rows: Vec<serde_json::Value> = plan
        .stages
        .iter()
        .map(|stage| {
            serde_json::json!({
                "number": int(stage.id.0),
                "digest": stage.digest.as_str(),
                "kind": stage.kind.as_str(),
                "name": stage.name,
                "home": stage.home.as_ref().map(|home| home.platform().to_string()),
                "platforms": texts(&stage.platforms),
                "users": stage.users.iter().filter_map(target).collect::<Vec<_>>(),
                "identities": texts(&stage.cache),
                "cache_mounts": stage.cache_mounts,
                "requirements": stage.requirements,
                "together": stage.together.map(|stage| int(stage.0)),
                "placed_with": stage.placed_with.map(|stage| int(stage.0)),
                "meets": stage.meets.iter().map(|stage| int(stage.0)).collect::<Vec<_>>(),
            })
        })
        .collect();
    sqlx::query!(
        "INSERT INTO stages (build, number, digest, kind, name, home, platforms, users, identities, cache_mounts,
                             requirements, together, placed_with, meets, state)
         SELECT $1, r.number, r.digest, r.kind, r.name, r.home, r.platforms, r.users, r.identities, r.cache_mounts,
                r.requirements, r.together, r.placed_with, r.meets, 'waiting'
         FROM jsonb_to_recordset($2) AS r (
             number int, digest text, kind text, name text, home text, platforms text[], users text[],
             identities text[], cache_mounts text[], requirements jsonb, together int, placed_with int, meets int[])",
        build.0,
        serde_json::Value::Array(rows),
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_outputs(
    tx: &mut PgConnection,
    build: BuildId,
    plan: &PlanRows<'_>,
) -> Result<(), StoreError> {
    let edges = plan.edges.iter().map(|edge| {
        serde_json::json!({
            "kind": "edge",
            "number": int(edge.id.0),
            "stage": int(edge.producer.0),
            "name": edge.name,
            "platform": edge.platform.to_string(),
            "consumers": edge.consumers.iter().map(|stage| int(stage.0)).collect::<Vec<_>>(),
            "whole": edge.is_whole(),
        })
    });
    let targets = plan.targets.iter().map(|target| {
        serde_json::json!({
            "kind": "target",
            "number": int(target.id.0),
            "stage": int(target.stage.0),
            "name": target.name,
            "platform": target.platform.to_string(),
            "consumers": [],
            "whole": true,
        })
    });
    let delivery = plan.delivery.map(|stage| {
        serde_json::json!({
            "kind": "delivery",
            "number": 0,
            "stage": int(stage.id.0),
            "name": stage.name,
            "platform": "",
            "consumers": [],
            "whole": true,
        })
    });
    sqlx::query!(
        "INSERT INTO outputs (build, kind, number, stage, name, platform, consumers, whole)
         SELECT $1, r.kind, r.number, r.stage, r.name, r.platform, r.consumers, r.whole
         FROM jsonb_to_recordset($2) AS r (
             kind text, number int, stage int, name text, platform text, consumers int[], whole boolean)",
        build.0,
        serde_json::Value::Array(edges.chain(targets).chain(delivery).collect()),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// What a change of a build left.
pub(super) struct Settled {
    /// The stages that it made ready.
    pub ready: Vec<StageId>,
    /// Whether all stages are done.
    pub done: bool,
}

/// Makes ready what waits for nothing any more, and has everybody look who waits for that. Called at the end of each change of a running
/// build, under the lock of its row.
pub(super) async fn settle(tx: &mut PgConnection, build: BuildId) -> Result<Settled, StoreError> {
    let row = sqlx::query!(
        r#"WITH ready AS (
             UPDATE stages AS s SET state = 'ready', since = now(), waiting_for = NULL, unserved_since = NULL
             WHERE s.build = $1 AND s.state = 'waiting'
               AND NOT EXISTS (SELECT FROM outputs AS o
                               WHERE o.build = $1 AND o.kind = 'edge' AND o.state = 'missing'
                                 AND s.number = ANY (o.consumers))
             RETURNING s.number
         )
         SELECT ARRAY(SELECT number FROM ready ORDER BY number) AS "ready!",
                NOT EXISTS (SELECT FROM stages WHERE build = $1 AND state <> 'done') AS "done!""#,
        build.0,
    )
    .fetch_one(tx)
    .await?;
    Ok(Settled {
        ready: row
            .ready
            .into_iter()
            .map(|number| StageId(uint(number)))
            .collect(),
        done: row.done,
    })
}

pub(super) async fn stage_rows(
    connection: &mut PgConnection,
    build: BuildId,
) -> Result<Vec<StageRow>, StoreError> {
    let rows = sqlx::query!(
        "SELECT number, digest, kind, name, home, users, state, since, waiting_for, unserved_since, farm_failures
         FROM stages WHERE build = $1 ORDER BY number",
        build.0,
    )
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|row| {
        Ok(StageRow {
            number: StageId(uint(row.number)),
            digest: row.digest,
            kind: row.kind,
            name: row.name,
            home: row
                .home
                .map(|text| read("stages.home", &text))
                .transpose()?,
            users: row.users,
            state: read("stages.state", &row.state)?,
            since: row.since,
            waiting_for: row.waiting_for,
            unserved_since: row.unserved_since,
            farm_failures: uint(row.farm_failures),
        })
    });
    rows.collect()
}
