//! Who is served first, other tries, and what programs are told.

use croft_planner::EdgeId;
use croft_scheduler::Timestamp;
use croft_scheduler::fleet::{FleetView, Presence};
use croft_scheduler::place::{Decision, Policy, ReadyStage, Refusal, place};

use super::check;
use super::support::*;

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
