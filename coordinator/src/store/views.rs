//! Snapshots: what the scheduler decides on, and a build whole. Each is read in one transaction that sees one state of the database, in a
//! number of statements that doesn't grow with the farm.

use std::collections::{BTreeMap, BTreeSet};

use croft_planner::{CacheIdentity, EdgeId, StageId};
use croft_scheduler::place::{Command, ExportedInput, Input, Supply};
use croft_scheduler::{
    AgentId, BuildId, ConnectionId, FleetView, Project, ReadyStage, StageKey, Timestamp,
};
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::attempts::attempt_rows;
use super::convert::{int, platforms, timestamp, ubigint, uint};
use super::events::event_rows;
use super::fleet::{add_cache, agent_views};
use super::outputs::output_rows;
use super::publications::publication_rows;
use super::stages::stage_rows;
use super::{
    AttemptRow, BuildRow, EventRow, Hold, OutputRow, PublicationRow, StageRow, Store, StoreError,
    Wants,
};

/// What the scheduler decides on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// When it was taken, by the database's clock.
    pub now: Timestamp,
    /// Every agent, with what it runs and what it holds of what the ready stages need.
    pub fleet: FleetView,
    /// The stages that are ready, and those whose inputs are all there or being made on one agent.
    pub ready: Vec<ReadyStage>,
    /// Where the inputs of those stages are.
    pub places: BTreeMap<(BuildId, EdgeId), Place>,
    /// Why those of them wait that did so in the last round, as it was stored.
    pub holds: BTreeMap<StageKey, Hold>,
}

/// Where a result is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The agent whose keeper has it, or whose attempt is making it.
    pub agent: Option<AgentId>,
    /// The digest of the image that it was exported as.
    pub digest: Option<String>,
}

/// A build whole, from its rows alone.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildView {
    /// The build itself.
    pub build: BuildRow,
    /// Its stages, in the plan's order.
    pub stages: Vec<StageRow>,
    /// What they make, edges before targets.
    pub outputs: Vec<OutputRow>,
    /// All attempts, by stage and age.
    pub attempts: Vec<AttemptRow>,
    /// What it publishes.
    pub publications: Vec<PublicationRow>,
    /// The first things that happened to it.
    pub events: Vec<EventRow>,
}

/// Events of one build that are shown: more say no more.
const EVENTS: u32 = 200;

impl Store {
    /// What a round of placements decides on: at most `limit` ready stages, and, if there are any, the fleet.
    pub async fn snapshot(&self, limit: u32) -> Result<Snapshot, StoreError> {
        self.again(|| async {
            let mut tx = self.read_only().await?;
            let now = sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
                .fetch_one(&mut *tx)
                .await?;
            let (mut ready, holds) = ready_stages(&mut tx, limit).await?;
            if ready.is_empty() {
                tx.commit().await?;
                return Ok(Snapshot {
                    now: timestamp(now),
                    fleet: FleetView::default(),
                    ready: Vec::new(),
                    places: BTreeMap::new(),
                    holds,
                });
            }
            let places = add_inputs(&mut tx, &mut ready).await?;
            add_failures(&mut tx, &mut ready).await?;
            let mut agents = agent_views(&mut tx, &self.hellos).await?;
            add_cache(&mut tx, &mut agents, &mut ready).await?;
            tx.commit().await?;
            Ok(Snapshot {
                now: timestamp(now),
                fleet: FleetView {
                    agents: agents.into_values().collect(),
                },
                ready: ready.into_values().collect(),
                places,
                holds,
            })
        })
        .await
    }

