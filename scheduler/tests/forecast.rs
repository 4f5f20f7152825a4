//! What is said of a build before it runs: placement played through to its end, on real definitions.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::frontend::{self, result::Result as Refs};
use croft_planner::{Homes, Limits, Plan, PlanInput, PlanOptions, StageId, Target};
use croft_scheduler::forecast::{Forecast, Outcome, Prospect, forecast};
use croft_scheduler::place::{Policy, Refusal, Why};
use croft_scheduler::{AgentId, FleetView};
use prost::Message as _;
use support::*;

/// The plan of one of the planner's captured definitions, as made for the usual farm.
fn planned(name: &str) -> Plan {
    let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../planner/tests/shapes");
    let bytes = std::fs::read(shapes.join(name).with_extension("pb")).unwrap();
    let result = frontend::Result::decode(&bytes[..]).unwrap();
    let Some(Refs::Refs(refs)) = result.result else {
        panic!("{name} has one target only");
    };
    let mut targets: Vec<Target> = refs
        .refs
        .into_iter()
        .map(|(name, one)| Target {
            platform: platform(&name),
            definition: one.def,
            name,
        })
        .collect();
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    let natives = ["linux/amd64", "linux/arm64", "linux/ppc64le", "linux/s390x"];
    let homes: Homes = natives
        .into_iter()
        .map(|native| (platform(native), vec![platform(native)]))
        .collect();
    let options = PlanOptions {
        build_platform: platform("linux/amd64"),
        homes,
        project: "p".to_owned(),
        shared_keys: Default::default(),
        limits: Limits::default(),
    };
    croft_planner::plan(PlanInput { targets }, &options).unwrap()
}

fn foreseen(plan: &Plan, fleet: &FleetView) -> Vec<Forecast> {
    let prospect = Prospect {
        plan,
        build: build_id(7),
        project: project("p"),
        planner: None,
    };
    let stages = prospect.stages(NOW);
    // Their engines can do what the definitions want.
    let mut fleet = fleet.clone();
    for agent in &mut fleet.agents {
        let caps = plan
            .stages()
            .iter()
            .flat_map(|stage| &stage.requirements.caps);
        Arc::make_mut(&mut agent.caps).extend(caps.cloned());
    }
    forecast(&prospect, &fleet, &stages, &Policy::default(), NOW)
}

fn agent_of(forecast: &Forecast) -> Option<AgentId> {
    match &forecast.outcome {
        Outcome::Placed { agent, .. } => Some(*agent),
        _ => None,
    }
}

#[test]
fn every_stage_of_every_shape_finds_an_agent_that_runs_it_whatever_the_order_of_the_fleet() {
    let fleet = farm();
    let mut reversed = farm();
    reversed.agents.reverse();
    for name in [
        "1-shared-builder",
        "2-scratch",
        "4-copies-only",
        "5-plain",
        "6-conf-per-arch",
        "9-two-agents",
    ] {
        let plan = planned(name);
        let forecasts = foreseen(&plan, &fleet);
        assert_eq!(forecasts, foreseen(&plan, &reversed), "{name}");
        let numbers: Vec<StageId> = forecasts.iter().map(|one| one.stage).collect();
        let all: Vec<StageId> = plan.stages().iter().map(|stage| stage.id).collect();
        assert_eq!(numbers, all, "{name}");
        for (stage, forecast) in plan.stages().iter().zip(&forecasts) {
            // Nobody of the usual farm runs these.
            if stage
                .platforms
                .iter()
                .any(|p| p.arch() == "arm" || p.arch() == "386")
            {
                continue;
            }
            let agent = agent_of(forecast).unwrap_or_else(|| panic!("{name}: {forecast:?}"));
            let agent = fleet.agents.iter().find(|view| view.id == agent).unwrap();
            assert!(
                agent.runs(&stage.platforms).is_some(),
                "{name}: {forecast:?}"
            );
        }
    }
}

