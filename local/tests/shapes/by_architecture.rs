//! Shape 3: a Dockerfile stage for each architecture, of which `FROM build-$TARGETARCH` chooses one; and the old way, one build for each
//! architecture by `FROM ${ARCH}base`, joined by hand.

use std::collections::BTreeMap;

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

const OLD: &str = "\
ARG ARCH=
FROM ${ARCH}$NONCE-base
RUN : old-$NONCE && uname -m > /machine
";

/// busybox for one platform only, in a repository of its own.
fn base(path: &str, platform: &str) {
    let registry = farm().registry();
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
        base(&format!("{}/{name}", context.nonce), platform);
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
        base(&format!("{folder}{}-base", context.nonce), platform);
    }

    let mut create = buildx.command(["imagetools", "create", "--tag", &repository.tag("latest")]);
    for (platform, prefix) in &prefixes {
        let tag = repository.tag(platform.trim_start_matches("linux/"));
        buildx
            .build(&context)
            .platforms(&[platform])
            .args(["--build-arg", &format!("ARCH={prefix}")])
            .push(&tag)
            .run()
            .succeeded();
        create.arg(tag);
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
