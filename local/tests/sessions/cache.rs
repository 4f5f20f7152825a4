//! Caches in a folder of the client's, which engines read through its session.

use crate::support::{Buildx, Context, Repository, engine::alone, farm_of, machine, process};

const SHARED_BUILDER: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS build
RUN : shared-$NONCE && head -c 32 /dev/urandom | sha256sum > /random
FROM busybox
RUN : target-$NONCE && uname -m > /machine
COPY --from=build /random /
";

#[test]
fn a_cache_in_a_folder_is_read_through_the_session() {
    // Engines that have never seen the build.
    let farm = farm_of("amd64,arm64", &[]);
    let context = Context::new(SHARED_BUILDER);
    let cache = tempfile::tempdir().expect("a temporary folder");
    let buildx = Buildx::of(&farm);
    let image = |name: &str| Repository::of(farm.registry(), &format!("sessions/cache-{name}"));
    let (made, used) = (image("made"), image("used"));
    let to = format!(
        "--cache-to=type=local,mode=max,dest={}",
        cache.path().display()
    );
    let output = format!("--tag={}", made.tag("1"));
    // Another engine makes it.
    let mut build = alone(
        &buildx,
        crate::support::farm().agents()[0].engine(),
        ["build", "--provenance=false", "--push", &to, &output],
    );
    build.arg(context.path());
    process::run(build).succeeded();
    let random = made.published("1").bare_image().file("/random");

    let from = format!("--cache-from=type=local,src={}", cache.path().display());
    let built = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/arm64"])
        .push(&used.tag("1"))
        .args([from])
        .run()
        .succeeded();
    let published = used.published("1");
    for platform in ["linux/amd64", "linux/arm64"] {
        let image = published.image(platform);
        assert_eq!(image.file("/random"), random, "{}", built.progress());
        assert_eq!(image.file("/machine"), machine(platform));
    }
}
