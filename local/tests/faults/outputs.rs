//! Agents that die while their engine hands a build's results out to the client.

use std::{fs, os::unix::fs::OpenOptionsExt as _, path::Path, thread};

use croft_local::Farm;
use nix::{
    fcntl::OFlag,
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};

use crate::agents::{Frozen, named, plan};
use crate::farm_with;
use crate::support::{Buildx, Context, process::eventually};

const LEASE: [&str; 2] = ["--lease", "4s"];
/// More than all that lies between an engine and a client can hold, in bytes.
const LARGE: u64 = 128 << 20;

fn large() -> Context {
    Context::new("FROM scratch\nCOPY . /$NONCE/\n").zeros("large", LARGE)
}

/// Kills the agent whose engine is at the build's output.
fn kill_the_one_that_hands_out(farm: &Farm, nonce: &str) {
    let agent = eventually("results are handed out", || {
        let plan = plan(farm, nonce);
        let [output] = plan.of_kind("output")[..] else {
            return None;
        };
        let attempt = output.attempts.first()?;
        (attempt.state == "running").then(|| attempt.agent.clone())
    });
    let process = named(farm, &agent).process().expect("it runs");
    let process = Pid::from_raw(process.try_into().expect("a process id"));
    kill(process, Signal::SIGKILL).expect("it runs");
}

/// The process that was started with this among its arguments.
fn process_with(argument: &Path) -> u32 {
    let argument = argument.to_str().expect("UTF-8");
    let mut processes = fs::read_dir("/proc").expect("Linux").flatten();
    let found = processes.find_map(|process| {
        let id = process.file_name().to_str()?.parse().ok()?;
        let line = fs::read(process.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line)
            .contains(argument)
            .then_some(id)
    });
    found.expect("it runs")
}

#[test]
fn a_folder_that_an_agent_dies_over_is_sent_by_another() {
    let farm = farm_with("amd64,amd64", &LEASE, &[]);
    let buildx = Buildx::of(&farm);
    let context = large();
    let out = buildx.home().join("out");
    let output = format!("type=local,dest={}", out.display());
    let build = buildx.build(&context).args(["--output", &output]);
    let (built, ()) = build.start_with(|running| {
        running.wait_for(|line| line.contains("copying files"));
        let client = Frozen::new(process_with(&out));
        kill_the_one_that_hands_out(&farm, &context.nonce);
        drop(client);
    });
    let built = built.succeeded();
    let file = out.join(&context.nonce).join("large");
    assert_eq!(fs::metadata(file).expect("a file").len(), LARGE);
    let plan = built.plan();
    let attempts = &plan.of_kind("output")[0].attempts;
    let states: Vec<_> = attempts.iter().map(|one| one.state.as_str()).collect();
    assert_eq!(states.last(), Some(&"succeeded"), "{states:?}");
    assert_ne!(attempts[0].agent, attempts[attempts.len() - 1].agent);
}

#[test]
fn an_archive_that_an_agent_dies_over_is_not_begun_again_and_the_client_hears_why() {
    let farm = farm_with("amd64,amd64", &LEASE, &[]);
    let buildx = Buildx::of(&farm);
    let context = large();
    let pipe = buildx.home().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    // Nobody reads it: the client stands still in the middle of the archive.
    let mut options = fs::File::options();
    let options = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let reader = options.open(&pipe).expect("a pipe");
    let output = format!("type=tar,dest={}", pipe.display());
    let build = buildx.build(&context).args(["--output", &output]);
    let (built, ()) = build.start_with(|running| {
        running.wait_for(|line| line.contains("sending tarball"));
        kill_the_one_that_hands_out(&farm, &context.nonce);
        eventually("the build ends", || {
            (plan(&farm, &context.nonce).state == "failed").then_some(())
        });
        drop(reader);
        thread::spawn(move || fs::read(pipe));
    });
    let built = built.failed();
    let said = "an agent was lost while it sent the client its tar output";
    assert!(
        built.progress().contains(said),
        "{}",
        built.finished.report()
    );
    let plan = plan(&farm, &context.nonce);
    let output = &plan.of_kind("output")[0].attempts;
    let states: Vec<_> = output.iter().map(|one| one.state.as_str()).collect();
    assert_eq!(states, ["lost", "failed"]);
}