    /// What a forecast rests on: the time, the fleet with what it runs and what it holds of what these stages need, and the stages with
    /// what their commands took elsewhere.
    pub async fn prospect(
        &self,
        stages: &[ReadyStage],
    ) -> Result<(Timestamp, FleetView, Vec<ReadyStage>), StoreError> {
        self.again(|| async {
            let mut tx = self.read_only().await?;
            let now = sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
                .fetch_one(&mut *tx)
                .await?;
            let keyed = stages.iter().map(|stage| (stage.key, stage.clone()));
            let mut stages: BTreeMap<StageKey, ReadyStage> = keyed.collect();
            let mut agents = agent_views(&mut tx, &self.hellos).await?;
            add_cache(&mut tx, &mut agents, &mut stages).await?;
            tx.commit().await?;
            let agents = agents.into_values().collect();
            Ok((
                timestamp(now),
                FleetView { agents },
                stages.into_values().collect(),
            ))
        })
        .await
    }

    /// A build whole; `None` if there is none of that id.
    pub async fn build_view(&self, build: BuildId) -> Result<Option<BuildView>, StoreError> {
        self.again(|| async {
            let mut tx = self.read_only().await?;
            let Some(row) = super::builds::build_row(&mut tx, build).await? else {
                return Ok(None);
            };
            let view = BuildView {
                build: row,
                stages: stage_rows(&mut tx, build).await?,
                outputs: output_rows(&mut tx, build).await?,
                attempts: attempt_rows(&mut tx, build).await?,
                publications: publication_rows(&mut tx, build).await?,
                events: event_rows(&mut tx, build, 0, EVENTS).await?,
            };
            tx.commit().await?;
            Ok(Some(view))
        })
        .await
    }

    async fn read_only(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await
    }
}

impl BuildView {
    /// Why a stage waits, for people; `None` if it doesn't.
    pub fn waiting_for(&self, stage: &StageRow) -> Option<String> {
        use croft_scheduler::StageState::{Ready, Waiting};
        match stage.state {
            Ready => stage.waiting_for.clone(),
            Waiting => {
                let inputs = self
                    .outputs
                    .iter()
                    .filter(|output| output.consumers.contains(&stage.number));
                let missing: BTreeSet<StageId> = inputs
                    .filter(|input| input.state == super::OutputState::Missing)
                    .map(|input| input.stage)
                    .collect();
                let numbers: Vec<String> = missing.iter().map(ToString::to_string).collect();
                let noun = if numbers.len() == 1 {
                    "stage"
                } else {
                    "stages"
                };
                (!numbers.is_empty())
                    .then(|| format!("the results of {noun} {}", numbers.join(", ")))
            }
            _ => None,
        }
    }

    /// The stages whose results a stage takes.
    pub fn inputs_of(&self, stage: StageId) -> BTreeSet<StageId> {
        let inputs = self
            .outputs
            .iter()
            .filter(|output| output.consumers.contains(&stage));
        inputs.map(|input| input.stage).collect()
    }
}

