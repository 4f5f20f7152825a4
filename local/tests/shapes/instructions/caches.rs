//! `RUN --mount=type=cache`: what may be in use at once, and that stages which use one cache run where it is.

use std::collections::BTreeSet;

use super::{SINGLE, published, published_for};
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
}

const KEPT: &str = "\
FROM busybox
ARG ROUND
RUN --mount=type=cache,id=$NONCE-kept,target=/c : kept-$NONCE && echo $ROUND >> /c/rounds && cp /c/rounds /rounds
RUN --mount=type=cache,target=/$NONCE/unnamed echo $ROUND >> /$NONCE/unnamed/rounds && cp /$NONCE/unnamed/rounds /unnamed
";

#[test]
fn a_cache_is_there_again_in_the_next_build_of_each_platform() {
    let buildx = Buildx::of(farm());
    let context = Context::new(KEPT);
    published_for(SINGLE, &buildx, "kept", &context, &["--build-arg=ROUND=1"]);
    let (_, images) = published_for(SINGLE, &buildx, "kept", &context, &["--build-arg=ROUND=2"]);
    for image in &images {
        assert_eq!(image.file("/rounds"), "1\n2");
        assert_eq!(image.file("/unnamed"), "1\n2");
    }
}
