//! What placement promises, one situation for each promise.

mod support;

use croft_planner::{EdgeId, StageId};
use croft_scheduler::fleet::{Duty, FleetView, Health, Presence};
use croft_scheduler::place::{Decision, Policy, ReadyStage, Refusal, place};
use croft_scheduler::{ConnectionId, Timestamp};
use support::*;

fn check(fleet: &FleetView, stages: &[ReadyStage], expect: &[&str]) {
    assert_eq!(decide(fleet, stages), expect);
}

// ---- who can

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
    able.caps.insert("exec.new".to_owned());
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

// ---- native first

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

// ---- caches, queues, inputs

#[test]
fn four_cross_stages_of_one_build_use_both_agents() {
    let stages: Vec<ReadyStage> = (1..5)
        .map(|number| ReadyStage {
            inputs: vec![exported(0, 1, 10 << 20)],
            ..stage(1, number, "linux/amd64")
        })
        .collect();
    assert_eq!(
        agents_of(&farm(), &stages),
        ["amd64-1", "amd64-2", "amd64-1", "amd64-2"]
    );
}

#[test]
fn results_that_are_only_held_spread_too_once_they_are_exported() {
    let stages: Vec<ReadyStage> = (1..3)
        .map(|number| ReadyStage {
            inputs: vec![held(7, 1)],
            ..stage(1, number, "linux/amd64")
        })
        .collect();
    check(
        &farm(),
        &stages,
        &[
            "1 -> amd64-1: holds its inputs",
            "2 -> amd64-2 after export of 7: less busy than amd64-1",
        ],
    );
}

#[test]
fn an_edited_rebuild_goes_back_to_the_agent_that_holds_its_cache() {
    let mut farm = farm();
    farm.agents[1].cache.insert(identity("deps"));
    let mut edited = stage(2, 0, "linux/amd64");
    edited.commands = vec![command("deps", Some(seconds(12))), command("edited", None)];
    check(
        &farm,
        &[edited],
        &["0 -> amd64-2: holds the cache of 1 of 2 commands (saves about 12 s)"],
    );
}

#[test]
fn a_rebuild_of_which_nothing_is_cached_goes_where_it_ran_last() {
    let mut farm = farm();
    farm.agents[0].projects.insert(project("p"), ago(10));
    farm.agents[1].projects.insert(project("p"), ago(60));
    farm.agents[1].alike.insert("p: 0".to_owned(), ago(60));
    check(
        &farm,
        &[stage(2, 0, "linux/amd64")],
        &["0 -> amd64-2: ran this stage last"],
    );
    check(
        &farm,
        &[stage(2, 1, "linux/amd64")],
        &["1 -> amd64-1: last used by this project"],
    );
}

#[test]
fn a_busy_agent_that_holds_the_cache_is_passed_over_for_an_idle_one() {
    let mut farm = farm();
    farm.agents[1].cache.insert(identity("deps"));
    farm.agents[1].load = vec![load(1, 60), load(1, 60)];
    let mut edited = stage(2, 0, "linux/amd64");
    edited.commands = vec![command("deps", Some(seconds(12))), command("edited", None)];
    check(
        &farm,
        &[edited],
        &["0 -> amd64-1: free, while amd64-2 is busy"],
    );
}

#[test]
fn a_busy_agent_is_waited_for_while_its_cache_saves_more_than_the_wait_costs() {
    let mut farm = farm();
    farm.agents[1].cache.insert(identity("toolchain"));
    farm.agents[1].load = vec![load(57, 60), load(50, 60)];
    let mut edited = stage(2, 0, "linux/amd64");
    edited.commands = vec![command("toolchain", Some(seconds(120)))];
    let waits = "0 waits: a free slot on amd64-2, which saves more than the wait costs";
    check(&farm, std::slice::from_ref(&edited), &[waits]);

    // Neither an attempt that never ends nor others that are served first are waited for without end.
    let patience = |s| decide_at(&farm, std::slice::from_ref(&edited), NOW + seconds(s));
    assert_eq!(patience(30), [waits]);
    assert_eq!(patience(100), ["0 -> amd64-1: free, while amd64-2 is busy"]);
}

