//! Engines that hang or die under a live agent.

use std::fs;

use croft_local::{Engine, Farm, FarmAgent};

use nix::sys::signal::Signal;

use crate::aftermath::{one_for_both, unharmed};
use crate::agents::{Frozen, STUCK_AFTER, UPLOAD, attempts, back, named, plan};
use crate::cable::Cable;
use crate::sleep::Sleep;
use crate::support::{
    Buildx, Context, Repository, agent,
    process::{self, eventually},
};
use crate::{farm_with, sleeping};

/// The daemon that listens on an agent's engine's socket.
fn daemon(agent: &FarmAgent) -> u32 {
    let (_, socket) = agent.engine().split_once("://").expect("an address");
    let address = format!("unix://{socket}");
    let is_it = |process: &fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<_> = line.split('\0').collect();
        let name = words[0].rsplit('/').next().unwrap_or_default();
        ["dockerd", "buildkitd"].contains(&name) && words.contains(&address.as_str())
    };
    let mut processes = fs::read_dir("/proc").expect("Linux").flatten();
    let daemon = processes.find(is_it).expect("the engine runs");
    let id = daemon.file_name().into_string().expect("a number");
    id.parse().expect("a process id")
}

/// The engine of this agent.
fn engine<'a>(farm: &'a mut Farm, name: &str) -> &'a mut Engine {
    let mut agents = farm.agents_mut().iter_mut();
    let agent = agents.find(|agent| agent.name.to_string() == name);
    let engine = agent.and_then(FarmAgent::engine_mut);
    engine.expect("the farm's own")
}

#[test]
fn what_runs_on_an_engine_that_hangs_runs_elsewhere_and_it_takes_work_again_when_it_wakes() {
    let farm = farm_with("amd64,amd64", &[], &["--engine-timeout", "6s"]);
    let sleep = Sleep::new();
    let context = sleeping(&sleep);
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(&farm);
    let build = buildx
        .build(&context)
        .platforms(&["linux/amd64"])
        .push(&image.tag("1"));
    let (built, first) = build.start_with(|running| {
        sleep.wait_for(1);
        let before = plan(&farm, &context.nonce);
        let first = before.stage(&context.nonce).agent().to_owned();
        let frozen = Frozen::new(daemon(named(&farm, &first)));
        running.wait_for(|line| line.contains("the engine does not answer"));
        eventually("it runs elsewhere", || {
            let now = attempts(&plan(&farm, &context.nonce), &context.nonce);
            (now.len() == 2 && now[1].1 == "running" && sleep.sleepers().len() == 2).then_some(())
        });
        assert_eq!(agent::state(&farm, &first), "connected");
        assert_eq!(agent::text(&farm, &first, "condition"), "engine-silent");
        drop(frozen);
        // What it hears first is that nobody wants that job any more.
        sleep.wait_for(1);
        sleep.wake_all();
        first
    });
    let plan = built.succeeded().plan();
    let now = attempts(&plan, &context.nonce);
    assert_eq!(now[0], (first.clone(), "failed".to_owned()), "{plan:#?}");
    assert_eq!((now.len(), &*now[1].1), (2, "succeeded"), "{plan:#?}");
    assert_ne!(now[1].0, first);
    assert!(!image.published("1").bare_image().file("/x").is_empty());
    back(&farm, &first);
    unharmed(&farm, &context, &image, &[&sleep]);

    // It is as good as before: the next build runs where the other can't.
    let _other = agent::stop(&farm, &now[1].0, Signal::SIGTERM);
    let next = Context::new("FROM busybox\nRUN : $NONCE\n");
    let build = buildx.build(&next).platforms(&["linux/amd64"]);
    assert_eq!(
        build.run().succeeded().plan().stage(&next.nonce).agent(),
        first
    );
}

#[test]
fn what_runs_on_an_engine_that_is_killed_is_tried_again_and_it_takes_work_when_it_is_there_again() {
    let mut farm = farm_with("amd64,amd64", &[], &[]);
    let sleep = Sleep::new();
    let context = sleeping(&sleep);
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(&farm);
    let build = buildx.build(&context).platforms(&["linux/amd64"]);
    let (built, first) = build.push(&image.tag("1")).start_with(|running| {
        sleep.wait_for(1);
        let before = plan(&farm, &context.nonce);
        let first = before.stage(&context.nonce).agent().to_owned();
        engine(&mut farm, &first).kill().expect("it runs");
        running.wait_for(|line| line.contains("is tried again"));
        eventually("it runs elsewhere", || {
            let now = attempts(&plan(&farm, &context.nonce), &context.nonce);
            (now.len() == 2 && now[1].1 == "running" && sleep.sleepers().len() == 1).then_some(())
        });
        eventually("the agent takes no work", || {
            (agent::text(&farm, &first, "condition") != "ready").then_some(())
        });
        assert_eq!(agent::state(&farm, &first), "connected");
        engine(&mut farm, &first).start_again().expect("it starts");
        sleep.wake_all();
        first
    });
    let now = attempts(&built.succeeded().plan(), &context.nonce);
    assert_eq!(now[0], (first.clone(), "failed".to_owned()), "{now:?}");
    assert_eq!((now.len(), &*now[1].1), (2, "succeeded"), "{now:?}");
    assert_ne!(now[1].0, first);
    back(&farm, &first);
    unharmed(&farm, &context, &image, &[&sleep]);

    // With the other one gone too, what ran there waits for its own engine.
    let _other = agent::stop(&farm, &now[1].0, Signal::SIGTERM);
    let sleep = Sleep::new();
    let context = sleeping(&sleep);
    let image = Repository::of(farm.registry(), &context.nonce);
    let build = buildx.build(&context).platforms(&["linux/amd64"]);
    let (built, ()) = build.push(&image.tag("1")).start_with(|running| {
        sleep.wait_for(1);
        engine(&mut farm, &first).kill().expect("it runs");
        running.wait_for(|line| line.contains("is tried again"));
        engine(&mut farm, &first).start_again().expect("it starts");
        sleep.wait_for(1);
        sleep.wake_all();
    });
    let now = attempts(&built.succeeded().plan(), &context.nonce);
    assert!(now.iter().all(|(agent, _)| *agent == first), "{now:?}");
    unharmed(&farm, &context, &image, &[&sleep]);
}

