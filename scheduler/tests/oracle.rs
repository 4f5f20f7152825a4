//! Random farms, judged by brute force: what is placed could be, what is refused had to be, and nothing depends on the order of lists.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use croft_planner::{EdgeId, Requirements, StageId};
use croft_scheduler::fleet::{AgentView, Duty, FleetView, Health, Lack, Presence, StageKey, Start};
use croft_scheduler::place::{
    Because, Decision, ExportedInput, Input, Policy, ReadyStage, Refusal, Supply, place,
};
use croft_scheduler::{AgentId, Timestamp};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use support::*;

const PLATFORMS: [&str; 4] = ["linux/386", "linux/amd64", "linux/arm64", "linux/s390x"];
const IDENTITIES: [&str; 5] = ["a", "b", "c", "d", "e"];
const PROJECTS: [&str; 3] = ["p", "q", "r"];

fn mostly(name: &'static str) -> impl Strategy<Value = BTreeSet<String>> {
    option::weighted(0.7, Just(name)).prop_map(|name| set(name.as_slice()))
}

fn seldom(name: &'static str) -> impl Strategy<Value = BTreeSet<String>> {
    option::weighted(0.1, Just(name)).prop_map(|name| set(name.as_slice()))
}

prop_compose! {
    fn any_agent()(
        native in select(&PLATFORMS[..]),
        also in option::weighted(0.2, select(&PLATFORMS[..])),
        emulated in btree_set(select(&PLATFORMS[..]), 0..2),
        slots in 0u32..4,
        loads in vec((0u64..100, option::of(0u64..100), select(&PROJECTS[..]), prop::bool::weighted(0.2)), 0..4),
        away in prop::bool::weighted(0.15),
        unhealthy in prop::bool::weighted(0.1),
        draining in prop::bool::weighted(0.1),
        (caps, entitlements, devices) in (mostly("cap"), mostly("net"), mostly("gpu")),
        disk_free in option::weighted(0.8, prop_oneof![1 => Just(0u64), 6 => Just(1u64 << 40)]),
        cache in btree_set(select(&IDENTITIES[..]), 0..4),
        mounts in btree_set((select(&PROJECTS[..]), select(&["m", "n"][..])), 0..3),
        alike in option::of(0u64..100),
        used in option::of((select(&PROJECTS[..]), 0u64..100)),
    ) -> AgentView {
        let mut view = agent(0, "", native);
        view.platforms.extend(also.map(platform));
        view.emulated = emulated.into_iter().map(platform).collect();
        view.slots = slots;
        view.load = loads.into_iter().map(|(began, takes, name, ahead)| {
            let mut one = load(began, 0);
            one.start = if ahead { Start::Ahead } else { Start::Complete };
            one.project = project(name);
            one.expected = takes.map(seconds);
            one
        }).collect();
        view.presence = if away { Presence::Away } else { Presence::Connected };
        view.health = if unhealthy { Health::Unhealthy } else { Health::Healthy };
        view.duty = if draining { Duty::Draining } else { Duty::Active };
        (view.caps, view.entitlements, view.devices) = (Arc::new(caps), entitlements, devices);
        view.disk_free = disk_free;
        view.cache = cache.into_iter().map(identity).collect();
        view.mounts = mounts.into_iter().map(|(name, mount)| (project(name), mount.to_owned())).collect();
        view.alike = alike.map(|s| ("alike".to_owned(), ago(s))).into_iter().collect();
        view.projects = used.map(|(name, s)| (project(name), ago(s))).into_iter().collect();
        view
    }
}

/// An input, its agents still to be chosen.
#[derive(Debug, Clone)]
struct AnyInput {
    holder: Option<Index>,
    coming: bool,
    whole: bool,
    exported: Option<(u64, Vec<Index>)>,
}

#[derive(Debug, Clone)]
struct AnyStage {
    stage: ReadyStage,
    inputs: Vec<AnyInput>,
    /// Other stages by their numbers, and where they are, if they were placed already.
    meets: Vec<(u32, Option<Index>)>,
    pinned: Option<Index>,
    failed_on: Vec<Index>,
}

