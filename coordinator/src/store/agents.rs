//! Agents: who there is, and whether they are connected.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use croft_planner::Platform;
use croft_scheduler::fleet::{Duty, Health, Presence, takes_work};
use croft_scheduler::{AgentId, AgentView, FleetView, LeaseTerms};

use super::convert::{bigint, int, millis, read, texts, ubigint};
use super::error::changed;
use super::{Store, StoreError};

/// Which of an agent's connections something was said over: grows with each hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

/// What an agent says of itself when it connects, and what doesn't change as long as that connection lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Unique in the farm.
    pub name: String,
    /// What its machine is.
    pub native: Platform,
    /// What it runs without an emulator, `native` first.
    pub platforms: Vec<Platform>,
    /// What it runs through an emulator and is allowed to.
    pub emulated: Vec<Platform>,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// As it was started with.
    pub labels: BTreeMap<String, String>,
    /// Of the agent's program.
    pub version: String,
    /// "buildkitd" or "docker".
    pub engine_kind: String,
    /// Of the engine.
    pub engine_version: String,
    /// Capabilities of the engine's LLB.
    pub llb_caps: Arc<BTreeSet<String>>,
    /// Capabilities of the engine's gateway.
    pub frontend_caps: BTreeSet<String>,
    /// What the engine lets builds be granted.
    pub entitlements: Vec<String>,
    /// The names of the devices that the engine can give a command.
    pub devices: Vec<String>,
}

type Known = HashMap<(AgentId, Epoch), Arc<Hello>>;

/// What the agents of the last look had said when they connected: it is long, is wanted several times for each build, and stays what it is as
/// long as the connection, so that a look reads only what is new.
pub(super) type Hellos = RwLock<Arc<Known>>;

/// A disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// All of it.
    pub total: u64,
    /// What is free.
    pub free: u64,
}

/// A machine's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What programs can get.
    pub available: u64,
}

/// What an agent says of itself from time to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Whether it can take work.
    pub health: Health,
    /// Where the engine keeps its state; `None`: as before.
    pub disk: Option<Disk>,
    /// Its machine's; `None`: as before.
    pub memory: Option<Memory>,
}

/// An agent's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentLink {
    /// The agent's id: the same as long as the farm knows its name.
    pub id: AgentId,
    /// Which connection.
    pub epoch: Epoch,
    /// Whether it is to take work.
    pub duty: Duty,
}

/// An agent that is taken for connected, and is not heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentAgent {
    /// Which one.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Its last connection.
    pub epoch: Epoch,
}

/// An agent as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    /// Its id.
    pub id: AgentId,
    /// What it said when it connected last.
    pub hello: Arc<Hello>,
    /// Whether it is connected.
    pub presence: Presence,
    /// Which connection it is or was.
    pub epoch: Epoch,
    /// Whether it can take work.
    pub health: Health,
    /// Where its engine keeps its state, if it said.
    pub disk: Option<Disk>,
    /// Its machine's memory, if it said.
    pub memory: Option<Memory>,
    /// Whether it takes new work.
    pub duty: Duty,
    /// When it first came.
    pub first_seen: DateTime<Utc>,
    /// When it was last heard.
    pub last_seen: DateTime<Utc>,
    /// Attempts that it was offered or runs.
    pub running: u32,
}

