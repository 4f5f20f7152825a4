//! What breaks while an engine hands a build's results out to the client: the agent, the coordinator, the wish for it.

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

use crate::aftermath::settled;
use crate::agents::{Frozen, named, plan};
use crate::restart::{GONE, over};
use crate::support::{Buildx, Context, Croft, process::eventually};
use crate::{farm_of, farm_with};

const LEASE: [&str; 2] = ["--lease", "4s"];
/// More than all that lies between an engine and a client can hold, in bytes.
const LARGE: u64 = 128 << 20;

fn large() -> Context {
    Context::new("FROM scratch\nCOPY . /$NONCE/\n").zeros("large", LARGE)
}

/// The agent whose engine is at the build's output.
fn who_hands_out(farm: &Farm, nonce: &str) -> String {
    eventually("results are handed out", || {
        let plan = plan(farm, nonce);
        let [output] = plan.of_kind("output")[..] else {
            return None;
        };
        let attempt = output.attempts.first()?;
        (attempt.state == "running").then(|| attempt.agent.clone())
    })
}

/// Kills it.
fn kill_the_one_that_hands_out(farm: &Farm, nonce: &str) {
    let agent = who_hands_out(farm, nonce);
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

#[test]
fn a_build_that_is_cancelled_in_the_middle_of_its_archive_leaves_the_one_that_was_there() {
    let farm = farm_of("amd64", &[]);
    let croft = Croft::of(&farm);
    let context = large();
    let archive = croft.home().join("out.tar");
    fs::write(&archive, "before").expect("writable");
    let output = format!("--output=type=tar,dest={}", archive.display());
    let folder = context.path().display().to_string();
    let mut build = croft.start(["build", "--progress=plain", &output, &folder]);
    build.wait_for(|line| line.contains("sending tarball"));
    let client = Frozen::new(process_with(&archive));
    who_hands_out(&farm, &context.nonce);
    let id = plan(&farm, &context.nonce).id;
    croft.run(["builds", "cancel", &id]).succeeded();
    eventually(
        "the build is cancelled though its client stands still",
        || (plan(&farm, &context.nonce).state == "cancelled").then_some(()),
    );
    drop(client);
    let ended = build.finish().failed();
    assert!(ended.stderr.contains("cancelled"), "{}", ended.report());
    assert_eq!(fs::read_to_string(&archive).expect("a file"), "before");
    let left = fs::read_dir(croft.home()).expect("a folder");
    let left: Vec<_> = left.map(|one| one.expect("an entry").file_name()).collect();
    assert!(
        !left
            .iter()
            .any(|name| name.as_encoded_bytes().starts_with(b".croft-")),
        "{left:?}"
    );
    let plan = settled(&farm, &context);
    assert_eq!(
        plan.of_kind("output")[0].attempts[0].state,
        "cancelled",
        "{plan:#?}"
    );
}

#[test]
fn a_build_whose_coordinator_is_killed_while_it_is_handed_out_ends_for_want_of_its_client() {
    let mut farm = farm_of("amd64", &[]);
    let buildx = Buildx::of(&farm);
    for kind in ["type=local", "type=oci,tar=false"] {
        let context = large();
        let out = buildx.home().join(&context.nonce);
        let output = format!("{kind},dest={}", out.display());
        let build = || buildx.build(&context).args(["--output", &output]);
        let (built, ()) = build().start_with(|running| {
            running.wait_for(|line| {
                line.contains("copying files") || line.contains("exporting to oci")
            });
            let client = Frozen::new(process_with(&out));
            who_hands_out(&farm, &context.nonce);
            farm.kill_coordinator().expect("it runs");
            drop(client);
        });
        built.failed();
        farm.start_coordinator().expect("it starts again");
        let plan = over(&farm, &context.nonce);
        let error = plan.error.clone().unwrap_or_default();
        assert_eq!(plan.state, "cancelled", "{plan:#?}");
        assert!(
            error.starts_with(GONE) && error.contains("for the output"),
            "{error}"
        );
        settled(&farm, &context);
        // Whoever starts it again gets all of it, whatever is there of the first time.
        build().run().succeeded();
        let there = match kind {
            "type=local" => out.join(&context.nonce).join("large"),
            _ => out.join("index.json"),
        };
        assert!(there.is_file(), "{}", there.display());
    }
}
