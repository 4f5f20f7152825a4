//! `RUN --mount=type=cache`: what may be in use at once, and that stages which use one cache run where it is.

use std::collections::BTreeSet;

use super::{SINGLE, published, published_for, ran_on_each};
use crate::support::{Buildx, Context, PLATFORMS, engine::runs, farm};

/// `$1` waits until `$2` is there, for 20 s at most.
const MEET: &str = "\
touch \"$1\"
for turn in $(seq 200); do
  if test -e \"$2\"; then exit 0; fi
  sleep 0.1
done
echo \"$1 never met $2\"
exit 1
";

/// `left` and `right` can end only if they run at the same time, in one directory and in two of their own.
const SHARING: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS base
COPY meet /meet
FROM base AS left
RUN --mount=type=cache,id=$NONCE-meet,target=/both --mount=type=cache,id=$NONCE-own,sharing=private,target=/own \\
    : left-$NONCE && touch /own/left && sh /meet /both/left /both/right && ls /own > /left
FROM base AS right
RUN --mount=type=cache,id=$NONCE-meet,target=/both --mount=type=cache,id=$NONCE-own,sharing=private,target=/own \\
    : right-$NONCE && touch /own/right && sh /meet /both/right /both/left && ls /own > /right
FROM base AS after
COPY --from=left /left /
COPY --from=right /right /
RUN --mount=type=cache,id=$NONCE-meet,target=/both : after-$NONCE && ls /both > /both.txt && echo written > /both/after
FROM base AS builder
COPY --from=after /left /right /both.txt /
ARG TARGETARCH
RUN --mount=type=cache,id=$NONCE-meet,target=/both,readonly : cross-$NONCE $TARGETARCH && cp /both/after /after
FROM scratch
COPY --from=builder /left /right /both.txt /after /
";

const SHARING_PLAN: &str = "\
0 shared on amd64 for amd64,arm64,ppc64le,s390x: linux/amd64 left 1/1, linux/amd64 right 1/1, linux/amd64 after 3/3
1 target on amd64 for amd64 after 0: linux/amd64 builder 2/2, linux/amd64 stage-5 1/1
2 cross on amd64 for arm64 after 0: linux/amd64->arm64 builder 2/2, linux/arm64 stage-5 1/1
3 cross on amd64 for ppc64le after 0: linux/amd64->ppc64le builder 2/2, linux/ppc64le stage-5 1/1
4 cross on amd64 for s390x after 0: linux/amd64->s390x builder 2/2, linux/s390x stage-5 1/1
";

#[test]
fn shared_caches_are_one_directory_private_ones_are_not_and_both_stay_for_later_stages() {
    let buildx = Buildx::of(farm());
    let context = Context::new(SHARING).file("meet", MEET);
    let (built, images) = published(&buildx, "sharing", &context, &[]);
    for image in images {
        assert_eq!(image.file("/left"), "left");
        assert_eq!(image.file("/right"), "right");
        assert_eq!(image.file("/both.txt"), "left\nright");
        assert_eq!(image.file("/after"), "written");
    }
    let plan = built.plan();
    let agent = plan.of_kind("shared")[0].agent();
    for (step, times) in [("left", 1), ("right", 1), ("after", 1), ("cross", 4)] {
        let ran = runs(farm(), &format!("{step}-{}", context.nonce));
        assert_eq!(ran, [(agent.to_owned(), times)], "{step}: {plan:#?}");
    }
    plan.check_stages(SHARING_PLAN);
}

/// Two stages of one build on the build platform that have nothing in common but a cache: the one is for all platforms, the other for each.
const LOCKED: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
ARG TARGETARCH
RUN --mount=type=cache,id=$NONCE-locked,sharing=locked,target=/c \\
    : locked-$NONCE && mkdir /c/taken && echo $TARGETARCH >> /c/turns && sleep 0.3 && cp /c/turns /turns && rmdir /c/taken
FROM busybox
RUN --mount=type=cache,id=$NONCE-target,target=/c : target-$NONCE && ls -A /c > /empty && uname -m > /c/seen
RUN --mount=type=cache,id=$NONCE-target,target=/c : again-$NONCE && cp /c/seen /seen
COPY --from=builder /turns /
";

