//! Registries that want a password: the credentials of the client's Docker configuration serve its own builds and nobody else's.

use std::thread;

use croft_local::Registry;

use crate::eyes;
use crate::support::{Buildx, Built, Context, Repository, farm};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

fn password(registry: &Registry) -> &str {
    &registry
        .credentials()
        .expect("it wants a password")
        .password
}

/// Logged in to the private registry.
fn insider() -> Buildx {
    let buildx = Buildx::of(farm());
    let private = farm().private();
    buildx.log_in(&private.address().to_string(), "user", password(private));
    buildx
}

#[test]
fn a_private_base_is_pulled_and_a_private_tag_pushed_and_the_password_stays_secret() {
    let farm = farm();
    let base = Repository::of(farm.private(), "library/busybox").tag("latest");
    let context = Context::new(&format!(
        "FROM --platform=$BUILDPLATFORM {base} AS builder\nRUN echo $NONCE > /x\n\
         FROM {base}\nCOPY --from=builder /x /x\nRUN uname -m > /machine\n"
    ));
    let image = Repository::of(farm.private(), &context.nonce);
    let buildx = insider();
    let built = eyes::no_command_line_has(password(farm.private()), || {
        let build = buildx.build(&context).platforms(&TWO);
        build.push(&image.tag("1")).run().succeeded()
    });
    let published = image.published("1");
    assert_eq!(published.digest, built.digest());
    assert_eq!(published.platforms(), TWO);
    assert_eq!(published.image("linux/arm64").file("/x"), context.nonce);
    // Something did travel, so that the stage registry's password was needed as well.
    assert!(!built.plan().transfers.is_empty());
    for registry in [farm.private(), farm.stage()] {
        eyes::nobody_wrote_down(farm, password(registry));
    }
}

/// An image in the private registry that no engine has read from there yet.
fn new_image(buildx: &Buildx) -> String {
    let context = Context::new("FROM scratch\nCOPY Dockerfile /$NONCE\n");
    let image = Repository::of(farm().private(), &context.nonce).tag("1");
    buildx.build(&context).push(&image).run().succeeded();
    image
}

fn check_apart(first_is_insider: impl Fn(usize) -> bool, outsider: &Buildx) {
    let insider = insider();
    for round in 0..3 {
        let image = new_image(&insider);
        let dockerfile =
            format!("FROM busybox\nCOPY --from={image} / /x\nRUN : $NONCE && sleep 0.3 && ls /x\n");
        let contexts = [Context::new(&dockerfile), Context::new(&dockerfile)];
        let order = match first_is_insider(round) {
            true => [&insider, outsider],
            false => [outsider, &insider],
        };
        let [first, second]: [Built; 2] = thread::scope(|scope| {
            let builds = [0, 1].map(|at| {
                let build = order[at].build(&contexts[at]).platforms(&TWO);
                scope.spawn(move || build.run())
            });
            builds.map(|build| build.join().expect("it ran"))
        });
        let (inside, outside) = match first_is_insider(round) {
            true => (first, second),
            false => (second, first),
        };
        inside.succeeded();
        let outside = outside.failed();
        assert!(
            outside.progress().contains("401 Unauthorized"),
            "{}",
            outside.progress()
        );
        // Nor later, when the engines have the image.
        let context = Context::new(&dockerfile);
        let late = outsider.build(&context).platforms(&TWO).run().failed();
        assert!(
            late.progress().contains("401 Unauthorized"),
            "{}",
            late.progress()
        );
    }
}

#[test]
fn a_client_without_credentials_gains_nothing_from_one_that_has_them_and_builds_beside_it() {
    check_apart(|round| round % 2 == 0, &Buildx::of(farm()));
}

#[test]
fn a_client_with_a_wrong_password_gains_nothing_from_one_with_the_right_one() {
    let outsider = Buildx::of(farm());
    outsider.log_in(&farm().private().address().to_string(), "user", "guessed");
    check_apart(|round| round % 2 == 1, &outsider);
}