/// The ready stages, and after them those all of whose missing inputs are being made on one agent; without inputs and failures. And why they
/// wait, as it was stored.
async fn ready_stages(
    tx: &mut PgConnection,
    limit: u32,
) -> Result<(BTreeMap<StageKey, ReadyStage>, BTreeMap<StageKey, Hold>), StoreError> {
    let rows = sqlx::query!(
        r#"SELECT s.build, s.number, s.name, s.users, s.platforms, s.identities, s.cache_mounts, s.requirements,
                  s.together, CASE WHEN s.state = 'ready' THEN s.since ELSE now() END AS "since!", s.not_before,
                  s.waiting_for, s.unserved_since, b.project, b.priority, b.connection, b.created_at,
                  COALESCE(pin.agent, alike.agent) AS "pinned?", s.meets,
                  ARRAY(SELECT (SELECT t.agent FROM attempts AS t
                                JOIN stages AS m ON m.build = t.build AND m.number = t.stage AND m.state IN ('running', 'done')
                                WHERE t.build = s.build AND t.stage = u.stage AND t.state IN ('offered', 'running', 'succeeded')
                                ORDER BY t.token DESC
                                LIMIT 1)
                        FROM UNNEST(s.meets) WITH ORDINALITY AS u (stage, place) ORDER BY u.place) AS "met_on!: Vec<Option<Uuid>>"
           FROM stages AS s
           JOIN builds AS b ON b.id = s.build AND b.state = 'running'
           LEFT JOIN LATERAL (
               SELECT t.agent FROM attempts AS t
               JOIN stages AS g ON g.build = t.build AND g.number = t.stage
               WHERE t.build = s.build AND t.state IN ('offered', 'running', 'succeeded')
                 AND (g.together = s.together AND g.number <> s.number OR g.number = s.placed_with)
               ORDER BY g.number = s.placed_with, t.token DESC
               LIMIT 1
           ) AS pin ON true
           LEFT JOIN LATERAL (
               -- Builds of one connection, which may be months old: those that ended shortly before. One that stands on another may begin
               -- when that has ended.
               SELECT t.agent FROM builds AS o
               JOIN stages AS g ON g.build = o.id AND g.identities && s.identities
               JOIN attempts AS t ON t.build = g.build AND t.stage = g.number AND t.state IN ('offered', 'running', 'succeeded')
               WHERE o.connection = b.connection AND o.id <> b.id AND COALESCE(o.finished_at > b.created_at - interval '1 hour', true)
               ORDER BY t.token
               LIMIT 1
           ) AS alike ON true
           WHERE s.state = 'ready'
              OR s.state = 'waiting'
                 AND (SELECT bool_and(t.agent IS NOT NULL) AND count(DISTINCT t.agent) = 1 FROM outputs AS o
                      LEFT JOIN attempts AS t ON t.build = o.build AND t.stage = o.stage AND t.state IN ('offered', 'running')
                      WHERE o.build = s.build AND o.kind = 'edge' AND o.state = 'missing' AND s.number = ANY (o.consumers))
           ORDER BY s.state = 'waiting', b.priority DESC, b.created_at, s.build, s.number
           LIMIT $1"#,
        i64::from(limit),
    )
    .fetch_all(tx)
    .await?;
    let (mut ready, mut holds) = (BTreeMap::new(), BTreeMap::new());
    for row in rows {
        let key = StageKey {
            build: BuildId(row.build),
            stage: StageId(uint(row.number)),
        };
        let requirements =
            serde_json::from_value(row.requirements).map_err(|error| StoreError::Unreadable {
                what: "stages.requirements",
                detail: error.to_string(),
            })?;
        let command = |identity| Command {
            identity: CacheIdentity::new(identity),
            cost: None,
        };
        let meets = row.meets.into_iter().zip(row.met_on);
        let meets = meets.map(|(stage, agent)| (StageId(uint(stage)), agent.map(AgentId)));
        let stage = ReadyStage {
            key,
            alike: ReadyStage::alike(&row.project, &row.name, &row.users),
            project: Project(row.project),
            priority: row.priority,
            connection: ConnectionId(row.connection),
            build_created: timestamp(row.created_at),
            ready_since: timestamp(row.since),
            not_before: row.not_before.map_or(Timestamp(0), timestamp),
            platforms: platforms("stages.platforms", &row.platforms)?,
            requirements,
            commands: row.identities.into_iter().map(command).collect(),
            cache_mounts: row.cache_mounts.into_iter().collect(),
            together: row.together.map(|stage| StageId(uint(stage))),
            pinned: row.pinned.map(AgentId),
            meets: meets.collect(),
            inputs: Vec::new(),
            failed_on: BTreeMap::new(),
        };
        ready.insert(key, stage);
        if let Some(why) = row.waiting_for {
            let wants = match row.unserved_since {
                Some(_) => Wants::Agent,
                None => Wants::Slot,
            };
            holds.insert(key, Hold { key, why, wants });
        }
    }
    Ok((ready, holds))
}

