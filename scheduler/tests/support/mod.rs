//! Fleets and stages in few words, for the tests.

#![allow(dead_code, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use croft_planner::{CacheIdentity, EdgeId, Platform, Requirements, StageId};
use croft_scheduler::fleet::{AgentView, Duty, FleetView, Health, Load, Presence, StageKey, Start};
use croft_scheduler::place::{
    Command, Decision, ExportedInput, Input, Policy, ReadyStage, Supply, place,
};
use croft_scheduler::{AgentId, BuildId, ConnectionId, Project, Timestamp};
use uuid::Uuid;

/// All tests happen around this instant.
pub const NOW: Timestamp = Timestamp(1_000_000_000);

pub fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub fn ago(s: u64) -> Timestamp {
    Timestamp(NOW.0 - s * 1000)
}

pub fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

pub fn platforms(texts: &[&str]) -> BTreeSet<Platform> {
    texts.iter().map(|text| platform(text)).collect()
}

pub fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

pub fn project(name: &str) -> Project {
    Project(name.to_owned())
}

pub fn build_id(number: u128) -> BuildId {
    BuildId(Uuid::from_u128(number))
}

pub fn agent_id(number: u128) -> AgentId {
    AgentId(Uuid::from_u128(number))
}

pub fn identity(name: &str) -> CacheIdentity {
    CacheIdentity::new(name)
}

/// An idle agent with two slots. `number` is its id: the order of equals.
pub fn agent(number: u128, name: &str, native: &str) -> AgentView {
    AgentView {
        id: agent_id(number),
        name: name.to_owned(),
        native: platform(native),
        platforms: platforms(&[native]),
        emulated: BTreeSet::new(),
        slots: 2,
        presence: Presence::Connected,
        health: Health::Healthy,
        duty: Duty::Active,
        caps: Default::default(),
        entitlements: BTreeSet::new(),
        devices: BTreeSet::new(),
        disk_free: Some(1 << 40),
        cache: BTreeSet::new(),
        mounts: BTreeSet::new(),
        projects: BTreeMap::new(),
        alike: BTreeMap::new(),
        load: Vec::new(),
    }
}

pub fn fleet(agents: impl Into<Vec<AgentView>>) -> FleetView {
    FleetView {
        agents: agents.into(),
    }
}

/// The usual farm: two agents for amd64, and one for each of the others.
pub fn farm() -> FleetView {
    fleet([
        agent(1, "amd64-1", "linux/amd64"),
        agent(2, "amd64-2", "linux/amd64"),
        agent(3, "arm64-1", "linux/arm64"),
        agent(4, "ppc64le-1", "linux/ppc64le"),
        agent(5, "s390x-1", "linux/s390x"),
    ])
}

/// What another build runs there: it began that many seconds ago and takes so many in all.
pub fn load(began: u64, takes: u64) -> Load {
    Load {
        key: StageKey {
            build: build_id(999),
            stage: StageId(0),
        },
        project: project("another"),
        start: Start::Complete,
        since: ago(began),
        expected: Some(seconds(takes)),
    }
}

/// A stage of the build with that number, with one command that nobody ever ran.
pub fn stage(build: u128, number: u32, on: &str) -> ReadyStage {
    ReadyStage {
        key: StageKey {
            build: build_id(build),
            stage: StageId(number),
        },
        project: project("p"),
        priority: 0,
        connection: ConnectionId(build_id(build).0),
        build_created: ago(100),
        ready_since: NOW,
        not_before: Timestamp(0),
        platforms: platforms(&[on]),
        requirements: Requirements::default(),
        commands: vec![command(&format!("{build}/{number}"), None)],
        alike: format!("p: {number}"),
        cache_mounts: BTreeSet::new(),
        together: None,
        pinned: None,
        inputs: Vec::new(),
        meets: BTreeMap::new(),
        failed_on: BTreeMap::new(),
    }
}

pub fn command(name: &str, cost: Option<Duration>) -> Command {
    Command {
        identity: identity(name),
        cost,
    }
}

