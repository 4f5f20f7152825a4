//! What operators do to a farm that works: they cancel builds, drain agents and end them.

use std::process::Command;

use croft_local::Farm;
use nix::sys::signal::Signal;

use crate::aftermath::{settled, unharmed};
use crate::agents::{attempts, plan};
use crate::sleep::Sleep;
use crate::support::{
    Buildx, Context, Finished, Repository, agent,
    process::{self, eventually},
};
use crate::{farm_with, sleeping};

/// `croft` with these arguments.
fn croft(farm: &Farm, arguments: &[&str]) -> Finished {
    process::run(command(farm, arguments))
}

fn command(farm: &Farm, arguments: &[&str]) -> Command {
    let mut command = Command::new(farm.binaries().croft());
    let address = farm.client_address().to_string();
    command.args(arguments).args(["--addr", &address]);
    command
}

#[test]
fn croft_cancels_a_build_everywhere_and_says_so_where_there_is_nothing_to_cancel() {
    let farm = farm_with("amd64,arm64", &[], &[]);
    let sleep = Sleep::new();
    let context = Context::new(&format!("FROM busybox\nRUN : $NONCE; {}\n", sleep.step()));
    let buildx = Buildx::of(&farm);
    let build = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/arm64"]);
    let (built, id) = build.start_with(|_| {
        sleep.wait_for(2);
        let id = plan(&farm, &context.nonce).id;
        let words = ["builds", "cancel", &id, "--reason", "the wrong branch"];
        let said = croft(&farm, &words).succeeded().stdout;
        assert!(said.contains(&id) && said.contains("cancelled"), "{said}");
        sleep.wait_for(0);
        id
    });
    let built = built.failed();
    assert!(
        built
            .progress()
            .contains("it was cancelled: the wrong branch"),
        "{}",
        built.progress()
    );
    let plan = plan(&farm, &context.nonce);
    assert_eq!(plan.state, "cancelled");
    assert_eq!(
        plan.error.as_deref(),
        Some("it was cancelled: the wrong branch")
    );
    settled(&farm, &context);
    let again = croft(&farm, &["builds", "cancel", &id]).failed();
    assert!(
        again.stderr.contains("is over, it has cancelled"),
        "{}",
        again.stderr
    );
    let unknown = croft(&farm, &["builds", "cancel", "zzz"]).failed();
    assert_eq!(unknown.status.code(), Some(3), "{}", unknown.stderr);
}

#[test]
fn a_build_that_takes_longer_than_the_farm_allows_is_ended_and_says_why() {
    let farm = farm_with("amd64", &["--build-deadline", "3s"], &[]);
    let sleep = Sleep::new();
    let context = Context::new(&format!("FROM busybox\nRUN : $NONCE; {}\n", sleep.step()));
    let built = Buildx::of(&farm).build(&context).run().failed();
    let why = "the build took longer than this farm allows (3 s)";
    assert!(built.progress().contains(why), "{}", built.progress());
    let plan = plan(&farm, &context.nonce);
    assert_eq!(
        (&*plan.state, plan.error.as_deref()),
        ("cancelled", Some(why))
    );
    settled(&farm, &context);
}

