//! `buildctl build --frontend`: the solve names its frontend itself, and no gateway function of the client stands between.

use std::process::Stdio;

use crate::{
    buildctl::Buildctl,
    support::{Context, Repository, engine::runs, farm, machine},
};

const SHARED_BUILDER: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS build
COPY file /file
RUN : shared-$NONCE && cp /file /copy && head -c 32 /dev/urandom | sha256sum > /random
FROM busybox
ENV FRONTEND=direct
RUN : final-$NONCE && uname -m > /machine
COPY --from=build /copy /random /
";

fn output(repository: &Repository) -> String {
    format!("type=image,name={},push=true", repository.tag("1"))
}

#[test]
fn a_frontend_that_the_solve_names_is_planned_split_and_published_like_any_other() {
    let farm = farm();
    let platforms = ["linux/amd64", "linux/arm64", "linux/s390x"];
    let context = Context::new(SHARED_BUILDER).file("file", "text of the context");
    let image = Repository::of(farm.registry(), "sessions/frontend");
    let folder = context.path().display();
    let built = Buildctl::of(farm)
        .build(
            [
                "--frontend=dockerfile.v0".to_owned(),
                format!("--local=context={folder}"),
                format!("--local=dockerfile={folder}"),
                format!("--opt=platform={}", platforms.join(",")),
                format!("--output={}", output(&image)),
            ],
            Stdio::null(),
        )
        .succeeded();

    let published = image.published("1");
    let metadata = built.metadata();
    assert_eq!(metadata["containerimage.digest"], published.digest);
    assert_eq!(metadata["image.name"], image.tag("1"));
    assert_eq!(published.platforms(), platforms);
    let random = published.image(platforms[0]).file("/random");
    for platform in platforms {
        let image = published.image(platform);
        assert_eq!(image.file("/machine"), machine(platform));
        assert_eq!(image.file("/copy"), "text of the context");
        assert_eq!(image.file("/random"), random, "built once for all");
        let env = image.config["config"]["Env"].to_string();
        assert!(env.contains("FRONTEND=direct"), "{env}");
    }
    let plan = built.plan(farm);
    assert_eq!(plan.published, [image.tag("1")]);
    let shared = plan.of_kind("shared");
    assert_eq!(shared.len(), 1, "{plan:#?}");
    let ran = runs(farm, &format!("shared-{}", context.nonce));
    assert_eq!(ran, [(shared[0].agent().to_owned(), 1)]);
    let ran = runs(farm, &format!("final-{}", context.nonce));
    assert_eq!(ran.len(), 3, "{ran:?}");
}

#[test]
fn one_platform_is_published_as_by_one_engine_alone() {
    let farm = farm();
    let context = Context::new("FROM busybox\nCOPY file /file\nRUN : $NONCE && cp /file /copy\n")
        .file("file", "text");
    let folder = context.path().display().to_string();
    let build = |buildctl: &Buildctl, path: &str| {
        let image = Repository::of(farm.registry(), path);
        let arguments = [
            "--frontend=dockerfile.v0".to_owned(),
            format!("--local=context={folder}"),
            format!("--local=dockerfile={folder}"),
            format!("--output={}", output(&image)),
        ];
        buildctl.build(arguments, Stdio::null()).succeeded();
        image.published("1").bare_image()
    };
    let farms = build(&Buildctl::of(farm), "sessions/bare");
    let alone = build(&Buildctl::alone(farm), "sessions/bare-alone");
    for path in ["/file", "/copy"] {
        assert_eq!(farms.file(path), alone.file(path));
    }
    assert_eq!(farms.config["config"], alone.config["config"]);
    assert_eq!(farms.platform(), alone.platform());
}

#[test]
fn a_frontends_error_is_the_same_as_that_of_one_engine_alone() {
    let farm = farm();
    let context = Context::new("FROM busybox\nRUN : $NONCE && exit 7\n");
    let folder = context.path().display().to_string();
    let fail = |buildctl: &Buildctl| {
        let arguments = [
            "--frontend=dockerfile.v0".to_owned(),
            format!("--local=context={folder}"),
            format!("--local=dockerfile={folder}"),
        ];
        let finished = buildctl.build(arguments, Stdio::null()).finished.failed();
        let from = finished.stderr.find("------").expect("the error");
        let mut said = finished.stderr[from..].to_owned();
        for agent in farm.agents() {
            said = said.replace(&format!("[{} ", agent.name), "[");
        }
        said
    };
    let farms = fail(&Buildctl::of(farm));
    assert_eq!(farms, fail(&Buildctl::alone(farm)));
    assert!(
        farms.contains("Dockerfile:2") && farms.contains("exit code: 7"),
        "{farms}"
    );
}