pub fn held(edge: u32, on: u128) -> Input {
    Input {
        edge: EdgeId(edge),
        held_on: Some(agent_id(on)),
        whole: false,
        supply: Supply::There,
        exported: None,
    }
}

/// The whole root of a stage, which only its agent has.
pub fn root(edge: u32, on: u128) -> Input {
    Input {
        whole: true,
        ..held(edge, on)
    }
}

/// An input that the stage of that number makes there just now.
pub fn coming(edge: u32, from: u32, on: u128) -> Input {
    Input {
        supply: Supply::Coming(StageId(from)),
        ..held(edge, on)
    }
}

pub fn exported(edge: u32, made_on: u128, bytes: u64) -> Input {
    let exported = ExportedInput {
        bytes,
        pulled_by: BTreeSet::new(),
    };
    Input {
        edge: EdgeId(edge),
        held_on: Some(agent_id(made_on)),
        whole: false,
        supply: Supply::There,
        exported: Some(exported),
    }
}

/// Places, and says each decision in one line: `number -> agent: reason` or `number waits: why`.
pub fn decide(fleet: &FleetView, stages: &[ReadyStage]) -> Vec<String> {
    decide_at(fleet, stages, NOW)
}

pub fn decide_at(fleet: &FleetView, stages: &[ReadyStage], now: Timestamp) -> Vec<String> {
    let name = |id: AgentId| {
        &fleet
            .agents
            .iter()
            .find(|agent| agent.id == id)
            .unwrap()
            .name
    };
    let say = |decision: Decision| match decision {
        Decision::Placed {
            key,
            agent,
            exports,
            reason,
        } if exports.is_empty() => {
            format!("{} -> {}: {reason}", key.stage, name(agent))
        }
        Decision::Placed {
            key,
            agent,
            exports,
            reason,
        } => {
            let edges: Vec<String> = exports.iter().map(ToString::to_string).collect();
            format!(
                "{} -> {} after export of {}: {reason}",
                key.stage,
                name(agent),
                edges.join(", ")
            )
        }
        Decision::Held { key, why } => format!("{} waits: {why}", key.stage),
    };
    place(fleet, stages, &Policy::default(), now)
        .into_iter()
        .map(say)
        .collect()
}

/// The agents that the stages went to, in the order of the stages' numbers; `-` for one that waits.
pub fn agents_of(fleet: &FleetView, stages: &[ReadyStage]) -> Vec<String> {
    let mut decisions = place(fleet, stages, &Policy::default(), NOW);
    decisions.sort_by_key(Decision::key);
    let say = |decision: &Decision| match decision {
        Decision::Placed { agent, .. } => fleet
            .agents
            .iter()
            .find(|view| view.id == *agent)
            .map(|view| view.name.clone())
            .unwrap(),
        Decision::Held { .. } => "-".to_owned(),
    };
    decisions.iter().map(say).collect()
}

/// Whether an agent could run a stage if it had a free slot: the rules once more, said differently.
pub fn could(fleet: &FleetView, agent: &AgentView, stage: &ReadyStage) -> bool {
    let runs = stage
        .platforms
        .iter()
        .all(|p| agent.platforms.contains(p) || agent.emulated.contains(p));
    let required = &stage.requirements;
    let able = agent.slots > 0
        && required.caps.is_subset(&agent.caps)
        && required.entitlements.is_subset(&agent.entitlements)
        && required.devices.is_subset(&agent.devices);
    let there = (agent.presence, agent.health, agent.duty)
        == (Presence::Connected, Health::Healthy, Duty::Active);
    let room = agent
        .disk_free
        .is_none_or(|free| free >= Policy::default().least_disk);
    let connected = |id| {
        fleet
            .agents
            .iter()
            .any(|a| a.id == id && a.presence == Presence::Connected)
    };
    let inputs = stage.inputs.iter().all(|input| {
        let pulled = input
            .exported
            .as_ref()
            .map(|exported| exported.pulled_by.contains(&agent.id));
        pulled.is_some()
            || input
                .held_on
                .is_some_and(|holder| holder == agent.id || connected(holder))
    });
    runs && able && there && room && inputs
}