prop_compose! {
    fn any_input()(
        holder in option::weighted(0.8, any::<Index>()),
        coming in prop::bool::weighted(0.2),
        whole in any::<bool>(),
        exported in option::of((0u64..1 << 30, vec(any::<Index>(), 0..2))),
    ) -> AnyInput {
        AnyInput { holder, coming, whole, exported }
    }
}

prop_compose! {
    fn any_stage()(
        build in 1u128..4,
        on in btree_set(select(&PLATFORMS[..]), 0..3),
        (name, priority, age) in (select(&PROJECTS[..]), 0i32..2, 0u64..50),
        (waited, pause) in (0u64..50, prop_oneof![6 => Just(0u64), 1 => 1u64..5]),
        commands in vec((select(&IDENTITIES[..]), option::of(0u64..60)), 0..3),
        mounts in btree_set(select(&["m", "n"][..]), 0..2),
        (caps, entitlements, devices) in (seldom("cap"), seldom("net"), seldom("gpu")),
        together in option::weighted(0.2, 0u32..2),
        inputs in vec(any_input(), 0..3),
        meets in vec((0u32..8, option::of(any::<Index>())), 0..3),
        pinned in option::weighted(0.1, any::<Index>()),
        failed_on in vec(any::<Index>(), 0..2),
    ) -> AnyStage {
        let mut one = stage(build, 0, "linux/amd64");
        one.platforms = on.into_iter().map(platform).collect();
        one.project = project(name);
        one.priority = priority;
        one.build_created = ago(age);
        one.ready_since = ago(waited);
        one.not_before = if pause == 0 { Timestamp(0) } else { NOW + seconds(pause) };
        one.commands = commands.into_iter().map(|(name, cost)| command(name, cost.map(seconds))).collect();
        one.cache_mounts = mounts.into_iter().map(str::to_owned).collect();
        one.requirements = Requirements { entitlements, devices, caps };
        one.together = together.map(StageId);
        one.alike = "alike".to_owned();
        AnyStage { stage: one, inputs, meets, pinned, failed_on }
    }
}

fn any_case() -> impl Strategy<Value = (FleetView, Vec<ReadyStage>)> {
    (vec(any_agent(), 1..6), vec(any_stage(), 0..8)).prop_map(|(mut agents, stages)| {
        for (number, agent) in (1..).zip(&mut agents) {
            agent.id = agent_id(number);
            agent.name = format!("agent-{number}");
        }
        let ids: Vec<AgentId> = agents.iter().map(|agent| agent.id).collect();
        let of = |index: &Index| *index.get(&ids);
        let input = |(edge, input): (u32, &AnyInput)| {
            // What is being made is made somewhere, and is no image yet.
            let coming = input.coming && input.holder.is_some();
            let exported = input.exported.as_ref().filter(|_| !coming);
            Input {
                edge: EdgeId(edge),
                held_on: input.holder.as_ref().map(of),
                whole: input.whole,
                supply: match coming {
                    true => Supply::Coming(StageId(100 + edge)),
                    false => Supply::There,
                },
                exported: exported.map(|(bytes, pulled)| ExportedInput {
                    bytes: *bytes,
                    pulled_by: pulled.iter().map(of).collect(),
                }),
            }
        };
        let stages = (0..).zip(stages).map(|(number, any)| {
            let mut stage = any.stage;
            stage.key.stage = StageId(number);
            stage.pinned = any.pinned.as_ref().map(of);
            let meets = any.meets.iter().filter(|(other, _)| *other != number);
            stage.meets = meets
                .map(|(other, at)| (StageId(*other), at.as_ref().map(of)))
                .collect();
            stage.failed_on = any.failed_on.iter().map(|index| (of(index), 1)).collect();
            stage.inputs = (0..).zip(&any.inputs).map(input).collect();
            stage
        });
        (fleet(agents), stages.collect())
    })
}

fn is_native(agent: &AgentView, stage: &ReadyStage) -> bool {
    stage.platforms.is_subset(&agent.platforms)
}