#[test]
fn those_that_wait_for_an_agent_lengthen_its_queue() {
    let mut farm = farm();
    farm.agents[1].slots = 1;
    farm.agents[1].cache.extend(["a", "b"].map(identity));
    farm.agents[1].load = vec![load(55, 60)];
    let waiting = |number, name| ReadyStage {
        // Half of it is cached: the other half is what the next in the queue waits for.
        commands: vec![
            command(name, Some(seconds(20))),
            command("new", Some(seconds(20))),
        ],
        ..stage(2, number, "linux/amd64")
    };
    check(
        &farm,
        &[waiting(0, "a"), waiting(1, "b")],
        &[
            "0 waits: a free slot on amd64-2, which saves more than the wait costs",
            "1 -> amd64-1: free, while amd64-2 is busy",
        ],
    );
}

#[test]
fn a_filled_cache_mount_attracts_its_own_project_only() {
    let mut farm = farm();
    farm.agents[1]
        .mounts
        .insert((project("p"), "go".to_owned()));
    let mut own = stage(1, 0, "linux/amd64");
    own.cache_mounts.insert("go".to_owned());
    let mut foreign = stage(2, 0, "linux/amd64");
    foreign.cache_mounts.insert("go".to_owned());
    foreign.project = project("q");
    assert_eq!(agents_of(&farm, &[own]), ["amd64-2"]);
    assert_eq!(agents_of(&farm, &[foreign]), ["amd64-1"]);
}

#[test]
fn a_large_result_is_not_moved_for_a_little_work() {
    let mut farm = farm();
    farm.agents[1].load = vec![load(0, 60)];
    let mut small = stage(1, 1, "linux/amd64");
    small.commands = vec![command("small", Some(seconds(2)))];
    small.inputs = vec![exported(0, 2, 2 << 30)];
    assert_eq!(
        decide(&farm, &[small.clone()]),
        ["1 -> amd64-2: holds its inputs"]
    );
    // Where it was pulled before it needn't travel.
    small.inputs[0]
        .exported
        .as_mut()
        .unwrap()
        .pulled_by
        .insert(agent_id(1));
    assert_eq!(
        decide(&farm, &[small]),
        ["1 -> amd64-1: less busy than amd64-2"]
    );
}

#[test]
fn a_result_that_only_an_away_agent_holds_can_be_taken_nowhere_else() {
    let mut farm = farm();
    farm.agents[1].presence = Presence::Away;
    let mut consumer = stage(1, 1, "linux/amd64");
    consumer.inputs = vec![held(3, 2)];
    check(
        &farm,
        &[consumer],
        &[
            "1 waits: an agent for linux/amd64: amd64-1 can't get result 3: amd64-2 has it and is away, amd64-2 is away",
        ],
    );
}

// ---- together

#[test]
fn stages_that_share_a_cache_mount_go_to_one_agent() {
    let member = |number| ReadyStage {
        together: Some(StageId(0)),
        ..stage(1, number, "linux/amd64")
    };
    let mut farm = farm();
    check(
        &farm,
        &[member(0), member(1), member(2)],
        &[
            "0 -> amd64-1: first of equals",
            "1 -> amd64-1: a stage that it belongs with is there",
            "2 waits: a free slot on amd64-1, where a stage is that it belongs with",
        ],
    );
    let placed_before = ReadyStage {
        pinned: Some(agent_id(2)),
        ..member(3)
    };
    check(
        &farm,
        std::slice::from_ref(&placed_before),
        &["3 -> amd64-2: a stage that it belongs with is there"],
    );
    // An agent that went away takes nobody with it.
    farm.agents[1].presence = Presence::Away;
    check(
        &farm,
        &[placed_before],
        &["3 -> amd64-1: the only agent that can"],
    );
}