const LOCKED_PLAN: &str = "\
0 target on amd64 for amd64: linux/amd64 stage-1 2/4 … 4/4, linux/amd64 builder 2/2
1 cross on amd64 for arm64: [linux/amd64->arm64 builder 2/2]
2 target on arm64 for arm64: linux/arm64 stage-1 2/4 … 3/4
3 cross on amd64 for ppc64le: [linux/amd64->ppc64le builder 2/2]
4 target on ppc64le for ppc64le: linux/ppc64le stage-1 2/4 … 3/4
5 cross on amd64 for s390x: [linux/amd64->s390x builder 2/2]
6 target on s390x for s390x: linux/s390x stage-1 2/4 … 3/4
7 target on any (arm64) for arm64 after 1,2: [linux/arm64 stage-1 4/4]
8 target on any (ppc64le) for ppc64le after 3,4: [linux/ppc64le stage-1 4/4]
9 target on any (s390x) for s390x after 5,6: [linux/s390x stage-1 4/4]
";

#[test]
fn a_locked_cache_is_held_by_one_command_at_a_time_and_keeps_its_stages_on_one_agent() {
    let buildx = Buildx::of(farm());
    let context = Context::new(LOCKED);
    let (built, images) = published(&buildx, "locked", &context, &[]);
    let turns = images.each_ref().map(|image| {
        let turns = image.file("/turns");
        turns.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    // Each saw those before it: together they are a row.
    let lengths: BTreeSet<_> = turns.iter().map(Vec::len).collect();
    assert_eq!(lengths, BTreeSet::from([1, 2, 3, 4]), "{turns:?}");
    let longest = turns.iter().find(|one| one.len() == 4).expect("seen");
    for (platform, turns) in PLATFORMS.iter().zip(&turns) {
        let own = platform.trim_start_matches("linux/");
        assert_eq!(turns.last().map(String::as_str), Some(own));
        assert!(longest.starts_with(turns), "{turns:?} {longest:?}");
    }
    for (platform, image) in PLATFORMS.iter().zip(&images) {
        assert_eq!(image.file("/empty"), "");
        assert_eq!(image.file("/seen"), crate::support::machine(platform));
    }
    let ran = runs(farm(), &format!("locked-{}", context.nonce));
    assert_eq!(ran.len(), 1, "{ran:?} {:#?}", built.plan());
    assert_eq!(ran[0].1, 4);
    ran_on_each(&context, "target");
    ran_on_each(&context, "again");
    built.plan().check_stages(LOCKED_PLAN);
}

const KEPT: &str = "\
FROM busybox
ARG ROUND
RUN --mount=type=cache,id=$NONCE-kept,target=/c : kept-$NONCE && echo $ROUND >> /c/rounds && cp /c/rounds /rounds
RUN --mount=type=cache,target=/$NONCE/unnamed echo $ROUND >> /$NONCE/unnamed/rounds && cp /$NONCE/unnamed/rounds /unnamed
";

const KEPT_PLAN: &str = "\
0 target on arm64 for arm64: linux/arm64 stage-0 2/3 … 3/3
1 target on s390x for s390x: linux/s390x stage-0 2/3 … 3/3
";

#[test]
fn a_cache_is_there_again_in_the_next_build_of_each_platform() {
    let buildx = Buildx::of(farm());
    let context = Context::new(KEPT);
    published_for(SINGLE, &buildx, "kept", &context, &["--build-arg=ROUND=1"]);
    let (built, images) =
        published_for(SINGLE, &buildx, "kept", &context, &["--build-arg=ROUND=2"]);
    for image in &images {
        assert_eq!(image.file("/rounds"), "1\n2");
        assert_eq!(image.file("/unnamed"), "1\n2");
    }
    let ran = runs(farm(), &format!("kept-{}", context.nonce));
    let twice = ["arm64-1", "s390x-1"].map(|agent| (agent.to_owned(), 2));
    assert_eq!(ran, twice);
    built.plan().check_stages(KEPT_PLAN);
}
