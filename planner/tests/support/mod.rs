//! What the tests share: the fleet that they plan for, and real definitions.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod files;
pub mod llb;

use std::{collections::BTreeMap, fs, path::PathBuf};

use bollard_buildkit_proto::{
    moby::buildkit::v1::frontend::{self, result::Result as Refs},
    pb,
};
use croft_planner::{
    Binding, EdgeId, Homes, Limits, OpDigest, Output, Plan, PlanInput, PlanOptions, Platform,
    Stage, StageId, Target, TargetId, plan,
};
use llb::Made;
use prost::Message;

pub fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

/// Four classes of agents; those of arm64 run 32-bit arm too. The frontend ran on amd64.
pub fn options() -> PlanOptions {
    let classes = [
        vec!["linux/amd64", "linux/amd64/v2", "linux/386"],
        vec!["linux/arm64", "linux/arm/v7", "linux/arm/v6"],
        vec!["linux/ppc64le"],
        vec!["linux/s390x"],
    ];
    let homes: Homes = classes
        .into_iter()
        .map(|platforms| (platform(platforms[0]), platforms.into_iter().map(platform)))
        .collect();
    PlanOptions {
        build_platform: platform("linux/amd64"),
        homes,
        project: "shapes".to_owned(),
        shared_keys: BTreeMap::new(),
        limits: Limits::default(),
    }
}

pub fn shapes() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/shapes")
}

/// The names of all captured definitions.
pub fn shape_names() -> Vec<String> {
    let files = fs::read_dir(shapes())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let captured = files.filter(|path| path.extension().is_some_and(|extension| extension == "pb"));
    let mut names: Vec<String> = captured
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert!(
        names.len() >= 18,
        "captured definitions are missing: {names:?}"
    );
    names
}

/// What the frontend answered for a shape, its targets in the order that it gave.
pub fn shape(name: &str) -> PlanInput {
    let bytes = fs::read(shapes().join(name).with_extension("pb")).unwrap();
    let result = frontend::Result::decode(bytes.as_slice()).unwrap();
    let mut refs = match result.result.unwrap() {
        Refs::Ref(one) => {
            return PlanInput {
                targets: vec![target("", "linux/arm64", one.def)],
            };
        }
        Refs::Refs(refs) => refs.refs,
        other => panic!("{name} was captured from an engine that is too old: {other:?}"),
    };
    let order: serde_json::Value =
        serde_json::from_slice(&result.metadata["refs.platforms"]).unwrap();
    let ids = order["Platforms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["ID"].as_str().unwrap());
    PlanInput {
        targets: ids
            .map(|id| target(id, id, refs.remove(id).unwrap().def))
            .collect(),
    }
}

pub fn target(name: &str, runs_on: &str, definition: Option<pb::Definition>) -> Target {
    Target {
        name: name.to_owned(),
        platform: platform(runs_on),
        definition,
    }
}

/// The plan of a shape.
pub fn planned(name: &str) -> Plan {
    croft_planner::plan(shape(name), &options()).unwrap()
}

/// The ops of a definition by digest, the last one apart.
pub fn ops(definition: &pb::Definition) -> (BTreeMap<OpDigest, Vec<u8>>, pb::Op) {
    let (last, ops) = definition.def.split_last().unwrap();
    (
        ops.iter()
            .map(|op| (OpDigest::of(op), op.clone()))
            .collect(),
        pb::Op::decode(last.as_slice()).unwrap(),
    )
}

/// The plan of targets `(name, ops, root)`, each for the platform that is its name.
pub fn plan_of(targets: &[(&str, &[&Made], &Made)]) -> Plan {
    plan(input_of(targets), &options()).unwrap()
}

pub fn input_of(targets: &[(&str, &[&Made], &Made)]) -> PlanInput {
    let one = |(name, made, root): &(&str, &[&Made], &Made)| {
        let made: Vec<Made> = made.iter().map(|made| (*made).clone()).collect();
        target(name, name, Some(llb::definition(&made, (root, 0))))
    };
    PlanInput {
        targets: targets.iter().map(one).collect(),
    }
}

pub fn stage(plan: &Plan, number: u32) -> &Stage {
    plan.stage(StageId(number)).unwrap()
}

pub const REFERENCE: &str =
    "stages.farm/p@sha256:0000000000000000000000000000000000000000000000000000000000000001";

pub fn image_of(edge: EdgeId) -> BTreeMap<EdgeId, Binding> {
    let binding = Binding::Image {
        reference: REFERENCE.to_owned(),
        platform: platform("linux/amd64"),
    };
    BTreeMap::from([(edge, binding)])
}

/// The first of a plan's cut edges, and its first target.
pub const FIRST: EdgeId = EdgeId(0);
pub const TARGET: Output = Output::Target(TargetId(0));
