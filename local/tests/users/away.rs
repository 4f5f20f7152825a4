//! An agent that could, and is away: its stages wait for it and say so, as long as the farm's owner wants them to.

use std::time::Duration;

use croft_local::{Farm, FarmOptions};
use nix::sys::signal::Signal;

use crate::support::agent::stop;
use crate::support::{Buildx, Context, Plan, Repository, process::eventually};

/// A farm of two agents and one engine each, with further flags of the coordinator.
fn farm_with(flags: &[&str]) -> Farm {
    let mut options = FarmOptions::from_env().expect("options");
    options.agents = croft_local::agents("amd64,arm64").expect("names");
    options.engines.clear();
    options.coordinator_flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    Farm::start(options).unwrap_or_else(|error| panic!("no farm: {error}"))
}

#[test]
fn a_stage_waits_for_an_agent_that_is_away_says_so_and_goes_on_when_it_is_back() {
    let farm = farm_with(&[]);
    let buildx = Buildx::of(&farm);
    let mut agents = Vec::new();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let stopped = stop(&farm, "arm64-1", signal);
        let context = Context::new("FROM busybox\nRUN uname -m > /$NONCE\n");
        let image = Repository::of(farm.registry(), &context.nonce);
        let build = buildx
            .build(&context)
            .platforms(&["linux/amd64", "linux/arm64"]);
        let (built, started) = build.push(&image.tag("1")).start_with(|running| {
            let line = running.wait_for(|line| line.contains("waits for"));
            assert!(line.contains("linux/arm64"), "{line}");
            let shown = eventually("croft shows that it waits", || {
                shown(&farm)
                    .lines()
                    .find(|line| line.contains("arm64") && line.contains("away"))
                    .map(str::to_owned)
            });
            assert!(!shown.is_empty());
            // The other platform does not wait with it.
            let plan = eventually("amd64 is done", || {
                latest(&farm).filter(|plan| plan.stage("linux/amd64").state == "done")
            });
            assert_eq!(plan.state, "running");
            assert!(plan.stage("linux/arm64").attempts.is_empty());
            stopped.start(&farm)
        });
        let built = built.succeeded();
        assert_eq!(built.plan().stage("linux/arm64").agent(), "arm64-1");
        assert_eq!(
            image.published("1").platforms(),
            ["linux/amd64", "linux/arm64"]
        );
        agents.push(started);
    }
}

#[test]
fn a_stage_that_waited_long_enough_fails_naming_its_platform() {
    let farm = farm_with(&["--agent-wait", "1s"]);
    let _stopped = stop(&farm, "arm64-1", Signal::SIGTERM);
    let context = Context::new("FROM busybox\nRUN : $NONCE\n");
    let buildx = Buildx::of(&farm);
    let begun = std::time::Instant::now();
    let built = buildx
        .build(&context)
        .platforms(&["linux/arm64"])
        .run()
        .failed();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let last = built.progress().lines().last().unwrap_or_default();
    assert!(
        last.starts_with("ERROR: ") && last.contains("linux/arm64") && last.contains("arm64-1"),
        "{last}"
    );
    assert_eq!(latest(&farm).expect("a build").state, "failed");
}

#[test]
fn a_build_waits_for_the_agent_that_would_plan_it() {
    let farm = farm_with(&["--build-platform", "linux/amd64"]);
    let stopped = stop(&farm, "amd64-1", Signal::SIGKILL);
    let context = Context::new("FROM busybox\nRUN : $NONCE\n");
    let buildx = Buildx::of(&farm);
    let build = buildx.build(&context).platforms(&["linux/arm64"]);
    let (built, _started) = build.start_with(|running| {
        running.wait_for(|line| {
            line.contains("waiting for an agent for the build platform linux/amd64")
        });
        stopped.start(&farm)
    });
    built.succeeded();
}

/// What `croft builds show` prints for people about the latest build.
fn shown(farm: &Farm) -> String {
    let mut command = std::process::Command::new(farm.binaries().croft());
    command.args([
        "builds",
        "show",
        "latest",
        "--addr",
        &farm.client_address().to_string(),
    ]);
    crate::support::process::run(command).stdout
}

fn latest(farm: &Farm) -> Option<Plan> {
    let croft = farm.binaries().croft();
    Some(Plan::of(
        &croft,
        &farm.client_address().to_string(),
        "latest",
    ))
}

#[test]
fn an_agent_that_dies_at_its_first_word_is_away_and_not_forgotten_as_there() {
    let farm = farm_with(&[]);
    let mut stopped = stop(&farm, "arm64-1", Signal::SIGKILL);
    for _ in 0..15 {
        // As soon as the farm says that it is there.
        let started = stopped.start(&farm);
        stopped = started.kill(&farm);
    }
}
