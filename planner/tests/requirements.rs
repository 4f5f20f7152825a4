//! What stages ask of their agents: requirements are no homes, homes are classes, and those that share an agent ask for all that one of
//! them needs.

mod support;

use std::collections::BTreeSet;

use bollard_buildkit_proto::pb;
use croft_planner::{Homes, Plan, PlanOptions, Stage, StageKind, plan};
use support::{
    input_of,
    llb::{self, Made, copy, exec, exec_with, image},
    options, plan_of, platform,
};

/// A command on a root that asks for more than the ordinary.
fn exec_asking(command: &str, on: &Made, runs_on: &str, ask: impl FnOnce(&mut pb::ExecOp)) -> Made {
    let mut exec = pb::ExecOp {
        meta: Some(pb::Meta {
            args: vec![command.to_owned()],
            cwd: "/".to_owned(),
            ..pb::Meta::default()
        }),
        mounts: vec![llb::mount(0, "/", 0)],
        ..pb::ExecOp::default()
    };
    ask(&mut exec);
    llb::made(&[(on, 0)], Some(runs_on), pb::op::Op::Exec(exec))
}

fn insecure(exec: &mut pb::ExecOp) {
    exec.security = pb::SecurityMode::Insecure.into();
}

fn with_host_network(exec: &mut pb::ExecOp) {
    exec.network = pb::NetMode::Host.into();
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// The stage that has the command.
fn stage_of<'a>(plan: &'a Plan, command: &str) -> &'a Stage {
    let has = |stage: &&Stage| {
        let mut ops = stage.ops.iter().filter_map(|op| plan.op(*op));
        ops.any(|op| op.name == command)
    };
    plan.stages().iter().find(has).expect("in some stage")
}

#[test]
fn a_plain_an_insecure_and_a_plain_command_are_one_stage() {
    let base = image("linux/amd64");
    let before = exec("before", &[(&base, 0)], "linux/amd64");
    let middle = exec_asking("insecure", &before, "linux/amd64", insecure);
    let host = exec_asking("host", &middle, "linux/amd64", with_host_network);
    let after = exec("after", &[(&host, 0)], "linux/amd64");
    let plan = plan_of(&[("linux/amd64", &[&base, &before, &middle, &host], &after)]);
    assert_eq!((plan.stages().len(), plan.edges().len()), (1, 0));
    assert_eq!(
        plan.stages()[0].requirements.entitlements,
        set(&["network.host", "security.insecure"])
    );
}

#[test]
fn commands_of_one_class_are_one_stage_that_needs_all_of_their_platforms() {
    let base = image("linux/amd64");
    let small = exec("small", &[(&base, 0)], "linux/386");
    let level = exec("level", &[(&small, 0)], "linux/amd64/v2");
    let last = exec("last", &[(&level, 0)], "linux/amd64");
    let plan = plan_of(&[("linux/386", &[&base, &small, &level], &last)]);
    let [only] = plan.stages() else {
        panic!("{:#?}", plan.stages())
    };
    let all = ["linux/386", "linux/amd64", "linux/amd64/v2"].map(platform);
    assert_eq!(only.platforms, BTreeSet::from(all));
    // Its target is of the class that it runs on.
    assert_eq!(only.kind, StageKind::Target);
}

#[test]
fn arm_lives_with_arm64_where_an_agent_proves_it_and_by_itself_where_none_does() {
    let base = image("linux/arm64");
    let wide = exec("wide", &[(&base, 0)], "linux/arm64");
    let narrow = exec("narrow", &[(&wide, 0)], "linux/arm/v7");
    let ops = [&base, &wide];
    let homes = |agents: &[&[&str]]| {
        let agents = agents.iter().map(|platforms| {
            let platforms: Vec<_> = platforms.iter().map(|text| platform(text)).collect();
            (platforms[0].clone(), platforms)
        });
        let options = PlanOptions {
            homes: agents.collect::<Homes>(),
            ..options()
        };
        let plan = plan(input_of(&[("linux/arm/v7", &ops, &narrow)]), &options).unwrap();
        let homes = plan
            .stages()
            .iter()
            .map(|stage| stage.home.clone().unwrap().to_string());
        homes.collect::<Vec<_>>()
    };
    let proven = ["linux/arm64", "linux/arm/v7"];
    assert_eq!(homes(&[&["linux/arm64"], &proven]), ["linux/arm64"]);
    assert_eq!(
        homes(&[&["linux/amd64"], &["linux/arm64"]]),
        ["linux/arm64", "linux/arm/v7"]
    );
}

#[test]
fn stages_that_share_a_cache_mount_all_ask_for_what_one_of_them_needs() {
    let base = image("linux/amd64");
    let mount = |id: &str| vec![llb::cache_mount(id)];
    let fill = exec_with("fill", &[(&base, 0)], Some("linux/amd64"), mount("go"));
    let plain = exec("plain", &[(&fill, 0)], "linux/amd64");
    let small = exec_with("small", &[(&fill, 0)], Some("linux/386"), mount("go"));
    let special = exec_asking("special", &fill, "linux/amd64", |exec| {
        insecure(exec);
        exec.mounts.push(llb::cache_mount("go"));
    });
    let apart = exec_with("apart", &[(&fill, 0)], Some("linux/amd64"), mount("rust"));
    let ops = [&base, &fill];
    let plan = plan_of(&[
        ("linux/amd64", &ops, &plain),
        ("linux/386", &ops, &small),
        ("linux/amd64/v2", &ops, &special),
        ("linux/amd64/v3", &ops, &apart),
    ]);
    let members = ["fill", "small", "special"].map(|name| stage_of(&plan, name));
    for member in members {
        assert_eq!(member.together, Some(members[0].id), "{}", member.name);
        assert_eq!(
            member.platforms,
            ["linux/386", "linux/amd64"].map(platform).into()
        );
        assert_eq!(
            member.requirements.entitlements,
            set(&["security.insecure"])
        );
    }
    for alone in ["plain", "apart"].map(|name| stage_of(&plan, name)) {
        assert_eq!(alone.together, None);
        assert_eq!(alone.platforms, [platform("linux/amd64")].into());
        assert_eq!(alone.requirements.entitlements, set(&[]));
    }
}

#[test]
fn a_cache_mount_is_another_one_on_another_home() {
    let amd64 = image("linux/amd64");
    let arm64 = image("linux/arm64");
    let mount = || vec![llb::cache_mount("go")];
    let there = exec_with("there", &[(&amd64, 0)], Some("linux/amd64"), mount());
    let file = copy("/out", &[(&arm64, 0), (&there, 0)]);
    let here = exec_with("here", &[(&file, 0)], Some("linux/arm64"), mount());
    let plan = plan_of(&[("linux/arm64", &[&amd64, &arm64, &there, &file], &here)]);
    assert_eq!(plan.stages().len(), 2);
    assert!(plan.stages().iter().all(|stage| stage.together.is_none()));
}
