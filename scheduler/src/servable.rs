//! What a farm can run at all: asked before a build's frontend runs and again when it is planned, so that a build that nobody can finish
//! fails before anything of it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use croft_planner::{Platform, Requirements};

use crate::fleet::{AgentView, FleetView, Lack, Nativeness};
use crate::place::{Ands, Commas};

/// How a farm stands to a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// An agent that takes work runs it.
    Served(Nativeness),
    /// Only agents run it that take no work now: away, draining, or without a healthy engine.
    Away {
        /// Their names, in order.
        agents: Vec<String>,
    },
}

/// No agent runs these platforms, and none is only away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unservable {
    /// The platforms that are asked for.
    pub platforms: Vec<Platform>,
    /// What the farm has: native platforms with the names of the agents.
    pub farm: BTreeMap<Platform, Vec<String>>,
    /// The agents that do run these platforms, by name, with what they lack.
    pub lacking: Vec<(String, Vec<Lack>)>,
}

impl std::error::Error for Unservable {}

impl Unservable {
    pub(crate) fn new(platforms: Vec<Platform>, fleet: &FleetView) -> Unservable {
        let mut farm: BTreeMap<Platform, Vec<String>> = BTreeMap::new();
        for agent in &fleet.agents {
            farm.entry(agent.native.clone())
                .or_default()
                .push(agent.name.clone());
        }
        farm.values_mut().for_each(|names| names.sort());
        Unservable {
            platforms,
            farm,
            lacking: Vec::new(),
        }
    }

    /// The same for what one agent must do all of.
    pub(crate) fn of_stage(
        platforms: &BTreeSet<Platform>,
        required: &Requirements,
        fleet: &FleetView,
    ) -> Unservable {
        let runs = |agent: &&AgentView| agent.slots > 0 && agent.runs(platforms).is_some();
        let lacks = |agent: &AgentView| (agent.name.clone(), agent.lacks(required));
        let mut lacking: Vec<_> = fleet.agents.iter().filter(runs).map(lacks).collect();
        lacking.retain(|(_, lacks)| !lacks.is_empty());
        lacking.sort();
        Unservable {
            lacking,
            ..Unservable::new(platforms.iter().cloned().collect(), fleet)
        }
    }
}

/// What a person can do about it.
struct Remedy<'a>(&'a Lack);

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Lack::Entitlement(name) => write!(
                f,
                "to allow {name}, start buildkitd with --allow-insecure-entitlement {name}, or Docker Engine with \
                 \"builder\": {{\"entitlements\": {{\"{}\": true}}}} in its daemon.json",
                name.replace('.', "-")
            ),
            Lack::Device(name) => write!(
                f,
                "for {name}, start an engine that has a CDI specification of it and allows the entitlement device"
            ),
            Lack::Capability(name) => write!(f, "for {name}, use a newer engine"),
        }
    }
}

impl fmt::Display for Unservable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.lacking.is_empty() {
            f.write_str("no agent can run this build: ")?;
            for (place, (name, lacks)) in self.lacking.iter().enumerate() {
                let comma = if place == 0 { "" } else { ", " };
                write!(f, "{comma}{name} {}", Ands(lacks))?;
            }
            let lacks: BTreeSet<&Lack> = self.lacking.iter().flat_map(|(_, lacks)| lacks).collect();
            return lacks
                .into_iter()
                .try_for_each(|lack| write!(f, "; {}", Remedy(lack)));
        }
        match &self.platforms[..] {
            [] => f.write_str("no agent can run this build")?,
            platforms => write!(f, "no agent can run {}", Commas(platforms))?,
        }
        if self.farm.is_empty() {
            return f.write_str(": the farm has no agents");
        }
        f.write_str(": the farm has ")?;
        for (place, (platform, names)) in self.farm.iter().enumerate() {
            write!(
                f,
                "{}{platform} ({})",
                if place == 0 { "" } else { ", " },
                Commas(names)
            )?;
        }
        Ok(())
    }
}

/// How each of the platforms would be served. Fails if one never can be, naming all of those.
pub fn servable<'a>(
    fleet: &FleetView,
    platforms: impl IntoIterator<Item = &'a Platform>,
) -> Result<BTreeMap<Platform, Service>, Unservable> {
    let (mut services, mut never) = (BTreeMap::new(), Vec::new());
    for platform in platforms {
        match service(fleet, platform) {
            Some(service) => drop(services.insert(platform.clone(), service)),
            None if never.contains(platform) => {}
            None => never.push(platform.clone()),
        }
    }
    if never.is_empty() {
        Ok(services)
    } else {
        Err(Unservable::new(never, fleet))
    }
}

/// Whether each stage, by its platforms and what else it requires, has an agent that could run it if all were there and idle. Fails with
/// the first that has none.
pub fn all_servable<'a>(
    fleet: &FleetView,
    stages: impl IntoIterator<Item = (&'a BTreeSet<Platform>, &'a Requirements)>,
) -> Result<(), Unservable> {
    let never = stages.into_iter().find(|(platforms, required)| {
        let able = |agent: &AgentView| {
            agent.slots > 0 && agent.runs(*platforms).is_some() && agent.lacks(required).is_empty()
        };
        !fleet.agents.iter().any(able)
    });
    match never {
        Some((platforms, required)) => Err(Unservable::of_stage(platforms, required, fleet)),
        None => Ok(()),
    }
}

fn service(fleet: &FleetView, platform: &Platform) -> Option<Service> {
    let able = |agent: &&AgentView| agent.slots > 0 && agent.runs([platform]).is_some();
    let (there, away): (Vec<&AgentView>, Vec<&AgentView>) = fleet
        .agents
        .iter()
        .filter(able)
        .partition(|agent| agent.takes_work());
    if let Some(how) = there
        .iter()
        .filter_map(|agent| agent.runs([platform]))
        .min()
    {
        return Some(Service::Served(how));
    }
    let mut agents: Vec<String> = away.iter().map(|agent| agent.name.clone()).collect();
    agents.sort();
    (!agents.is_empty()).then_some(Service::Away { agents })
}

/// The platform that frontends and steps without a platform run on: the one asked for, or else the native one with most slots among the
/// agents that take work (among all, if none does), amd64 before others. `None` only in a farm without agents.
pub fn build_platform(fleet: &FleetView, requested: Option<&Platform>) -> Option<Platform> {
    if let Some(platform) = requested {
        return Some(platform.clone());
    }
    let most_slots = |agents: &mut dyn Iterator<Item = &AgentView>| {
        let mut slots: BTreeMap<&Platform, u64> = BTreeMap::new();
        for agent in agents {
            *slots.entry(&agent.native).or_default() += u64::from(agent.slots);
        }
        let amd64 = |platform: &Platform| platform.arch() == "amd64";
        // Of equals the last is the greatest: so the platforms are reversed, the first by name wins.
        slots
            .into_iter()
            .rev()
            .max_by_key(|(platform, slots)| (*slots, amd64(platform)))
            .map(|(p, _)| p.clone())
    };
    most_slots(&mut fleet.agents.iter().filter(|agent| agent.takes_work()))
        .or_else(|| most_slots(&mut fleet.agents.iter()))
}