#[test]
fn what_an_agent_has_in_its_cache_draws_stages_to_it_and_is_counted() {
    let plan = planned("1-shared-builder");
    let mut fleet = farm();
    let shared = plan.stages()[0].clone();
    fleet.agents[1].cache.extend(shared.cache.iter().cloned());
    let forecasts = foreseen(&plan, &fleet);
    let Outcome::Placed {
        agent,
        reason,
        cached,
        expected,
    } = &forecasts[0].outcome
    else {
        panic!("{:?}", forecasts[0]);
    };
    assert_eq!(*agent, agent_id(2));
    assert!(matches!(
        reason.why,
        Why::Cache {
            holds: 1,
            of: 1,
            ..
        }
    ));
    assert_eq!((*cached, *expected), (1, Some(seconds(0))));
    // What only the build itself will have put there is not in anybody's cache yet.
    let later = forecasts.iter().skip(1);
    for forecast in later {
        assert!(
            matches!(forecast.outcome, Outcome::Placed { cached: 0, .. }),
            "{forecast:?}"
        );
    }
}

#[test]
fn a_stage_that_nobody_can_run_is_refused_and_what_needs_it_is_blocked_but_nothing_else() {
    let plan = planned("1-shared-builder");
    let fleet = fleet([
        agent(1, "amd64-1", "linux/amd64"),
        agent(3, "arm64-1", "linux/arm64"),
        agent(4, "ppc64le-1", "linux/ppc64le"),
    ]);
    let forecasts = foreseen(&plan, &fleet);
    for (stage, forecast) in plan.stages().iter().zip(&forecasts) {
        let s390x = platform("linux/s390x");
        match &forecast.outcome {
            Outcome::Refused(why) => {
                assert!(stage.platforms.contains(&s390x));
                assert!(why.is_for_ever());
                assert!(
                    why.to_string().contains("no agent can run linux/s390x"),
                    "{why}"
                );
            }
            Outcome::Blocked(on) => {
                let producers = stage
                    .inputs
                    .iter()
                    .map(|edge| plan.edge(*edge).unwrap().producer);
                let producers: BTreeSet<StageId> = producers.collect();
                assert!(on.is_subset(&producers) && on.len() == 1, "{forecast:?}");
            }
            Outcome::Placed { .. } => assert!(!stage.platforms.contains(&s390x)),
        }
    }
    let refused = forecasts
        .iter()
        .filter(|one| matches!(one.outcome, Outcome::Refused(_)));
    let blocked = forecasts
        .iter()
        .filter(|one| matches!(one.outcome, Outcome::Blocked(_)));
    assert_eq!((refused.count(), blocked.count()), (1, 1));
}

#[test]
fn a_stage_waits_for_the_slot_of_another_build_and_says_so() {
    let plan = planned("5-plain");
    let mut fleet = farm();
    fleet.agents.retain(|agent| agent.id != agent_id(2));
    fleet.agents[0].slots = 1;
    fleet.agents[0].load.push(load(1, 60));
    let forecasts = foreseen(&plan, &fleet);
    let on_busy = forecasts
        .iter()
        .find(|one| agent_of(one) == Some(agent_id(1)));
    let waits = on_busy.and_then(|one| one.waits.as_ref());
    assert!(
        matches!(waits, Some(Refusal::Full { agents }) if *agents == ["amd64-1"]),
        "{forecasts:?}"
    );
    let others = forecasts
        .iter()
        .filter(|one| agent_of(one) != Some(agent_id(1)));
    assert!(
        others.clone().all(|one| one.waits.is_none()),
        "{forecasts:?}"
    );
    assert_eq!(others.count(), 3);
}

#[test]
fn an_agent_with_one_slot_takes_the_stages_of_a_build_one_after_the_other() {
    let plan = planned("2-scratch");
    let mut one = agent(1, "amd64-1", "linux/amd64");
    one.slots = 1;
    let forecasts = foreseen(&plan, &fleet([one]));
    assert!(
        forecasts
            .iter()
            .all(|one| agent_of(one) == Some(agent_id(1)))
    );
    assert!(
        forecasts.iter().any(|one| one.waits.is_some()),
        "{forecasts:?}"
    );
}
