//! What is cut of a result looks to those who read it as the whole does: tried on random trees of files and random copies, in a model of
//! what an engine does.

mod support;

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb;
use croft_planner::{CutEdge, NarrowPath, Narrowing, OpDigest, Output, Plan};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use prost::Message;
use support::{
    files::{self, Folder, Node, Refused},
    llb::{self, Made, exec, image},
    ops, plan_of,
};

const NAMES: [&str; 3] = ["a", "b", "ab"];

fn tree() -> impl Strategy<Value = Folder> {
    let target = prop::sample::select(vec![
        "a", "b", "../b", "/a", "/a/b", "../../ab", "/ab", "b/a", ".", "/",
    ]);
    let leaf = prop_oneof![
        any::<u8>().prop_map(Node::File),
        target.prop_map(|target| Node::Link(target.to_owned())),
    ];
    let folder = |node: BoxedStrategy<Node>| {
        let children =
            prop::collection::btree_map(prop::sample::select(NAMES.to_vec()), node, 0..4);
        (children, prop::sample::select(vec![0o755, 0o700, 0o2750])).prop_map(|(children, mode)| {
            let children = children.into_iter();
            Folder {
                mode,
                children: children
                    .map(|(name, node)| (name.to_owned(), node))
                    .collect(),
            }
        })
    };
    let node = leaf.prop_recursive(4, 40, 4, move |node| {
        folder(node.boxed()).prop_map(Node::Folder)
    });
    let children = prop::collection::btree_map(prop::sample::select(NAMES.to_vec()), node, 1..4);
    children.prop_map(|children| Folder {
        mode: 0o755,
        children: children
            .into_iter()
            .map(|(name, node)| (name.to_owned(), node))
            .collect(),
    })
}

/// What one op reads.
#[derive(Clone, Debug)]
enum Reads {
    Copies(Vec<pb::FileActionCopy>),
    /// These paths, mounted in a command.
    Mounts(Vec<String>),
}

fn reads() -> impl Strategy<Value = Reads> {
    let part = prop::sample::select(vec!["a", "b", "ab", "a", "b", "ab", "*", "..", "."]);
    let path = prop::collection::vec(part, 0..4).prop_map(|path| format!("/{}", path.join("/")));
    prop_oneof![
        3 => prop::collection::vec(read(), 1..3).prop_map(Reads::Copies),
        1 => prop::collection::vec(path, 1..3).prop_map(Reads::Mounts),
    ]
}

fn read() -> impl Strategy<Value = pb::FileActionCopy> {
    let part = prop::sample::select(vec!["a", "b", "ab", "a", "b", "*", "a*", "?", "..", "."]);
    let patterns = || {
        let pattern = prop::sample::select(vec!["a", "b", "a/b", "*/a", "*b"]);
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(pattern.prop_map(str::to_owned), 1..3)]
    };
    let dest = prop::sample::select(vec!["/to", "/to/", "/to/here", "/to/here/"]);
    let flags = any::<(bool, bool, bool, bool, bool)>();
    (
        prop::collection::vec(part, 0..4),
        dest,
        flags,
        patterns(),
        patterns(),
    )
        .prop_map(
            |(src, dest, (follow, contents, wildcard, empty, create), include, exclude)| {
                pb::FileActionCopy {
                    src: format!("/{}", src.join("/")),
                    dest: dest.to_owned(),
                    mode: -1,
                    timestamp: -1,
                    follow_symlink: follow,
                    dir_copy_contents: contents,
                    allow_wildcard: wildcard,
                    allow_empty_wildcard: empty,
                    create_dest_path: create,
                    include_patterns: include,
                    exclude_patterns: exclude,
                    ..pb::FileActionCopy::default()
                }
            },
        )
}

/// An op beyond the cut that reads these of `from`.
fn reader(from: &Made, reads: &Reads) -> Made {
    match reads {
        Reads::Copies(copies) => copier(from, copies),
        Reads::Mounts(paths) => command(from, paths),
    }
}

/// A command in an empty root with these paths mounted.
fn command(from: &Made, paths: &[String]) -> Made {
    let mount = |(number, path): (usize, &String)| pb::Mount {
        selector: path.clone(),
        ..llb::mount(0, &format!("/{number}"), -1)
    };
    let mounts = paths.iter().enumerate().map(mount);
    let exec = pb::ExecOp {
        mounts: std::iter::once(llb::mount(-1, "/", 0))
            .chain(mounts)
            .collect(),
        ..pb::ExecOp::default()
    };
    llb::made(&[(from, 0)], Some("linux/arm64"), pb::op::Op::Exec(exec))
}