impl Store {
    /// An agent connects. One that the farm knows by its name keeps its id (else it gets `new`), and what it says over older connections
    /// doesn't count any more.
    pub async fn agent_hello(&self, new: AgentId, hello: &Hello) -> Result<AgentLink, StoreError> {
        self.again(|| async {
        let row = sqlx::query!(
            "INSERT INTO agents (id, name, native_platform, platforms, emulated_platforms, slots, labels, version,
                                 engine_kind, engine_version, llb_caps, frontend_caps, entitlements, devices,
                                 state, healthy, epoch)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 'connected', true, 1)
             ON CONFLICT (name) DO UPDATE
             SET native_platform = EXCLUDED.native_platform, platforms = EXCLUDED.platforms,
                 emulated_platforms = EXCLUDED.emulated_platforms, slots = EXCLUDED.slots, labels = EXCLUDED.labels,
                 version = EXCLUDED.version, engine_kind = EXCLUDED.engine_kind,
                 engine_version = EXCLUDED.engine_version, llb_caps = EXCLUDED.llb_caps,
                 frontend_caps = EXCLUDED.frontend_caps, disk_total = NULL, disk_free = NULL,
                 entitlements = EXCLUDED.entitlements, devices = EXCLUDED.devices, state = 'connected', healthy = true, condition = 'ready',
                 forgotten_at = NULL, epoch = agents.epoch + 1, last_seen = now()
             RETURNING id, epoch, draining",
            new.0,
            hello.name,
            hello.native.to_string(),
            &texts(&hello.platforms),
            &texts(&hello.emulated),
            int(hello.slots.min(i32::MAX.unsigned_abs())),
            serde_json::json!(hello.labels),
            hello.version,
            hello.engine_kind,
            hello.engine_version,
            &texts(&*hello.llb_caps),
            &texts(&hello.frontend_caps),
            &hello.entitlements,
            &hello.devices,
        )
        .fetch_one(&mut *self.connection().await?)
        .await?;
        self.wakes().placement.notify_one();
        Ok(AgentLink {
            id: AgentId(row.id),
            epoch: Epoch(row.epoch),
            duty: duty(row.draining),
        })
    }).await
    }

    /// An agent was heard. Says whether it takes work now and didn't, or the other way round. Stale if it has connected anew or was taken for
    /// away.
    pub async fn agent_heartbeat(
        &self,
        agent: AgentId,
        epoch: Epoch,
        beat: &Heartbeat,
    ) -> Result<bool, StoreError> {
        let changed_health = sqlx::query_scalar!(
            r#"UPDATE agents AS a
               SET last_seen = now(), healthy = $3, condition = $6,
                   disk_total = COALESCE($4, a.disk_total), disk_free = COALESCE($5, a.disk_free),
                   memory_total = COALESCE($7, a.memory_total), memory_available = COALESCE($8, a.memory_available)
               FROM (SELECT id, healthy FROM agents WHERE id = $1 FOR NO KEY UPDATE) AS before
               WHERE a.id = before.id AND a.epoch = $2 AND a.state = 'connected'
               RETURNING before.healthy <> $3 AS "changed!""#,
            agent.0,
            epoch.0,
            beat.health == Health::Healthy,
            beat.disk.map(|disk| bigint(disk.total)),
            beat.disk.map(|disk| bigint(disk.free)),
            condition(beat.health),
            beat.memory.map(|memory| bigint(memory.total)),
            beat.memory.map(|memory| bigint(memory.available)),
        )
        .fetch_optional(&mut *self.connection().await?)
        .await?
        .ok_or(StoreError::Stale { what: "the agent" })?;
        // What placement cares about: an engine that came back, or a disk that isn't full any more.
        if changed_health {
            self.wakes().placement.notify_one();
        }
        Ok(changed_health)
    }

    /// An agent's connection ended. Stale if it has another already.
    pub async fn agent_away(&self, agent: AgentId, epoch: Epoch) -> Result<(), StoreError> {
        self.again(|| async {
            let rows = sqlx::query!(
                "UPDATE agents SET state = 'away' WHERE id = $1 AND epoch = $2 AND state = 'connected'",
                agent.0,
                epoch.0,
            )
            .execute(&mut *self.connection().await?)
            .await?
            .rows_affected();
            changed(rows, "the agent")?;
            self.wakes().placement.notify_one();
            Ok(())
        })
        .await
    }

    /// The agents that are taken for connected though nothing was heard of them since a lease would have ended that was renewed then.
    pub async fn agent_silent(&self, terms: &LeaseTerms) -> Result<Vec<SilentAgent>, StoreError> {
        let rows = sqlx::query!(
            "SELECT id, name, epoch FROM agents
             WHERE state = 'connected' AND last_seen < now() - $1::bigint * interval '1 millisecond'
             ORDER BY name",
            millis(terms.lease + terms.grace),
        )
        .fetch_all(&mut *self.connection().await?)
        .await?;
        let rows = rows.into_iter().map(|row| SilentAgent {
            id: AgentId(row.id),
            name: row.name,
            epoch: Epoch(row.epoch),
        });
        Ok(rows.collect())
    }

    /// An agent's name; empty if there is no such agent.
    pub async fn agent_name(&self, agent: AgentId) -> Result<String, StoreError> {
        let name = sqlx::query_scalar!("SELECT name FROM agents WHERE id = $1", agent.0)
            .fetch_optional(&mut *self.connection().await?)
            .await?;
        Ok(name.unwrap_or_default())
    }

    /// A coordinator starts: nobody is connected to it yet.
    pub async fn agent_all_away(&self) -> Result<(), StoreError> {
        self.again(|| async {
            sqlx::query!("UPDATE agents SET state = 'away' WHERE state = 'connected'")
                .execute(&mut *self.connection().await?)
                .await?;
            Ok(())
        })
        .await
    }

    /// Has an agent take no new work, or take it again. Stale if there is no such agent.
    pub async fn agent_duty(&self, agent: AgentId, duty: Duty) -> Result<(), StoreError> {
        let rows = sqlx::query!(
            "UPDATE agents SET draining = $2 WHERE id = $1",
            agent.0,
            duty == Duty::Draining,
        )
        .execute(&mut *self.connection().await?)
        .await?
        .rows_affected();
        changed(rows, "the agent")?;
        self.wakes().placement.notify_one();
        Ok(())
    }

    /// The engine's cache is empty (it was pruned, or is a new one): placement is to expect nothing there.
    pub async fn agent_cache_forget(&self, agent: AgentId) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM agent_cache WHERE agent = $1", agent.0)
            .execute(&mut *self.connection().await?)
            .await?;
        Ok(())
    }

    /// The agent of this name or id.
    pub async fn agent_find(&self, name: &str) -> Result<Option<AgentId>, StoreError> {
        let id = sqlx::query_scalar!(
            "SELECT id FROM agents WHERE (name = $1 OR id::text = $1) AND forgotten_at IS NULL ORDER BY name = $1 DESC LIMIT 1",
            name
        )
        .fetch_optional(&mut *self.connection().await?)
        .await?;
        Ok(id.map(AgentId))
    }

    /// How many running builds each agent holds results of that nobody else has; those that hold none are left out.
    pub async fn agent_holdings(&self) -> Result<BTreeMap<AgentId, u32>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT o.agent AS "agent!", count(DISTINCT o.build) AS "builds!"
               FROM builds AS b JOIN outputs AS o ON o.build = b.id
               WHERE b.state = 'running' AND o.state = 'held' AND o.kind = 'edge' AND o.agent IS NOT NULL
               GROUP BY o.agent"#
        )
        .fetch_all(&mut *self.connection().await?)
        .await?;
        let count = |builds| u32::try_from(builds).unwrap_or(u32::MAX);
        let rows = rows.into_iter();
        Ok(rows
            .map(|row| (AgentId(row.agent), count(row.builds)))
            .collect())
    }

    /// Every agent that the farm knows, by name.
    pub async fn agent_list(&self) -> Result<Vec<AgentRow>, StoreError> {
        self.again(async || agent_rows(&mut *self.connection().await?, &self.hellos).await)
            .await
    }
}

