//! Agents that freeze, die, lose their link or are told to end in the middle of a stage.

use croft_local::{Farm, FarmAgent};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::aftermath::{one_for_both, settled, unharmed};
use crate::cable::Cable;
use crate::sleep::Sleep;
use crate::support::{
    Buildx, Context, Plan, Repository, agent, builds, engine::runs, process::eventually,
};
use crate::{farm_with, sleeping};

/// Short enough for a test, long enough for a busy machine.
const LEASE: [&str; 2] = ["--lease", "4s"];

/// A process that stands still as long as this lives.
pub struct Frozen(Pid);

impl Frozen {
    pub fn new(process: u32) -> Frozen {
        let process = Pid::from_raw(process.try_into().expect("a process id"));
        kill(process, Signal::SIGSTOP).expect("it runs");
        Frozen(process)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// One agent of a farm.
pub fn named<'a>(farm: &'a Farm, name: &str) -> &'a FarmAgent {
    let mut agents = farm.agents().iter();
    agents
        .find(|agent| agent.name.to_string() == name)
        .expect("one of the farm's")
}

/// A build of this nonce, as the farm has it now.
pub fn plan(farm: &Farm, nonce: &str) -> Plan {
    eventually("the farm knows the build", || builds::find(farm, nonce))
}

/// Each attempt at the only stage with this in its name: where it ran, and how it went.
pub fn attempts(plan: &Plan, stage: &str) -> Vec<(String, String)> {
    let attempts = plan.stage(stage).attempts.iter();
    attempts
        .map(|one| (one.agent.clone(), one.state.clone()))
        .collect()
}

/// The agent is there and takes work.
pub fn back(farm: &Farm, name: &str) {
    eventually("the agent is back", || {
        let listed = agent::listed(farm, name);
        (listed["state"] == "connected" && listed["condition"] == "ready").then_some(())
    });
}

#[test]
fn a_stage_of_an_agent_that_freezes_runs_elsewhere_and_when_it_wakes_it_lets_go() {
    let farm = farm_with("amd64,amd64", &LEASE, &[]);
    let buildx = Buildx::of(&farm);
    for late_result in [false, true] {
        let sleep = Sleep::new();
        let context = sleeping(&sleep);
        let image = Repository::of(farm.registry(), &context.nonce);
        let build = buildx.build(&context).platforms(&["linux/amd64"]);
        let (built, first) = build.push(&image.tag("1")).start_with(|running| {
            sleep.wait_for(1);
            let first = plan(&farm, &context.nonce)
                .stage(&context.nonce)
                .agent()
                .to_owned();
            let process = named(&farm, &first).process().expect("it runs");
            let frozen = Frozen::new(process);
            running.wait_for(|line| line.contains("is tried again"));
            running.wait_for(|line| line.contains(&format!("{first} was not heard of")));
            assert_eq!(agent::state(&farm, &first), "away");
            // It runs elsewhere, while its engine goes on with what nobody wants any more.
            eventually("it runs elsewhere", || {
                let now = attempts(&plan(&farm, &context.nonce), &context.nonce);
                (now.len() == 2 && !sleep.sleepers().is_empty() && now[1].1 == "running")
                    .then_some(())
            });
            if late_result {
                eventually("the image is there", || {
                    sleep.wake_all();
                    image.find("1").map(drop)
                });
                drop(frozen);
            } else {
                drop(frozen);
                eventually("it is back", || {
                    (agent::state(&farm, &first) == "connected").then_some(())
                });
                sleep.wait_for(1);
                sleep.wake_all();
            }
            first
        });
        let built = built.succeeded();
        let plan = built.plan();
        let now = attempts(&plan, &context.nonce);
        assert_eq!(now.len(), 2, "{plan:#?}");
        assert_eq!(now[0], (first.clone(), "lost".to_owned()));
        assert_eq!(now[1].1, "succeeded");
        assert_ne!(now[1].0, first);
        let published = image.published("1");
        assert_eq!(Some(&published.digest), plan.digest.as_ref());
        assert!(!published.bare_image().file("/x").is_empty());
        back(&farm, &first);
        unharmed(&farm, &context, &image, &[&sleep]);
    }
}