/// Copies each of these onto what came before.
fn copier(from: &Made, reads: &[pb::FileActionCopy]) -> Made {
    let action = |(number, copy): (usize, &pb::FileActionCopy)| pb::FileAction {
        input: if number == 0 { -1 } else { number as i64 },
        secondary_input: 0,
        output: if number + 1 == reads.len() { 0 } else { -1 },
        action: Some(pb::file_action::Action::Copy(copy.clone())),
    };
    let actions = reads.iter().enumerate().map(action).collect();
    llb::made(&[(from, 0)], None, pb::op::Op::File(pb::FileOp { actions }))
}

/// The plan of an arm64 command that needs what all these readers make of an amd64 one.
fn plan_of_readers(readers: &[Reads]) -> (Plan, Made, Vec<Made>) {
    let base = image("linux/amd64");
    let whole = exec("whole", &[(&base, 0)], "linux/amd64");
    let mut made: Vec<Made> = Vec::new();
    for reads in readers {
        let reader = reader(&whole, reads);
        if made.iter().all(|other| other.bytes != reader.bytes) {
            made.push(reader);
        }
    }
    let inputs: Vec<(&Made, i64)> = made.iter().map(|made| (made, 0)).collect();
    let last = exec("last", &inputs, "linux/arm64");
    let mut all = vec![&base, &whole];
    all.extend(&made);
    (plan_of(&[("linux/arm64", &all, &last)]), whole, made)
}

/// What the exported definition of an edge makes if the whole is `tree`.
fn part(
    plan: &Plan,
    edge: &CutEdge,
    whole: &Made,
    tree: &Folder,
) -> Option<Result<Folder, Refused>> {
    let bound = plan.bind(Output::Edge(edge.id), &BTreeMap::new()).unwrap();
    let definition = plan.part_of(&bound)?;
    let mut made = BTreeMap::from([(whole.digest(), tree.clone())]);
    let (_, last) = ops(&definition);
    for bytes in &definition.def {
        let op = pb::Op::decode(bytes.as_slice()).unwrap();
        if let Some(pb::op::Op::File(file)) = &op.op {
            let inputs: Vec<Folder> = op
                .inputs
                .iter()
                .map(|input| made[&OpDigest::new(input.digest.as_str())].clone())
                .collect();
            match files::run(file, &inputs) {
                Ok(folder) => drop(made.insert(OpDigest::of(bytes), folder)),
                Err(refused) => return Some(Err(refused)),
            }
        }
    }
    Some(Ok(
        made[&OpDigest::new(last.inputs[0].digest.as_str())].clone()
    ))
}

fn run(reader: &Made, input: &Folder) -> Result<Folder, Refused> {
    match pb::Op::decode(reader.bytes.as_slice()).unwrap().op {
        Some(pb::op::Op::File(file)) => files::run(&file, std::slice::from_ref(input)),
        Some(pb::op::Op::Exec(exec)) => files::mounted(&exec, input),
        other => panic!("no reader is {other:?}"),
    }
}

#[test]
fn readers_make_of_the_part_what_they_make_of_the_whole() {
    let mut runner = TestRunner::deterministic();
    let strategy = (
        prop::collection::vec(tree(), 8),
        prop::collection::vec(reads(), 1..4),
    );
    let (mut alike, mut refused, mut apart) = (0, 0, 0);
    for _ in 0..6_000 {
        let (trees, reads) = strategy.new_tree(&mut runner).unwrap().current();
        let (plan, whole, readers) = plan_of_readers(&reads);
        let edges: Vec<&CutEdge> = plan.edges().iter().collect();
        apart += usize::from(edges.len() > 1);
        for tree in trees {
            for reader in &readers {
                let expected = run(reader, &tree);
                // The cut that the reader takes: it is bound to that one's result.
                let edge = edge_of(&plan, reader);
                let Some(part) = part(&plan, edge, &whole, &tree) else {
                    continue;
                };
                match (expected, part) {
                    (Ok(expected), Ok(part)) => {
                        let found = run(reader, &part);
                        assert_eq!(
                            found,
                            Ok(expected),
                            "{reads:#?}\nof {tree:#?}\ncut to {part:#?}"
                        );
                        alike += 1;
                    }
                    // One that another reader misses isn't there for this one either: the build fails as it would have.
                    (Ok(_), Err(why)) => {
                        let others = readers.iter().any(|reader| run(reader, &tree).is_err());
                        assert!(others, "{why:?}: {reads:#?}\nof {tree:#?}");
                    }
                    (Err(_), Ok(part)) => {
                        assert!(run(reader, &part).is_err(), "{reads:#?}\nof {tree:#?}");
                        refused += 1;
                    }
                    (Err(_), Err(_)) => refused += 1,
                }
            }
        }
    }
    assert!(
        alike > 2_000 && refused > 2_000 && apart > 100,
        "{alike} {refused} {apart}"
    );
}