/// Takes the snapshot away in which a step wrote this file: the engine has a record of the result still.
fn break_result(engine: &Engine, file: &str, text: &str) {
    let snapshots = |words: &[&str]| {
        let words = [&["snapshots", "--snapshotter", "overlayfs"], words].concat();
        let command = engine.containerd(&words).expect("it has containerd");
        let ctr = process::run(command.expect("a Docker Engine"));
        ctr.succeeded().stdout
    };
    let all = snapshots(&["ls"]);
    let kinds = all.lines().map(|line| line.split_whitespace());
    let active = kinds.filter(|words| words.clone().last() == Some("Active"));
    let mut keys = active.filter_map(|mut words| words.next());
    let has_it = |key: &&str| {
        let mount = snapshots(&["mounts", "/nowhere", key]);
        let mut options = mount.split([',', ' ', '\n']);
        let upper = options.find_map(|option| option.strip_prefix("upperdir="));
        let found = upper.and_then(|folder| fs::read_to_string(format!("{folder}/{file}")).ok());
        found.is_some_and(|found| found.trim() == text)
    };
    let key = keys
        .find(has_it)
        .unwrap_or_else(|| panic!("{file} is in none of {all}"));
    snapshots(&["rm", key]);
}

#[test]
fn a_result_that_its_engine_has_broken_is_made_again_elsewhere() {
    let mut farm = farm_with("amd64,amd64", &["--lease", "30s"], &[]);
    let beneath = engine(&mut farm, "amd64-1").containerd(&[]);
    if beneath.expect("its command").is_none() {
        eprintln!("a buildkitd keeps its snapshots to itself: nothing is broken");
        return;
    }
    let cable = Cable::to(farm.agent_address());
    let stopped = agent::stop(&farm, "amd64-1", Signal::SIGTERM);
    let other = agent::stop(&farm, "amd64-2", Signal::SIGTERM);
    let _started = stopped.by_way_of(cable.address()).start(&farm);
    // Both platforms are native to the one agent that is there, so what they share is not exported.
    let context = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox AS shared\n\
         RUN : shared-$NONCE; echo $NONCE > /mark; cat /proc/sys/kernel/random/uuid > /x\n\
         FROM --platform=$BUILDPLATFORM busybox AS last\nCOPY large /large\nARG TARGETARCH\n\
         COPY --from=shared /x /x\nRUN : last-$NONCE-$TARGETARCH; wc -c < /large\n\
         FROM scratch\nCOPY --from=last /x /x\n",
    );
    let context = context.zeros("large", UPLOAD);
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(&farm);
    let build = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/386"])
        .push(&image.tag("1"));
    let shared = format!("shared-{}", context.nonce);
    // What takes it is in the middle of an upload.
    cable.keep_after(STUCK_AFTER);
    let (built, _other) = build.start_with(|running| {
        cable.wait_stuck();
        eventually("it is held", || {
            let now = attempts(&plan(&farm, &context.nonce), &shared);
            (now == [("amd64-1".to_owned(), "succeeded".to_owned())]).then_some(())
        });
        break_result(engine(&mut farm, "amd64-1"), "mark", &context.nonce);
        let other = other.start(&farm);
        // That costs what takes it an attempt, and so it goes to the other agent.
        cable.interrupt(&farm, "amd64-1");
        running.wait_for(|line| line.contains(&shared) && line.ends_with("is tried again"));
        other
    });
    let plan = built.succeeded().plan();
    let [failed, succeeded] = [("amd64-1", "failed"), ("amd64-2", "succeeded")]
        .map(|(agent, state)| (agent.to_owned(), state.to_owned()));
    assert_eq!(attempts(&plan, &shared), [failed, succeeded], "{plan:#?}");
    one_for_both(&image);
    unharmed(&farm, &context, &image, &[]);
}
