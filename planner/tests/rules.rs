//! One test for each rule that neither the shapes nor the properties show by themselves.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb;
use croft_planner::{
    LocalSource, OpKind, PlanInput, PlanOptions, PlanSummary, Stage, StageKind, TargetId, plan,
};
use support::{
    FIRST, TARGET, image_of, input_of,
    llb::{self, Made, copy, exec, exec_with, image, source},
    options, plan_of, planned, platform, stage, target,
};

#[test]
fn empty_images_are_one_stage_without_ops() {
    let empty = Some(pb::Definition::default());
    let targets = vec![
        target("a", "linux/amd64", None),
        target("b", "linux/arm64", empty),
    ];
    let plan = plan(PlanInput { targets }, &options()).unwrap();
    assert_eq!(plan.stages().len(), 1);
    let stage = stage(&plan, 0);
    assert_eq!(
        (stage.results.as_slice(), &stage.home, stage.ops.len()),
        (&[TargetId(0), TargetId(1)][..], &None, 0)
    );
    let bound = plan.bind(TARGET, &BTreeMap::new()).unwrap();
    assert_eq!(
        (bound.root, bound.definition),
        (None, pb::Definition::default())
    );
}

#[test]
fn a_command_without_a_platform_runs_where_the_frontend_did_and_its_image_is_of_its_root() {
    let base = image("linux/s390x");
    let plain = exec_with("plain", &[(&base, 0)], None, Vec::new());
    let last = exec("last", &[(&plain, 0)], "linux/arm64");
    let plan = plan_of(&[("linux/arm64", &[&base, &plain], &last)]);
    assert_eq!(
        stage(&plan, 0).home.as_ref().unwrap().platform(),
        &platform("linux/amd64")
    );
    assert_eq!(
        stage(&plan, 0).platforms,
        BTreeSet::from([platform("linux/amd64")])
    );
    assert_eq!(plan.edges()[0].platform, platform("linux/s390x"));
}

#[test]
fn a_target_without_commands_goes_where_its_base_is_or_else_to_its_feeder() {
    let amd64 = image("linux/amd64");
    let arm64 = image("linux/arm64");
    let built = exec("build", &[(&amd64, 0)], "linux/amd64");
    let installed = exec("install", &[(&arm64, 0)], "linux/arm64");
    let made: [&Made; 4] = [&amd64, &arm64, &built, &installed];
    let onto_scratch = copy("/out", &[(&built, 0)]);
    let onto_root = copy("/out", &[(&installed, 0), (&built, 0)]);
    let merged = llb::merge(&[(&installed, 0), (&onto_scratch, 0)]);
    let plan = plan_of(&[
        ("linux/arm64", &made, &onto_root),
        ("linux/s390x", &made, &onto_scratch),
    ]);
    let [root, scratch] = [0, 1].map(|target| stage(&plan, plan.targets()[target].stage.0));
    let of = |stage: &Stage| {
        plan.op(plan.stage(stage.placed_with.unwrap()).unwrap().ops[1])
            .unwrap()
            .name
            .clone()
    };
    assert_eq!(
        (of(scratch).as_str(), &scratch.home, scratch.kind),
        ("build", &None, StageKind::Target)
    );
    // The whole root stays where it is; what travels is the file.
    assert_eq!((of(root).as_str(), &root.home), ("install", &None));
    let made = [&amd64, &arm64, &built, &installed, &onto_scratch];
    let plan = plan_of(&[("linux/arm64", &made, &merged)]);
    let end = stage(&plan, plan.targets()[0].stage.0);
    let feeder = stage(&plan, end.placed_with.unwrap().0);
    assert_eq!(
        feeder.home.as_ref().unwrap().platform(),
        &platform("linux/arm64")
    );
}

