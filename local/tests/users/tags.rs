//! A tag moves when all platforms are there, and never else.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::support::{Buildx, Context, Repository, farm};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// One platform's last command fails, after the other platform is done.
const FAILS_LATE: &str = "\
FROM busybox
RUN echo $NONCE > /x
RUN if [ $(uname -m) = aarch64 ]; then sleep 1.5; exit 1; fi
";

#[test]
fn a_watcher_of_a_failing_rebuild_sees_only_the_old_image_under_both_tags() {
    let farm = farm();
    let good = Context::new("FROM busybox\nRUN echo $NONCE > /x\n");
    let image = Repository::of(farm.registry(), &good.nonce);
    let buildx = Buildx::of(farm);
    let build = |context| {
        let build = buildx.build(context).platforms(&TWO);
        build
            .push(&image.tag("one"))
            .args(["--tag", &image.tag("two")])
    };
    let old = build(&good).run().succeeded().digest();

    let over = AtomicBool::new(false);
    let bad = Context::new(FAILS_LATE);
    let (failed, seen) = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Acquire) {
                seen.extend(["one", "two"].map(|tag| image.published(tag).digest));
            }
            seen
        });
        let failed = build(&bad).run();
        over.store(true, Ordering::Release);
        (failed, watcher.join().expect("it watched"))
    });
    let failed = failed.failed();
    // The other platform's image had been pushed by then.
    let pushed = |line: &str| line.contains("pushing manifest for") && line.contains(&image.name());
    assert!(
        failed.progress().lines().any(pushed),
        "{}",
        failed.progress()
    );
    assert!(seen.len() > 10, "{} looks", seen.len());
    assert_eq!(BTreeSet::from_iter(seen), BTreeSet::from([old.clone()]));
    assert_eq!(image.published("one").digest, old);

    let better = Context::new("FROM busybox\nRUN echo $NONCE > /x\n");
    let new = build(&better).run().succeeded().digest();
    assert_ne!(new, old);
    assert_eq!(
        ["one", "two"].map(|tag| image.published(tag).digest),
        [new.clone(), new]
    );
}

#[test]
fn platforms_and_builds_that_push_one_layer_to_one_repository_at_once_do_not_hinder_each_other() {
    const MANY: [&str; 8] = [
        "linux/amd64",
        "linux/arm64",
        "linux/ppc64le",
        "linux/s390x",
        "linux/riscv64",
        "linux/loong64",
        "linux/mips64le",
        "windows/amd64",
    ];
    let farm = farm();
    for _ in 0..3 {
        let context = Context::new("FROM scratch\nCOPY Dockerfile /$NONCE\n");
        let image = Repository::of(farm.registry(), &context.nonce);
        thread::scope(|scope| {
            for tag in ["one", "two", "three"] {
                let (context, image) = (&context, &image);
                scope.spawn(move || {
                    let buildx = Buildx::of(farm);
                    let build = buildx.build(context).platforms(&MANY);
                    build.push(&image.tag(tag)).run().succeeded();
                    assert_eq!(image.published(tag).platforms(), MANY);
                });
            }
        });
    }
}
