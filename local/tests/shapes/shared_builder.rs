//! A builder on the build platform, with a step for all targets and a step for each, and a final stage with a command of its own.

use std::collections::BTreeSet;

use crate::support::{Buildx, Context, PLATFORMS, Repository, engine::runs, farm, machine};

const DOCKERFILE: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
WORKDIR /src
COPY . .
RUN : slow-$NONCE && sleep 1 && head -c 32 /dev/urandom | sha256sum > random
ARG TARGETOS
ARG TARGETARCH
RUN : cross-$NONCE-$TARGETARCH && echo $TARGETOS/$TARGETARCH > target && uname -m > built-on
FROM busybox
RUN : final-$NONCE && uname -m > /machine
COPY --from=builder /src /app
";

#[test]
fn a_slow_step_runs_once_for_all_platforms() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(DOCKERFILE).file("input", "text");
    let repository = Repository::of(farm.registry(), "shapes/slow-step");
    let built = buildx
        .build(&context)
        .platforms(&PLATFORMS)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();
    let published = repository.published("latest");
    assert_eq!(published.digest, built.digest());
    let mut random = BTreeSet::new();
    for platform in PLATFORMS {
        let image = published.image(platform);
        assert_eq!(image.file("/machine"), machine(platform));
        random.insert(image.file("/app/random"));
    }
    assert_eq!(random.len(), 1, "{random:?}");
    let slow = runs(farm, &format!("slow-{}", context.nonce));
    assert_eq!(slow.len(), 1, "{slow:?}");
    assert_eq!(slow[0].1, 1);
}
