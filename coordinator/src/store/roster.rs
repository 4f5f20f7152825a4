//! What operators ask of agents: what one runs and holds, and forgetting one that is gone.

use chrono::{DateTime, Utc};
use croft_planner::StageId;
use croft_scheduler::{AgentId, BuildId};

use super::convert::{ubigint, uint};
use super::error::changed;
use super::{Store, StoreError};

/// An attempt that an agent was offered or runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Of which build.
    pub build: BuildId,
    /// Which stage.
    pub stage: StageId,
    /// The stage for people.
    pub name: String,
    /// When it was offered.
    pub since: DateTime<Utc>,
}

/// What placement believes an agent's engine to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cache {
    /// Results of commands.
    pub commands: u64,
    /// Cache mounts.
    pub mounts: u64,
}

impl Store {
    /// What an agent runs, oldest first.
    pub async fn agent_work(&self, agent: AgentId) -> Result<Vec<Work>, StoreError> {
        self.again(|| async {
            let rows = sqlx::query!(
                "SELECT t.build, t.stage, s.name, t.created_at FROM attempts AS t
                 JOIN stages AS s ON s.build = t.build AND s.number = t.stage
                 WHERE t.agent = $1 AND t.state IN ('offered', 'running') ORDER BY t.token",
                agent.0,
            )
            .fetch_all(&mut *self.connection().await?)
            .await?;
            let rows = rows.into_iter().map(|row| Work {
                build: BuildId(row.build),
                stage: StageId(uint(row.stage)),
                name: row.name,
                since: row.created_at,
            });
            Ok(rows.collect())
        })
        .await
    }

    /// How much placement believes an agent's engine to hold.
    pub async fn agent_cache(&self, agent: AgentId) -> Result<Cache, StoreError> {
        self.again(|| async {
            let row = sqlx::query!(
                r#"SELECT count(*) FILTER (WHERE kind = 'command') AS "commands!",
                          count(*) FILTER (WHERE kind = 'mount') AS "mounts!"
                   FROM agent_cache WHERE agent = $1"#,
                agent.0,
            )
            .fetch_one(&mut *self.connection().await?)
            .await?;
            Ok(Cache {
                commands: ubigint(row.commands),
                mounts: ubigint(row.mounts),
            })
        })
        .await
    }

    /// Forgets an agent that is away until it connects again: nobody counts on it, and it takes work then. Builds that it took part in keep
    /// its name. Stale if it is connected, runs something, or holds what a running build needs.
    pub async fn agent_forget(&self, agent: AgentId) -> Result<(), StoreError> {
        self.again(|| async {
            let rows = sqlx::query!(
                "WITH gone AS (
                     UPDATE agents AS a SET forgotten_at = now(), draining = false
                     WHERE a.id = $1 AND a.state = 'away' AND a.forgotten_at IS NULL
                       AND NOT EXISTS (SELECT FROM attempts AS t WHERE t.agent = a.id AND t.state IN ('offered', 'running'))
                       AND NOT EXISTS (SELECT FROM outputs AS o JOIN builds AS b ON b.id = o.build
                                       WHERE o.agent = a.id AND o.state = 'held' AND b.state = 'running')
                     RETURNING a.id
                 ), hints AS (
                     DELETE FROM agent_cache AS c USING gone WHERE c.agent = gone.id
                 )
                 SELECT id FROM gone",
                agent.0,
            )
            .fetch_all(&mut *self.connection().await?)
            .await?;
            changed(rows.len() as u64, "the agent")?;
            self.wakes().placement.notify_one();
            Ok(())
        })
        .await
    }
}
