//! A client that is slow to read, beside what else breaks.

use std::{io::Read as _, process::Stdio};

use nix::sys::signal::Signal;

use crate::aftermath::unharmed;
use crate::agents::{attempts, plan};
use crate::farm_with;
use crate::sleep::Sleep;
use crate::support::{
    BUILDER, Buildx, Context, Repository, agent,
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
