//! Definitions come from outside. Whatever is in them, there is a plan or an error that says where, in time and memory that follow
//! what was sent.

mod support;

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb;
use croft_planner::{
    Binding, Limits, OpDigest, Output, PlanError, PlanInput, PlanOptions, TargetId, plan,
};
use support::{
    llb::{self, Made, copy, exec, image, last},
    options, target,
};

fn input(definition: pb::Definition) -> PlanInput {
    PlanInput {
        targets: vec![target("linux/arm64", "linux/arm64", Some(definition))],
    }
}

fn of_ops(def: Vec<Vec<u8>>) -> PlanInput {
    input(pb::Definition {
        def,
        ..pb::Definition::default()
    })
}

fn error(input: PlanInput) -> PlanError {
    plan(input, &options()).unwrap_err()
}

fn with_limits(limits: Limits) -> PlanOptions {
    PlanOptions {
        limits,
        ..options()
    }
}

#[test]
fn a_malformed_definition_is_refused_with_its_place() {
    let base = image("linux/arm64");
    let other = image("linux/amd64");
    let run = exec("run", &[(&base, 0)], "linux/arm64");
    let target_name = "linux/arm64".to_owned();

    let found = error(of_ops(vec![
        base.bytes.clone(),
        vec![0xff, 0xff],
        last(&[(base.digest(), 0)]),
    ]));
    let expected = OpDigest::of(&[0xff, 0xff]);
    assert!(
        matches!(&found, PlanError::Undecodable { number: 1, op, .. } if *op == expected),
        "{found}"
    );
    assert!(
        found.to_string().starts_with("linux/arm64: op 1 (sha256:"),
        "{found}"
    );

    let found = error(of_ops(vec![run.bytes.clone(), last(&[(run.digest(), 0)])]));
    let input = base.digest().as_str().to_owned();
    assert_eq!(
        found,
        PlanError::MissingInput {
            target: target_name.clone(),
            op: run.digest(),
            input
        }
    );

    let found = error(of_ops(vec![base.bytes.clone()]));
    assert_eq!(
        found,
        PlanError::NoRoot {
            target: target_name.clone()
        }
    );

    let roots = last(&[(base.digest(), 0), (other.digest(), 0)]);
    let found = error(of_ops(vec![base.bytes.clone(), other.bytes.clone(), roots]));
    assert_eq!(
        found,
        PlanError::SeveralRoots {
            target: target_name.clone(),
            count: 2
        }
    );

    for index in [-1, 1, i64::MAX, i64::MIN] {
        let run = exec("run", &[(&base, index)], "linux/arm64");
        let found = error(of_ops(vec![
            base.bytes.clone(),
            run.bytes.clone(),
            last(&[(run.digest(), 0)]),
        ]));
        let expected = PlanError::NoSuchOutput {
            target: target_name.clone(),
            op: run.digest(),
            input: base.digest(),
            index,
        };
        assert_eq!(found, expected);
    }
    // An exec has as many outputs as its mounts say: here the root and one more.
    let two = of_ops(vec![
        base.bytes.clone(),
        run.bytes.clone(),
        last(&[(run.digest(), 1)]),
    ]);
    assert!(plan(two, &options()).is_ok());
    let three = of_ops(vec![
        base.bytes.clone(),
        run.bytes.clone(),
        last(&[(run.digest(), 2)]),
    ]);
    assert!(matches!(
        error(three),
        PlanError::NoSuchOutput { index: 2, .. }
    ));
}

#[test]
fn inputs_are_looked_for_in_the_targets_own_definition_only() {
    let base = image("linux/arm64");
    let run = exec("run", &[(&base, 0)], "linux/arm64");
    let whole = llb::definition(&[base], (&run, 0));
    let partial = pb::Definition {
        def: vec![run.bytes.clone(), last(&[(run.digest(), 0)])],
        ..pb::Definition::default()
    };
    let targets = vec![
        target("a", "linux/arm64", Some(whole)),
        target("b", "linux/arm64", Some(partial)),
    ];
    for targets in [targets.clone(), targets.into_iter().rev().collect()] {
        let found = error(PlanInput { targets });
        assert!(
            matches!(&found, PlanError::MissingInput { target, .. } if target == "b"),
            "{found}"
        );
    }
}