impl AgentRow {
    /// Whether it could be given work now if it had a free slot.
    pub fn takes_work(&self) -> bool {
        takes_work(self.presence, self.health, self.duty)
    }

    /// The agents as the scheduler sees them, without what they run and hold.
    pub fn fleet(rows: &[AgentRow]) -> FleetView {
        FleetView {
            agents: rows.iter().map(AgentRow::view).collect(),
        }
    }

    /// The agent as the scheduler sees it, without what it runs and holds.
    pub(super) fn view(&self) -> AgentView {
        let hello = &self.hello;
        AgentView {
            id: self.id,
            name: hello.name.clone(),
            native: hello.native.clone(),
            platforms: hello.platforms.iter().cloned().collect(),
            emulated: hello.emulated.iter().cloned().collect(),
            slots: hello.slots,
            presence: self.presence,
            health: self.health,
            duty: self.duty,
            caps: Arc::clone(&hello.llb_caps),
            entitlements: hello.entitlements.iter().cloned().collect(),
            devices: hello.devices.iter().cloned().collect(),
            disk_free: self.disk.map(|disk| disk.free),
            cache: BTreeSet::new(),
            mounts: BTreeSet::new(),
            projects: BTreeMap::new(),
            alike: BTreeMap::new(),
            load: Vec::new(),
        }
    }
}

