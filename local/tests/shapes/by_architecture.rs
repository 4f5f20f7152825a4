//! Shape 3: a Dockerfile stage for each architecture, of which `FROM build-$TARGETARCH` chooses one; and the old way, one build for each
//! architecture by `FROM ${ARCH}base`, joined by hand.

use std::collections::BTreeMap;

use croft_local::{Farm, FarmOptions, Special};

use crate::support::{
    Buildx, Context, PLATFORMS, Repository, engine::runs, farm, machine, process,
};

const CHOSEN: &str = "\
FROM --platform=linux/amd64 $NONCE/base-a AS build-amd64
FROM --platform=linux/arm64 $NONCE/base-b AS build-arm64
FROM --platform=linux/ppc64le $NONCE/base-c AS build-ppc64le
RUN : own-$NONCE && echo ppc64le > /own
FROM --platform=linux/s390x $NONCE/base-d AS build-s390x
FROM build-$TARGETARCH
ARG TARGETARCH
RUN : chosen-$NONCE && uname -m > /machine && echo $TARGETARCH > /architecture
";

const PLAN: &str = "\
0 target on amd64 for amd64: [linux/amd64 stage-4 1/1]
1 target on arm64 for arm64: [linux/arm64 stage-4 1/1]
2 target on ppc64le for ppc64le: linux/ppc64le build-ppc64le 2/2, linux/ppc64le stage-4 1/1
3 target on s390x for s390x: [linux/s390x stage-4 1/1]
";

const WITH_32_BITS: &str = "\
FROM --platform=linux/amd64 $NONCE/base-a AS build-amd64
FROM --platform=linux/arm64 $NONCE/base-b AS build-arm64
FROM --platform=linux/arm/v7 $NONCE/base-c AS build-arm
RUN : own-$NONCE && uname -m > /own
FROM build-$TARGETARCH
ARG TARGETARCH TARGETVARIANT
RUN : chosen-$NONCE && uname -m > /machine && echo $TARGETARCH$TARGETVARIANT > /architecture
";

const PLAN_WITH_32_BITS: &str = "\
0 target on amd64 for amd64: [linux/amd64 stage-3 1/1]
1 target on arm64 for arm64: [linux/arm64 stage-3 1/1]
2 target on arm64 for arm/v7: linux/arm/v7 build-arm 2/2, linux/arm/v7 stage-3 1/1
";

const OLD: &str = "\
ARG ARCH=
FROM ${ARCH}$NONCE-base
RUN : old-$NONCE && uname -m > /machine
";

const OLD_PLAN: &str = "\
0 target on ARCH for ARCH: [2/2]
";

/// busybox for one platform only, in a repository of its own.
fn base(farm: &Farm, path: &str, platform: &str) {
    let registry = farm.registry();
    let all = Repository::of(registry, croft_local::BASE_REPOSITORY).published("latest");
    let one = Repository::of(registry, path);
    one.put_copy("latest", &all.image(platform).manifest);
}

/// Each platform's command ran once, on its own agent.
fn check_runs(step: &str) {
    let ran = runs(farm(), step);
    assert_eq!(ran.len(), PLATFORMS.len(), "{ran:?}");
    for (platform, (agent, count)) in PLATFORMS.iter().zip(&ran) {
        assert!(agent.starts_with(platform.trim_start_matches("linux/")));
        assert_eq!(*count, 1, "{ran:?}");
    }
}

