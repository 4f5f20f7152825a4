//! What the definition of a bound output looks like to an engine.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use bollard_buildkit_proto::pb;
use croft_planner::{BindError, Binding, EdgeId, Output, Plan, PlanInput, TargetId, plan};
use prost::Message;
use support::{
    FIRST, REFERENCE, TARGET, image_of,
    llb::{self, Made, exec, image},
    ops, options, plan_of, platform, target,
};

fn held(plan: &Plan, edge: EdgeId) -> BTreeMap<EdgeId, Binding> {
    let bound = plan.bind(Output::Edge(edge), &BTreeMap::new()).unwrap();
    BTreeMap::from([(edge, Binding::Held(Arc::new(bound)))])
}

/// A command on amd64 whose result a command on arm64 goes on from.
fn two_homes() -> [Made; 3] {
    let base = image("linux/amd64");
    let one = exec("one", &[(&base, 0)], "linux/amd64").named("[one 1/1] RUN one");
    let two = exec("two", &[(&one, 0)], "linux/arm64").named("[two 1/1] RUN two");
    [base, one, two]
}

fn plan_of_two_homes(change: impl Fn([Made; 3]) -> [Made; 3]) -> Plan {
    let [base, one, two] = change(two_homes());
    plan_of(&[("linux/arm64", &[&base, &one], &two)])
}

/// The definition with a source file in which the op is on `line`.
fn on_line(mut definition: pb::Definition, made: &Made, file: &[u8], line: i32) -> pb::Definition {
    let at = pb::Position { line, character: 0 };
    let range = pb::Range {
        start: Some(at),
        end: Some(at),
    };
    let locations = vec![pb::Location {
        source_index: 0,
        ranges: vec![range],
    }];
    let source = definition.source.get_or_insert_default();
    source.locations.insert(
        made.digest().as_str().to_owned(),
        pb::Locations { locations },
    );
    source.infos = vec![pb::SourceInfo {
        filename: "Dockerfile".into(),
        data: file.to_vec(),
        ..pb::SourceInfo::default()
    }];
    definition
}

#[test]
fn ignore_cache_marks_are_joined_kept_on_own_ops_and_taken_off_finished_ones() {
    let [base, one, two] = two_homes();
    let marked = one.clone().ignoring_cache();
    let three = exec("three", &[(&one, 0)], "linux/s390x");
    // Only the second target's definition has the mark.
    let targets: [(&str, &[&Made], &Made); 2] = [
        ("linux/arm64", &[&base, &one], &two),
        ("linux/s390x", &[&base, &marked], &three),
    ];
    let plan = plan_of(&targets);
    let mark = |bound: &croft_planner::Bound| {
        bound.definition.metadata[one.digest().as_str()].ignore_cache
    };
    let producer = plan.bind(Output::Edge(FIRST), &BTreeMap::new()).unwrap();
    assert!(mark(&producer));
    assert!(!mark(&plan.bind(TARGET, &held(&plan, FIRST)).unwrap()));
    let caps = |bound: &croft_planner::Bound| {
        let last = croft_planner::OpDigest::of(bound.definition.def.last().unwrap());
        bound.definition.metadata[last.as_str()]
            .caps
            .contains_key("meta.ignorecache")
    };
    assert!(caps(&producer));
}

#[test]
fn an_image_in_place_of_an_edge_is_a_source_as_buildkits_client_writes_it() {
    let plan = plan_of_two_homes(|ops| ops);
    let bound = plan.bind(TARGET, &image_of(FIRST)).unwrap();
    let (ops, _) = ops(&bound.definition);
    assert_eq!(ops.len(), 2);
    let (digest, edge) = bound.images.first_key_value().unwrap();
    assert_eq!(*edge, FIRST);
    // Byte by byte, since the engine computes its digest from what its own encoder makes of it: platform, constraints, then the source.
    let identifier = format!("docker-image://{REFERENCE}");
    let mut expected = b"\x52\x0e\x0a\x05amd64\x12\x05linux\x5a\x00".to_vec();
    let length = u8::try_from(identifier.len()).unwrap();
    expected.extend([0x1a, length + 2, 0x0a, length]);
    expected.extend(identifier.bytes());
    assert_eq!(ops[digest], expected);
    let metadata = &bound.definition.metadata[digest.as_str()];
    assert_eq!(
        metadata.caps,
        BTreeMap::from([("source.image".to_owned(), true)])
    );
    assert_eq!(
        metadata.description["llb.customname"],
        "[croft] result of [one 1/1] RUN one"
    );
    // The op that the image stands for isn't in the definition, and the one after it moved.
    let [_, one, two] = two_homes();
    assert!(!bound.digests.contains_key(&one.digest()));
    assert_eq!(bound.planned[&bound.digests[&two.digest()]], two.digest());
    assert_ne!(bound.digests[&two.digest()], two.digest());
}