#[test]
fn an_agent_that_is_drained_finishes_what_it_has_takes_nothing_and_stays_so_until_it_is_resumed() {
    let farm = farm_with("amd64,amd64", &[], &[]);
    let sleep = Sleep::new();
    let dockerfile = format!("FROM busybox\nRUN : $NONCE; {}\n", sleep.step());
    let context = Context::new(&dockerfile);
    let buildx = Buildx::of(&farm);
    let (built, first) = buildx.build(&context).start_with(|_| {
        sleep.wait_for(1);
        let first = plan(&farm, &context.nonce)
            .stage(&context.nonce)
            .agent()
            .to_owned();
        let shown = croft(&farm, &["agents", "drain", &first])
            .succeeded()
            .stdout;
        assert!(shown.contains("draining"), "{shown}");
        let mut waiting = process::start(command(&farm, &["agents", "drain", &first, "--wait"]));
        sleep.wake_all();
        let drained = {
            let _ = &mut waiting;
            waiting.finish().succeeded().stdout
        };
        assert!(drained.contains("drained"), "{drained}");
        first
    });
    let once = [(first.clone(), "succeeded".to_owned())];
    assert_eq!(attempts(&built.succeeded().plan(), &context.nonce), once);

    // It stays so when it goes and comes back, and nothing is placed on it.
    let back = agent::stop(&farm, &first, Signal::SIGTERM).start(&farm);
    assert_eq!(agent::listed(&farm, &first)["draining"], true);
    let next = Context::new("FROM busybox\nRUN : $NONCE\n");
    let plan = buildx.build(&next).run().succeeded().plan();
    assert_ne!(plan.stage(&next.nonce).agent(), first);

    let other = plan.stage(&next.nonce).agent().to_owned();
    croft(&farm, &["agents", "drain", &other, "--wait"]).succeeded();
    let last = Context::new("FROM busybox\nRUN : $NONCE\n");
    let (built, ()) = buildx.build(&last).start_with(|running| {
        running.wait_for(|line| line.contains("waiting for an agent"));
        croft(&farm, &["agents", "resume", &first]).succeeded();
    });
    let plan = built.succeeded().plan();
    assert_eq!(plan.stage(&last.nonce).agent(), first);
    settled(&farm, &last);
    let unknown = croft(&farm, &["agents", "drain", "nobody"]).failed();
    assert_eq!(unknown.status.code(), Some(3), "{}", unknown.stderr);
    drop(back);
}

#[test]
fn an_agent_that_is_told_to_end_finishes_what_it_runs_while_it_may() {
    let farm = farm_with("amd64", &[], &["--stop-timeout", "10m"]);
    let sleep = Sleep::new();
    let context = sleeping(&sleep);
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(&farm);
    let build = buildx.build(&context).push(&image.tag("1"));
    let (built, ()) = build.start_with(|_| {
        sleep.wait_for(1);
        agent::tell(&farm, "amd64-1", Signal::SIGTERM);
        eventually("it says that it ends", || {
            (agent::text(&farm, "amd64-1", "condition") == "leaving").then_some(())
        });
        sleep.wake_all();
    });
    let plan = built.succeeded().plan();
    let once = [("amd64-1".to_owned(), "succeeded".to_owned())];
    assert_eq!(attempts(&plan, &context.nonce), once);
    eventually("it is away", || {
        (agent::state(&farm, "amd64-1") == "away").then_some(())
    });
    assert!(!image.published("1").bare_image().file("/x").is_empty());
    assert_eq!(image.moves(farm.registry(), "1"), 1);
    settled(&farm, &context);
}

#[test]
fn what_an_agent_that_ends_can_not_finish_is_handed_back_and_runs_elsewhere() {
    let farm = farm_with("amd64,amd64", &[], &["--stop-timeout", "2s"]);
    let buildx = Buildx::of(&farm);
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
        agent::tell(&farm, &first, Signal::SIGTERM);
        running.wait_for(|line| line.contains("the agent was stopped"));
        eventually("it runs elsewhere", || {
            let now = attempts(&plan(&farm, &context.nonce), &context.nonce);
            (now.len() == 2 && now[1].1 == "running" && sleep.sleepers().len() == 1).then_some(())
        });
        sleep.wake_all();
        first
    });
    let plan = built.succeeded().plan();
    let now = attempts(&plan, &context.nonce);
    assert_eq!(now[0], (first.clone(), "failed".to_owned()), "{plan:#?}");
    assert_ne!(now[1].0, first);
    // Nobody pays for it.
    let blamed = "SELECT t.failure, s.farm_failures FROM attempts AS t JOIN stages AS s ON s.build = t.build AND s.number = t.stage \
                  WHERE t.state = 'failed'";
    let blamed = farm.postgres().query(farm.database_url(), blamed);
    assert_eq!(blamed.expect("a database"), "handed_back|0");
    unharmed(&farm, &context, &image, &[&sleep]);
}