#[test]
fn a_link_leads_out_of_a_path_that_another_reader_takes() {
    let plain = |src: &str| copy(src, |_| {});
    let (plan, whole, readers) =
        plan_of_readers(&["/a", "/a/b"].map(|path| Reads::Copies(vec![plain(path)])));
    let folder = |children: &[(&str, Node)]| Folder {
        mode: 0o755,
        children: children
            .iter()
            .map(|(name, node)| ((*name).to_owned(), node.clone()))
            .collect(),
    };
    let inner = folder(&[("b", Node::Link("../ab".to_owned()))]);
    let tree = folder(&[("a", Node::Folder(inner)), ("ab", Node::File(1))]);
    let expected = run(&readers[1], &tree);
    assert!(expected.is_ok());
    let [of_folder, of_link] = [0, 1].map(|reader| {
        part(&plan, edge_of(&plan, &readers[reader]), &whole, &tree)
            .unwrap()
            .unwrap()
    });
    assert_eq!(run(&readers[1], &of_link), expected);
    assert!(run(&readers[1], &of_folder).is_err());
}

#[test]
fn a_mounted_path_that_goes_back_over_a_link_is_where_the_link_leads() {
    let file = Node::File;
    let folder = |children: &[(&str, Node)]| {
        let children = children.iter();
        Folder {
            mode: 0o755,
            children: children
                .map(|(name, node)| ((*name).to_owned(), node.clone()))
                .collect(),
        }
    };
    let inner = folder(&[("ab", Node::Folder(folder(&[]))), ("b", file(1))]);
    let tree = folder(&[
        ("a", Node::Link("ab/ab".to_owned())),
        ("ab", Node::Folder(inner)),
        ("b", file(2)),
    ]);
    let (plan, whole, readers) = plan_of_readers(&[Reads::Mounts(vec!["/a/../b".to_owned()])]);
    let expected = run(&readers[0], &tree);
    let found = match part(&plan, edge_of(&plan, &readers[0]), &whole, &tree) {
        None => expected.clone(),
        Some(part) => run(&readers[0], &part.unwrap()),
    };
    assert_eq!(found, expected);
}

/// The edge that stands for the reader's input.
fn edge_of<'a>(plan: &'a Plan, reader: &Made) -> &'a CutEdge {
    let bindings = plan
        .edges()
        .iter()
        .map(|edge| {
            let binding = croft_planner::Binding::Image {
                reference: format!("stages.farm/p@sha256:{:064}", edge.id.0),
                platform: edge.platform.clone(),
            };
            (edge.id, binding)
        })
        .collect();
    let bound = plan.bind(support::TARGET, &bindings).unwrap();
    let at = &bound.digests[&reader.digest()];
    let (ops, _) = ops(&bound.definition);
    let input = &pb::Op::decode(ops[at].as_slice()).unwrap().inputs[0];
    let edge = bound.images[&OpDigest::new(input.digest.as_str())];
    plan.edge(edge).unwrap()
}

fn copy(src: &str, change: impl Fn(&mut pb::FileActionCopy)) -> pb::FileActionCopy {
    let mut copy = pb::FileActionCopy {
        src: src.to_owned(),
        dest: "/to".to_owned(),
        follow_symlink: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        dir_copy_contents: true,
        create_dest_path: true,
        mode: -1,
        timestamp: -1,
        ..pb::FileActionCopy::default()
    };
    change(&mut copy);
    copy
}

