//! croft.v1's wire types into the farm's own and back. Nothing that a peer sends is trusted to be whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::UsageRecord;
use chrono::{DateTime, Utc};
use croft_planner::{Output, Platform};
use croft_proto::v1 as wire;
use croft_scheduler::AttemptState;
use croft_scheduler::fleet::{Duty, Health, Presence};
use prost_types::Timestamp;
use tonic::Status;

use crate::control::{Joining, held};
use crate::store::{
    AgentRow, AttemptRow, BuildRow, BuildView, Disk, EventRow, Heartbeat, Held, Hello, Memory,
    OutputRow, OutputState, StageRow, Work,
};

/// Longest name of an agent, in bytes.
const MAX_NAME: usize = 128;
/// More slots than any machine has use for.
const MAX_SLOTS: u32 = 10_000;
/// Platforms, labels or capabilities that an agent may have.
const MAX_LIST: usize = 1000;

/// Reads an agent's hello. The error says what is wrong with it.
pub(super) fn hello(hello: wire::Hello) -> Result<Joining, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if hello.name.is_empty() || hello.name.len() > MAX_NAME || !hello.name.chars().all(plain) {
        return Err(format!(
            "{:?} can't be an agent's name: use 1 to {MAX_NAME} letters, digits, dashes, dots and underscores",
            hello.name
        ));
    }
    let condition = hello.condition();
    let engine = hello.engine.unwrap_or_default();
    let longest = [
        hello.platforms.len(),
        hello.emulated_platforms.len(),
        hello.labels.len(),
        engine.llb_caps.len(),
        engine.frontend_caps.len(),
        engine.entitlements.len(),
        engine.devices.len(),
    ];
    if longest.into_iter().any(|n| n > MAX_LIST) || hello.slots > MAX_SLOTS {
        return Err("the agent's hello is too large".to_owned());
    }
    let platforms = |list: &[String]| {
        let parsed = list.iter().map(|text| text.parse::<Platform>());
        parsed
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| e.to_string())
    };
    let native: Platform = hello
        .native_platform
        .parse()
        .map_err(|e: croft_planner::PlatformError| e.to_string())?;
    Ok(Joining {
        running: hello
            .running
            .iter()
            .filter_map(|h| held(&h.attempt, h.token))
            .collect(),
        keepers: hello
            .keepers
            .iter()
            .filter_map(|id| id.parse().ok())
            .collect(),
        beat: Heartbeat {
            // Without a healthy engine there is nothing to say of it.
            health: health(condition, Health::Healthy),
            disk: hello.disk.map(disk),
            memory: hello.memory.map(memory),
        },
        hello: Hello {
            name: hello.name,
            native,
            platforms: platforms(&hello.platforms)?,
            emulated: platforms(&hello.emulated_platforms)?,
            slots: hello.slots,
            labels: hello.labels.into_iter().collect(),
            version: hello.version,
            engine_kind: engine.kind,
            engine_version: engine.version,
            llb_caps: Arc::new(engine.llb_caps.into_iter().collect()),
            frontend_caps: engine.frontend_caps.into_iter().collect(),
            entitlements: engine.entitlements,
            devices: engine.devices,
        },
    })
}

/// Reads an agent's heartbeat: how it is, and what it runs.
pub(super) fn heartbeat(beat: &wire::Heartbeat) -> (Heartbeat, Vec<Held>) {
    let engines = match beat.engine_healthy {
        true => Health::Healthy,
        false => Health::Unhealthy,
    };
    let read = Heartbeat {
        health: health(beat.condition(), engines),
        disk: beat.disk.map(disk),
        memory: beat.memory.map(memory),
    };
    let running = beat.running.iter();
    let running = running.filter_map(|h| held(&h.attempt, h.token));
    (read, running.collect())
}

fn health(condition: wire::Condition, unsaid: Health) -> Health {
    match condition {
        wire::Condition::Unspecified => unsaid,
        wire::Condition::Ready => Health::Healthy,
        wire::Condition::EngineSilent => Health::Unhealthy,
        wire::Condition::DiskFull => Health::Full,
        wire::Condition::Leaving => Health::Leaving,
    }
}

fn disk(disk: wire::Disk) -> Disk {
    Disk {
        total: disk.total_bytes,
        free: disk.free_bytes,
    }
}

fn memory(memory: wire::Memory) -> Memory {
    Memory {
        total: memory.total_bytes,
        available: memory.available_bytes,
    }
}

/// A build for a list.
pub(super) fn build(row: &BuildRow) -> wire::Build {
    wire::Build {
        id: row.id.to_string(),
        client_ref: row.client_ref.clone(),
        project: row.project.0.clone(),
        state: row.state.to_string(),
        created_at: Some(time(row.created_at)),
        finished_at: row.finished_at.map(time),
        platforms: row.platforms.clone(),
        error: row.error.clone().unwrap_or_default(),
        published: row.published.clone(),
        digest: row.digest.clone().unwrap_or_default(),
        started_at: row.started_at.map(time),
    }
}

