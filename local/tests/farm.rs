//! A whole farm by its command line. Needs the farm's other programs: `cargo build --workspace --bins`, as `make test` does.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn a_farm_comes_up_tells_where_it_is_and_goes_without_a_trace() {
    let (farm, _down) = folder();
    succeed(&mut local(&farm, "up"));
    let env = env(&farm);
    let names = [
        "CROFT_ADDR",
        "CROFT_BASE",
        "CROFT_BIN",
        "CROFT_BUILDX",
        "CROFT_DATABASE_URL",
        "CROFT_ENGINES",
        "CROFT_PRIVATE",
        "CROFT_PRIVATE_PASSWORD",
        "CROFT_PRIVATE_USER",
        "CROFT_REGISTRY",
    ];
    assert_eq!(env.keys().map(String::as_str).collect::<Vec<_>>(), names);
    assert!(env["CROFT_BASE"].starts_with(&env["CROFT_REGISTRY"]));

    let mut list = Command::new(&env["CROFT_BIN"]);
    let agents = succeed(list.args([
        "agents",
        "ls",
        "--format",
        "json",
        "--addr",
        &env["CROFT_ADDR"],
    ]));
    let agents: serde_json::Value = serde_json::from_slice(&agents.stdout).unwrap();
    let mut states: Vec<_> = agents
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].clone(), one["state"].clone()))
        .collect();
    states.sort_by_key(|(name, _)| name.to_string());
    assert_eq!(
        states,
        [
            ("amd64-1".into(), "connected".into()),
            ("s390x-1".into(), "connected".into())
        ]
    );

    let engines: Vec<_> = env["CROFT_ENGINES"]
        .split(',')
        .map(|one| one.split_once('=').unwrap())
        .collect();
    assert_eq!(
        engines.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["amd64-1", "s390x-1"]
    );
    let bridges: Vec<_> = engines.iter().map(|(_, address)| bridge(address)).collect();
    assert!(bridges.iter().all(|bridge| bridge.exists()));
    let again = succeed(&mut local(&farm, "up"));
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"));
    assert_no_password_in_logs(&farm, &env["CROFT_PRIVATE_PASSWORD"]);

    succeed(&mut local(&farm, "down"));
    assert!(!farm.exists());
    assert!(!bridges.iter().any(|bridge| bridge.exists()));
    assert!(
        !fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains(farm.to_str().unwrap())
    );
    assert!(processes_with(farm.to_str().unwrap()).is_empty());
    assert!(!local(&farm, "env").output().unwrap().status.success());
}

#[test]
fn a_farm_whose_runner_was_killed_is_gone_and_another_takes_its_place() {
    let (farm, _down) = folder();
    succeed(local(&farm, "up").env("CROFT_AGENTS", "amd64"));
    let program = |pid: &Pid| fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let named = processes_with(farm.join("coordinator/stage-password").to_str().unwrap());
    let coordinator = named
        .into_iter()
        .find(|pid| program(pid).ends_with("croft-coordinator"))
        .unwrap();
    kill(coordinator, Signal::SIGKILL).unwrap();
    until("the coordinator has ended", || {
        farm.join("coordinator/ended").exists()
    });
    let log = succeed(local(&farm, "logs").arg("coordinator")).stdout;
    assert!(
        String::from_utf8_lossy(&log).contains("ready"),
        "the log of a part that crashed is gone"
    );

    let runner: i32 = fs::read_to_string(farm.join("lock"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill(Pid::from_raw(runner), Signal::SIGKILL).unwrap();
    until("no process of it is left", || {
        processes_with(farm.to_str().unwrap()).is_empty()
    });

    succeed(local(&farm, "up").env("CROFT_AGENTS", "amd64"));
    assert!(env(&farm)["CROFT_ENGINES"].starts_with("amd64-1="));
    succeed(&mut local(&farm, "down"));
    assert!(!farm.exists());
}

#[test]
fn an_agent_nobody_knows_is_refused_before_anything_starts() {
    let (farm, _down) = folder();
    let refused = local(&farm, "up")
        .env("CROFT_AGENTS", "sparc")
        .output()
        .unwrap();
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr)
            .contains("`sparc` is none of amd64, arm64, ppc64le, s390x")
    );
}

/// A farm's folder; whatever is up in it goes down when the test ends, also if it fails.
fn folder() -> (PathBuf, Down) {
    let above = tempfile::tempdir().unwrap();
    let farm = above.path().join("farm");
    (
        farm.clone(),
        Down {
            farm,
            _above: above,
        },
    )
}

struct Down {
    farm: PathBuf,
    _above: tempfile::TempDir,
}

impl Drop for Down {
    fn drop(&mut self) {
        let _ = local(&self.farm, "down").output();
    }
}

fn local(farm: &Path, action: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_croft-local"));
    command
        .arg(action)
        .env("CROFT_FARM_DIR", farm)
        .env("CROFT_AGENTS", "amd64,s390x");
    command
        .env_remove("CROFT_PORT_BASE")
        .env_remove("CROFT_USE_ENGINES");
    command
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn env(farm: &Path) -> BTreeMap<String, String> {
    let lines = succeed(&mut local(farm, "env")).stdout;
    let pair = |line: &str| {
        let (name, value) = line
            .strip_prefix("export ")
            .unwrap()
            .split_once('=')
            .unwrap();
        (name.to_owned(), value.trim_matches('\'').to_owned())
    };
    String::from_utf8(lines)
        .unwrap()
        .lines()
        .map(pair)
        .collect()
}

fn assert_no_password_in_logs(farm: &Path, password: &str) {
    assert_eq!(password.len(), 32);
    let mut read = 0;
    for entry in fs::read_dir(farm).unwrap() {
        let path = entry.unwrap().path();
        let log = if path.is_dir() {
            path.join("log")
        } else {
            path
        };
        if log.file_name().unwrap() == "log" {
            let text = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
            assert!(!text.contains(password), "{}", log.display());
            read += 1;
        }
    }
    assert!(read > 8, "only {read} logs");
}

fn bridge(engine: &str) -> PathBuf {
    let socket = Path::new(engine.split_once("://").unwrap().1);
    let settings = fs::read(socket.parent().unwrap().with_file_name("daemon.json")).unwrap();
    let settings: serde_json::Value = serde_json::from_slice(&settings).unwrap();
    Path::new("/sys/class/net").join(settings["bridge"].as_str().unwrap())
}

fn processes_with(text: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok());
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let named = numbers.filter(|number| {
        let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
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