/// The paths that are cut out for these readers, edge by edge; `whole` for one that isn't cut.
#[track_caller]
fn check(readers: &[Vec<pb::FileActionCopy>], expected: &[&str]) {
    let readers: Vec<_> = readers.iter().cloned().map(Reads::Copies).collect();
    let (plan, ..) = plan_of_readers(&readers);
    let path = |path: &NarrowPath| {
        let patterns = |sign, list: &[String]| {
            list.iter()
                .map(|one| format!(" {sign}{one}"))
                .collect::<String>()
        };
        let links = if path.follow_links { "" } else { " (link)" };
        format!(
            "{}{links}{}{}",
            path.path,
            patterns('+', &path.include),
            patterns('-', &path.exclude)
        )
    };
    let mut found: Vec<String> = plan
        .edges()
        .iter()
        .map(|edge| match &edge.narrowing {
            Narrowing::Whole => "whole".to_owned(),
            Narrowing::Paths(paths) => paths.iter().map(path).collect::<Vec<_>>().join(", "),
        })
        .collect();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn only_what_can_be_told_exactly_is_cut() {
    let plain = |src: &str| copy(src, |_| {});
    let one = |src: &str, expected: &str| check(&[vec![plain(src)]], &[expected]);
    one("/out", "/out");
    one("out/./x/../y/", "/out/y");
    one("/out/*.so", "/out/*.so");
    one("/*.so", "/*.so");
    one("/", "whole");
    one("/out/*/x", "whole");
    one("/out/a\\*", "whole");
    check(
        &[vec![copy("/a*", |copy| copy.allow_wildcard = false)]],
        &["whole"],
    );
    check(
        &[vec![copy("/a", |copy| copy.follow_symlink = false)]],
        &["/a (link)"],
    );
    let unpacked = |follow| {
        copy("/a", move |copy| {
            copy.follow_symlink = follow;
            copy.attempt_unpack_docker_compatibility = true;
        })
    };
    check(&[vec![unpacked(true)]], &["/a"]);
    check(&[vec![unpacked(false)]], &["whole"]);
}

#[test]
fn patterns_are_joined_where_several_pick_from_one_path() {
    let picked = |src: &str, include: &[&str], exclude: &[&str]| {
        copy(src, |copy| {
            copy.include_patterns = include.iter().map(|one| (*one).to_owned()).collect();
            copy.exclude_patterns = exclude.iter().map(|one| (*one).to_owned()).collect();
        })
    };
    check(
        &[vec![
            picked("/", &["b"], &["x"]),
            picked("/", &["a"], &["x"]),
        ]],
        &["/ +a +b -x"],
    );
    check(
        &[
            vec![picked("/", &["b"], &["x"])],
            vec![picked("/", &["a"], &["y"])],
        ],
        &["/ +a +b"],
    );
    check(
        &[vec![picked("/", &["b"], &[]), picked("/", &[], &["x"])]],
        &["whole"],
    );
    check(
        &[vec![picked("/o", &["b"], &[]), picked("/o", &[], &["x"])]],
        &["/o"],
    );
    check(
        &[vec![picked("/o", &["!b"], &[]), picked("/o", &["a"], &[])]],
        &["/o"],
    );
    check(
        &[vec![picked("/", &["!b"], &[]), picked("/", &["a"], &[])]],
        &["whole"],
    );
}

#[test]
fn paths_under_one_another_are_cut_apart_where_different_ops_read_them() {
    let plain = |src: &str| copy(src, |_| {});
    let apart = |srcs: &[&str]| srcs.iter().map(|src| vec![plain(src)]).collect::<Vec<_>>();
    check(&apart(&["/out", "/other"]), &["/other, /out"]);
    check(&apart(&["/out", "/outer"]), &["/out, /outer"]);
    check(&apart(&["/out", "/out/x"]), &["/out", "/out/x"]);
    check(&apart(&["/o/*.so", "/o/*.h"]), &["/o/*.h", "/o/*.so"]);
    check(&apart(&["/o/*.so", "/o/x/y"]), &["/o/*.so", "/o/x/y"]);
    check(
        &apart(&["/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/b/c/d/e"]),
        &["whole"],
    );
    check(&apart(&["/a", "/a/b", "/"]), &["whole"]);
    // One op has one input for both.
    check(&[vec![plain("/out"), plain("/out/x")]], &["whole"]);
    check(&[vec![plain("/out"), plain("/out")]], &["/out"]);
    let link = copy("/out", |copy| copy.follow_symlink = false);
    check(
        &[vec![plain("/out")], vec![link.clone()]],
        &["/out", "/out (link)"],
    );
    check(&[vec![plain("/out"), link]], &["whole"]);
}
