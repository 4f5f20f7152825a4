//! Shape 6: the context in every Dockerfile stage, and a file of each architecture's own beside a shared slow command. However large it
//! is, the client uploads the context once.

use crate::support::{
    Buildx, Context, Meter, PLATFORMS, Published, Repository, engine::runs, farm, farm_of, machine,
};

const LARGE: u64 = 200 << 20;
const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// Without the build platform, of which there are two agents: so it is known what travels.
const THREE: [&str; 3] = ["linux/arm64", "linux/ppc64le", "linux/s390x"];

const EVERYWHERE: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
WORKDIR /src
COPY . .
RUN : slow-$NONCE && wc -c < large > /size && head -c 32 /dev/urandom | sha256sum > /random
ARG TARGETARCH
COPY conf/$TARGETARCH.conf /conf
RUN : cross-$NONCE && cat /conf > /made
FROM busybox
WORKDIR /app
COPY . .
COPY --from=builder /made /size /random /
RUN : final-$NONCE && uname -m > /machine && wc -c < large > /own-size
";

const EVERYWHERE_PLAN: &str = "\
0 shared on amd64 for amd64,arm64: [linux/amd64 builder 4/6]
1 target on amd64 for amd64 after 0: linux/amd64 builder 6/6, linux/amd64 stage-1 5/5
2 cross on amd64 for arm64 after 0: [linux/amd64->arm64 builder 6/6]
3 target on arm64 for arm64 after 0,2: [linux/arm64 stage-1 5/5]
0 travels to 3
2 travels to 3
";

const PARTS: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
COPY source /source
RUN : slow-$NONCE && head -c 32 /dev/urandom | sha256sum > /random
ARG TARGETARCH
COPY conf/$TARGETARCH.conf /made
FROM busybox
COPY --from=builder /made /random /
RUN : final-$NONCE && uname -m > /machine
";

const PARTS_PLAN: &str = "\
0 shared on amd64 for arm64,ppc64le,s390x: [linux/amd64 builder 3/4]
1 target on arm64 for arm64 after 0: [linux/arm64 stage-1 3/3]
2 target on ppc64le for ppc64le after 0: [linux/ppc64le stage-1 3/3]
3 target on s390x for s390x after 0: [linux/s390x stage-1 3/3]
0 travels to 1,2,3
0 travels to 1,2,3
";

fn with_conf(mut context: Context) -> Context {
    for platform in PLATFORMS {
        let architecture = platform.trim_start_matches("linux/");
        context = context.file(&format!("conf/{architecture}.conf"), architecture);
    }
    context
}

/// Each has what is its own, and all have what is shared.
fn check(published: &Published, platforms: &[&str]) {
    assert_eq!(published.platforms(), platforms);
    let random = published.image(platforms[0]).file("/random");
    for platform in platforms {
        let image = published.image(platform);
        assert_eq!(image.file("/machine"), machine(platform));
        assert_eq!(image.file("/made"), platform.trim_start_matches("linux/"));
        assert_eq!(image.file("/random"), random);
    }
}

#[test]
fn a_context_that_every_stage_copies_is_uploaded_once() {
    let farm = farm_of("amd64,arm64", &[]);
    let meter = Meter::before(farm.client_address());
    let buildx = Buildx::by_way_of(meter.address(), &farm);
    let context = with_conf(Context::new(EVERYWHERE)).zeros("large", LARGE);
    let repository = Repository::of(farm.registry(), "shapes/large-context");
    let build = || {
        let before = meter.sent();
        let built = buildx
            .build(&context)
            .platforms(&TWO)
            .push(&repository.tag("latest"))
            .run()
            .succeeded();
        (built, meter.sent() - before)
    };

    let (built, sent) = build();
    assert!(
        (LARGE..LARGE + LARGE / 20).contains(&sent),
        "{sent} bytes were sent\n{}",
        built.progress()
    );
    let published = repository.published("latest");
    check(&published, &TWO);
    for platform in TWO {
        let image = published.image(platform);
        for size in ["/size", "/own-size"] {
            assert_eq!(image.file(size), LARGE.to_string());
        }
    }
    let ran = |step: &str| {
        let ran = runs(&farm, &format!("{step}-{}", context.nonce));
        ran.iter().map(|(_, count)| count).sum::<usize>()
    };
    assert_eq!(["slow", "cross", "final"].map(ran), [1, 2, 2]);
    built.plan().check(EVERYWHERE_PLAN);

    // What the client did not change it doesn't send again.
    let (_, sent) = build();
    assert!(sent < 1 << 20, "{sent} bytes were sent");
    assert_eq!(["slow", "cross", "final"].map(ran), [1, 2, 2]);
}

#[test]
fn a_file_of_each_architecture_leaves_the_step_beside_it_shared() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = with_conf(Context::new(PARTS)).file("source/main", "text");
    let repository = Repository::of(farm.registry(), "shapes/conf-per-architecture");

    let built = buildx
        .build(&context)
        .platforms(&THREE)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();

    check(&repository.published("latest"), &THREE);
    let plan = built.plan();
    let shared = plan.of_kind("shared")[0];
    let slow = runs(farm, &format!("slow-{}", context.nonce));
    assert_eq!(slow, [(shared.agent().to_owned(), 1)]);
    let last = runs(farm, &format!("final-{}", context.nonce));
    assert!(last.iter().all(|(_, count)| *count == 1), "{last:?}");
    assert_eq!(last.len(), THREE.len());
    plan.check(PARTS_PLAN);
}
