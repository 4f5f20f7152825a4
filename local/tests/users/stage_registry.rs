//! The farm's own registry has results of everybody's builds: no build may reach for it, in whatever way it is named.

use std::fs;

use croft_local::Farm;
use serde_json::{Value, json};

use crate::eyes;
use crate::support::{Build, Buildx, Context, farm, registry};

/// The repository of stage images, and the digest of one that is there.
fn stage_image(farm: &Farm) -> (String, String) {
    let context = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN echo $NONCE > /x\nFROM busybox\nCOPY --from=builder /x /x\nRUN cat /x\n",
    );
    let buildx = Buildx::of(farm);
    let built = buildx
        .build(&context)
        .platforms(&["linux/arm64"])
        .run()
        .succeeded();
    let digest = built.plan().transfers[0].digest.clone();
    let repositories = registry::repositories(farm.stage());
    let holds = |path: &&String| {
        let repository = crate::support::Repository::of(farm.stage(), path);
        repository.find(&digest).is_some()
    };
    let path = repositories.iter().find(holds).expect("it is somewhere");
    (format!("{}/{path}", farm.stage().address()), digest)
}

#[track_caller]
fn check(dockerfile: &str, more: impl for<'a> FnOnce(Build<'a>, &str) -> Build<'a>) {
    let farm = farm();
    let (repository, digest) = stage_image(farm);
    let image = format!("{repository}@{digest}");
    let read = || ["GET", "HEAD"].map(|method| registry::requests(farm.stage(), method, &digest));
    let before = read();
    let context = Context::new(&dockerfile.replace("$STAGE", &image));
    let buildx = Buildx::of(farm);
    let built = more(buildx.build(&context), &image).run().failed();
    assert!(
        built.progress().contains("the farm's own stage registry"),
        "{}",
        built.progress()
    );
    assert_eq!(read(), before, "it was read all the same");
    let password = &farm.stage().credentials().expect("a password").password;
    eyes::nobody_wrote_down(farm, password);
}

#[test]
fn it_is_no_base_image() {
    check("FROM $STAGE\nRUN : $NONCE\n", |build, _| build);
}

#[test]
fn it_is_no_source_of_a_copy() {
    check(
        "FROM busybox\nCOPY --from=$STAGE /x /$NONCE\n",
        |build, _| build,
    );
}

#[test]
fn it_is_no_mount() {
    check(
        "FROM busybox\nRUN --mount=from=$STAGE,target=/m cat /m/x # $NONCE\n",
        |build, _| build,
    );
}

#[test]
fn it_is_no_frontend() {
    check(
        "# syntax=$STAGE\nFROM busybox\nRUN : $NONCE\n",
        |build, _| build,
    );
}

#[test]
fn it_is_no_frontend_by_an_argument() {
    check("FROM busybox\nRUN : $NONCE\n", |build, image| {
        build.args(["--build-arg", &format!("BUILDKIT_SYNTAX={image}")])
    });
}

#[test]
fn it_is_no_named_context() {
    check("FROM base\nRUN : $NONCE\n", |build, image| {
        build.args(["--build-context", &format!("base=docker-image://{image}")])
    });
}

#[test]
fn it_is_no_cache() {
    check("FROM busybox\nRUN : $NONCE\n", |build, image| {
        let (repository, _) = image.split_once('@').expect("a digest");
        build.args([
            "--cache-from",
            &format!("type=registry,ref={repository}:cache"),
        ])
    });
}

fn with_policy<'a>(build: Build<'a>, policy: &Value) -> Build<'a> {
    let path = build.home().join("policy.json");
    fs::write(&path, policy.to_string()).expect("writable");
    build.env(
        "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY",
        path.to_str().expect("text"),
    )
}

/// A source policy that leads an image that nobody has elsewhere.
fn conversion(kind: &str, update: &str) -> Value {
    json!({"rules": [{
        "action": "CONVERT",
        "selector": {"identifier": "docker-image://docker.io/library/never:*", "match_type": kind},
        "updates": {"identifier": update},
    }]})
}

#[test]
fn it_is_no_end_of_a_source_policy() {
    check("FROM busybox\nRUN : $NONCE\n", |build, image| {
        with_policy(
            build,
            &conversion("EXACT", &format!("docker-image://{image}")),
        )
    });
}

#[test]
fn a_source_policy_whose_end_is_open_is_refused_and_another_is_followed() {
    let context = Context::new("FROM never:1\nRUN : $NONCE\n");
    let buildx = Buildx::of(farm());
    let open = with_policy(
        buildx.build(&context),
        &conversion("WILDCARD", "docker-image://$1"),
    )
    .run();
    let open = open.failed();
    assert!(
        open.progress().contains("write out its scheme and host"),
        "{}",
        open.progress()
    );
    let fine = "docker-image://docker.io/library/busybox:latest";
    with_policy(buildx.build(&context), &conversion("WILDCARD", fine))
        .run()
        .succeeded();
}

#[test]
fn results_travel_whatever_a_source_policy_denies() {
    let context = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN echo $NONCE > /x\nFROM busybox\nCOPY --from=builder /x /x\nRUN cat /x\n",
    );
    let rule = |action: &str, image: &str| {
        let identifier = format!("docker-image://{image}");
        json!({"action": action, "selector": {"identifier": identifier, "match_type": "WILDCARD"}})
    };
    let only = |image| json!({"rules": [rule("DENY", "*"), rule("ALLOW", image)]});
    let buildx = Buildx::of(farm());
    let build = |policy| with_policy(buildx.build(&context).platforms(&["linux/arm64"]), &policy);
    let built = build(only("docker.io/library/busybox:*")).run().succeeded();
    assert_eq!(built.plan().transfers.len(), 1);
    let denied = build(only("docker.io/library/alpine:*")).run().failed();
    assert!(
        denied.progress().contains("denied by policy"),
        "{}",
        denied.progress()
    );
}

#[test]
fn it_takes_no_pushes() {
    check("FROM busybox\nRUN : $NONCE\n", |build, image| {
        let (repository, _) = image.split_once('@').expect("a digest");
        build.push(&format!("{repository}:mine"))
    });
}
