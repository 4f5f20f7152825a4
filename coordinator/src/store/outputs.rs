//! Outputs: what stages made, and where it is.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use croft_planner::{EdgeId, Output, StageId, TargetId};
use croft_scheduler::{AgentId, AttemptId, BuildId};
use serde_json::Value;
use sqlx::PgConnection;

use super::attempts::LiveAttempt;
use super::convert::{bigint, int, millis, read, ubigint, uint};
use super::error::changed;
use super::{Store, StoreError};

/// An output that an attempt made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputDone {
    /// Which one.
    pub output: Output,
    /// The image that it was exported as; `None`: the agent's keeper just holds it.
    pub exported: Option<Exported>,
}

/// An output as an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The manifest's digest; of a delivery without an image empty.
    pub digest: String,
    /// The compressed size of its own layers in bytes.
    pub bytes: u64,
    /// What the exporter answered.
    pub response: BTreeMap<String, String>,
    /// How long the engine took to export it, if that is known.
    pub took: Option<Duration>,
}

/// Where an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputState {
    /// Nowhere: not made yet, or lost.
    Missing,
    /// In its agent's keeper only.
    Held,
    /// In a registry.
    Exported,
}

impl OutputState {
    /// The word for it, in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            OutputState::Missing => "missing",
            OutputState::Held => "held",
            OutputState::Exported => "exported",
        }
    }
}

impl std::str::FromStr for OutputState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [
            OutputState::Missing,
            OutputState::Held,
            OutputState::Exported,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| format!("{text:?} is no state of an output"))
    }
}

/// An output as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputRow {
    /// Which one.
    pub output: Output,
    /// The stage that makes it.
    pub stage: StageId,
    /// For people.
    pub name: String,
    /// What it is for.
    pub platform: String,
    /// Of an edge: the stages that need it.
    pub consumers: Vec<StageId>,
    /// Where it is.
    pub state: OutputState,
    /// Whose keeper has it; `None` if none has any more.
    pub agent: Option<AgentId>,
    /// The attempt that made it.
    pub attempt: Option<AttemptId>,
    /// The image's digest.
    pub digest: Option<String>,
    /// The compressed size of the image's own layers in bytes.
    pub bytes: Option<u64>,
    /// What the exporter answered.
    pub response: Option<Value>,
    /// When it was made; of no meaning while it is missing.
    pub there_at: Option<DateTime<Utc>>,
    /// When it was in a registry; of no meaning unless it is exported.
    pub exported_at: Option<DateTime<Utc>>,
    /// How long the engine took to export it.
    pub export_took: Option<Duration>,
}

impl Store {
    /// An edge that an agent's keeper held was exported. Stale if it isn't held there any more.
    pub async fn output_export(
        &self,
        build: BuildId,
        edge: EdgeId,
        holder: AgentId,
        exported: &Exported,
    ) -> Result<(), StoreError> {
        self.again(|| async {
            let rows = sqlx::query!(
                "UPDATE outputs SET state = 'exported', digest = $4, bytes = $5, response = $6, exported_at = now(), export_ms = $7
             WHERE build = $1 AND kind = 'edge' AND number = $2 AND agent = $3 AND state = 'held'",
                build.0,
                int(edge.0),
                holder.0,
                exported.digest,
                bigint(exported.bytes),
                serde_json::json!(exported.response),
                exported.took.map(millis),
            )
            .execute(&mut *self.connection().await?)
            .await?
            .rows_affected();
            changed(rows, "the output")?;
            self.wakes().placement.notify_one();
            Ok(())
        })
        .await
    }

    /// The outputs of a build, edges before targets.
    pub async fn output_list(&self, build: BuildId) -> Result<Vec<OutputRow>, StoreError> {
        self.again(async || output_rows(&mut *self.connection().await?, build).await)
            .await
    }
}

/// Marks outputs of an attempt as there. One that is there already stays as it is: reports are repeated.
pub(super) async fn outputs_done(
    tx: &mut PgConnection,
    attempt: &LiveAttempt,
    outputs: &[OutputDone],
) -> Result<(), StoreError> {
    let rows: Vec<Value> = outputs
        .iter()
        .map(|done| {
            let (kind, number) = kind_and_number(done.output);
            serde_json::json!({
                "kind": kind,
                "number": number,
                "state": if done.exported.is_some() { OutputState::Exported } else { OutputState::Held }.as_str(),
                "digest": done.exported.as_ref().map(|exported| &exported.digest),
                "bytes": done.exported.as_ref().map(|exported| bigint(exported.bytes)),
                "response": done.exported.as_ref().map(|exported| &exported.response),
                "export_ms": done.exported.as_ref().and_then(|exported| exported.took).map(millis),
            })
        })
        .collect();
    sqlx::query!(
        "UPDATE outputs AS o
         SET state = r.state, agent = $3, attempt = $4, digest = r.digest, bytes = r.bytes, response = r.response,
             there_at = now(), exported_at = CASE r.state WHEN 'exported' THEN now() END, export_ms = r.export_ms
         FROM jsonb_to_recordset($5) AS r (
             kind text, number int, state text, digest text, bytes bigint, response jsonb, export_ms bigint)
         WHERE o.build = $1 AND o.stage = $2 AND o.kind = r.kind AND o.number = r.number AND o.state = 'missing'",
        attempt.key.build.0,
        int(attempt.key.stage.0),
        attempt.agent.0,
        attempt.held.attempt.0,
        Value::Array(rows),
    )
    .execute(tx)
    .await?;
    Ok(())
}

fn kind_and_number(output: Output) -> (&'static str, i32) {
    match output {
        Output::Edge(edge) => ("edge", int(edge.0)),
        Output::Target(target) => ("target", int(target.0)),
        Output::Delivery => ("delivery", 0),
    }
}

pub(super) async fn output_rows(
    connection: &mut PgConnection,
    build: BuildId,
) -> Result<Vec<OutputRow>, StoreError> {
    let rows = sqlx::query!(
        "SELECT kind, number, stage, name, platform, consumers, state, agent, attempt, digest, bytes, response,
                there_at, exported_at, export_ms
         FROM outputs WHERE build = $1 ORDER BY kind, number",
        build.0,
    )
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|row| {
        let number = uint(row.number);
        let output = match &*row.kind {
            "edge" => Output::Edge(EdgeId(number)),
            "target" => Output::Target(TargetId(number)),
            "delivery" => Output::Delivery,
            kind => {
                return Err(StoreError::Unreadable {
                    what: "outputs.kind",
                    detail: kind.to_owned(),
                });
            }
        };
        Ok(OutputRow {
            output,
            stage: StageId(uint(row.stage)),
            name: row.name,
            platform: row.platform,
            consumers: row
                .consumers
                .into_iter()
                .map(|stage| StageId(uint(stage)))
                .collect(),
            state: read("outputs.state", &row.state)?,
            agent: row.agent.map(AgentId),
            attempt: row.attempt.map(AttemptId),
            digest: row.digest,
            bytes: row.bytes.map(ubigint),
            response: row.response,
            there_at: row.there_at,
            exported_at: row.exported_at,
            export_took: row.export_ms.map(|ms| Duration::from_millis(ubigint(ms))),
        })
    });
    rows.collect()
}