/// A build whole.
pub(super) fn build_whole(view: &BuildView) -> wire::GetBuildResponse {
    let mut attempts: BTreeMap<_, Vec<wire::Attempt>> = BTreeMap::new();
    for row in &view.attempts {
        attempts.entry(row.stage).or_default().push(attempt(row));
    }
    let stages = view.stages.iter().map(|row| {
        let attempts = attempts.remove(&row.number).unwrap_or_default();
        stage(view, row, attempts)
    });
    let transfers = view.outputs.iter().filter_map(|row| transfer(view, row));
    wire::GetBuildResponse {
        build: Some(build(&view.build)),
        stages: stages.collect(),
        transfers: transfers.collect(),
        events: view.events.iter().map(event).collect(),
    }
}

fn event(row: &EventRow) -> wire::BuildEvent {
    let text = |key: &str| row.data[key].as_str().unwrap_or_default();
    let stages = || {
        let numbers = row.data["again"].as_array().into_iter().flatten();
        let numbers: Vec<String> = numbers.map(ToString::to_string).collect();
        match &numbers[..] {
            [] => String::new(),
            [one] => format!("; stage {one} is made again"),
            several => format!("; stages {} are made again", several.join(", ")),
        }
    };
    let told = match row.kind.as_str() {
        "coordinator restarted" => "a coordinator started and went on with this build".to_owned(),
        "results lost" => format!(
            "what {} held is lost: {}{}",
            text("agent"),
            text("why"),
            stages()
        ),
        "stage retried" => format!(
            "stage {} is tried again: {}{}",
            row.data["stage"],
            text("why"),
            stages()
        ),
        "image lost" => format!("the stage registry lost a result{}", stages()),
        "cancelled" => format!("it was ended: {}", text("why")),
        other => other.to_owned(),
    };
    wire::BuildEvent {
        at: Some(time(row.at)),
        kind: row.kind.clone(),
        text: told,
    }
}

/// A result that others pulled as an image; nothing if all who took it ran where it was made.
fn transfer(view: &BuildView, row: &OutputRow) -> Option<wire::Transfer> {
    let (Output::Edge(edge), Some(digest)) = (row.output, &row.digest) else {
        return None;
    };
    let pulled = |attempt: &&AttemptRow| {
        let mut bindings = attempt.bindings.iter();
        attempt.state == AttemptState::Succeeded
            && bindings.any(|b| b.edge == edge && b.digest.as_ref() == Some(digest))
    };
    let took = |attempt: &AttemptRow| attempt.fetched.get(&edge).copied().map_or(0, millis);
    let (to, fetch_ms): (Vec<u32>, Vec<u64>) = view
        .attempts
        .iter()
        .filter(pulled)
        .map(|attempt| (attempt.stage.0, took(attempt)))
        .unzip();
    (!to.is_empty()).then(|| wire::Transfer {
        from_stage: row.stage.0,
        to_stages: to,
        fetch_ms,
        digest: digest.clone(),
        bytes: row.bytes.unwrap_or_default(),
    })
}

fn stage(view: &BuildView, row: &StageRow, attempts: Vec<wire::Attempt>) -> wire::Stage {
    wire::Stage {
        number: row.number.0,
        name: row.name.clone(),
        kind: row.kind.clone(),
        state: row.state.to_string(),
        home: row
            .home
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        users: row.users.clone(),
        waiting_for: view.waiting_for(row).unwrap_or_default(),
        attempts,
        inputs: view
            .inputs_of(row.number)
            .iter()
            .map(|stage| stage.0)
            .collect(),
        ready_at: ready_at(view, row).map(time),
        exports: view
            .outputs
            .iter()
            .filter(|output| output.stage == row.number)
            .filter_map(export)
            .collect(),
    }
}

/// When all that a stage takes was there as its last attempt took it: held by the same agent, or in the registry.
fn ready_at(view: &BuildView, row: &StageRow) -> Option<DateTime<Utc>> {
    let last = view.attempts.iter().rfind(|a| a.stage == row.number);
    let bindings = last
        .map(|attempt| &attempt.bindings[..])
        .unwrap_or_default();
    let mut ready = view.build.started_at?;
    for output in &view.outputs {
        let Output::Edge(edge) = output.output else {
            continue;
        };
        if !output.consumers.contains(&row.number) {
            continue;
        }
        if output.state == OutputState::Missing {
            return None;
        }
        let fetched = bindings
            .iter()
            .any(|b| b.edge == edge && b.digest.is_some());
        let there = if fetched {
            output.exported_at
        } else {
            output.there_at
        };
        ready = ready.max(there?);
    }
    Some(ready)
}