/// The columns of a hello, as PostgreSQL writes them in JSON.
#[derive(serde::Deserialize)]
struct Columns {
    name: String,
    native_platform: String,
    platforms: Vec<String>,
    emulated_platforms: Vec<String>,
    slots: u32,
    labels: BTreeMap<String, String>,
    version: String,
    engine_kind: String,
    engine_version: String,
    llb_caps: BTreeSet<String>,
    frontend_caps: BTreeSet<String>,
    entitlements: Vec<String>,
    devices: Vec<String>,
}

impl TryFrom<Columns> for Hello {
    type Error = StoreError;

    fn try_from(columns: Columns) -> Result<Hello, StoreError> {
        let list = |what, texts: &[String]| {
            let platforms = texts.iter().map(|text| read(what, text));
            platforms.collect::<Result<Vec<_>, _>>()
        };
        Ok(Hello {
            name: columns.name,
            native: read("agents.native_platform", &columns.native_platform)?,
            platforms: list("agents.platforms", &columns.platforms)?,
            emulated: list("agents.emulated_platforms", &columns.emulated_platforms)?,
            slots: columns.slots,
            labels: columns.labels,
            version: columns.version,
            engine_kind: columns.engine_kind,
            engine_version: columns.engine_version,
            llb_caps: Arc::new(columns.llb_caps),
            frontend_caps: columns.frontend_caps,
            entitlements: columns.entitlements,
            devices: columns.devices,
        })
    }
}

pub(super) async fn agent_rows(
    connection: &mut sqlx::PgConnection,
    hellos: &Hellos,
) -> Result<Vec<AgentRow>, StoreError> {
    let known = Arc::clone(&hellos.read().unwrap_or_else(PoisonError::into_inner));
    let (ids, epochs): (Vec<_>, Vec<_>) = known.keys().map(|(id, epoch)| (id.0, epoch.0)).unzip();
    let rows = sqlx::query!(
        r#"SELECT a.id, a.epoch, a.state, a.condition, a.draining, a.first_seen, a.last_seen,
                  a.disk_total, a.disk_free, a.memory_total, a.memory_available,
                  (SELECT count(*) FROM attempts AS t WHERE t.agent = a.id AND t.state IN ('offered', 'running')) AS "running!",
                  CASE WHEN k.id IS NULL THEN to_jsonb(a) END AS hello
           FROM agents AS a
           LEFT JOIN UNNEST($1::uuid[], $2::bigint[]) AS k (id, epoch) ON k.id = a.id AND k.epoch = a.epoch
           WHERE a.forgotten_at IS NULL ORDER BY a.name"#,
        &ids,
        &epochs,
    )
    .fetch_all(connection)
    .await?;
    let mut said = Known::new();
    let pair = |a: Option<i64>, b: Option<i64>| Some((ubigint(a?), ubigint(b?)));
    let mut agents = Vec::new();
    for row in rows {
        let (id, epoch) = (AgentId(row.id), Epoch(row.epoch));
        let hello = match (row.hello, known.get(&(id, epoch))) {
            (None, Some(hello)) => Arc::clone(hello),
            (columns, _) => {
                let columns: Columns = serde_json::from_value(columns.unwrap_or_default())
                    .map_err(|error| StoreError::Unreadable {
                        what: "agents",
                        detail: error.to_string(),
                    })?;
                Arc::new(columns.try_into()?)
            }
        };
        said.insert((id, epoch), Arc::clone(&hello));
        agents.push(AgentRow {
            id,
            hello,
            presence: match &*row.state {
                "connected" => Presence::Connected,
                _ => Presence::Away,
            },
            epoch,
            health: match &*row.condition {
                "ready" => Health::Healthy,
                "disk_full" => Health::Full,
                "leaving" => Health::Leaving,
                _ => Health::Unhealthy,
            },
            disk: pair(row.disk_total, row.disk_free).map(|(total, free)| Disk { total, free }),
            memory: pair(row.memory_total, row.memory_available)
                .map(|(total, available)| Memory { total, available }),
            duty: duty(row.draining),
            first_seen: row.first_seen,
            last_seen: row.last_seen,
            running: u32::try_from(row.running).unwrap_or(u32::MAX),
        });
    }
    *hellos.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(said);
    Ok(agents)
}

fn condition(health: Health) -> &'static str {
    match health {
        Health::Healthy => "ready",
        Health::Unhealthy => "engine_silent",
        Health::Full => "disk_full",
        Health::Leaving => "leaving",
    }
}

fn duty(draining: bool) -> Duty {
    if draining {
        Duty::Draining
    } else {
        Duty::Active
    }
}