#[test]
fn what_only_a_dead_agent_held_is_made_again_with_all_that_came_from_it() {
    let farm = farm_with("amd64,amd64", &LEASE, &[]);
    let sleep = Sleep::new();
    // Both platforms are native to the one agent that is there, so what they share is not exported.
    let other = agent::stop(&farm, "amd64-2", Signal::SIGTERM);
    let context = Context::new(&format!(
        "FROM --platform=$BUILDPLATFORM busybox AS shared\nRUN : shared-$NONCE; cat /proc/sys/kernel/random/uuid > /x\n\
         FROM --platform=$BUILDPLATFORM busybox AS last\nARG TARGETARCH\nCOPY --from=shared /x /x\n\
         RUN : last-$NONCE-$TARGETARCH; {}\n\
         FROM scratch\nCOPY --from=last /x /x\n",
        sleep.step()
    ));
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(&farm);
    let build = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/386"])
        .push(&image.tag("1"));
    let shared = format!("shared-{}", context.nonce);
    let (built, _other) = build.start_with(|running| {
        sleep.wait_for(2);
        let other = other.start(&farm);
        agent::stop(&farm, "amd64-1", Signal::SIGKILL);
        running.wait_for(|line| line.contains("what amd64-1 had made is lost"));
        eventually("all runs elsewhere", || {
            let now = plan(&farm, &context.nonce);
            let again = attempts(&now, &shared);
            (again.len() == 2 && again[1].1 == "succeeded" && sleep.sleepers().len() == 2)
                .then_some(())
        });
        sleep.wake_all();
        other
    });
    let plan = built.succeeded().plan();
    for stage in &plan.stages {
        let last = stage.attempts.last().expect("it ran");
        let last = (last.agent.as_str(), last.state.as_str());
        assert_eq!(last, ("amd64-2", "succeeded"), "{plan:#?}");
    }
    one_for_both(&image);
    unharmed(&farm, &context, &image, &[&sleep]);
}

#[test]
fn a_stage_whose_only_agent_dies_waits_saying_so_and_fails_naming_the_platform() {
    let mut flags = LEASE.to_vec();
    flags.extend(["--agent-wait", "2s", "--build-platform", "linux/amd64"]);
    let farm = farm_with("amd64,arm64", &flags, &[]);
    let sleep = Sleep::new();
    let context = Context::new(&format!("FROM busybox\nRUN : $NONCE; {}\n", sleep.step()));
    let buildx = Buildx::of(&farm);
    let build = buildx.build(&context).platforms(&["linux/arm64"]);
    let (built, _dead) = build.start_with(|running| {
        sleep.wait_for(1);
        let dead = agent::stop(&farm, "arm64-1", Signal::SIGKILL);
        running
            .wait_for(|line| line.contains("waits for an agent for linux/arm64: arm64-1 is away"));
        dead
    });
    let built = built.failed();
    let last = built.progress().lines().last().unwrap_or_default();
    assert!(
        last.starts_with("ERROR: ") && last.contains("linux/arm64") && last.contains("arm64-1"),
        "{last}"
    );
    let plan = plan(&farm, &context.nonce);
    assert_eq!(plan.state, "failed");
    assert_eq!(
        attempts(&plan, &context.nonce),
        [("arm64-1".to_owned(), "lost".to_owned())]
    );
    settled(&farm, &context);
}

#[test]
fn a_link_that_is_cut_for_less_than_a_lease_costs_nothing() {
    let farm = farm_with("amd64,amd64", &["--lease", "30s"], &[]);
    let cable = Cable::to(farm.agent_address());
    let stopped = agent::stop(&farm, "amd64-1", Signal::SIGTERM);
    let _other = agent::stop(&farm, "amd64-2", Signal::SIGTERM);
    let _started = stopped.by_way_of(cable.address()).start(&farm);
    let sleep = Sleep::new();
    let context = sleeping(&sleep);
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(&farm);
    let build = buildx
        .build(&context)
        .platforms(&["linux/amd64"])
        .push(&image.tag("1"));
    let (built, ()) = build.start_with(|_| {
        sleep.wait_for(1);
        let before = sleep.sleepers();
        cable.interrupt(&farm, "amd64-1");
        eventually("it is back", || {
            (agent::state(&farm, "amd64-1") == "connected").then_some(())
        });
        assert_eq!(sleep.sleepers(), before, "it goes on");
        sleep.wake_all();
    });
    let plan = built.succeeded().plan();
    let once = [("amd64-1".to_owned(), "succeeded".to_owned())];
    assert_eq!(attempts(&plan, &context.nonce), once);
    assert!(!image.published("1").bare_image().file("/x").is_empty());
    unharmed(&farm, &context, &image, &[&sleep]);
}

/// How much of an upload comes through before it gets stuck, and how much there is of it, in bytes.
pub const STUCK_AFTER: u64 = 4 << 20;
/// See [`STUCK_AFTER`].
pub const UPLOAD: u64 = 64 << 20;

