//! What a build is told from outside: arguments, its target, named contexts, what to leave out, and which caches not to use.

use super::{SINGLE, published, published_for, ran_on_each};
use crate::support::{Buildx, Context, PLATFORMS, Repository, engine::runs, farm, layout, machine};

const NAMED: &str = "\
ARG BASE=broken
FROM --platform=$BUILDPLATFORM busybox AS builder
COPY --from=folder /file /file
RUN --mount=type=bind,from=folder,target=/folder : shared-$NONCE && cat /folder/file /file > /twice
FROM image AS wanted
ARG WORD=default
ARG UNSET
RUN : target-$NONCE && uname -m > /machine && echo $WORD${UNSET-unset} > /word
COPY --from=builder /twice /
COPY --from=layout /own /layout
COPY kept /kept/
FROM wanted AS unwanted
RUN false
";

const NAMED_PLAN: &str = "\
0 shared on amd64 for amd64,arm64,ppc64le,s390x: [linux/amd64 builder 3/3]
1 target on amd64 for amd64: [linux/amd64 wanted 1/5]
2 target on arm64 for arm64: [linux/arm64 wanted 1/5]
3 target on ppc64le for ppc64le: [linux/ppc64le wanted 1/5]
4 target on s390x for s390x: [linux/s390x wanted 1/5]
5 target on any (amd64) for amd64 after 0,1: [linux/amd64 wanted 4/5]
6 target on any (arm64) for arm64 after 0,2,5: [linux/arm64 wanted 4/5]
7 target on any (ppc64le) for ppc64le after 0,3,5: [linux/ppc64le wanted 4/5]
8 target on any (s390x) for s390x after 0,4,5: [linux/s390x wanted 4/5]
";

#[test]
fn named_contexts_are_folders_images_and_layouts_for_every_platform() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let folder = Context::new("").file("file", "folder");
    let tag = image(&buildx);
    let layout = layout(&buildx);
    let context = Context::new(NAMED)
        .file(
            ".dockerignore",
            "*\n!kept\nkept/**/*.log\n!kept/sub/this.log\n",
        )
        .file("dropped", "x")
        .file("kept/sub/that.log", "x")
        .file("kept/sub/this.log", "this");
    let arguments = [
        format!("--build-context=folder={}", folder.path().display()),
        format!("--build-context=image=docker-image://{tag}"),
        format!(
            "--build-context=layout=oci-layout://{}",
            layout.path().display()
        ),
        "--build-arg=WORD=given-".to_owned(),
        "--target=wanted".to_owned(),
    ];
    let arguments = arguments.each_ref().map(String::as_str);

    let (built, images) = published(&buildx, "named", &context, &arguments);

    for (platform, image) in PLATFORMS.iter().zip(&images) {
        assert_eq!(image.file("/machine"), machine(platform));
        assert_eq!(image.file("/base"), machine(platform));
        assert_eq!(image.file("/layout"), machine(platform));
        assert_eq!(image.file("/twice"), "folderfolder");
        assert_eq!(image.file("/word"), "given-unset");
        assert_eq!(image.file("/kept/sub/this.log"), "this");
        for dropped in ["dropped", "kept/dropped", "kept/sub/that.log"] {
            assert!(!image.has(dropped), "{dropped}");
        }
        let env = image.config["config"]["Env"].to_string();
        assert!(env.contains("FROM_IMAGE=yes"), "{env}");
    }
    let shared = runs(farm, &format!("shared-{}", context.nonce));
    let plan = built.plan();
    assert_eq!(shared, [(plan.of_kind("shared")[0].agent().to_owned(), 1)]);
    ran_on_each(&context, "target");
    plan.check_stages(NAMED_PLAN);
}

/// The tag of an image of all platforms in the farm's registry.
fn image(buildx: &Buildx) -> String {
    let context =
        Context::new("FROM busybox\nENV FROM_IMAGE=yes\nRUN : $NONCE && uname -m > /base\n");
    let repository = Repository::of(farm().registry(), "shapes/instructions/image");
    let tag = repository.tag(&context.nonce);
    let build = buildx.build(&context).platforms(&PLATFORMS).push(&tag);
    build.run().succeeded();
    tag
}

/// An OCI layout with an image for all platforms, in which nothing runs.
fn layout(buildx: &Buildx) -> tempfile::TempDir {
    let mut context = Context::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /own\n");
    for platform in PLATFORMS {
        let architecture = platform.trim_start_matches("linux/");
        context = context.file(architecture, machine(platform));
    }
    layout::of(buildx, farm().agents()[0].engine(), context.path())
}

const TWO_STAGES: &str = "\
FROM --platform=linux/arm64 busybox AS early
RUN : early-$NONCE && head -c 32 /dev/urandom | sha256sum > /early
FROM --platform=linux/arm64 busybox AS late
RUN : late-$NONCE && head -c 32 /dev/urandom | sha256sum > /late
FROM busybox
RUN : target-$NONCE && head -c 32 /dev/urandom | sha256sum > /target
COPY --from=early /early /
COPY --from=late /late /
";

const TWO_STAGES_PLAN: &str = "\
0 shared on arm64 for arm64,s390x: [linux/arm64 early 2/2]
1 shared on arm64 for arm64,s390x: [linux/arm64 late 2/2]
2 target on arm64 for arm64: [linux/arm64 stage-2 2/4]
3 target on s390x for s390x: [linux/s390x stage-2 2/4]
4 target on any (arm64) for arm64 after 0,1,2: [linux/arm64 stage-2 4/4]
5 target on any (s390x) for s390x after 0,1,3: [linux/s390x stage-2 4/4]
";

#[test]
fn what_may_come_from_a_cache_is_what_the_user_says() {
    let buildx = Buildx::of(farm());
    let context = Context::new(TWO_STAGES);
    let build = |arguments: &[&str]| {
        let (built, images) = published_for(SINGLE, &buildx, "cached", &context, arguments);
        built.plan().check_stages(TWO_STAGES_PLAN);
        let shared = |path: &str| {
            let found = images.each_ref().map(|image| image.file(path));
            assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
            found[0].clone()
        };
        let own = images.each_ref().map(|image| image.file("/target"));
        (shared("/early"), shared("/late"), own)
    };
    let first = build(&[]);
    assert_eq!(build(&[]), first);

    let filtered = build(&["--no-cache-filter=late"]);
    assert_eq!((&filtered.0, &filtered.2), (&first.0, &first.2));
    assert_ne!(filtered.1, first.1);

    let all = build(&["--no-cache"]);
    assert_ne!(all.0, first.0);
    assert!(all.1 != first.1 && all.1 != filtered.1);
    for (one, other) in all.2.iter().zip(&first.2) {
        assert_ne!(one, other);
    }
    let ran = |step: &str| -> usize {
        let ran = runs(farm(), &format!("{step}-{}", context.nonce));
        ran.iter().map(|(_, times)| times).sum()
    };
    assert_eq!((ran("early"), ran("late"), ran("target")), (2, 3, 4));
}
