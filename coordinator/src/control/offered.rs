//! What the farm is to clients: platforms to build for, and capabilities to count on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use croft_planner::Platform;
use croft_scheduler::fleet::Presence;

use crate::store::AgentRow;

/// What the farm passes on of an engine's gateway.
const OFFERED: [&str; 16] = [
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "return",
    "returnmap",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "source.metaresolver",
];

/// What engines can do and the farm can't (yet): a client that sees these would ask for it.
const WITHHELD: [&str; 9] = [
    croft_proto::DELIVERS,
    croft_proto::DELETES,
    "exporter.image.attestations",
    "exporter.session",
    "source.policy.session",
    "gc.freespacefilter",
    "history.filter",
    "exec.meta.network.proxy",
    "source.buildop.llbfilename",
];

/// What a client is told of the farm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// What agents serve: native platforms first, those with the most slots in front, then emulated ones.
    pub platforms: Vec<Platform>,
    /// What all engines' gateways can do and the farm passes on.
    pub frontend: BTreeSet<String>,
    /// What all engines can do with LLB and the farm can, too.
    pub llb: BTreeSet<String>,
}

impl Offered {
    /// What connected agents have in common. Where none is connected, as after another coordinator has gone, those that are known: builds
    /// wait for them. A build platform that the farm was given comes first.
    pub(super) fn of(agents: &[AgentRow], build: Option<&Platform>) -> Offered {
        let is_there = |agent: &&AgentRow| agent.presence == Presence::Connected;
        let none = !agents.iter().any(|agent| is_there(&agent));
        let hellos = || {
            let counted = agents.iter().filter(|agent| none || is_there(agent));
            counted.map(|agent| &*agent.hello)
        };
        let mut slots: BTreeMap<&Platform, u64> = BTreeMap::new();
        for hello in hellos() {
            *slots.entry(&hello.native).or_default() += u64::from(hello.slots);
        }
        let mut natives: Vec<&Platform> = slots.keys().copied().collect();
        natives.sort_by_key(|platform| {
            let others = Some(*platform) != build;
            (others, Reverse(slots[platform]), platform.arch() != "amd64")
        });
        let also = hellos().flat_map(|hello| &hello.platforms);
        let emulated = hellos().flat_map(|hello| &hello.emulated);
        let mut platforms: Vec<Platform> = Vec::new();
        for platform in natives.into_iter().chain(also).chain(emulated) {
            if !platforms.contains(platform) {
                platforms.push(platform.clone());
            }
        }
        let shared = |caps: fn(&crate::store::Hello) -> &BTreeSet<String>| {
            let mut all = hellos().map(caps);
            let mut shared = all.next().cloned().unwrap_or_default();
            for caps in all {
                shared.retain(|cap| caps.contains(cap));
            }
            shared
        };
        let mut frontend = shared(|hello| &hello.frontend_caps);
        frontend.retain(|cap| OFFERED.contains(&cap.as_str()));
        let mut llb = shared(|hello| &hello.llb_caps);
        llb.retain(|cap| !WITHHELD.contains(&cap.as_str()));
        Offered {
            platforms,
            frontend,
            llb,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::gateway::tests::agent;

    fn platforms(names: &[&str]) -> Vec<Platform> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn clients_are_offered_what_all_agents_that_are_there_have_in_common() {
        let first = agent(1, "linux/amd64", &["exec.meta.base", "exec.new", DELIVERS]);
        let mut second = agent(2, "linux/arm64", &["exec.meta.base", DELIVERS]);
        let only = BTreeSet::from(["exec.meta.base".to_owned()]);
        let natives = platforms(&["linux/amd64", "linux/arm64"]);
        let offered = Offered::of(&[first.clone(), second.clone()], None);
        assert_eq!((&offered.platforms, &offered.llb), (&natives, &only));
        // The one that was given comes first; else the one with the most slots.
        let arm64 = "linux/arm64".parse().unwrap();
        let reversed: Vec<Platform> = natives.iter().rev().cloned().collect();
        let offered = Offered::of(&[first.clone(), second.clone()], Some(&arm64));
        assert_eq!(offered.platforms, reversed);
        let third = agent(3, "linux/arm64", &["exec.meta.base"]);
        let offered = Offered::of(&[first.clone(), second.clone(), third], None);
        assert_eq!(offered.platforms, reversed);
        // One that is away counts for nothing, unless all are.
        second.presence = Presence::Away;
        let offered = Offered::of(&[first, second.clone()], None);
        assert_eq!(offered.platforms, natives[..1]);
        assert!(offered.llb.contains("exec.new"));
        assert_eq!(Offered::of(&[second], None).platforms, natives[1..]);
        assert_eq!(Offered::of(&[], None), Offered::default());
    }

    const DELIVERS: &str = croft_proto::DELIVERS;
}