#[test]
fn stages_of_one_home_meet_where_a_later_one_takes_the_whole_roots_of_both() {
    let amd64 = image("linux/amd64");
    let arm64 = image("linux/arm64");
    let shared = exec("shared", &[(&amd64, 0)], "linux/amd64");
    // Each platform compiles on the build platform, and copies that onto a root of its own.
    let image_of = |base: &Made, platform: &str| {
        let compiled = exec(
            &format!("compile {platform}"),
            &[(&shared, 0)],
            "linux/amd64",
        );
        let installed = exec(&format!("install {platform}"), &[(base, 0)], platform);
        let copied = copy("/out", &[(&installed, 0), (&compiled, 0)]);
        [compiled, installed, copied]
    };
    let one = image_of(&amd64, "linux/amd64");
    let other = image_of(&arm64, "linux/arm64");
    let base = [&amd64, &arm64, &shared];
    let made: Vec<&Made> = base.into_iter().chain(&one).chain(&other).collect();
    let plan = plan_of(&[
        ("linux/amd64", &made, &one[2]),
        ("linux/arm64", &made, &other[2]),
    ]);
    let met: Vec<(&str, Vec<u32>)> = plan
        .stages()
        .iter()
        .map(|stage| {
            (
                stage.name.as_str(),
                stage.meets.iter().map(|other| other.0).collect(),
            )
        })
        .collect();
    // The copy onto the base of the build platform's own image has both roots; the other platform's takes the copied files only.
    let expected = [
        ("shared", vec![1]),
        ("install linux/amd64", vec![0]),
        ("install linux/arm64", vec![]),
        ("compile linux/amd64, copy /out /", vec![]),
        ("compile linux/arm64", vec![]),
        ("copy /out /", vec![]),
    ];
    assert_eq!(met, expected);
}

#[test]
fn a_stage_says_what_its_agent_must_be_able_to_do() {
    let base = image("linux/amd64");
    let context = source("local://context", &[("local.session", "s1")], None);
    let layout = source(
        "oci-layout://x@sha256:0",
        &[("oci.session", "s2"), ("oci.store", "store")],
        Some("linux/amd64"),
    );
    let mount = |kind: pb::MountType| pb::Mount {
        mount_type: kind.into(),
        ..llb::mount(-1, "/m", -1)
    };
    let secret = pb::Mount {
        secret_opt: Some(pb::SecretOpt {
            id: "token".into(),
            ..pb::SecretOpt::default()
        }),
        ..mount(pb::MountType::Secret)
    };
    let ssh = pb::Mount {
        ssh_opt: Some(pb::SshOpt {
            id: "key".into(),
            ..pb::SshOpt::default()
        }),
        ..mount(pb::MountType::Ssh)
    };
    let unnamed_cache = pb::Mount {
        dest: "/root/.cache".into(),
        ..mount(pb::MountType::Cache)
    };
    let device = |name: &str, optional| pb::CdiDevice {
        name: name.into(),
        optional,
    };
    let exec = pb::ExecOp {
        meta: Some(pb::Meta {
            args: vec!["run".into()],
            ..pb::Meta::default()
        }),
        mounts: vec![
            llb::mount(0, "/", 0),
            llb::mount(1, "/src", -1),
            llb::mount(2, "/l", -1),
            secret,
            ssh,
            unnamed_cache,
            llb::cache_mount("mods"),
        ],
        network: pb::NetMode::Host.into(),
        security: pb::SecurityMode::Insecure.into(),
        secretenv: vec![pb::SecretEnv {
            id: "env".into(),
            name: "E".into(),
            optional: true,
        }],
        cdi_devices: vec![device("gpu=0", false), device("gpu=1", true)],
    };
    let mut run = llb::made(
        &[(&base, 0), (&context, 0), (&layout, 0)],
        Some("linux/386"),
        pb::op::Op::Exec(exec),
    );
    run.metadata.caps = BTreeMap::from([
        ("exec.meta.base".to_owned(), true),
        ("never".to_owned(), false),
    ]);
    let plan = plan_of(&[("linux/amd64", &[&base, &context, &layout], &run)]);
    let stage = stage(&plan, 0);
    let set = |items: &[&str]| {
        items
            .iter()
            .map(|item| (*item).to_owned())
            .collect::<BTreeSet<String>>()
    };
    assert_eq!(
        stage.requirements.entitlements,
        set(&["network.host", "security.insecure"])
    );
    assert_eq!(stage.requirements.devices, set(&["gpu=0"]));
    assert_eq!(stage.requirements.caps, set(&["exec.meta.base"]));
    assert_eq!(stage.cache_mounts, set(&["/root/.cache", "mods"]));
    assert_eq!(
        (&stage.secrets, &stage.ssh),
        (&set(&["env", "token"]), &set(&["key"]))
    );
    let local = |name: &str, session: &str| LocalSource {
        name: name.into(),
        session: session.into(),
    };
    assert_eq!(
        stage.local_sources,
        BTreeSet::from([local("context", "s1"), local("store", "s2")])
    );
    let required = plan.required_platforms();
    assert_eq!(
        required[stage.home.as_ref().unwrap()],
        BTreeSet::from([platform("linux/386")])
    );
}