#[test]
fn a_held_result_carries_its_own_bindings_along() {
    let [base, one, two] = two_homes();
    let three = exec("three", &[(&two, 0)], "linux/amd64");
    let plan = plan_of(&[("linux/amd64", &[&base, &one, &two], &three)]);
    let second = plan.edges()[1].id;
    let bound = plan.bind(Output::Edge(second), &image_of(FIRST)).unwrap();
    let moved = bound.digests[&two.digest()].clone();
    let bindings = BTreeMap::from([(second, Binding::Held(Arc::new(bound.clone())))]);
    let target = plan.bind(TARGET, &bindings).unwrap();
    let (before, _) = ops(&bound.definition);
    let (after, _) = ops(&target.definition);
    assert!(
        before
            .iter()
            .all(|(digest, bytes)| after.get(digest) == Some(bytes))
    );
    assert_eq!(
        (target.digests[&two.digest()].clone(), &target.images),
        (moved, &bound.images)
    );
}

#[test]
fn bindings_that_fit_nothing_are_refused() {
    let plan = plan_of_two_homes(|ops| ops);
    assert_eq!(
        plan.bind(TARGET, &BTreeMap::new()),
        Err(BindError::Unbound {
            output: TARGET,
            edge: FIRST
        })
    );
    let of_target = Arc::new(plan.bind(TARGET, &image_of(FIRST)).unwrap());
    let wrong = BTreeMap::from([(FIRST, Binding::Held(of_target))]);
    assert_eq!(
        plan.bind(TARGET, &wrong),
        Err(BindError::WrongDefinition {
            edge: FIRST,
            found: TARGET
        })
    );
    for reference in ["stages.farm/p:latest", "stages.farm/p@md5:00", "@sha256:00"] {
        let image = Binding::Image {
            reference: reference.to_owned(),
            platform: platform("linux/amd64"),
        };
        let expected = BindError::NoDigest {
            edge: FIRST,
            reference: reference.to_owned(),
        };
        assert_eq!(
            plan.bind(TARGET, &BTreeMap::from([(FIRST, image)])),
            Err(expected)
        );
    }
    for output in [Output::Edge(EdgeId(1)), Output::Target(TargetId(1))] {
        assert_eq!(
            plan.bind(output, &BTreeMap::new()),
            Err(BindError::NoSuchOutput { output })
        );
    }
}

#[test]
fn source_files_are_merged_and_every_op_keeps_its_line() {
    let [base, one, two] = two_homes();
    let three = exec("three", &[(&one, 0)], "linux/s390x");
    let all = [base, one.clone()];
    let first = on_line(
        on_line(llb::definition(&all, (&two, 0)), &one, b"first", 3),
        &two,
        b"first",
        4,
    );
    let second = on_line(
        on_line(llb::definition(&all, (&three, 0)), &one, b"second", 5),
        &three,
        b"second",
        6,
    );
    let targets = vec![
        target("a", "linux/arm64", Some(first)),
        target("b", "linux/s390x", Some(second)),
    ];
    let plan = plan(PlanInput { targets }, &options()).unwrap();
    let lines = |output, made: &Made| -> Vec<(Vec<u8>, i32)> {
        let bound = plan.bind(output, &image_of(FIRST)).unwrap();
        let source = bound.definition.source.unwrap();
        let locations = &source.locations[bound.digests[&made.digest()].as_str()].locations;
        let line = |location: &pb::Location| location.ranges[0].start.unwrap().line;
        locations
            .iter()
            .map(|at| {
                (
                    source.infos[at.source_index as usize].data.clone(),
                    line(at),
                )
            })
            .collect()
    };
    assert_eq!(
        lines(Output::Edge(FIRST), &one),
        [(b"first".to_vec(), 3), (b"second".to_vec(), 5)]
    );
    assert_eq!(lines(TARGET, &two), [(b"first".to_vec(), 4)]);
    assert_eq!(
        lines(Output::Target(TargetId(1)), &three),
        [(b"second".to_vec(), 6)]
    );
    // Should the pull of an image fail, the line is that of the command that made it.
    let bound = plan.bind(TARGET, &image_of(FIRST)).unwrap();
    let pull = bound.images.first_key_value().unwrap().0;
    assert_eq!(
        bound.definition.source.unwrap().locations[pull.as_str()]
            .locations
            .len(),
        2
    );
}

