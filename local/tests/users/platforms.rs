//! Platforms that the farm can't run.

use crate::support::{Buildx, Context, Repository, farm};

/// A base for a platform that no registry has one for: the shell is this machine's, and would not run there.
const FOREIGN: &str = "\
FROM --platform=linux/amd64 busybox AS shell
RUN : shared-$NONCE
FROM scratch
COPY --from=shell /bin/busybox /bin/sh
RUN [\"/bin/sh\", \"-c\", \": foreign-$NONCE\"]
";

#[test]
fn a_platform_that_no_agent_runs_is_named_before_anything_runs() {
    let farm = farm();
    let context = Context::new(FOREIGN);
    let buildx = Buildx::of(farm);
    let build = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/riscv64"]);
    let built = build.run().failed();
    let last = built
        .progress()
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned();
    assert!(last.starts_with("ERROR: "), "{last}");
    assert!(last.contains("linux/riscv64"), "{last}");
    for has in ["linux/amd64", "linux/arm64", "linux/ppc64le", "linux/s390x"] {
        assert!(last.contains(has), "{last}");
    }
    assert_eq!(crate::support::engine::runs(farm, &context.nonce), []);
}

#[test]
fn a_platform_that_no_agent_runs_is_built_where_nothing_needs_to_run() {
    let farm = farm();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /$NONCE\nENTRYPOINT [\"/x\"]\n");
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(farm);
    let platforms = ["linux/riscv64", "windows/amd64"];
    buildx
        .build(&context)
        .platforms(&platforms)
        .push(&image.tag("1"))
        .run()
        .succeeded();
    assert_eq!(image.published("1").platforms(), platforms);
}