/// Goes through the decisions in their order and calls `judge` with the slots that were free before each: for a stage that goes ahead of
/// its inputs those that such stages may take.
fn replay(
    fleet: &FleetView,
    stages: &[ReadyStage],
    mut judge: impl FnMut(&ReadyStage, &Decision, &BTreeMap<AgentId, u32>, &[Decision]),
) {
    let decisions = place(fleet, stages, &Policy::default(), NOW);
    let by_key: BTreeMap<StageKey, &ReadyStage> =
        stages.iter().map(|stage| (stage.key, stage)).collect();
    // What each agent has of what is complete, and of what went ahead.
    let running = |start: Start| -> BTreeMap<AgentId, u32> {
        let agents = fleet.agents.iter();
        agents
            .map(|agent| (agent.id, agent.running(start)))
            .collect()
    };
    let (mut complete, mut ahead) = (running(Start::Complete), running(Start::Ahead));
    for (number, decision) in decisions.iter().enumerate() {
        let stage = by_key[&decision.key()];
        let usable = fleet.agents.iter().map(|agent| {
            let (complete, ahead, slots) = (complete[&agent.id], ahead[&agent.id], agent.slots);
            let usable = match stage.is_ahead() {
                true => slots
                    .saturating_sub(ahead)
                    .min((2 * slots).saturating_sub(complete + ahead)),
                false => slots.saturating_sub(complete),
            };
            (agent.id, usable)
        });
        let usable = usable.collect();
        judge(stage, decision, &usable, &decisions[..number]);
        if let Decision::Placed { agent, .. } = decision {
            assert!(usable[agent] > 0, "a slot was given away twice");
            let load = match stage.is_ahead() {
                true => &mut ahead,
                false => &mut complete,
            };
            *load.get_mut(agent).unwrap() += 1;
        }
    }
    assert_eq!(
        decisions.len(),
        stages.len(),
        "each stage is decided about once"
    );
    assert_eq!(
        decisions
            .iter()
            .map(Decision::key)
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        stages.len()
    );
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_placed_is_on_an_agent_that_can_take_it_and_has_a_slot((fleet, stages) in any_case()) {
        replay(&fleet, &stages, |stage, decision, free, _| {
            let Decision::Placed { agent, exports, reason, .. } = decision else { return };
            let view = fleet.agents.iter().find(|view| view.id == *agent).unwrap();
            assert!(could(&fleet, view, stage) && free[agent] > 0 && stage.not_before <= NOW);
            assert_eq!(reason.emulates.is_empty(), is_native(view, stage));
            for edge in exports {
                let input = stage.inputs.iter().find(|input| input.edge == *edge).unwrap();
                assert!(input.exported.is_none() && input.held_on.is_some_and(|holder| holder != *agent));
                assert_eq!(input.supply, Supply::There, "nobody can export what is not made yet");
            }
        });
    }

    #[test]
    fn what_goes_ahead_goes_where_all_that_is_missing_is_made_and_where_it_would_go_anyhow((fleet, stages) in any_case()) {
        replay(&fleet, &stages, |stage, decision, _, _| {
            if !stage.is_ahead() {
                return;
            }
            let makers: std::collections::BTreeSet<_> = stage
                .inputs
                .iter()
                .filter(|input| input.supply != Supply::There)
                .map(|input| input.held_on.unwrap())
                .collect();
            match decision {
                Decision::Placed { agent, reason, .. } => {
                    assert_eq!(makers.into_iter().collect::<Vec<_>>(), [*agent]);
                    assert_eq!(reason.why, croft_scheduler::place::Why::Ahead);
                }
                Decision::Held { why, .. } => {
                    assert_eq!(*why, Refusal::Inputs);
                    // Alone in an idle farm that has nothing but the maker it is refused by nobody but the maker's own limits.
                    let [maker] = makers.into_iter().collect::<Vec<_>>()[..] else { return };
                    let mut only = fleet.clone();
                    only.agents.retain(|agent| agent.id == maker);
                    let mut alone = stage.clone();
                    alone.inputs.retain(|input| input.supply != Supply::There);
                    let may = could(&only, &only.agents[0], &alone) && stage.not_before <= NOW && only.agents[0].free_ahead() > 0;
                    let placed = place(&only, &[alone], &Policy::default(), NOW);
                    assert_eq!(matches!(placed[0], Decision::Placed { .. }), may);
                }
            }
        });
    }

    #[test]
    fn what_is_refused_had_to_be((fleet, stages) in any_case()) {
        replay(&fleet, &stages, |stage, decision, free, earlier| {
            let Decision::Held { why, .. } = decision else { return };
            let fit: Vec<&AgentView> = fleet.agents.iter().filter(|agent| could(&fleet, agent, stage)).collect();
            let with_slot: Vec<&&AgentView> = fit.iter().filter(|agent| free[&agent.id] > 0).collect();
            match why {
                Refusal::Pause => assert!(stage.not_before > NOW),
                Refusal::Inputs => assert!(stage.is_ahead()),
                Refusal::Nobody { agents, unservable } => {
                    assert!(fit.is_empty());
                    // Whoever runs its platforms and is of no use all the same is named, with all that it lacks and nothing else.
                    for (name, lacks) in &unservable.lacking {
                        let mut mended = fleet.agents.iter().find(|agent| agent.name == *name).unwrap().clone();
                        assert!(!lacks.is_empty() && mended.runs(&stage.platforms).is_some());
                        for lack in lacks {
                            assert!(match lack.clone() {
                                Lack::Entitlement(name) => mended.entitlements.insert(name),
                                Lack::Device(name) => mended.devices.insert(name),
                                Lack::Capability(name) => Arc::make_mut(&mut mended.caps).insert(name),
                            });
                        }
                        assert_eq!(mended.lacks(&stage.requirements), []);
                    }
                    // Those that it names could if all were well; if it names none, nobody ever can.
                    let mut well = fleet.clone();
                    for agent in &mut well.agents {
                        (agent.presence, agent.health) = (Presence::Connected, Health::Healthy);
                        (agent.duty, agent.disk_free) = (Duty::Active, None);
                    }
                    let mut alone = stage.clone();
                    alone.inputs.clear();
                    let able = well.agents.iter().filter(|agent| could(&well, agent, &alone));
                    let mut names: Vec<&String> = able.map(|agent| &agent.name).collect();
                    names.sort();
                    assert_eq!(agents.iter().map(|(name, _)| name).collect::<Vec<_>>(), names);
                    assert_eq!(why.is_for_ever(), names.is_empty());
                }
                Refusal::Full { agents } => {
                    assert!(with_slot.is_empty());
                    assert_eq!(agents.len(), fit.len());
                }
                Refusal::WorthWaiting { agent, because } => {
                    let preferred = fit.iter().find(|view| view.name == *agent).expect("it could take the stage");
                    assert_eq!(free[&preferred.id], 0);
                    let failed = |view: &AgentView| stage.failed_on.contains_key(&view.id);
                    match because {
                        Because::Together => assert!(
                            stage.pinned == Some(preferred.id) || earlier.iter().any(|decision| matches!(
                                decision,
                                Decision::Placed { key, agent, .. }
                                    if *agent == preferred.id && key.build == stage.key.build
                                        && stages.iter().any(|s| s.key == *key && s.together == stage.together)
                            ))
                        ),
                        Because::Native => {
                            assert!(is_native(preferred, stage) && !with_slot.is_empty());
                            assert!(with_slot.iter().all(|view| !is_native(view, stage)));
                        }
                        Because::Failed => {
                            assert!(!failed(preferred) && !with_slot.is_empty());
                            let equals = with_slot.iter().filter(|view| is_native(view, stage) == is_native(preferred, stage));
                            assert!(equals.clone().count() > 0 && equals.clone().all(|view| failed(view)));
                        }
                        // Something must be saved: without caches, mounts, inputs and roots to meet an idle agent is never passed over.
                        Because::Saves(_) => {
                            assert!(!with_slot.is_empty());
                            assert!(!stage.commands.is_empty() || !stage.inputs.is_empty() || !stage.meets.is_empty());
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn what_belongs_together_is_placed_together_wherever_it_can_be((fleet, stages) in any_case()) {
        replay(&fleet, &stages, |stage, decision, _, earlier| {
            // The last of its group in this round, or else where the snapshot says that it belongs.
            let of_group = earlier.iter().rev().find_map(|decision| match decision {
                Decision::Placed { key, agent, .. } if stage.together.is_some() => {
                    let other = stages.iter().find(|other| other.key == *key)?;
                    (key.build == stage.key.build && other.together == stage.together).then_some(*agent)
                }
                _ => None,
            });
            let belongs = of_group.into_iter().chain(stage.pinned).find(|id| {
                let view = fleet.agents.iter().find(|view| view.id == *id).unwrap();
                could(&fleet, view, stage) && !stage.failed_on.contains_key(id)
            });
            let Some(belongs) = belongs else { return };
            let name = &fleet.agents.iter().find(|view| view.id == belongs).unwrap().name;
            match decision {
                Decision::Placed { agent, .. } => assert_eq!(*agent, belongs),
                Decision::Held { why: Refusal::WorthWaiting { agent, because }, .. } => {
                    assert_eq!((agent, because), (name, &Because::Together));
                }
                Decision::Held { why: Refusal::Inputs, .. } => assert!(stage.is_ahead()),
                Decision::Held { why, .. } => assert_eq!(*why, Refusal::Pause),
            }
        });
    }

    #[test]
    fn an_idle_agent_is_passed_over_only_for_something_to_gain((fleet, stages) in any_case()) {
        // The same farm where nobody holds anything, and no stage belongs with another or was tried before.
        let mut bare = fleet;
        for agent in &mut bare.agents {
            agent.cache.clear();
            agent.mounts.clear();
            agent.emulated.clear();
        }
        let stages: Vec<ReadyStage> = stages.into_iter().map(|stage| ReadyStage {
            inputs: Vec::new(),
            commands: Vec::new(),
            together: None,
            pinned: None,
            meets: BTreeMap::new(),
            failed_on: BTreeMap::new(),
            not_before: Timestamp(0),
            ..stage
        }).collect();
        replay(&bare, &stages, |stage, decision, free, _| {
            let idle = bare.agents.iter().any(|agent| could(&bare, agent, stage) && free[&agent.id] > 0);
            assert_eq!(matches!(decision, Decision::Placed { .. }), idle, "{decision:?}");
        });
    }

    #[test]
    fn nothing_depends_on_the_order_of_lists((fleet, stages) in any_case(), seed in any::<u64>()) {
        let expected = place(&fleet, &stages, &Policy::default(), NOW);
        let (mut agents, mut shuffled) = (fleet.agents, stages);
        let mut state = seed;
        let mut next = move |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for place in (1..agents.len()).rev() { agents.swap(place, next(place + 1)); }
        for place in (1..shuffled.len()).rev() { shuffled.swap(place, next(place + 1)); }
        let got = place(&support::fleet(agents), &shuffled, &Policy::default(), NOW);
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn nobody_waits_for_ever_beside_a_free_agent_of_its_own_kind((fleet, stages) in any_case()) {
        // The farm stands still for a day: whoever still waits then has no native agent free on which it has not failed.
        let later = NOW + seconds(24 * 3600);
        for stage in stages {
            let alone = ReadyStage { pinned: None, ..stage };
            let decision = place(&fleet, std::slice::from_ref(&alone), &Policy::default(), later).remove(0);
            let free = fleet.agents.iter().any(|agent| {
                could(&fleet, agent, &alone)
                    && agent.free_slots() > 0
                    && is_native(agent, &alone)
                    && !alone.failed_on.contains_key(&agent.id)
            });
            // One that goes ahead of its inputs waits for these, not for an agent.
            if free && !alone.is_ahead() {
                prop_assert!(matches!(decision, Decision::Placed { .. }), "{:?}", decision);
            }
        }
    }
}