#[test]
fn of_progress_groups_and_descriptions_the_first_targets_hold() {
    let [base, one, two] = two_homes();
    let three = exec("three", &[(&one, 0)], "linux/s390x");
    let grouped = |id: &str| {
        let mut made = one.clone().named(id);
        made.metadata.progress_group = Some(pb::ProgressGroup {
            id: id.into(),
            ..pb::ProgressGroup::default()
        });
        made
    };
    let (first, second) = (grouped("first"), grouped("second"));
    let plan = plan_of(&[
        ("linux/arm64", &[&base, &first], &two),
        ("linux/s390x", &[&base, &second], &three),
    ]);
    let bound = plan.bind(Output::Edge(FIRST), &BTreeMap::new()).unwrap();
    assert_eq!(
        bound.definition.metadata[one.digest().as_str()],
        first.metadata
    );
}

#[test]
fn each_output_of_a_command_is_an_edge_of_its_own() {
    let base = image("linux/amd64");
    let one = exec("one", &[(&base, 0)], "linux/amd64");
    let two = exec("two", &[(&one, 1), (&one, 0)], "linux/arm64");
    let plan = plan_of(&[("linux/arm64", &[&base, &one], &two)]);
    let outputs: Vec<u32> = plan.edges().iter().map(|edge| edge.output).collect();
    assert_eq!(outputs, [0, 1]);
    assert_ne!(plan.edges()[0].digest, plan.edges()[1].digest);
    let bound = plan
        .bind(Output::Edge(EdgeId(1)), &BTreeMap::new())
        .unwrap();
    assert_eq!(bound.root, Some((one.digest(), 1)));
    // An image has one output only.
    let mut bindings = image_of(EdgeId(0));
    bindings.extend(image_of(EdgeId(1)));
    let (ops, last) = ops(&plan.bind(TARGET, &bindings).unwrap().definition);
    let two = &ops[&croft_planner::OpDigest::new(last.inputs[0].digest.as_str())];
    assert!(
        pb::Op::decode(two.as_slice())
            .unwrap()
            .inputs
            .iter()
            .all(|input| input.index == 0)
    );
}

#[test]
fn no_map_has_an_empty_value_that_buildkit_would_crash_on() {
    let [base, one, two] = two_homes();
    let nowhere = |made: &Made| {
        BTreeMap::from([(made.digest().as_str().to_owned(), pb::Locations::default())])
    };
    let mut definition = llb::definition(&[base, one.clone()], (&two, 0));
    let inner = pb::Source {
        locations: nowhere(&one),
        infos: Vec::new(),
    };
    let inner = pb::Definition {
        source: Some(inner),
        ..pb::Definition::default()
    };
    definition = on_line(definition, &two, b"file", 1);
    let source = definition.source.as_mut().unwrap();
    source.locations.extend(nowhere(&one));
    source.infos[0].definition = Some(inner);
    let targets = vec![target("a", "linux/arm64", Some(definition))];
    let plan = plan(PlanInput { targets }, &options()).unwrap();
    let source = plan
        .bind(TARGET, &held(&plan, FIRST))
        .unwrap()
        .definition
        .source
        .unwrap();
    assert_eq!(
        source.locations.keys().collect::<Vec<_>>(),
        [two.digest().as_str()]
    );
    assert!(
        source.infos[0]
            .definition
            .as_ref()
            .unwrap()
            .source
            .as_ref()
            .unwrap()
            .locations
            .is_empty()
    );
}
