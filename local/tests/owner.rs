//! Whatever happens to the owner of parts, nothing of them stays.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn an_engine_whose_owner_is_killed_leaves_no_process_mount_bridge_or_folder() {
    let mut owner = Owner::start("engine");
    let engine = owner.value("CROFT_ENGINE");
    let home = Path::new(engine.split_once("://").unwrap().1)
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    let bridge = bridge(&home);
    // Something that only namespaces can end: a container in the middle of its work.
    let marker = format!("sleep 12345{}", owner.process.id());
    let context = tempfile::tempdir().unwrap();
    fs::write(
        context.path().join("Dockerfile"),
        format!("FROM busybox\nRUN {marker}\n"),
    )
    .unwrap();
    let mut build = croft_local::buildx().unwrap().command();
    build
        .env("DOCKER_HOST", engine.replace("docker+", ""))
        .env("DOCKER_CONFIG", context.path())
        .args(["build", "--progress", "quiet"])
        .arg(context.path())
        .stderr(Stdio::null());
    let mut build = build.spawn().unwrap();
    until("the container runs", || !processes_with(&marker).is_empty());

    owner.process.kill().unwrap();

    owner.process.wait().unwrap();
    build.wait().unwrap();
    until("no process is left", || {
        processes_with(home.to_str().unwrap()).is_empty()
    });
    until("no container is left", || {
        processes_with(&marker).is_empty()
    });
    until("the folder is gone", || !home.exists());
    until("the folder above is gone", || {
        !home.parent().unwrap().exists()
    });
    assert!(!Path::new("/sys/class/net").join(&bridge).exists());
    assert!(
        !fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains(home.to_str().unwrap())
    );
    let cgroups = Command::new("find")
        .args([
            "/sys/fs/cgroup",
            "-name",
            &bridge.replace("croft", "croft-"),
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&cgroups.stdout), "");
}

#[test]
fn a_database_whose_owner_is_killed_leaves_no_process_and_no_folder() {
    let mut owner = Owner::start("postgres");
    let port = owner
        .value("CROFT_DATABASE_URL")
        .rsplit_once(':')
        .unwrap()
        .1
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let home = folder_of(owner.process.id());
    owner.process.kill().unwrap();
    owner.process.wait().unwrap();
    until("the folder is gone", || !home.exists());
    until("no process is left", || {
        processes_with(home.to_str().unwrap()).is_empty()
    });
    assert!(std::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap())).is_err());
}

#[test]
fn a_database_whose_guard_is_killed_does_not_outlive_it() {
    let owner = Owner::start("postgres");
    let home = folder_of(owner.process.id());
    let guards = processes_with(home.join("guard.sh").to_str().unwrap());
    for guard in guards {
        let _ = kill(guard, Signal::SIGKILL);
    }
    until("no process is left", || {
        processes_with(home.join("server").to_str().unwrap()).is_empty()
    });
    fs::remove_dir_all(home.parent().unwrap()).unwrap();
}

#[test]
fn a_signal_ends_the_parts_before_the_owner() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut owner = Owner::start("registry");
        let home = folder_of(owner.process.id());
        kill(
            Pid::from_raw(owner.process.id().try_into().unwrap()),
            signal,
        )
        .unwrap();
        assert!(owner.process.wait().unwrap().success());
        assert!(!home.exists());
    }
}

#[test]
fn the_end_of_its_input_ends_the_owner_and_its_parts() {
    let mut owner = Owner::start("registry");
    let home = folder_of(owner.process.id());
    drop(owner.process.stdin.take());
    assert!(owner.process.wait().unwrap().success());
    assert!(!home.exists());
}

/// `croft-local part …`, and what it printed.
struct Owner {
    process: Child,
    lines: Vec<String>,
    _out: BufReader<ChildStdout>,
}

impl Owner {
    fn start(part: &str) -> Owner {
        let mut command = Command::new(env!("CARGO_BIN_EXE_croft-local"));
        command
            .args(["part", part])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let mut lines = Vec::new();
        while !lines.iter().any(|line| line == "# ready") {
            let mut line = String::new();
            assert!(
                out.read_line(&mut line).unwrap() > 0,
                "{part} did not start"
            );
            lines.push(line.trim().to_owned());
        }
        Owner {
            process,
            lines,
            _out: out,
        }
    }

    fn value(&self, name: &str) -> String {
        let start = format!("export {name}='");
        self.lines
            .iter()
            .find_map(|line| line.strip_prefix(&start))
            .unwrap()
            .trim_end_matches('\'')
            .to_owned()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The folder of a process's only part: its guard is a child of it.
fn folder_of(owner: u32) -> PathBuf {
    let children = |owner: u32| -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{owner}/task")).unwrap();
        let lists =
            tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
        lists
            .flat_map(|list| {
                list.split_whitespace()
                    .map(|one| one.parse().unwrap())
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    let guard = children(owner)[0];
    let line = fs::read_to_string(format!("/proc/{guard}/cmdline")).unwrap();
    Path::new(line.split('\0').nth(1).unwrap())
        .parent()
        .unwrap()
        .to_owned()
}

fn bridge(home: &Path) -> String {
    let settings = fs::read_to_string(home.join("daemon.json")).unwrap();
    settings
        .split('"')
        .find(|word| word.starts_with("croft") && !word.contains('-'))
        .unwrap()
        .to_owned()
}

/// The processes that have `text` in their command lines, but this one.
fn processes_with(text: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok());
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let named = numbers.filter(|number| {
        let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line)
            .replace('\0', " ")
            .contains(text)
    });
    named
        .map(Pid::from_raw)
        .filter(|pid| *pid != Pid::this())
        .collect()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(
            Instant::now() < deadline,
            "after a minute it is still not so that {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
