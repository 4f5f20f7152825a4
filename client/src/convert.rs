//! From croft.v1's messages to `model`, by hand. An empty text on the wire is nothing here; a time stamp that is none is nothing too.

use croft_proto::v1;

use crate::{
    error::Error,
    model::{
        Agent, AgentDetail, Attempt, Build, BuildDetail, EngineCache, Event, Export, Moment, Stage,
        Transfer, Work,
    },
};

/// A farm's answer about one build.
pub(crate) fn build_detail(answer: v1::GetBuildResponse) -> Result<BuildDetail, Error> {
    let mut stages: Vec<Stage> = answer.stages.into_iter().map(stage).collect();
    stages.sort_by_key(|stage| stage.number);
    Ok(BuildDetail {
        build: build(answer.build.ok_or(Error::Malformed("the build"))?),
        stages,
        transfers: answer.transfers.into_iter().map(transfer).collect(),
        events: answer.events.into_iter().map(event).collect(),
    })
}

fn event(event: v1::BuildEvent) -> Event {
    Event {
        at: event.at.and_then(moment),
        kind: event.kind,
        text: event.text,
    }
}

fn export(export: v1::StageExport) -> Export {
    Export {
        name: export.name,
        finished_at: export.finished_at.and_then(moment),
        took_ms: export.took_ms,
        target: export.target,
    }
}

/// A farm's answer about one agent.
pub(crate) fn agent_detail(answer: v1::GetAgentResponse) -> Result<AgentDetail, Error> {
    let work = answer.work.into_iter().map(|work| Work {
        build: work.build,
        stage: work.stage,
        name: work.name,
        since: work.since.and_then(moment),
    });
    Ok(AgentDetail {
        agent: agent(answer.agent.ok_or(Error::Malformed("the agent"))?),
        work: work.collect(),
        cache: answer.cache.map(|cache| EngineCache {
            bytes: cache.bytes,
            records: cache.records,
            reclaimable_bytes: cache.reclaimable_bytes,
        }),
        known_commands: answer.known_commands,
        known_mounts: answer.known_mounts,
    })
}

pub(crate) fn build(build: v1::Build) -> Build {
    Build {
        id: build.id,
        client_ref: build.client_ref,
        project: build.project,
        state: build.state,
        created_at: build.created_at.and_then(moment),
        started_at: build.started_at.and_then(moment),
        finished_at: build.finished_at.and_then(moment),
        platforms: build.platforms,
        error: some(build.error),
        published: build.published,
        digest: some(build.digest),
    }
}

fn stage(stage: v1::Stage) -> Stage {
    Stage {
        number: stage.number,
        name: stage.name,
        kind: stage.kind,
        state: stage.state,
        home: some(stage.home),
        users: stage.users,
        waiting_for: some(stage.waiting_for),
        inputs: stage.inputs,
        ready_at: stage.ready_at.and_then(moment),
        exports: stage.exports.into_iter().map(export).collect(),
        attempts: stage.attempts.into_iter().map(attempt).collect(),
    }
}

fn attempt(attempt: v1::Attempt) -> Attempt {
    Attempt {
        id: attempt.id,
        agent: attempt.agent,
        state: attempt.state,
        reason: attempt.reason,
        created_at: attempt.created_at.and_then(moment),
        started_at: attempt.started_at.and_then(moment),
        finished_at: attempt.finished_at.and_then(moment),
        error: some(attempt.error),
        vertices_cached: attempt.vertices_cached,
        vertices_run: attempt.vertices_run,
        fetch_ms: attempt.fetch_ms,
    }
}

fn transfer(transfer: v1::Transfer) -> Transfer {
    Transfer {
        from_stage: transfer.from_stage,
        to_stages: transfer.to_stages,
        digest: transfer.digest,
        bytes: transfer.bytes,
        fetch_ms: transfer.fetch_ms,
    }
}

pub(crate) fn agent(agent: v1::Agent) -> Agent {
    Agent {
        id: agent.id,
        name: agent.name,
        state: agent.state,
        draining: agent.draining,
        native_platform: agent.native_platform,
        platforms: agent.platforms,
        emulated_platforms: agent.emulated_platforms,
        slots: agent.slots,
        running: agent.running,
        engine: agent.engine,
        version: agent.version,
        last_seen: agent.last_seen.and_then(moment),
        disk_total_bytes: agent.disk_total_bytes,
        disk_free_bytes: agent.disk_free_bytes,
        memory_total_bytes: agent.memory_total_bytes,
        memory_available_bytes: agent.memory_available_bytes,
        condition: agent.condition,
        holding: agent.holding,
        entitlements: agent.entitlements,
        devices: agent.devices,
        labels: agent.labels.into_iter().collect(),
        first_seen: agent.first_seen.and_then(moment),
    }
}

fn moment(stamp: prost_types::Timestamp) -> Option<Moment> {
    let nanos = u32::try_from(stamp.nanos).ok()?;
    chrono::DateTime::from_timestamp(stamp.seconds, nanos).map(Moment)
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stamp_that_is_none_is_nothing_instead_of_a_panic() {
        for (seconds, nanos) in [(i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, i32::MAX)] {
            assert_eq!(
                moment(prost_types::Timestamp { seconds, nanos }),
                None,
                "{seconds} {nanos}"
            );
        }
    }

    #[test]
    fn an_answer_without_its_build_is_an_error() {
        assert!(matches!(
            build_detail(v1::GetBuildResponse::default()),
            Err(Error::Malformed(_))
        ));
    }
}