#[test]
fn what_can_be_read_once_is_read_by_one_stage_that_says_so() {
    let upload = source("http://buildkit-session/upload", &[], None);
    let target = |of: &str| {
        let base = image(of);
        let copied = copy("/context", &[(&base, 0), (&upload, 0)]);
        let last = exec("last", &[(&copied, 0)], of);
        (base, copied, last)
    };
    let (near, far) = (target("linux/amd64"), target("linux/arm64"));
    let plan = plan_of(&[
        ("linux/amd64", &[&near.0, &upload, &near.1], &near.2),
        ("linux/arm64", &[&far.0, &upload, &far.1], &far.2),
    ]);
    let once: Vec<_> = plan.stages().iter().filter(|s| s.reads_once).collect();
    assert_eq!((plan.stages().len(), once.len()), (3, 1));
    assert_eq!((&once[0].home, once[0].outputs.len()), (&None, 1));
    let takers = |stage: &&Stage| stage.inputs == once[0].outputs;
    assert_eq!(plan.stages().iter().filter(takers).count(), 2);
}

#[test]
fn cache_identities_know_project_and_client_but_no_session() {
    let identities = |session: &str, project: &str, key: &str| {
        let base = image("linux/amd64");
        let context = source(
            "local://context",
            &[("local.session", session), ("local.unique", session)],
            None,
        );
        let copied = copy("/src", &[(&base, 0), (&context, 0)]);
        let run = exec("run", &[(&copied, 0)], "linux/amd64");
        let shared_keys = BTreeMap::from([(session.to_owned(), key.to_owned())]);
        let options = PlanOptions {
            project: project.to_owned(),
            shared_keys,
            ..options()
        };
        let plan = plan(
            input_of(&[("linux/amd64", &[&base, &context, &copied], &run)]),
            &options,
        )
        .unwrap();
        let stage = stage(&plan, 0);
        (
            stage.identity.clone(),
            stage.cache.clone(),
            stage.digest.clone(),
        )
    };
    let (first, again) = (identities("s1", "p", "k"), identities("s2", "p", "k"));
    assert_eq!((&first.0, &first.1), (&again.0, &again.1));
    assert_ne!(first.2, again.2);
    for other in [identities("s1", "q", "k"), identities("s1", "p", "l")] {
        assert!(first.0 != other.0 && first.1 != other.1);
    }
}

#[test]
fn ops_of_newer_buildkits_survive_and_only_a_passthrough_is_repeated() {
    let base = image("linux/amd64");
    let run = exec("run", &[(&base, 0)], "linux/amd64");
    let newer = |field: u8| {
        let mut bytes = llb::merge(&[(&run, 0)]).bytes;
        let merge = bytes.windows(2).position(|pair| pair == [0x32, 2]).unwrap();
        bytes[merge] = field << 3 | 2;
        Made {
            bytes,
            metadata: pb::OpMetadata::default(),
        }
    };
    for (field, kind) in [(8, OpKind::Passthrough), (9, OpKind::Unknown)] {
        let newer = newer(field);
        let [one, two] =
            ["linux/arm64", "linux/s390x"].map(|home| exec(home, &[(&newer, 0)], home));
        let plan = plan_of(&[
            ("linux/arm64", &[&base, &run, &newer], &one),
            ("linux/s390x", &[&base, &run, &newer], &two),
        ]);
        let found: Vec<&Stage> = plan
            .stages()
            .iter()
            .filter(|stage| {
                stage
                    .ops
                    .iter()
                    .any(|op| plan.op(*op).unwrap().digest == newer.digest())
            })
            .collect();
        assert!(
            found
                .iter()
                .flat_map(|stage| &stage.ops)
                .any(|op| plan.op(*op).unwrap().kind == kind)
        );
        assert_eq!(found.len(), if kind.is_movable() { 2 } else { 1 });
        let bound = plan.bind(TARGET, &image_of(FIRST)).unwrap();
        assert_eq!(
            bound
                .definition
                .def
                .iter()
                .any(|op| op.ends_with(&newer.bytes[newer.bytes.len() - 6..])),
            kind.is_movable()
        );
    }
}

#[test]
fn a_plan_can_be_stored_and_read() {
    let summary = planned("7-mounts").describe();
    let json = serde_json::to_string(&summary).unwrap();
    assert_eq!(serde_json::from_str::<PlanSummary>(&json).unwrap(), summary);
    for stage in planned("7-mounts").stages() {
        let json = serde_json::to_string(stage).unwrap();
        assert_eq!(&serde_json::from_str::<Stage>(&json).unwrap(), stage);
    }
}
