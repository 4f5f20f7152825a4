//! The fleet as the scheduler sees it: the agents, what they run, and what their engines hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use croft_planner::{CacheIdentity, StageId};
use croft_scheduler::fleet::{Load, Start};
use croft_scheduler::{AgentId, AgentView, BuildId, Project, ReadyStage, StageKey, Timestamp};
use sqlx::PgConnection;

use super::StoreError;
use super::agents::{Hellos, agent_rows};
use super::convert::{timestamp, ubigint, uint};

/// All agents, with what they run.
pub(super) async fn agent_views(
    tx: &mut PgConnection,
    hellos: &Hellos,
) -> Result<BTreeMap<AgentId, AgentView>, StoreError> {
    let rows = agent_rows(tx, hellos).await?;
    let mut agents = rows.iter().map(|row| (row.id, row.view())).collect();
    add_load(tx, &mut agents).await?;
    Ok(agents)
}

/// What the agents run. What they will hold when it is done counts as held.
async fn add_load(
    tx: &mut PgConnection,
    agents: &mut BTreeMap<AgentId, AgentView>,
) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        r#"SELECT t.agent, t.build, t.stage, t.created_at, b.project, s.name, s.users, s.identities, s.cache_mounts,
                  EXISTS (SELECT FROM outputs AS o
                          WHERE o.build = t.build AND o.kind = 'edge' AND o.state = 'missing'
                            AND o.number = ANY (t.bound_edges)) AS "ahead!",
                  (SELECT sum(known.cost)::bigint
                   FROM UNNEST(s.identities) AS i (identity)
                   CROSS JOIN LATERAL (SELECT max(c.cost_ms) AS cost FROM agent_cache AS c
                                       WHERE c.kind = 'command' AND c.key = i.identity AND c.cost_ms > 0) AS known
                  ) AS expected
           FROM attempts AS t
           JOIN stages AS s ON s.build = t.build AND s.number = t.stage
           JOIN builds AS b ON b.id = t.build
           WHERE t.state IN ('offered', 'running')
           ORDER BY t.token"#
    )
    .fetch_all(tx)
    .await?;
    for row in rows {
        let Some(agent) = agents.get_mut(&AgentId(row.agent)) else {
            continue;
        };
        let (since, project) = (timestamp(row.created_at), Project(row.project));
        agent
            .cache
            .extend(row.identities.into_iter().map(CacheIdentity::new));
        agent.mounts.extend(
            row.cache_mounts
                .into_iter()
                .map(|mount| (project.clone(), mount)),
        );
        agent
            .alike
            .insert(ReadyStage::alike(&project.0, &row.name, &row.users), since);
        agent.projects.insert(project.clone(), since);
        agent.load.push(Load {
            key: StageKey {
                build: BuildId(row.build),
                stage: StageId(uint(row.stage)),
            },
            project,
            start: if row.ahead {
                Start::Ahead
            } else {
                Start::Complete
            },
            since,
            expected: row.expected.map(|ms| Duration::from_millis(ubigint(ms))),
        });
    }
    Ok(())
}

/// What the agents hold of what the ready stages need, and what the commands of those took elsewhere.
pub(super) async fn add_cache(
    tx: &mut PgConnection,
    agents: &mut BTreeMap<AgentId, AgentView>,
    ready: &mut BTreeMap<StageKey, ReadyStage>,
) -> Result<(), StoreError> {
    let commands: BTreeSet<&str> = ready
        .values()
        .flat_map(|stage| &stage.commands)
        .map(|command| command.identity.as_str())
        .collect();
    let mounts: BTreeSet<&String> = ready
        .values()
        .flat_map(|stage| &stage.cache_mounts)
        .collect();
    let projects: BTreeSet<&String> = ready.values().map(|stage| &stage.project.0).collect();
    let alikes: BTreeSet<&str> = ready
        .values()
        .filter_map(|stage| {
            stage
                .alike
                .strip_prefix(&stage.project.0)?
                .strip_prefix(": ")
        })
        .collect();
    let owned = |set: BTreeSet<&str>| set.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let rows = sqlx::query!(
        "SELECT agent, kind, project, key, cost_ms, last_used FROM agent_cache
         WHERE kind = 'command' AND key = ANY ($1)
            OR kind = 'mount' AND key = ANY ($2) AND project = ANY ($4)
            OR kind = 'alike' AND key = ANY ($3) AND project = ANY ($4)
            OR kind = 'project' AND key = '' AND project = ANY ($4)",
        &owned(commands),
        &owned(mounts.into_iter().map(String::as_str).collect()),
        &owned(alikes),
        &owned(projects.into_iter().map(String::as_str).collect()),
    )
    .fetch_all(tx)
    .await?;
    let mut costs: BTreeMap<CacheIdentity, Duration> = BTreeMap::new();
    for row in rows {
        let Some(agent) = agents.get_mut(&AgentId(row.agent)) else {
            continue;
        };
        let last_used = timestamp(row.last_used);
        match &*row.kind {
            "command" => {
                let identity = CacheIdentity::new(row.key);
                if row.cost_ms > 0 {
                    let cost = costs.entry(identity.clone()).or_default();
                    *cost = Duration::from_millis(ubigint(row.cost_ms)).max(*cost);
                }
                agent.cache.insert(identity);
            }
            "mount" => drop(agent.mounts.insert((Project(row.project), row.key))),
            "alike" => newest(
                &mut agent.alike,
                format!("{}: {}", row.project, row.key),
                last_used,
            ),
            _ => newest(&mut agent.projects, Project(row.project), last_used),
        }
    }
    for command in ready.values_mut().flat_map(|stage| &mut stage.commands) {
        command.cost = costs.get(&command.identity).copied();
    }
    Ok(())
}

/// An attempt that runs now is newer than what is remembered.
fn newest<K: Ord>(map: &mut BTreeMap<K, Timestamp>, key: K, at: Timestamp) {
    let entry = map.entry(key).or_insert(at);
    *entry = at.max(*entry);
}
