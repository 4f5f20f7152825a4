//! Where caches, queues and inputs lead, and what goes together.

use croft_planner::StageId;
use croft_scheduler::ConnectionId;
use croft_scheduler::fleet::{Duty, Presence};
use croft_scheduler::place::ReadyStage;

use super::check;
use super::support::*;

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
fn a_whole_root_that_only_its_agent_has_is_moved_for_long_commands_only() {
    let stages = |takes| {
        let of = move |number| ReadyStage {
            inputs: vec![root(7, 1)],
            commands: vec![command(&format!("compile {number}"), takes)],
            ..stage(1, number, "linux/amd64")
        };
        vec![of(1), of(2)]
    };
    check(
        &farm(),
        &stages(None),
        &[
            "1 -> amd64-1: holds its inputs",
            "2 -> amd64-1: holds its inputs",
        ],
    );
    check(
        &farm(),
        &stages(Some(seconds(60))),
        &[
            "1 -> amd64-1: holds its inputs",
            "2 -> amd64-2 after export of 7: less busy than amd64-1",
        ],
    );
}

#[test]
fn stages_whose_roots_meet_later_go_to_one_agent_unless_their_commands_are_long() {
    let pair = |takes| {
        let of = move |number, other| ReadyStage {
            meets: [(StageId(other), None)].into(),
            commands: vec![command(&format!("install {number}"), takes)],
            ..stage(1, number, "linux/amd64")
        };
        vec![of(1, 2), of(2, 1)]
    };
    check(
        &farm(),
        &pair(None),
        &[
            "1 -> amd64-1: first of equals",
            "2 -> amd64-1: what a later stage takes with it is there",
        ],
    );
    check(
        &farm(),
        &pair(Some(seconds(60))),
        &[
            "1 -> amd64-1: first of equals",
            "2 -> amd64-2: less busy than amd64-1",
        ],
    );
    // One that was placed before, and one of which nobody knows.
    let mut later = stage(1, 2, "linux/amd64");
    later.meets = [(StageId(1), Some(agent_id(2))), (StageId(3), None)].into();
    check(
        &farm(),
        &[later],
        &["2 -> amd64-2: what a later stage takes with it is there"],
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
