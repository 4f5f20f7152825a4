//! Advice about Dockerfiles: what it is for each of them is in the golden files of `shapes`; here what holds for all.

mod support;

use bollard_buildkit_proto::pb;
use croft_planner::{Advice, AdviceKind, Lines, Plan, plan};
use support::{options, planned, shape, shape_names};

/// All of it but the numbers of stages, which hang on the order of the targets.
fn said(plan: &Plan) -> Vec<Advice> {
    let advice = plan.advice().into_iter();
    advice
        .map(|one| Advice {
            stages: Default::default(),
            ..one
        })
        .collect()
}

#[test]
fn advice_is_the_same_whatever_the_order_of_the_targets() {
    for name in shape_names() {
        let mut reversed = shape(&name);
        reversed.targets.reverse();
        let reversed = plan(reversed, &options()).unwrap();
        assert_eq!(said(&planned(&name)), said(&reversed), "{name}");
    }
}

#[test]
fn one_target_alone_has_nothing_to_share() {
    for name in shape_names() {
        let input = shape(&name);
        for target in input.targets {
            let alone = croft_planner::PlanInput {
                targets: vec![target],
            };
            let advice = plan(alone, &options()).unwrap().advice();
            let to_share = |one: &&Advice| {
                matches!(
                    one.kind,
                    AdviceKind::EarlyArg | AdviceKind::BuilderOnTarget | AdviceKind::RunOnTarget
                )
            };
            assert_eq!(advice.iter().find(to_share), None, "{name}");
        }
    }
}

#[test]
fn advice_is_about_steps_that_there_are_and_stages_that_pay_for_it() {
    let mut kinds = std::collections::BTreeSet::new();
    for name in shape_names() {
        let text =
            std::fs::read_to_string(support::shapes().join(&name).with_extension("Dockerfile"))
                .unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let plan = planned(&name);
        for advice in plan.advice() {
            kinds.insert(advice.kind);
            assert!(
                !advice.stages.is_empty() && !advice.steps.is_empty(),
                "{name}"
            );
            let fits = |at: Lines| at.first <= at.last && (at.last as usize) <= lines.len();
            assert!(fits(advice.lines), "{name}: {advice:?}");
            for step in &advice.steps {
                assert_eq!(
                    lines[step.lines.first as usize - 1].trim(),
                    step.text,
                    "{name}"
                );
            }
        }
    }
    assert_eq!(
        kinds.len(),
        5,
        "a kind of advice that no shape shows: {kinds:?}"
    );
}

/// What a peer can make of where a step is said to be.
fn damages() -> Vec<fn(&mut pb::Location)> {
    fn lines(location: &mut pb::Location, first: i32, last: i32) {
        for range in &mut location.ranges {
            if let (Some(start), Some(end)) = (&mut range.start, &mut range.end) {
                (start.line, end.line) = (first, last);
            }
        }
    }
    vec![
        |location| lines(location, i32::MAX, i32::MAX),
        |location| lines(location, 1, i32::MAX),
        |location| lines(location, i32::MIN, -1),
        |location| lines(location, 0, 0),
        |location| lines(location, 9, 2),
        |location| lines(location, 1, 1),
        |location| location.ranges.clear(),
        |location| location.source_index = -1,
        |location| location.source_index = i32::MAX,
    ]
}

#[test]
fn whatever_the_locations_say_there_is_advice_or_none_and_no_panic() {
    for name in shape_names() {
        for damage in damages() {
            let mut input = shape(&name);
            let sources = input.targets.iter_mut();
            for source in sources.filter_map(|target| target.definition.as_mut()?.source.as_mut()) {
                let locations = source.locations.values_mut();
                locations
                    .flat_map(|one| &mut one.locations)
                    .for_each(damage);
            }
            plan(input, &options()).unwrap().advice();
        }
        let mut input = shape(&name);
        let sources = input.targets.iter_mut();
        for source in sources.filter_map(|target| target.definition.as_mut()?.source.as_mut()) {
            for info in &mut source.infos {
                info.data = b"FROM a AS a\nARG \\\nFROM a\n\xff".to_vec();
            }
        }
        plan(input, &options()).unwrap().advice();
    }
}
