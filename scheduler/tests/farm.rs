//! What a farm can serve at all, and where frontends run.

mod support;

use croft_planner::Requirements;
use croft_scheduler::fleet::{FleetView, Nativeness, Presence};
use croft_scheduler::servable::{Service, all_servable, build_platform, servable};
use support::*;

fn check(fleet: &FleetView, wanted: &[&str]) -> Result<Vec<Service>, String> {
    let wanted: Vec<_> = wanted.iter().map(|text| platform(text)).collect();
    let services = servable(fleet, &wanted).map_err(|error| error.to_string())?;
    Ok(wanted
        .iter()
        .map(|platform| services[platform].clone())
        .collect())
}

#[test]
fn all_platforms_of_the_farm_are_served() {
    let native = Service::Served(Nativeness::Native);
    assert_eq!(
        check(&farm(), &["linux/amd64", "linux/s390x"]),
        Ok(vec![native.clone(), native])
    );
}

#[test]
fn a_platform_that_never_can_be_served_fails_and_says_what_the_farm_has() {
    let farm = fleet([
        agent(2, "amd64-2", "linux/amd64"),
        agent(1, "amd64-1", "linux/amd64"),
        agent(3, "arm64-1", "linux/arm64"),
    ]);
    assert_eq!(
        check(&farm, &["linux/amd64", "linux/s390x"]).unwrap_err(),
        "no agent can run linux/s390x: the farm has linux/amd64 (amd64-1, amd64-2), linux/arm64 (arm64-1)"
    );
    assert_eq!(
        check(&fleet([]), &["linux/amd64", "linux/s390x", "linux/amd64"]).unwrap_err(),
        "no agent can run linux/amd64, linux/s390x: the farm has no agents"
    );
}

#[test]
fn a_platform_whose_agents_are_away_is_waited_for() {
    let mut farm = farm();
    farm.agents[4].presence = Presence::Away;
    assert_eq!(
        check(&farm, &["linux/s390x"]),
        Ok(vec![Service::Away {
            agents: vec!["s390x-1".to_owned()]
        }])
    );
}

#[test]
fn emulation_serves_where_it_was_allowed() {
    let mut farm = fleet([agent(1, "amd64-1", "linux/amd64")]);
    assert!(check(&farm, &["linux/riscv64"]).is_err());
    farm.agents[0].emulated.insert(platform("linux/riscv64"));
    assert_eq!(
        check(&farm, &["linux/riscv64"]),
        Ok(vec![Service::Served(Nativeness::Emulated)])
    );
}

#[test]
fn what_no_single_agent_can_do_is_refused_before_anything_runs() {
    let mut insecure = agent(1, "amd64-1", "linux/amd64");
    insecure.entitlements = set(&["security.insecure"]);
    let mut host = agent(2, "amd64-2", "linux/amd64");
    host.entitlements = set(&["network.host"]);
    host.platforms.insert(platform("linux/386"));
    let mut farm = fleet([insecure, host, agent(3, "arm64-1", "linux/arm64")]);
    let ask = |fleet: &FleetView, platforms: &[&str], entitlements: &[&str]| {
        let required = Requirements {
            entitlements: set(entitlements),
            ..Requirements::default()
        };
        let stages = [(&support::platforms(platforms), &required)];
        all_servable(fleet, stages).map_err(|never| never.to_string())
    };
    assert_eq!(ask(&farm, &["linux/amd64"], &["network.host"]), Ok(()));
    assert_eq!(ask(&farm, &["linux/amd64", "linux/386"], &[]), Ok(()));
    assert_eq!(ask(&farm, &[], &["network.host"]), Ok(()));
    // Each of them is there, but not on one agent.
    let both = ask(
        &farm,
        &["linux/amd64"],
        &["network.host", "security.insecure"],
    );
    let both = both.unwrap_err();
    assert!(
        both.starts_with(
            "no agent can run this build: amd64-1 does not allow network.host, amd64-2 does not allow security.insecure; "
        ),
        "{both}"
    );
    assert!(ask(&farm, &["linux/386"], &["security.insecure"]).is_err());
    assert_eq!(
        ask(&farm, &["linux/arm64", "linux/386"], &[]).unwrap_err(),
        "no agent can run linux/386, linux/arm64: the farm has linux/amd64 (amd64-1, amd64-2), linux/arm64 (arm64-1)"
    );
    // One that is away may come back; one without slots never runs anything.
    farm.agents[1].presence = Presence::Away;
    assert_eq!(ask(&farm, &["linux/386"], &["network.host"]), Ok(()));
    farm.agents[1].slots = 0;
    assert!(ask(&farm, &["linux/386"], &["network.host"]).is_err());
}

#[test]
fn frontends_run_on_the_platform_with_most_slots_amd64_before_equals() {
    let choose =
        |fleet: &FleetView| build_platform(fleet, None).map(|platform| platform.to_string());
    let mut farm = fleet([
        agent(1, "arm64-1", "linux/arm64"),
        agent(2, "amd64-1", "linux/amd64"),
    ]);
    assert_eq!(choose(&farm).as_deref(), Some("linux/amd64"));
    farm.agents.push(agent(3, "arm64-2", "linux/arm64"));
    assert_eq!(choose(&farm).as_deref(), Some("linux/arm64"));
    // Agents that are away don't count while others are there.
    farm.agents[2].presence = Presence::Away;
    assert_eq!(choose(&farm).as_deref(), Some("linux/amd64"));
    farm.agents
        .iter_mut()
        .for_each(|agent| agent.presence = Presence::Away);
    assert_eq!(choose(&farm).as_deref(), Some("linux/arm64"));
    assert_eq!(choose(&fleet([])), None);
    assert_eq!(
        build_platform(&farm, Some(&platform("linux/s390x"))),
        Some(platform("linux/s390x"))
    );
}