#[test]
fn each_platform_is_built_by_the_stage_of_its_architecture_from_that_one_s_base() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(CHOSEN);
    for (name, platform) in ["base-a", "base-b", "base-c", "base-d"]
        .iter()
        .zip(PLATFORMS)
    {
        base(farm, &format!("{}/{name}", context.nonce), platform);
    }
    let repository = Repository::of(farm.registry(), "shapes/by-architecture");

    let built = buildx
        .build(&context)
        .platforms(&PLATFORMS)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();

    let published = repository.published("latest");
    assert_eq!(published.platforms(), PLATFORMS);
    for platform in PLATFORMS {
        let image = published.image(platform);
        assert_eq!(image.platform(), platform);
        assert_eq!(image.file("/machine"), machine(platform));
        let architecture = platform.trim_start_matches("linux/");
        assert_eq!(image.file("/architecture"), architecture);
        assert_eq!(image.has("/own"), architecture == "ppc64le");
    }
    check_runs(&format!("chosen-{}", context.nonce));
    let own = runs(farm, &format!("own-{}", context.nonce));
    assert_eq!(own, [("ppc64le-1".to_owned(), 1)]);
    built.plan().check(PLAN);
}

#[test]
fn the_stage_of_32_bit_arm_is_built_by_the_agent_of_arm64_that_runs_it() {
    let platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"];
    let mut options = FarmOptions::from_env().unwrap();
    options.agents = croft_local::agents("amd64,arm64").unwrap();
    options.engines.clear();
    let both = Special {
        platforms: platforms[1..].iter().map(|&one| one.to_owned()).collect(),
        ..Special::default()
    };
    options.special = [(options.agents[1], both)].into();
    let farm = &Farm::start(options).unwrap_or_else(|error| panic!("no farm: {error}"));
    let buildx = Buildx::of(farm);
    let context = Context::new(WITH_32_BITS);
    for (name, platform) in ["base-a", "base-b", "base-c"].iter().zip(platforms) {
        base(farm, &format!("{}/{name}", context.nonce), platform);
    }
    let repository = Repository::of(farm.registry(), "shapes/with-32-bits");

    let built = buildx
        .build(&context)
        .platforms(&platforms)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();

    let published = repository.published("latest");
    assert_eq!(published.platforms(), platforms);
    for (platform, architecture) in platforms.iter().zip(["amd64", "arm64", "armv7"]) {
        let image = published.image(platform);
        assert_eq!(image.file("/machine"), machine(platform));
        assert_eq!(image.file("/architecture"), architecture);
        assert_eq!(image.has("/own"), architecture == "armv7");
    }
    let on_arm = |times| ("arm64-1".to_owned(), times);
    let chosen = runs(farm, &format!("chosen-{}", context.nonce));
    assert_eq!(chosen, [("amd64-1".to_owned(), 1), on_arm(2)]);
    let own = runs(farm, &format!("own-{}", context.nonce));
    assert_eq!(own, [on_arm(1)]);
    built.plan().check(PLAN_WITH_32_BITS);
}

#[test]
fn builds_of_one_architecture_each_are_joined_by_the_user_s_own_tools() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(OLD);
    let repository = Repository::of(farm.registry(), "shapes/joined");
    // As on Docker Hub: the build platform's has no prefix.
    let prefixes: BTreeMap<_, _> = PLATFORMS
        .iter()
        .zip(["", "arm64v8/", "ppc64le/", "s390x/"])
        .collect();
    for (platform, prefix) in &prefixes {
        let folder = if prefix.is_empty() {
            "library/"
        } else {
            prefix
        };
        base(farm, &format!("{folder}{}-base", context.nonce), platform);
    }

    let mut create = buildx.command(["imagetools", "create", "--tag", &repository.tag("latest")]);
    for (platform, prefix) in &prefixes {
        let tag = repository.tag(platform.trim_start_matches("linux/"));
        let built = buildx
            .build(&context)
            .platforms(&[platform])
            .args(["--build-arg", &format!("ARCH={prefix}")])
            .push(&tag)
            .run()
            .succeeded();
        create.arg(tag);
        let short = platform.trim_start_matches("linux/");
        built.plan().check(&OLD_PLAN.replace("ARCH", short));
    }
    process::run(create).succeeded();

    let published = repository.published("latest");
    assert_eq!(published.platforms(), PLATFORMS);
    for platform in PLATFORMS {
        let image = published.image(platform);
        assert_eq!(image.platform(), platform);
        assert_eq!(image.file("/machine"), machine(platform));
    }
    check_runs(&format!("old-{}", context.nonce));
}
