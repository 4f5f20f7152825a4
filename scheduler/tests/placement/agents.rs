//! Who can run a stage, and native agents first.

use std::sync::Arc;

use croft_scheduler::fleet::{Duty, Health, Presence};
use croft_scheduler::place::ReadyStage;

use super::check;
use super::support::*;

#[test]
fn a_platform_that_nobody_runs_is_refused_with_what_the_farm_has() {
    check(
        &fleet([
            agent(1, "amd64-1", "linux/amd64"),
            agent(2, "amd64-2", "linux/amd64"),
            agent(3, "arm64-1", "linux/arm64"),
        ]),
        &[stage(1, 0, "linux/s390x")],
        &[
            "0 waits: no agent can run linux/s390x: the farm has linux/amd64 (amd64-1, amd64-2), linux/arm64 (arm64-1)",
        ],
    );
}

#[test]
fn agents_that_could_are_waited_for_by_name() {
    let mut away = agent(1, "s390x-1", "linux/s390x");
    away.presence = Presence::Away;
    let mut draining = agent(2, "s390x-2", "linux/s390x");
    draining.duty = Duty::Draining;
    let mut sick = agent(3, "s390x-3", "linux/s390x");
    sick.health = Health::Unhealthy;
    let mut full = agent(4, "s390x-4", "linux/s390x");
    full.disk_free = Some(1 << 20);
    check(
        &fleet([
            sick,
            full,
            away,
            draining,
            agent(5, "amd64-1", "linux/amd64"),
        ]),
        &[stage(1, 0, "linux/s390x")],
        &[
            "0 waits: an agent for linux/s390x: s390x-1 is away, s390x-2 is draining, \
           s390x-3 has an engine that does not answer, s390x-4 has too little free disk",
        ],
    );
}

#[test]
fn an_engine_that_lacks_a_capability_gets_nothing_that_uses_it() {
    let mut new = stage(1, 0, "linux/amd64");
    new.requirements.caps.insert("exec.new".to_owned());
    let mut able = agent(2, "new", "linux/amd64");
    Arc::make_mut(&mut able.caps).insert("exec.new".to_owned());
    let old = agent(1, "old", "linux/amd64");
    check(
        &fleet([old.clone(), able]),
        std::slice::from_ref(&new),
        &["0 -> new: the only agent that can"],
    );
    check(
        &fleet([old]),
        &[new],
        &[
            "0 waits: no agent can run this build: old has an engine without exec.new; for exec.new, use a newer engine",
        ],
    );
}

#[test]
fn a_stage_goes_only_where_the_engine_allows_and_has_what_it_requires() {
    let mut insecure = stage(1, 0, "linux/amd64");
    let required = &mut insecure.requirements;
    required.entitlements = set(&["network.host", "security.insecure"]);
    required.devices = set(&["gpu"]);
    let plain = agent(1, "plain", "linux/amd64");
    let mut half = agent(2, "half", "linux/amd64");
    half.entitlements = set(&["network.host"]);
    half.devices = set(&["gpu", "vendor.example/gpu=0"]);
    let mut able = agent(3, "able", "linux/amd64");
    able.entitlements = set(&["device", "network.host", "security.insecure"]);
    able.devices = set(&["gpu"]);
    check(
        &fleet([plain.clone(), half.clone(), able.clone()]),
        std::slice::from_ref(&insecure),
        &["0 -> able: the only agent that can"],
    );
    // One that would be waited for is named, and why the others are of no use.
    able.presence = Presence::Away;
    check(
        &fleet([plain.clone(), half.clone(), able]),
        std::slice::from_ref(&insecure),
        &[
            "0 waits: an agent for linux/amd64: able is away, half does not allow security.insecure, plain does not allow \
           network.host and does not allow security.insecure and has no device gpu for builds",
        ],
    );
    check(
        &fleet([half, agent(4, "other", "linux/arm64")]),
        &[insecure],
        &[
            "0 waits: no agent can run this build: half does not allow security.insecure; to allow security.insecure, start \
           buildkitd with --allow-insecure-entitlement security.insecure, or Docker Engine with \
           \"builder\": {\"entitlements\": {\"security-insecure\": true}} in its daemon.json",
        ],
    );
}

#[test]
fn of_a_class_only_those_that_prove_32_bit_arm_get_it() {
    let mut proven = agent(2, "arm64-2", "linux/arm64");
    proven
        .platforms
        .extend(platforms(&["linux/arm/v6", "linux/arm/v7"]));
    let mut emulating = agent(1, "arm64-1", "linux/arm64");
    emulating.emulated = platforms(&["linux/arm/v7"]);
    let both = ReadyStage {
        platforms: platforms(&["linux/arm64", "linux/arm/v7"]),
        ..stage(1, 0, "linux/arm64")
    };
    let farm = fleet([emulating, proven]);
    check(
        &farm,
        std::slice::from_ref(&both),
        &["0 -> arm64-2: native"],
    );
    check(
        &farm,
        &[stage(1, 0, "linux/arm/v6")],
        &["0 -> arm64-2: the only agent that can"],
    );
    check(
        &fleet([agent(3, "arm64-3", "linux/arm64")]),
        &[both],
        &[
            "0 waits: no agent can run linux/arm/v7, linux/arm64: the farm has linux/arm64 (arm64-3)",
        ],
    );
}

#[test]
fn a_stage_of_two_platforms_needs_an_agent_that_runs_both() {
    let mut both = stage(1, 0, "linux/amd64");
    both.platforms = platforms(&["linux/amd64", "linux/386"]);
    let mut able = agent(2, "amd64-2", "linux/amd64");
    able.platforms.insert(platform("linux/386"));
    check(
        &fleet([agent(1, "amd64-1", "linux/amd64"), able]),
        &[both],
        &["0 -> amd64-2: the only agent that can"],
    );
}

#[test]
fn a_stage_without_commands_can_go_anywhere() {
    let mut copies = stage(1, 0, "linux/amd64");
    copies.platforms.clear();
    copies.commands.clear();
    check(
        &fleet([agent(1, "s390x-1", "linux/s390x")]),
        &[copies],
        &["0 -> s390x-1: the only agent that can"],
    );
}

#[test]
fn a_native_agent_goes_before_one_that_emulates() {
    let mut emulating = agent(1, "amd64-1", "linux/amd64");
    emulating.emulated.insert(platform("linux/s390x"));
    emulating.cache.insert(identity("1/0"));
    check(
        &fleet([emulating, agent(2, "s390x-1", "linux/s390x")]),
        &[stage(1, 0, "linux/s390x")],
        &["0 -> s390x-1: native"],
    );
}

#[test]
fn a_busy_native_agent_is_waited_for_rather_than_emulated() {
    let mut emulating = agent(1, "amd64-1", "linux/amd64");
    emulating.emulated.insert(platform("linux/s390x"));
    let mut native = agent(2, "s390x-1", "linux/s390x");
    native.load = vec![load(0, 3600), load(0, 3600)];
    check(
        &fleet([emulating, native]),
        &[stage(1, 0, "linux/s390x")],
        &["0 waits: a free slot on s390x-1, because the free agents would emulate"],
    );
}

#[test]
fn emulation_is_used_where_no_native_agent_is_there_and_is_said() {
    let mut emulating = agent(1, "amd64-1", "linux/amd64");
    emulating.emulated.insert(platform("linux/s390x"));
    let mut away = agent(2, "s390x-1", "linux/s390x");
    away.presence = Presence::Away;
    check(
        &fleet([emulating, away]),
        &[stage(1, 0, "linux/s390x")],
        &["0 -> amd64-1: the only agent that can; emulates linux/s390x"],
    );
}