#[test]
fn a_command_of_several_builds_of_one_connection_runs_on_one_agent() {
    let of_connection = |build, commands: &[&str]| ReadyStage {
        connection: ConnectionId(build_id(1).0),
        commands: commands
            .iter()
            .map(|name| command(name, Some(seconds(1))))
            .collect(),
        ..stage(build, build as u32, "linux/amd64")
    };
    let mut farm = farm();
    let two = [
        of_connection(1, &["shared"]),
        of_connection(2, &["shared", "own"]),
    ];
    check(
        &farm,
        &two,
        &[
            "1 -> amd64-1: first of equals",
            "2 -> amd64-1: a stage that it belongs with is there",
        ],
    );
    farm.agents[0].slots = 1;
    let other = ReadyStage {
        connection: ConnectionId(build_id(3).0),
        ..of_connection(3, &["shared", "own"])
    };
    let [first, second] = two;
    check(
        &farm,
        &[first, second, other],
        &[
            "1 -> amd64-1: first of equals",
            "2 waits: a free slot on amd64-1, where a stage is that it belongs with",
            "3 -> amd64-2: free, while amd64-1 is busy",
        ],
    );
}

#[test]
fn what_is_left_of_a_group_moves_on_together() {
    let left = |number| ReadyStage {
        together: Some(StageId(0)),
        pinned: Some(agent_id(3)),
        ..stage(1, number, "linux/amd64")
    };
    let members = [left(1), left(2)];
    let three = || {
        fleet([
            agent(1, "amd64-1", "linux/amd64"),
            agent(2, "amd64-2", "linux/amd64"),
            agent(3, "amd64-3", "linux/amd64"),
        ])
    };
    let moved = [
        "1 -> amd64-1: first of equals",
        "2 -> amd64-1: a stage that it belongs with is there",
    ];
    let mut farm = three();
    farm.agents[2].presence = Presence::Away;
    check(&farm, &members, &moved);
    let mut farm = three();
    farm.agents[2].duty = Duty::Draining;
    check(&farm, &members, &moved);

    // The farm failed at the first of them there: the second, which it did not fail at, follows all the same.
    let mut members = members;
    members[0].failed_on.insert(agent_id(3), 1);
    check(
        &three(),
        &members,
        &[
            "1 -> amd64-1: first of equals",
            "2 -> amd64-1: a stage that it belongs with is there",
        ],
    );
    // Where there is no other, it is tried again.
    check(
        &fleet([agent(3, "amd64-3", "linux/amd64")]),
        &members[..1],
        &["1 -> amd64-3: the only agent that can"],
    );
}

// ---- retries

#[test]
fn another_try_goes_elsewhere_and_only_after_the_pause() {
    let mut retried = stage(1, 0, "linux/amd64");
    retried.failed_on.insert(agent_id(1), 1);
    check(
        &farm(),
        std::slice::from_ref(&retried),
        &["0 -> amd64-2: another try, elsewhere"],
    );
    retried.not_before = NOW + seconds(1);
    check(
        &farm(),
        std::slice::from_ref(&retried),
        &["0 waits: a pause after a failure of the farm's"],
    );
    assert_eq!(decide_at(&farm(), &[retried], NOW + seconds(1)).len(), 1);
}

#[test]
fn the_only_agent_gets_another_try_too() {
    let mut retried = stage(1, 0, "linux/arm64");
    retried.failed_on.insert(agent_id(3), 2);
    check(
        &farm(),
        &[retried],
        &["0 -> arm64-1: the only agent that can"],
    );
}

// ---- order of service

fn served(stages: &[ReadyStage], slots: u32) -> Vec<String> {
    let mut one = agent(1, "amd64-1", "linux/amd64");
    one.slots = slots;
    let decisions = place(&fleet([one]), stages, &Policy::default(), NOW);
    let placed = decisions
        .iter()
        .filter(|decision| matches!(decision, Decision::Placed { .. }));
    placed
        .map(|decision| decision.key().build.0.as_u128().to_string())
        .collect()
}

#[test]
fn priority_goes_before_share_and_share_before_age() {
    let of = |build, name: &str, priority, age| ReadyStage {
        project: project(name),
        priority,
        build_created: ago(age),
        ..stage(build, 0, "linux/amd64")
    };
    // p has two old builds, q a younger one, r the youngest, which is urgent.
    let stages = [
        of(1, "p", 0, 90),
        of(2, "p", 0, 80),
        of(3, "q", 0, 10),
        of(4, "r", 5, 1),
    ];
    assert_eq!(served(&stages, 4), ["4", "1", "3", "2"]);
    assert_eq!(served(&stages, 2), ["4", "1"]);
}