fn export(row: &OutputRow) -> Option<wire::StageExport> {
    let exported = row.state == OutputState::Exported;
    exported.then(|| wire::StageExport {
        name: row.name.clone(),
        finished_at: row.exported_at.map(time),
        took_ms: row.export_took.map_or(0, millis),
        target: !matches!(row.output, Output::Edge(_)),
    })
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

fn attempt(row: &AttemptRow) -> wire::Attempt {
    wire::Attempt {
        id: row.id.to_string(),
        agent: row.agent_name.clone(),
        state: row.state.to_string(),
        reason: row.reason.clone(),
        created_at: Some(time(row.created_at)),
        started_at: row.started_at.map(time),
        finished_at: row.finished_at.map(time),
        error: row.error.clone().unwrap_or_default(),
        vertices_cached: row.vertices_cached,
        vertices_run: row.vertices_run,
        fetch_ms: row.fetched.values().copied().map(millis).max().unwrap_or(0),
    }
}

/// Something that an agent runs.
pub(super) fn work(work: &Work) -> wire::Work {
    wire::Work {
        build: work.build.to_string(),
        stage: work.stage.0,
        name: work.name.clone(),
        since: Some(time(work.since)),
    }
}

/// What an engine's records come to.
pub(super) fn engine_cache(records: &[UsageRecord]) -> wire::EngineCache {
    let bytes = |record: &UsageRecord| u64::try_from(record.size).unwrap_or(0);
    let idle = records.iter().filter(|record| !record.in_use);
    wire::EngineCache {
        bytes: records.iter().map(bytes).sum(),
        records: records.len() as u64,
        reclaimable_bytes: idle.map(bytes).sum(),
    }
}

/// A moment that a client names.
pub(super) fn moment(stamp: Timestamp) -> Result<DateTime<Utc>, Status> {
    let nanos = u32::try_from(stamp.nanos).ok();
    nanos
        .and_then(|nanos| DateTime::from_timestamp(stamp.seconds, nanos))
        .ok_or_else(|| Status::invalid_argument("that is no moment in time"))
}

/// An agent that holds what is needed of so many builds.
pub(super) fn agent(row: &AgentRow, holding: u32) -> wire::Agent {
    let names = |list: &[Platform]| list.iter().map(ToString::to_string).collect();
    let disk = row.disk;
    wire::Agent {
        id: row.id.to_string(),
        name: row.hello.name.clone(),
        state: match row.presence {
            Presence::Connected => "connected".to_owned(),
            Presence::Away => "away".to_owned(),
        },
        draining: row.duty == Duty::Draining,
        native_platform: row.hello.native.to_string(),
        platforms: names(&row.hello.platforms),
        emulated_platforms: names(&row.hello.emulated),
        slots: row.hello.slots,
        running: row.running,
        engine: format!("{} {}", row.hello.engine_kind, row.hello.engine_version),
        version: row.hello.version.clone(),
        last_seen: Some(time(row.last_seen)),
        disk_total_bytes: disk.map_or(0, |d| d.total),
        disk_free_bytes: disk.map_or(0, |d| d.free),
        memory_total_bytes: row.memory.map_or(0, |m| m.total),
        memory_available_bytes: row.memory.map_or(0, |m| m.available),
        condition: match row.health {
            Health::Healthy => "ready".to_owned(),
            Health::Unhealthy => "engine-silent".to_owned(),
            Health::Full => "disk-full".to_owned(),
            Health::Leaving => "leaving".to_owned(),
        },
        holding,
        entitlements: row.hello.entitlements.clone(),
        devices: row.hello.devices.clone(),
        labels: row.hello.labels.clone().into_iter().collect(),
        first_seen: Some(time(row.first_seen)),
    }
}

fn time(at: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: at.timestamp(),
        nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> wire::Hello {
        wire::Hello {
            name: "arm64-1".into(),
            native_platform: "linux/arm64/v8".into(),
            platforms: vec!["linux/arm64".into()],
            slots: 2,
            ..wire::Hello::default()
        }
    }

    #[test]
    fn a_hello_is_read_in_normal_form() {
        let joining = hello(plain()).unwrap();
        assert_eq!(joining.hello.native.to_string(), "linux/arm64");
    }

    #[test]
    fn an_agent_that_says_no_more_of_its_condition_says_it_of_its_engine() {
        let read = |condition: wire::Condition, engine_healthy| {
            let (beat, _) = heartbeat(&wire::Heartbeat {
                engine_healthy,
                condition: condition.into(),
                ..wire::Heartbeat::default()
            });
            beat.health
        };
        use wire::Condition::{DiskFull, Leaving, Unspecified};
        assert_eq!(read(Unspecified, true), Health::Healthy);
        assert_eq!(read(Unspecified, false), Health::Unhealthy);
        assert_eq!(read(DiskFull, true), Health::Full);
        assert_eq!(read(Leaving, false), Health::Leaving);
    }

    #[test]
    fn a_hello_that_makes_no_sense_is_refused_with_what_is_wrong() {
        let refused = |change: fn(&mut wire::Hello)| {
            let mut one = plain();
            change(&mut one);
            hello(one).err().expect("it should be refused")
        };
        assert!(refused(|h| h.name = "a b".into()).contains("name"));
        assert!(refused(|h| h.name.clear()).contains("name"));
        assert!(!refused(|h| h.native_platform = "///".into()).is_empty());
        assert!(refused(|h| h.platforms = vec!["linux/arm64".into(); 2000]).contains("large"));
        assert!(refused(|h| h.slots = u32::MAX).contains("large"));
    }
}
