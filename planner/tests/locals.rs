//! Local sources that differ only in the paths that they follow.

mod support;

use bollard_buildkit_proto::pb;
use croft_planner::{Plan, PlanInput, StageKind, plan};
use support::{
    llb::{self, Made, copy, exec, image, source},
    options, plan_of, stage, target,
};

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