/// The keys of the stages, as two columns.
fn columns<'a>(keys: impl Iterator<Item = &'a StageKey>) -> (Vec<Uuid>, Vec<i32>) {
    keys.map(|key| (key.build.0, int(key.stage.0))).unzip()
}

/// Adds what the stages take, and returns where it is.
async fn add_inputs(
    tx: &mut PgConnection,
    ready: &mut BTreeMap<StageKey, ReadyStage>,
) -> Result<BTreeMap<(BuildId, EdgeId), Place>, StoreError> {
    let (builds, stages) = columns(ready.keys());
    let rows = sqlx::query!(
        r#"SELECT k.build AS "build!", k.number AS "stage!", o.number AS edge, o.stage AS maker, o.whole, o.state, o.bytes, o.digest,
                  COALESCE(o.agent, m.agent) AS agent,
                  ARRAY(SELECT DISTINCT t.agent FROM attempts AS t
                        WHERE t.build = o.build AND o.number = ANY (t.bound_edges) AND o.digest = ANY (t.bound_digests)
                          AND t.state IN ('running', 'succeeded')) AS "pulled_by!"
           FROM UNNEST($1::uuid[], $2::int[]) AS k (build, number)
           JOIN outputs AS o ON o.build = k.build AND o.kind = 'edge' AND k.number = ANY (o.consumers)
           LEFT JOIN attempts AS m ON o.state = 'missing' AND m.build = o.build AND m.stage = o.stage
                                  AND m.state IN ('offered', 'running')
           ORDER BY o.number"#,
        &builds,
        &stages,
    )
    .fetch_all(tx)
    .await?;
    let mut places = BTreeMap::new();
    for row in rows {
        let key = StageKey {
            build: BuildId(row.build),
            stage: StageId(uint(row.stage)),
        };
        let Some(stage) = ready.get_mut(&key) else {
            continue;
        };
        let edge = EdgeId(uint(row.edge));
        let agent = row.agent.map(AgentId);
        places.insert(
            (key.build, edge),
            Place {
                agent,
                digest: row.digest,
            },
        );
        let exported = (row.state == "exported").then(|| ExportedInput {
            bytes: row.bytes.map_or(0, ubigint),
            pulled_by: row.pulled_by.into_iter().map(AgentId).collect(),
        });
        stage.inputs.push(Input {
            edge,
            held_on: agent,
            whole: row.whole,
            supply: match &*row.state {
                "missing" => Supply::Coming(StageId(uint(row.maker))),
                _ => Supply::There,
            },
            exported,
        });
    }
    Ok(places)
}

/// So many failures over the stage registry are the agent's: it may be the way there that is broken.
const REGISTRY_FAILURES: i64 = 6;

async fn add_failures(
    tx: &mut PgConnection,
    ready: &mut BTreeMap<StageKey, ReadyStage>,
) -> Result<(), StoreError> {
    let (builds, stages) = columns(ready.keys());
    let rows = sqlx::query!(
        r#"SELECT t.build, t.stage, t.agent,
                  count(*) FILTER (WHERE t.failure IS DISTINCT FROM 'registry')
                  + count(*) FILTER (WHERE t.failure = 'registry') / $3 AS "count!"
           FROM UNNEST($1::uuid[], $2::int[]) AS k (build, number)
           JOIN attempts AS t ON t.build = k.build AND t.stage = k.number
           WHERE t.state = 'lost' OR t.failure IN ('farm', 'registry')
           GROUP BY t.build, t.stage, t.agent"#,
        &builds,
        &stages,
        REGISTRY_FAILURES,
    )
    .fetch_all(tx)
    .await?;
    for row in rows {
        let key = StageKey {
            build: BuildId(row.build),
            stage: StageId(uint(row.stage)),
        };
        if let Some(stage) = ready.get_mut(&key) {
            stage.failed_on.insert(
                AgentId(row.agent),
                u32::try_from(row.count).unwrap_or(u32::MAX),
            );
        }
    }
    Ok(())
}
