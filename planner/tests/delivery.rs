//! The stage that hands results out.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use croft_planner::{
    Binding, EdgeId, Narrowing, Output, Plan, PlanInput, Requirements, StageKind, plan,
};
use support::{
    REFERENCE, image_of,
    llb::{exec, image},
    options, plan_of, planned, platform, shape_names, target,
};

fn delivering(plan: Plan) -> Plan {
    plan.delivering(Requirements {
        caps: ["hands.out".to_owned()].into(),
        ..Requirements::default()
    })
}

#[test]
fn it_takes_the_whole_of_every_target_and_leaves_all_other_stages_what_they_were() {
    for name in shape_names() {
        let before = planned(&name);
        let plan = delivering(before.clone());
        let delivery = plan.delivery().expect("it was added");
        assert_eq!(delivery.kind, StageKind::Output);
        assert_eq!(delivery.requirements.caps.len(), 1);
        assert_eq!(plan.outputs_of(delivery), [Output::Delivery]);
        assert_eq!(plan.stages().len(), before.stages().len() + 1, "{name}");
        for (stage, was) in plan.stages().iter().zip(before.stages()) {
            assert_eq!((&stage.digest, &stage.name), (&was.digest, &was.name));
            assert!(stage.depth < delivery.depth, "{name}");
        }
        for (edge, was) in plan.edges().iter().zip(before.edges()) {
            assert_eq!((edge.id, &edge.digest), (was.id, &was.digest), "{name}");
        }
        for target in plan.targets() {
            let edge = plan.delivered(target.id).expect("no shape is empty");
            assert!(plan.delivered_by(edge).any(|one| one == target.id));
            let edge = plan.edge(edge).expect("an edge of the plan");
            assert_eq!(Some((edge.op, edge.output)), target.root, "{name}");
            assert_eq!(edge.narrowing, Narrowing::Whole, "{name}");
            assert!(edge.consumers.contains(&delivery.id), "{name}");
            assert!(delivery.inputs.contains(&edge.id), "{name}");
            let producer = plan.stage(edge.producer).expect("a stage");
            assert!(producer.outputs.contains(&edge.id), "{name}");
        }
    }
}

#[test]
fn of_each_target_it_solves_what_stands_for_its_result_and_nothing_else() {
    let base = image("linux/amd64");
    let one = exec("one", &[(&base, 0)], "linux/amd64").ignoring_cache();
    let plan = delivering(plan_of(&[("linux/amd64", &[&base], &one)]));
    let target = plan.targets()[0].id;
    let edge = plan.delivered(target).unwrap();

    let pulled = plan.bind_delivery(target, &image_of(edge)).unwrap();
    assert_eq!(pulled.definition.def.len(), 2, "the image and the end");
    let source = String::from_utf8_lossy(&pulled.definition.def[0]);
    assert!(source.contains(REFERENCE));

    let bound = plan.bind(Output::Edge(edge), &BTreeMap::new()).unwrap();
    let held = BTreeMap::from([(edge, Binding::Held(Arc::new(bound.clone())))]);
    let held = plan.bind_delivery(target, &held).unwrap();
    assert_eq!(held.definition.def, bound.definition.def);
    assert_eq!(held.root, bound.root);
    let marks = |bound: &croft_planner::Bound| {
        let mut metadata = bound.definition.metadata.values();
        metadata.any(|one| one.ignore_cache)
    };
    assert!(marks(&bound) && !marks(&held), "what is done stays done");

    assert!(plan.bind_delivery(target, &BTreeMap::new()).is_err());
}

#[test]
fn it_goes_where_most_of_the_results_are_and_equal_results_travel_once() {
    let base = image("linux/arm64");
    let on = |name, platform| exec(name, &[(&base, 0)], platform);
    let (a, b, c) = (
        on("a", "linux/amd64"),
        on("b", "linux/arm64"),
        on("c", "linux/arm/v7"),
    );
    let plan = delivering(plan_of(&[
        ("linux/amd64", &[&base], &a),
        ("linux/arm64", &[&base], &b),
        ("linux/arm/v7", &[&base], &c),
    ]));
    let home = plan.likely_home(plan.delivery().unwrap().id).unwrap();
    assert_eq!(*home.platform(), platform("linux/arm64"));

    let same = delivering(plan_of(&[
        ("linux/amd64", &[&base], &a),
        ("linux/arm64", &[&base], &a),
    ]));
    assert_eq!(same.delivery().unwrap().inputs, [EdgeId(0)]);
}

#[test]
fn empty_images_need_no_results() {
    let input = PlanInput {
        targets: vec![target("", "linux/amd64", None)],
    };
    let plan = delivering(plan(input, &options()).unwrap());
    let only = plan.targets()[0].id;
    assert_eq!(plan.delivered(only), None);
    assert_eq!(plan.delivery().unwrap().inputs, []);
    let nothing = plan.bind_delivery(only, &BTreeMap::new()).unwrap();
    assert_eq!(nothing.definition.def.len(), 0);
}
