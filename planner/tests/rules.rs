//! One test for each rule that neither the shapes nor the properties show by themselves.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bollard_buildkit_proto::pb;
use croft_planner::{
    BindError, Binding, EdgeId, LocalSource, OpKind, Output, Plan, PlanInput, PlanOptions,
    PlanSummary, Stage, StageId, StageKind, TargetId, plan,
};
use prost::Message;
use support::{
    llb::{self, Made, copy, exec, exec_with, image, source},
    ops, options, planned, platform, target,
};

const REFERENCE: &str =
    "stages.farm/p@sha256:0000000000000000000000000000000000000000000000000000000000000001";

/// The plan of targets `(name, ops, root)`, each for the platform that is its name.
fn plan_of(targets: &[(&str, &[&Made], &Made)]) -> Plan {
    plan(input_of(targets), &options()).unwrap()
}

fn input_of(targets: &[(&str, &[&Made], &Made)]) -> PlanInput {
    let one = |(name, made, root): &(&str, &[&Made], &Made)| {
        let made: Vec<Made> = made.iter().map(|made| (*made).clone()).collect();
        target(name, name, Some(llb::definition(&made, (root, 0))))
    };
    PlanInput {
        targets: targets.iter().map(one).collect(),
    }
}

fn stage(plan: &Plan, number: u32) -> &Stage {
    plan.stage(StageId(number)).unwrap()
}

fn image_of(edge: EdgeId) -> BTreeMap<EdgeId, Binding> {
    let binding = Binding::Image {
        reference: REFERENCE.to_owned(),
        platform: platform("linux/amd64"),
    };
    BTreeMap::from([(edge, binding)])
}

fn held(plan: &Plan, edge: EdgeId) -> BTreeMap<EdgeId, Binding> {
    let bound = plan.bind(Output::Edge(edge), &BTreeMap::new()).unwrap();
    BTreeMap::from([(edge, Binding::Held(Arc::new(bound)))])
}

const FIRST: EdgeId = EdgeId(0);
const TARGET: Output = Output::Target(TargetId(0));

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
    let expected = pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp {
            identifier: format!("docker-image://{REFERENCE}"),
            attrs: BTreeMap::new(),
        })),
        platform: Some(platform("linux/amd64").to_pb()),
        constraints: Some(pb::WorkerConstraints::default()),
        ..pb::Op::default()
    };
    assert_eq!(ops[digest], expected.encode_to_vec());
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

fn context(paths: Option<&str>) -> Made {
    let attrs = [
        ("local.session", "s"),
        ("local.followpaths", paths.unwrap_or_default()),
    ];
    source(
        "local://context",
        &attrs[..1 + usize::from(paths.is_some())],
        None,
    )
}

/// The plan of two targets that differ in one path of the context, with a command on what they share.
fn plan_of_two_contexts(first: &Made, second: &Made, shared_path: &str) -> Plan {
    let base = image("linux/amd64");
    let [a, b] = [first, second].map(|context| {
        let sources = copy(shared_path, &[(&base, 0), (context, 0)]);
        let shared = exec("shared", &[(&sources, 0)], "linux/amd64");
        let own = copy("/a", &[(&shared, 0), (context, 0)]);
        (vec![base.clone(), context.clone(), sources, shared], own)
    });
    let targets = [("linux/amd64", a), ("linux/arm64", b)].map(|(name, (made, own))| {
        let root = copy(name, &[(&own, 0)]);
        let made: Vec<Made> = made.into_iter().chain([own]).collect();
        target(name, name, Some(llb::definition(&made, (&root, 0))))
    });
    plan(
        PlanInput {
            targets: targets.into(),
        },
        &options(),
    )
    .unwrap()
}

#[test]
fn local_sources_that_differ_in_followed_paths_become_one() {
    let plan = plan_of_two_contexts(
        &context(Some(r#"["src","a","z"]"#)),
        &context(Some(r#"["src","a"]"#)),
        "/src/./main.c",
    );
    let shared = stage(&plan, 0);
    assert_eq!((shared.kind, shared.users.len()), (StageKind::Shared, 2));
    let source = shared
        .ops
        .iter()
        .map(|op| plan.op(*op).unwrap())
        .find(|op| op.name == "local://context")
        .unwrap();
    assert_eq!(source.digest, context(Some(r#"["a","src","z"]"#)).digest());
    // All of them, if one of them takes all.
    let plan = plan_of_two_contexts(&context(None), &context(Some(r#"["src","a"]"#)), "/src");
    assert_eq!(stage(&plan, 0).users.len(), 2);
    let source = stage(&plan, 0)
        .ops
        .iter()
        .map(|op| plan.op(*op).unwrap())
        .find(|op| op.name == "local://context")
        .unwrap();
    assert_eq!(source.digest, context(None).digest());
}

#[test]
fn a_local_source_that_someone_sees_whole_stays_as_it_is() {
    for (paths, shared_path) in [
        // Copied whole, or beyond what was followed: with more paths in it, the copy would change.
        (r#"["src","a"]"#, "/"),
        (r#"["src","a"]"#, "/src/../."),
        (r#"["src/x","a"]"#, "/src"),
        (r#"["src","a"]"#, "/srcs"),
        // No list of paths.
        ("src", "/src"),
    ] {
        let plan = plan_of_two_contexts(
            &context(Some(paths)),
            &context(Some(r#"["src","srcs","a","b"]"#)),
            shared_path,
        );
        assert!(
            plan.stages().iter().all(|stage| stage.users.len() == 1),
            "{paths} was merged though {shared_path} is copied"
        );
    }
    let base = image("linux/amd64");
    let [first, second] = [r#"["a"]"#, r#"["a","b"]"#].map(|paths| context(Some(paths)));
    let mounted = |context: &Made, selector: &str, output: i64| {
        let mount = pb::Mount {
            selector: selector.to_owned(),
            ..llb::mount(1, "/in", output)
        };
        let exec = pb::ExecOp {
            mounts: vec![llb::mount(0, "/", 0), mount],
            ..pb::ExecOp::default()
        };
        llb::made(
            &[(&base, 0), (context, 0)],
            Some("linux/amd64"),
            pb::op::Op::Exec(exec),
        )
    };
    for (selector, output, together) in [
        ("/a", -1, true),
        ("/a/b", -1, true),
        ("/", -1, false),
        ("", -1, false),
        ("/a", 1, false),
    ] {
        let [one, two] = [&first, &second].map(|context| mounted(context, selector, output));
        let plan = plan_of(&[
            ("linux/amd64", &[&base, &first], &one),
            ("linux/arm64", &[&base, &second], &two),
        ]);
        assert_eq!(
            plan.stages().len(),
            2 - usize::from(together),
            "mounted {selector:?}, output {output}"
        );
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
