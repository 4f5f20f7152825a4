//! Clients that are slow to read, or gone without a word.

use std::{io::Read as _, process::Stdio};

use nix::sys::signal::Signal;

use crate::aftermath::{settled, unharmed};
use crate::agents::{attempts, plan};
use crate::cable::Cable;
use crate::farm_with;
use crate::sleep::Sleep;
use crate::support::{
    BUILDER, Buildx, Context, Repository, agent, builds,
    memory::{Memory, forget_peak},
    process::eventually,
};

/// How far the coordinator may grow over a build whose client doesn't read, in bytes.
const GROWTH: u64 = 64 << 20;

#[test]
fn a_client_that_does_not_read_holds_nobody_up_and_hears_all_of_it_later() {
    let farm = farm_with("amd64,amd64", &["--lease", "4s"], &[]);
    let buildx = Buildx::of(&farm);
    let (before, after) = (Sleep::new(), Sleep::new());
    // Engines pass on two megabytes of what a step prints.
    let talks = "RUN : $NONCE; yes what nobody reads | head -c 2000000\n".repeat(4);
    let context = Context::new(&format!(
        "FROM busybox\nRUN : $NONCE; {}\n{talks}RUN : last-$NONCE; cat /proc/sys/kernel/random/uuid > /x; {}\n",
        before.step(),
        after.step()
    ));
    let image = Repository::of(farm.registry(), &context.nonce);
    let coordinator = farm.coordinator_process().expect("it runs");
    let held = Memory::Now.of(coordinator).expect("it runs");
    forget_peak(coordinator).expect("it runs");

    // What it would print nobody takes: it stops reading when the pipe is full.
    let mut command = buildx.command(["--builder", BUILDER, "build", "--progress", "plain"]);
    command.args(["--platform", "linux/amd64", "--push", "--tag"]);
    command.arg(image.tag("1")).arg(context.path());
    let mut client = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("buildx");
    before.wait_for(1);
    before.wake_all();
    after.wait_for(1);

    // Others build meanwhile, and what breaks is mended.
    let other = Context::new("FROM busybox\nRUN : $NONCE\n");
    buildx.build(&other).run().succeeded();
    let now = plan(&farm, &context.nonce);
    let first = now.stage(&context.nonce).agent().to_owned();
    let dead = agent::stop(&farm, &first, Signal::SIGKILL);
    eventually("it runs elsewhere", || {
        before.wake_all();
        let now = attempts(&plan(&farm, &context.nonce), &context.nonce);
        (now.len() == 2 && after.sleepers().len() == 1).then_some(())
    });
    let _back = dead.start(&farm);
    assert_eq!(client.try_wait().expect("our child"), None, "it waits");
    after.wake_all();
    let peak = Memory::Peak.of(coordinator).expect("it runs");
    let growth = peak.saturating_sub(held);
    assert!(growth < GROWTH, "the coordinator grew by {growth} bytes");

    let mut said = String::new();
    let mut pipe = client.stderr.take().expect("piped");
    pipe.read_to_string(&mut said).expect("text");
    let ended = client.wait().expect("our child");
    assert!(ended.success(), "{said}");
    for text in ["what nobody reads", "is tried again", "last-"] {
        assert!(said.contains(text), "not a word of {text}");
    }
    unharmed(&farm, &context, &image, &[&before, &after]);
}

#[test]
fn a_client_whose_network_is_gone_without_a_word_ends_its_build_and_nothing_else() {
    let farm = farm_with("amd64", &[], &[]);
    let cable = Cable::to(farm.client_address());
    let (far, near) = (Buildx::by_way_of(cable.address(), &farm), Buildx::of(&farm));
    let (lost, kept) = (Sleep::new(), Sleep::new());
    let context =
        |sleep: &Sleep| Context::new(&format!("FROM busybox\nRUN : $NONCE; {}\n", sleep.step()));
    let (lost_one, kept_one) = (context(&lost), context(&kept));
    let image = Repository::of(farm.registry(), &kept_one.nonce);
    let _gone = far.build(&lost_one).platforms(&["linux/amd64"]).start();
    let stays = near.build(&kept_one).platforms(&["linux/amd64"]);
    let stays = stays.push(&image.tag("1")).start();
    lost.wait_for(1);
    kept.wait_for(1);
    cable.silence();

    // It answers no pings, and that is all that the farm can know.
    let over = eventually("its build is over", || {
        let build = builds::find(&farm, &lost_one.nonce)?;
        (build.state == "cancelled").then_some(build)
    });
    assert_eq!(over.error.as_deref(), Some("the client is gone"));
    eventually("its step is ended", || {
        lost.sleepers().is_empty().then_some(())
    });
    assert_eq!(kept.sleepers().len(), 1, "the other goes on");
    kept.wake_all();
    assert!(stays.finish().status.success());
    settled(&farm, &lost_one);
    unharmed(&farm, &kept_one, &image, &[&kept]);
}
