//! The fleet as a snapshot: what each agent is, does and holds. Advisory: it may be old when something is decided on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use croft_planner::{CacheIdentity, Platform, Requirements, StageId};
use serde::{Deserialize, Serialize};

use crate::{AgentId, BuildId, Project, Timestamp};

/// A stage of a build: what is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StageKey {
    /// Whose stage it is.
    pub build: BuildId,
    /// Its place in the build's plan.
    pub stage: StageId,
}

impl fmt::Display for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.build, self.stage)
    }
}

/// How many attempts an agent has at most for each of its slots: one that has all it takes, and one that was given to it ahead of that. Of the
/// latter never more, or what is complete would find slots but no room.
pub const AHEAD_FACTOR: u32 = 2;

/// Every agent that the farm knows, away ones too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetView {
    /// In any order: no decision depends on it.
    pub agents: Vec<AgentView>,
}

/// Whether an agent's link is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It is linked to the coordinator.
    Connected,
    /// It isn't. It may come back.
    Away,
}

/// Whether an agent can take new work, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It can.
    Healthy,
    /// Its engine doesn't answer.
    Unhealthy,
    /// Its engine's disk is nearly full.
    Full,
    /// It is being stopped.
    Leaving,
}

/// Whether an agent is to take new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// It is.
    Active,
    /// It finishes what it has and takes nothing new.
    Draining,
}

/// Whether an agent that stands so could be given work if it had a free slot.
pub fn takes_work(presence: Presence, health: Health, duty: Duty) -> bool {
    presence == Presence::Connected && health == Health::Healthy && duty == Duty::Active
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// Its id: the last thing that decides between two agents.
    pub id: AgentId,
    /// For people; unique in a farm.
    pub name: String,
    /// What its machine is.
    pub native: Platform,
    /// What it runs without an emulator, `native` among them.
    pub platforms: BTreeSet<Platform>,
    /// What it runs through an emulator and was allowed to.
    pub emulated: BTreeSet<Platform>,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// Whether its link is up.
    pub presence: Presence,
    /// Whether it can take new work.
    pub health: Health,
    /// Whether it takes new work.
    pub duty: Duty,
    /// Capabilities of its engine's LLB: a long list that stays the same.
    pub caps: Arc<BTreeSet<String>>,
    /// What its engine lets builds be granted.
    pub entitlements: BTreeSet<String>,
    /// The names of the devices that its engine can give a command.
    pub devices: BTreeSet<String>,
    /// Bytes that are free where its engine keeps its state; `None` if it has not said.
    pub disk_free: Option<u64>,
    /// What its engine's cache holds. Attempts that it runs now count as if they were done.
    pub cache: BTreeSet<CacheIdentity>,
    /// The cache mounts that it has filled, of every project.
    pub mounts: BTreeSet<(Project, String)>,
    /// When each project last ran something here.
    pub projects: BTreeMap<Project, Timestamp>,
    /// When a stage of each name and purpose last ran here: see [`crate::place::ReadyStage::alike`].
    pub alike: BTreeMap<String, Timestamp>,
    /// The attempts that it was offered or runs.
    pub load: Vec<Load>,
}

/// Whether an attempt has all that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// It has, and takes a slot.
    Complete,
    /// It was offered ahead of it, to the agent that makes the rest: until that is there it waits within the engine and takes no slot.
    Ahead,
}

/// How many stages more an agent may be given ahead of what they take that has so many of both kinds: as many as slots, and fewer while more
/// are complete than there are slots because much became ready together.
pub(crate) fn room_ahead(slots: u32, complete: u32, ahead: u32) -> u32 {
    let all = complete.saturating_add(ahead);
    let room = slots.saturating_mul(AHEAD_FACTOR).saturating_sub(all);
    slots.saturating_sub(ahead).min(room)
}

/// An attempt that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// What it runs.
    pub key: StageKey,
    /// Whose share of the farm it takes.
    pub project: Project,
    /// Whether it takes a slot.
    pub start: Start,
    /// When it was offered.
    pub since: Timestamp,
    /// How long it should take from then on, if that is known.
    pub expected: Option<Duration>,
}

impl AgentView {
    /// Slots that are free: never negative, though an agent may come back with fewer slots than it runs attempts.
    pub fn free_slots(&self) -> u32 {
        self.slots.saturating_sub(self.running(Start::Complete))
    }

    /// How many of its attempts began so.
    pub fn running(&self, start: Start) -> u32 {
        let load = self.load.iter().filter(|load| load.start == start);
        u32::try_from(load.count()).unwrap_or(u32::MAX)
    }

    /// How many stages more it may be given ahead of what they take.
    pub fn free_ahead(&self) -> u32 {
        room_ahead(
            self.slots,
            self.running(Start::Complete),
            self.running(Start::Ahead),
        )
    }

    /// Whether it could be given work now if it had a free slot.
    pub fn takes_work(&self) -> bool {
        takes_work(self.presence, self.health, self.duty)
    }

    /// What its engine lacks of what a stage requires, in order; empty if nothing.
    pub fn lacks(&self, required: &Requirements) -> Vec<Lack> {
        let missing = |required: &BTreeSet<String>, has, lack: fn(String) -> Lack| {
            let missing: Vec<Lack> = required.difference(has).cloned().map(lack).collect();
            missing
        };
        [
            missing(
                &required.entitlements,
                &self.entitlements,
                Lack::Entitlement,
            ),
            missing(&required.devices, &self.devices, Lack::Device),
            missing(&required.caps, &self.caps, Lack::Capability),
        ]
        .concat()
    }

    /// How it runs these platforms, all of them: `None` if it can't.
    pub fn runs<'a>(
        &self,
        platforms: impl IntoIterator<Item = &'a Platform>,
    ) -> Option<Nativeness> {
        let mut how = Nativeness::Native;
        for platform in platforms {
            if self.platforms.contains(platform) {
                continue;
            }
            if !self.emulated.contains(platform) {
                return None;
            }
            how = Nativeness::Emulated;
        }
        Some(how)
    }
}

/// What an agent's engine can't do or isn't allowed to, and a stage needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// Its configuration doesn't let builds be granted this.
    Entitlement(String),
    /// It doesn't have this device.
    Device(String),
    /// It is too old for this.
    Capability(String),
}

/// How an agent runs a platform. Native comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nativeness {
    /// By its own processor.
    Native,
    /// Through an emulator.
    Emulated,
}