#[test]
fn what_a_project_runs_already_counts_as_its_share() {
    let mut busy = agent(1, "amd64-1", "linux/amd64");
    busy.slots = 2;
    busy.load = vec![load(1, 60)];
    let of = |build, name: &str, age| ReadyStage {
        project: project(name),
        build_created: ago(age),
        ..stage(build, build as u32, "linux/amd64")
    };
    check(
        &fleet([busy]),
        &[of(1, "another", 90), of(2, "p", 10)],
        &[
            "2 -> amd64-1: the only agent that can",
            "1 waits: a free slot on amd64-1",
        ],
    );
}

#[test]
fn an_older_build_is_finished_before_a_newer_one_is_begun() {
    let of = |build, age| ReadyStage {
        build_created: ago(age),
        ..stage(build, 0, "linux/amd64")
    };
    assert_eq!(served(&[of(3, 1), of(2, 5), of(1, 9)], 2), ["1", "2"]);
}

// ---- data for programs

#[test]
fn a_refusal_says_whether_it_is_for_ever() {
    let refusal = |fleet: &FleetView, stage: ReadyStage| match place(
        fleet,
        &[stage],
        &Policy::default(),
        NOW,
    )
    .remove(0)
    {
        Decision::Held { why, .. } => why,
        placed => panic!("{placed:?}"),
    };
    let never = refusal(&farm(), stage(1, 0, "linux/riscv64"));
    assert!(never.is_for_ever() && never.is_for_want_of_an_agent());

    let mut one_away = farm();
    one_away.agents[4].presence = Presence::Away;
    let later = refusal(&one_away, stage(1, 0, "linux/s390x"));
    assert!(!later.is_for_ever() && later.is_for_want_of_an_agent());

    let mut full = farm();
    full.agents[4].load = vec![load(0, 1), load(0, 1)];
    let soon = refusal(&full, stage(1, 0, "linux/s390x"));
    assert_eq!(
        soon,
        Refusal::Full {
            agents: vec!["s390x-1".to_owned()]
        }
    );
    assert!(!soon.is_for_ever() && !soon.is_for_want_of_an_agent());
}

#[test]
fn an_export_names_the_results_that_only_another_agent_holds() {
    let mut farm = farm();
    farm.agents[0].load = vec![load(0, 600), load(0, 600)];
    let mut consumer = stage(1, 3, "linux/amd64");
    consumer.inputs = vec![held(1, 1), exported(2, 1, 1000), held(4, 2)];
    let decisions = place(&farm, &[consumer], &Policy::default(), NOW);
    let [Decision::Placed { agent, exports, .. }] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    assert_eq!((*agent, &exports[..]), (agent_id(2), &[EdgeId(1)][..]));
}

#[test]
fn an_agent_that_came_back_with_fewer_slots_gets_nothing_until_it_has_one() {
    let mut shrunk = agent(1, "amd64-1", "linux/amd64");
    shrunk.slots = 1;
    shrunk.load = vec![load(1, 60), load(1, 60), load(1, 60)];
    check(
        &fleet([shrunk]),
        &[stage(1, 0, "linux/amd64")],
        &["0 waits: a free slot on amd64-1"],
    );
}

#[test]
fn times_at_the_ends_of_the_clock_break_nothing() {
    for now in [Timestamp(0), Timestamp(u64::MAX)] {
        let mut farm = farm();
        farm.agents[0].load = vec![load(1, 60), load(1, u64::MAX / 1_000_000)];
        farm.agents[1].load = farm.agents[0].load.clone();
        let mut costly = stage(1, 0, "linux/amd64");
        costly.commands = vec![
            command("c", Some(std::time::Duration::MAX)),
            command("d", Some(std::time::Duration::MAX)),
        ];
        costly.inputs = vec![exported(0, 3, u64::MAX)];
        assert_eq!(
            place(&farm, &[costly.clone(), costly], &Policy::default(), now).len(),
            2
        );
    }
}