#[test]
fn only_what_is_in_the_middle_of_an_upload_is_tried_again_when_its_agents_connections_are_cut() {
    let farm = farm_with("amd64", &["--lease", "30s"], &[]);
    let cable = Cable::to(farm.agent_address());
    let stopped = agent::stop(&farm, "amd64-1", Signal::SIGTERM);
    let _started = stopped.by_way_of(cable.address()).start(&farm);
    let sleep = Sleep::new();
    // Both platforms are native to the agent, and each has a stage of its own.
    let context = Context::new(&format!(
        "FROM --platform=$BUILDPLATFORM busybox AS for-amd64-$NONCE\nCOPY large /large\n\
         RUN : for-amd64-$NONCE; wc -c < /large > /x\n\
         FROM --platform=$BUILDPLATFORM busybox AS for-386-$NONCE\n\
         RUN : for-386-$NONCE; cat /proc/sys/kernel/random/uuid > /x; {}\n\
         FROM for-${{TARGETARCH}}-$NONCE AS made\n\
         FROM scratch\nCOPY --from=made /x /x\n",
        sleep.step()
    ));
    let context = context.zeros("large", UPLOAD);
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(&farm);
    let build = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/386"]);
    let [upload, beside] = ["for-amd64", "for-386"].map(|step| format!("{step}-{}", context.nonce));
    // The link carries far less than that.
    cable.keep_after(STUCK_AFTER);
    let (built, ()) = build.push(&image.tag("1")).start_with(|running| {
        sleep.wait_for(1);
        cable.wait_stuck();
        let before = sleep.sleepers();
        let now = plan(&farm, &context.nonce);
        let runs = [("amd64-1".to_owned(), "running".to_owned())];
        assert_eq!(attempts(&now, &upload), runs);
        assert_eq!(attempts(&now, &beside), runs);
        cable.interrupt(&farm, "amd64-1");
        running.wait_for(|line| line.contains("is tried again"));
        eventually("the upload is done at the second try", || {
            let now = attempts(&plan(&farm, &context.nonce), &upload);
            (now.len() == 2 && now[1].1 == "succeeded").then_some(())
        });
        assert_eq!(sleep.sleepers(), before, "what runs beside it goes on");
        sleep.wake_all();
    });
    let built = built.succeeded();
    let plan = built.plan();
    let [failed, succeeded] =
        ["failed", "succeeded"].map(|state| ("amd64-1".to_owned(), state.to_owned()));
    assert_eq!(
        attempts(&plan, &upload),
        [failed, succeeded.clone()],
        "{plan:#?}"
    );
    assert_eq!(attempts(&plan, &beside), [succeeded], "{plan:#?}");
    for step in [&upload, &beside] {
        assert_eq!(runs(&farm, step), [("amd64-1".to_owned(), 1)]);
    }
    let published = image.published("1");
    let size = published.image("linux/amd64").file("/x");
    assert_eq!(size, UPLOAD.to_string());
    unharmed(&farm, &context, &image, &[&sleep]);
}

#[test]
fn an_agent_behind_a_silent_network_is_away_after_a_lease_and_welcome_later() {
    let farm = farm_with("amd64,amd64", &LEASE, &[]);
    let cable = Cable::to(farm.agent_address());
    let stopped = agent::stop(&farm, "amd64-1", Signal::SIGTERM);
    let other = agent::stop(&farm, "amd64-2", Signal::SIGTERM);
    let _started = stopped.by_way_of(cable.address()).start(&farm);
    let sleep = Sleep::new();
    let context = sleeping(&sleep);
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(&farm);
    let build = buildx.build(&context).platforms(&["linux/amd64"]);
    let (built, _others) = build.push(&image.tag("1")).start_with(|running| {
        sleep.wait_for(1);
        let other = other.start(&farm);
        cable.silence();
        // Its agent stops it when its lease ends there, before it is given away.
        running.wait_for(|line| line.contains("amd64-1 was not heard of until its lease ended"));
        eventually("it runs elsewhere", || {
            let now = attempts(&plan(&farm, &context.nonce), &context.nonce);
            (now.len() == 2 && sleep.sleepers().len() == 1).then_some(())
        });
        cable.plug_in();
        eventually("it is back", || {
            (agent::state(&farm, "amd64-1") == "connected").then_some(())
        });
        sleep.wake_all();
        other
    });
    let plan = built.succeeded().plan();
    let twice = [("amd64-1", "lost"), ("amd64-2", "succeeded")];
    let twice = twice.map(|(agent, state)| (agent.to_owned(), state.to_owned()));
    assert_eq!(attempts(&plan, &context.nonce), twice);
    back(&farm, "amd64-1");
    unharmed(&farm, &context, &image, &[&sleep]);
}
