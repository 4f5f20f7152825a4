//! `# syntax=` lines: a frontend of the user's choice, which comes as an image and runs in a container. Here it is BuildKit's own with
//! what only the labs have, such as `COPY --parents`.

use super::{published, ran_on_each};
use crate::support::{
    Buildx, Context, PLATFORMS, Repository, engine::alone, engine::runs, farm, frontend, machine,
    process,
};

const LABS: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN : shared-$NONCE && mkdir -p /out/deep/er && echo 1 > /out/deep/er/one && echo 2 > /out/two && echo 3 > /out/three
ARG TARGETARCH
RUN : cross-$NONCE && echo $TARGETARCH > /out/deep/architecture
FROM busybox
RUN : target-$NONCE && uname -m > /machine
COPY --parents sub/./a/b other /context/
COPY --parents --from=builder /out/./deep /out/two /built/
COPY --parents --exclude=**/kept sub/**/*.txt /text/
RUN : after-$NONCE && cat /built/deep/er/one
";

const LABS_PLAN: &str = "\
0 shared on amd64 for amd64,arm64,ppc64le,s390x: [linux/amd64 builder 2/3]
1 target on amd64 for amd64: [linux/amd64 stage-1 2/6]
2 target on arm64 for arm64: [linux/arm64 stage-1 2/6]
3 target on ppc64le for ppc64le: [linux/ppc64le stage-1 2/6]
4 target on s390x for s390x: [linux/s390x stage-1 2/6]
5 target on amd64 for amd64 after 0,1: linux/amd64 builder 3/3, linux/amd64 stage-1 6/6
6 cross on amd64 for arm64 after 0: [linux/amd64->arm64 builder 3/3]
7 cross on amd64 for ppc64le after 0: [linux/amd64->ppc64le builder 3/3]
8 cross on amd64 for s390x after 0: [linux/amd64->s390x builder 3/3]
9 target on arm64 for arm64 after 2,5,6: [linux/arm64 stage-1 6/6]
10 target on ppc64le for ppc64le after 3,5,7: [linux/ppc64le stage-1 6/6]
11 target on s390x for s390x after 4,5,8: [linux/s390x stage-1 6/6]
";

#[test]
fn a_syntax_line_s_frontend_plans_the_build_with_what_only_it_knows() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let tag = frontend::push(&buildx, farm, "shapes/instructions/frontend");
    let context = Context::new(&format!("# syntax={tag}\n{LABS}"))
        .file("sub/a/b/file", "b")
        .file("sub/a/kept", "x")
        .file("sub/c/d.txt", "d")
        .file("other", "other");
    let (built, images) = published(&buildx, "syntax", &context, &[]);

    for (platform, image) in PLATFORMS.iter().zip(&images) {
        assert_eq!(image.file("/machine"), machine(platform));
        assert_eq!(image.file("/context/a/b/file"), "b");
        assert_eq!(image.file("/context/other"), "other");
        assert_eq!(image.file("/built/deep/er/one"), "1");
        assert_eq!(image.file("/built/out/two"), "2");
        let architecture = platform.trim_start_matches("linux/");
        assert_eq!(image.file("/built/deep/architecture"), architecture);
        assert_eq!(image.file("/text/sub/c/d.txt"), "d");
        for absent in ["/built/three", "/built/out/three", "/context/a/kept"] {
            assert!(!image.has(absent), "{platform}: {absent}");
        }
    }
    let agent = built.plan().of_kind("shared")[0].agent().to_owned();
    let shared = runs(farm, &format!("shared-{}", context.nonce));
    assert_eq!(shared, [(agent, 1)]);
    for step in ["target", "after"] {
        ran_on_each(&context, step);
    }
    built.plan().check_stages(LABS_PLAN);
}

#[test]
fn a_frontend_that_is_not_there_is_an_error_as_from_one_engine() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let missing = Repository::of(farm.registry(), "shapes/instructions/no-frontend").tag("1");
    let context = Context::new(&format!("# syntax={missing}\nFROM scratch\n"));
    let end = |mut command: std::process::Command| {
        command.args(["--progress=plain", "--provenance=false"]);
        let finished = process::run({
            command.arg(context.path());
            command
        });
        let said = finished.failed().stderr;
        let at = said
            .find("Dockerfile:1")
            .unwrap_or_else(|| panic!("{said}"));
        said[at..].to_owned()
    };
    let told = end(buildx.command(["--builder", crate::support::BUILDER, "build"]));
    assert!(told.contains("no-frontend:1: not found"), "{told}");
    assert_eq!(
        told,
        end(alone(&buildx, farm.agents()[0].engine(), ["build"]))
    );
}
