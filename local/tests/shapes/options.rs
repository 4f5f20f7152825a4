//! What buildx can say about how a Dockerfile is built.

use crate::support::{Buildx, Context, Repository, farm};

const DOCKERFILE: &str = "\
ARG BASE=nothing
FROM ${BASE} AS first
ARG WORD=default
RUN echo $NONCE $WORD > /word
FROM first AS wanted
COPY --from=extra /more /more
FROM first AS unwanted
RUN false
";

#[test]
fn arguments_targets_labels_and_named_contexts_are_honoured() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new("# not this one\nFROM broken").file("sub/more", "wrong");
    let nonce = &context.nonce;
    context.write(
        "other.Dockerfile",
        DOCKERFILE.replace("$NONCE", nonce).as_bytes(),
    );
    let extra = Context::new("").file("more", "right");
    let repository = Repository::of(farm.registry(), "shapes/options");
    let built = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/ppc64le"])
        .push(&repository.tag("latest"))
        .args(["--build-arg", "BASE=busybox", "--build-arg", "WORD=given"])
        .args(["--label", "one=1", "--label", "two=2"])
        .args(["--target", "wanted"])
        .args([
            "--file".as_ref(),
            context.path().join("other.Dockerfile").as_os_str(),
        ])
        .args([
            "--build-context",
            &format!("extra={}", extra.path().display()),
        ])
        .run()
        .succeeded();
    let published = repository.published("latest");
    assert_eq!(published.digest, built.digest());
    for platform in ["linux/amd64", "linux/ppc64le"] {
        let image = published.image(platform);
        assert_eq!(image.file("/word"), format!("{nonce} given"));
        assert_eq!(image.file("/more"), "right");
        let labels = &image.config["config"]["Labels"];
        assert_eq!((&labels["one"], &labels["two"]), (&"1".into(), &"2".into()));
    }
}

#[test]
fn what_dockerignore_names_does_not_come_along() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new("FROM scratch\nCOPY . /$NONCE\n")
        .file(".dockerignore", "secret\n*.log\n")
        .file("secret", "x")
        .file("a.log", "x")
        .file("kept/b.txt", "kept");
    let repository = Repository::of(farm.registry(), "shapes/ignored");
    buildx
        .build(&context)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();
    let image = repository.published("latest").bare_image();
    let path = |name: &str| format!("{}/{name}", context.nonce);
    assert_eq!(image.file(&path("kept/b.txt")), "kept");
    assert!(!image.has(&path("secret")) && !image.has(&path("a.log")));
}

#[test]
fn what_the_farm_does_not_allow_is_refused_in_one_line() {
    let buildx = Buildx::of(farm());
    let context = Context::new("FROM scratch\nCOPY . /$NONCE\n");
    let built = buildx
        .build(&context)
        .args(["--allow", "network.host"])
        .run()
        .failed();
    let said: Vec<_> = built
        .progress()
        .lines()
        .filter(|line| {
            !line.is_empty() && !line.starts_with("#0 ") && !line.starts_with("WARNING: No output")
        })
        .collect();
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].starts_with("ERROR: "), "{said:?}");
    assert!(
        said[0].contains("failed to solve: ") && said[0].contains("network.host is not allowed"),
        "{said:?}"
    );
}
