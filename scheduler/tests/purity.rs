//! The scheduler is pure, and stays so: what could do I/O, look at a clock, or roll dice is not among what it is built from.

use std::process::Command;

const NEVER: &[&str] = &[
    "tokio",
    "async-std",
    "futures",
    "tonic",
    "hyper",
    "sqlx",
    "chrono",
    "time",
    "rand",
    "getrandom",
    "fastrand",
    "log",
    "tracing",
    "libc",
    "nix",
    "socket2",
];

#[test]
fn nothing_impure_is_in_the_dependency_tree() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-p",
            "croft-scheduler",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let tree = String::from_utf8(tree.stdout).unwrap();
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        names.contains(&"croft-planner"),
        "the tree is not read as it is written: {tree}"
    );
    let impure: Vec<&&str> = names.iter().filter(|name| NEVER.contains(name)).collect();
    assert!(impure.is_empty(), "{impure:?}");
}

#[test]
fn no_clock_is_read_and_no_thread_started() {
    let mut sources = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src"
    ))];
    let mut read = 0;
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            sources.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for word in [
            "SystemTime",
            "Instant::",
            "time::Instant",
            "std::thread",
            "std::fs",
            "std::net",
            "std::env",
            "HashMap",
            "HashSet",
            "async fn",
        ] {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
        read += 1;
    }
    assert!(read > 10, "it has more files than {read}");
}