#[test]
fn targets_must_be_there_few_and_named_apart() {
    assert_eq!(error(PlanInput::default()), PlanError::NoTargets);
    let twice = vec![
        target("a", "linux/arm64", None),
        target("a", "linux/amd64", None),
    ];
    assert_eq!(
        error(PlanInput { targets: twice }),
        PlanError::SameName {
            name: "a".to_owned()
        }
    );
    let many = |count: usize| PlanInput {
        targets: (0..count)
            .map(|n| target(&n.to_string(), "linux/arm64", None))
            .collect(),
    };
    let limits = Limits {
        max_targets: 1000,
        ..Limits::default()
    };
    assert!(plan(many(256), &with_limits(limits)).is_ok());
    let found = plan(many(257), &with_limits(limits)).unwrap_err();
    assert_eq!(
        found,
        PlanError::TooMany {
            what: "targets",
            limit: 256
        }
    );
}

#[test]
fn each_limit_is_kept() {
    let base = image("linux/arm64");
    let run = exec("run", &[(&base, 0)], "linux/arm64");
    let definition = llb::definition(std::slice::from_ref(&base), (&run, 0));
    let bytes = definition.def.iter().map(Vec::len).sum();
    let fits = Limits {
        max_targets: 1,
        max_ops: 3,
        max_bytes: bytes,
        max_op_bytes: run.bytes.len(),
        max_stages: 1,
        max_stage_ops: 3,
        max_written_bytes: 2 * 512 + bytes,
    };
    assert!(plan(input(definition.clone()), &with_limits(fits)).is_ok());
    for too_small in [
        Limits {
            max_targets: 0,
            ..fits
        },
        Limits { max_ops: 2, ..fits },
        Limits {
            max_bytes: bytes - 1,
            ..fits
        },
        Limits {
            max_op_bytes: run.bytes.len() - 1,
            ..fits
        },
        Limits {
            max_stages: 0,
            ..fits
        },
        Limits {
            max_stage_ops: 2,
            ..fits
        },
        Limits {
            max_written_bytes: 2 * 512,
            ..fits
        },
    ] {
        let found = plan(input(definition.clone()), &with_limits(too_small));
        assert!(
            matches!(
                found,
                Err(PlanError::TooMany { .. } | PlanError::OpTooLarge { .. })
            ),
            "{too_small:?} let it through"
        );
    }
}

#[test]
fn an_op_of_countless_tiny_parts_is_refused_before_it_is_decoded() {
    // Two bytes on the wire, 250 in memory: a mount without content.
    let mounts: Vec<u8> = [0x12, 0x00].repeat(1 << 20);
    let mut exec = vec![0x12];
    prost::encoding::encode_varint(mounts.len() as u64, &mut exec);
    exec.extend(mounts);
    let found = error(of_ops(vec![
        exec.clone(),
        last(&[(OpDigest::of(&exec), 0)]),
    ]));
    assert!(
        matches!(found, PlanError::OpTooLarge { what: "fields", .. }),
        "{found}"
    );
}

/// A definition of ops that were made in order, the last one its root.
fn chain(ops: Vec<Made>) -> PlanInput {
    let root = ops.last().unwrap().digest();
    let mut def: Vec<Vec<u8>> = ops.into_iter().map(|made| made.bytes).collect();
    def.push(last(&[(root, 0)]));
    of_ops(def)
}

const MANY: usize = 100_000;

fn any_number_of_stages() -> PlanOptions {
    with_limits(Limits {
        max_stages: usize::MAX,
        max_written_bytes: usize::MAX,
        ..Limits::default()
    })
}

#[test]
fn a_hundred_thousand_commands_on_one_another_are_one_stage() {
    let mut ops = vec![image("linux/arm64")];
    for number in 0..MANY {
        ops.push(exec(
            &number.to_string(),
            &[(&ops[number], 0)],
            "linux/arm64",
        ));
    }
    let plan = plan(chain(ops), &options()).unwrap();
    assert_eq!(
        (plan.stages().len(), plan.stages()[0].ops.len()),
        (1, MANY + 1)
    );
    let bound = plan
        .bind(Output::Target(TargetId(0)), &BTreeMap::new())
        .unwrap();
    assert_eq!(bound.definition.def.len(), MANY + 2);
}

#[test]
fn a_hundred_thousand_changes_of_home_are_as_many_stages() {
    let mut ops = vec![image("linux/arm64")];
    for number in 0..MANY {
        let home = ["linux/arm64", "linux/amd64"][number % 2];
        ops.push(exec(&number.to_string(), &[(&ops[number], 0)], home));
    }
    let found = plan(chain(ops.clone()), &options()).map(|plan| plan.stages().len());
    assert!(matches!(
        found,
        Err(PlanError::TooMany { what: "stages", .. })
    ));
    let plan = plan(chain(ops), &any_number_of_stages()).unwrap();
    assert_eq!((plan.stages().len(), plan.edges().len()), (MANY, MANY - 1));
    let last = plan.edges().last().unwrap();
    let reference = format!("stages.farm/p@sha256:{:064}", 0);
    let image = Binding::Image {
        reference,
        platform: last.platform.clone(),
    };
    let bound = plan
        .bind(
            Output::Target(TargetId(0)),
            &BTreeMap::from([(last.id, image)]),
        )
        .unwrap();
    assert_eq!(bound.definition.def.len(), 3);
}

