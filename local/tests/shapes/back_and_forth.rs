//! Shape 8: a command on one platform feeds a command on another, which feeds a command on the first.

use crate::support::{Buildx, Context, Repository, engine::runs, farm, machine};

/// With one agent each, so that it is known which of them runs what.
const SINGLE: [&str; 2] = ["linux/arm64", "linux/s390x"];

const DOCKERFILE: &str = "\
FROM --platform=linux/arm64 busybox AS there
RUN : there-$NONCE && uname -m > /trail && head -c 32 /dev/urandom | sha256sum > /random
FROM --platform=linux/s390x busybox AS over
COPY --from=there /trail /random /
RUN : over-$NONCE && uname -m >> /trail
FROM --platform=linux/arm64 busybox AS back
COPY --from=over /trail /random /
RUN : back-$NONCE && uname -m >> /trail
FROM busybox
COPY --from=back /trail /random /
RUN : last-$NONCE && uname -m >> /trail
";

const PLAN: &str = "\
0 shared on arm64 for arm64,s390x: [linux/arm64 there 2/2]
1 shared on s390x for arm64,s390x after 0: [linux/s390x over 3/3]
2 shared on arm64 for arm64,s390x after 1: [linux/arm64 back 3/3]
3 target on arm64 for arm64 after 2: [linux/arm64 stage-3 3/3]
4 target on s390x for s390x after 2: [linux/s390x stage-3 3/3]
0 travels to 1
1 travels to 2
2 travels to 4
";

#[test]
fn commands_of_two_platforms_feed_one_another_back_and_forth() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(DOCKERFILE);
    let repository = Repository::of(farm.registry(), "shapes/back-and-forth");

    let built = buildx
        .build(&context)
        .platforms(&SINGLE)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();

    let published = repository.published("latest");
    assert_eq!(published.platforms(), SINGLE);
    let images = SINGLE.map(|platform| published.image(platform));
    for (platform, image) in SINGLE.iter().zip(&images) {
        let trail = image.file("/trail");
        let stops = ["aarch64", "s390x", "aarch64", machine(platform)];
        assert_eq!(trail.split_whitespace().collect::<Vec<_>>(), stops);
        assert_eq!(image.file("/random"), images[0].file("/random"));
    }
    for (step, agents) in [
        ("there", &["arm64-1"][..]),
        ("over", &["s390x-1"]),
        ("back", &["arm64-1"]),
        ("last", &["arm64-1", "s390x-1"]),
    ] {
        let once_each: Vec<_> = agents.iter().map(|agent| (agent.to_string(), 1)).collect();
        let ran = runs(farm, &format!("{step}-{}", context.nonce));
        assert_eq!(ran, once_each, "{step}");
    }
    let plan = built.plan();
    plan.check(PLAN);
    // Two small files each time, and not the roots that they are in.
    let bytes = plan.transfers.iter().map(|transfer| transfer.bytes);
    assert!(bytes.max() < Some(1000), "{plan:#?}");
}
