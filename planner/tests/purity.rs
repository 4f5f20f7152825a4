//! Planner and scheduler stay pure: what they depend on can't do I/O. The rule is DESIGN.md's, "The house".

use std::{collections::BTreeSet, process::Command};

/// What must be nowhere in a pure crate's tree. Not one of them is needed to decide something.
const IMPURE: [&str; 14] = [
    "async-std",
    "futures-executor",
    "h2",
    "hyper",
    "log",
    "mio",
    "rand",
    "reqwest",
    "socket2",
    "sqlx",
    "tokio",
    "tonic",
    "tower",
    "tracing",
];

/// The names in a crate's tree of normal dependencies, as cargo resolves them for a build of this crate alone.
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn pure_crates_depend_on_nothing_that_does_io() {
    for package in ["croft-planner", "croft-scheduler"] {
        let tree = tree(package);
        assert!(
            tree.contains(package) && tree.contains("serde"),
            "cargo tree says {tree:?}"
        );
        let impure: Vec<_> = tree
            .iter()
            .filter(|name| IMPURE.contains(&name.as_str()) || name.starts_with("sqlx-"))
            .collect();
        assert!(impure.is_empty(), "{package} depends on {impure:?}");
    }
}

#[test]
fn the_test_would_see_an_impure_crate() {
    let tree = tree("croft-buildkit");
    assert!(
        ["tokio", "tonic", "hyper"]
            .iter()
            .all(|name| tree.contains(*name)),
        "cargo tree says {tree:?}"
    );
}