#[test]
fn a_hundred_thousand_commands_beside_one_another_are_as_many_stages() {
    let base = image("linux/arm64");
    let commands: Vec<Made> = (0..MANY)
        .map(|number| exec(&number.to_string(), &[(&base, 0)], "linux/arm64"))
        .collect();
    let digests: Vec<(&Made, i64)> = commands.iter().map(|made| (made, 0)).collect();
    // In bundles, since no op may have so many inputs.
    let bundles: Vec<Made> = digests.chunks(1000).map(llb::merge).collect();
    let all = elsewhere(&bundles);
    let ops = [base]
        .into_iter()
        .chain(commands)
        .chain(bundles)
        .chain(all)
        .collect();
    let plan = plan(chain(ops), &any_number_of_stages()).unwrap();
    assert_eq!(
        (plan.stages().len(), plan.edges().len()),
        (MANY + 2, MANY + 1)
    );
}

/// Ops that take all of `made` and end on another home, so that they hold nothing together.
fn elsewhere(made: &[Made]) -> [Made; 2] {
    let first = exec("elsewhere", &[], "linux/amd64");
    let inputs = [&first].into_iter().chain(made).map(|made| (made, 0));
    let last = llb::merge(&inputs.collect::<Vec<_>>());
    [first, last]
}

#[test]
fn results_along_a_chain_are_bounded_by_what_their_definitions_come_to() {
    let chain_of = |count: usize| {
        let mut ops = vec![image("linux/arm64")];
        for number in 0..count {
            ops.push(exec(
                &number.to_string(),
                &[(&ops[number], 0)],
                "linux/arm64",
            ));
        }
        let all = elsewhere(&ops[1..]);
        ops.extend(all);
        plan(chain(ops), &options())
    };
    assert_eq!(chain_of(100).unwrap().edges().len(), 101);
    let found = chain_of(5_000).map(|plan| plan.edges().len());
    assert!(
        matches!(found, Err(PlanError::TooMany { what, .. }) if what.contains("definitions")),
        "{found:?}"
    );
}

#[test]
fn copies_that_every_stage_would_repeat_are_bounded() {
    // The n-th command needs n copies: together half of n squared.
    let count = 5_000;
    let mut copies = vec![image("linux/arm64")];
    let mut commands = Vec::new();
    for number in 0..count {
        let next = copy(
            &format!("/{number}"),
            &[(&copies[number], 0), (&copies[0], 0)],
        );
        commands.push(exec(&number.to_string(), &[(&next, 0)], "linux/arm64"));
        copies.push(next);
    }
    let all = elsewhere(&commands);
    let ops = copies.into_iter().chain(commands).chain(all).collect();
    let found = plan(chain(ops), &any_number_of_stages())
        .map(|plan| plan.stages().len())
        .unwrap_err();
    assert!(
        matches!(
            found,
            PlanError::TooMany {
                what: "ops in all stages together",
                ..
            }
        ),
        "{found}"
    );
}

#[test]
fn a_union_of_many_targets_takes_the_time_of_its_parts() {
    // Deep, and all shared: 64 targets whose ends differ.
    let mut ops = vec![image("linux/arm64")];
    for number in 0..2_000 {
        let run = exec(&number.to_string(), &[(&ops[2 * number], 0)], "linux/arm64");
        let copied = copy("/x", &[(&run, 0), (&ops[2 * number], 0)]);
        ops.extend([run, copied]);
    }
    let targets = (0..64).map(|number| {
        let root = exec(
            &format!("end {number}"),
            &[(ops.last().unwrap(), 0)],
            "linux/amd64",
        );
        target(
            &number.to_string(),
            "linux/amd64",
            Some(llb::definition(&ops, (&root, 0))),
        )
    });
    let limits = Limits {
        max_ops: 1_000_000,
        max_written_bytes: usize::MAX,
        ..Limits::default()
    };
    let plan = plan(
        PlanInput {
            targets: targets.collect(),
        },
        &with_limits(limits),
    )
    .unwrap();
    assert_eq!(plan.stages().len(), 65);
}
