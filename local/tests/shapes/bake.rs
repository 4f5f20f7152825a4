//! Several targets at once.

use croft_local::Farm;

use crate::support::{Buildx, Context, Repository, engine::runs, farm, farm_of, machine};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

#[test]
fn independent_targets_are_built_and_published_each_for_itself() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let one = Repository::of(farm.registry(), "shapes/bake-one");
    let two = Repository::of(farm.registry(), "shapes/bake-two");
    let context = Context::new(
        "FROM busybox AS one\nRUN : one-$NONCE && uname -m > /one\nFROM busybox AS two\nRUN : two-$NONCE && uname -m > /two\n",
    );
    let target = |name: &str, repository: &Repository| {
        format!(
            "target {name:?} {{\n  target = {name:?}\n  platforms = {TWO:?}\n  tags = [{:?}]\n}}\n",
            repository.tag("latest")
        )
    };
    let file = format!(
        "group \"default\" {{ targets = [\"one\", \"two\"] }}\n{}{}",
        target("one", &one),
        target("two", &two)
    );
    let context = context.file("docker-bake.hcl", &file);

    let built = buildx.bake(&context).args(["--push"]).run().succeeded();

    for (name, repository) in [("one", one), ("two", two)] {
        let published = repository.published("latest");
        assert_eq!(
            built.metadata()[name]["containerimage.digest"],
            published.digest
        );
        assert_eq!(published.platforms(), TWO);
        for platform in TWO {
            assert_eq!(published.image(platform).file(name), machine(platform));
        }
        let plan = built.plan_of_target(name);
        assert_eq!(plan.published, [repository.tag("latest")]);
        let ran = runs(farm, &format!("{name}-{}", context.nonce));
        assert_eq!(ran.len(), 2, "{ran:?}");
    }
}

/// A slow shared step, one for each target platform, and a final stage of each of the three targets' own.
const SHARING: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN : shared-$NONCE && sleep $SECONDS && head -c 32 /dev/urandom | sha256sum > /random
ARG TARGETARCH
RUN : cross-$NONCE && echo $TARGETARCH > /target
FROM busybox AS one
COPY --from=builder /random /target /
RUN : one-$NONCE && uname -m > /machine
FROM busybox AS two
COPY --from=builder /random /target /
RUN : two-$NONCE && uname -m > /machine
FROM foundation AS three
RUN : three-$NONCE && cp /random /seen
";

const SHARING_PLAN: &str = "\
0 shared on amd64 for amd64,arm64: [linux/amd64 builder 2/3]
1 target on amd64 for amd64 after 0: linux/amd64 builder 3/3, linux/amd64 NAME 3/3
2 cross on amd64 for arm64 after 0: [linux/amd64->arm64 builder 3/3]
3 target on arm64 for arm64 after 2: [linux/arm64 NAME 3/3]
";

const UPON_PLAN: &str = "\
0 shared on amd64 for amd64,arm64: [linux/amd64 builder 2/3]
1 target on amd64 for amd64 after 0: linux/amd64 builder 3/3, linux/amd64 one 3/3, linux/amd64 three 1/2
2 cross on amd64 for arm64 after 0: [linux/amd64->arm64 builder 3/3]
3 target on arm64 for arm64 after 2: linux/arm64 one 3/3, linux/arm64 three 1/2
";

/// Bakes three targets of [`SHARING`] at once, the third upon the first: each step runs once, or once for each platform that it is for.
fn bake_sharing(farm: &Farm, seconds: &str, path: &str) {
    let names = ["one", "two", "three"];
    let repository = Repository::of(farm.registry(), path);
    let target = |name: &str| {
        let tag = repository.tag(name);
        let contexts = match name {
            "three" => "\n  contexts = { foundation = \"target:one\" }",
            _ => "",
        };
        format!(
            "target {name:?} {{\n  target = {name:?}\n  platforms = {TWO:?}\n  tags = [{tag:?}]{contexts}\n}}\n"
        )
    };
    let file = format!(
        "group \"default\" {{ targets = {names:?} }}\n{}",
        names.map(target).concat()
    );
    let dockerfile = SHARING.replace("$SECONDS", seconds);
    let context = Context::new(&dockerfile).file("docker-bake.hcl", &file);

    let buildx = Buildx::of(farm);
    let built = buildx.bake(&context).args(["--push"]).run().succeeded();

    let random = repository.published("one").image(TWO[0]).file("/random");
    for name in names {
        let plan = built.plan_of_target(name);
        match name {
            "three" => plan.check_stages(UPON_PLAN),
            _ => plan.check_stages(&SHARING_PLAN.replace("NAME", name)),
        }
        let published = repository.published(name);
        assert_eq!(published.platforms(), TWO);
        for platform in TWO {
            let image = published.image(platform);
            assert_eq!(image.file("/machine"), machine(platform));
            assert_eq!(image.file("/target"), platform.trim_start_matches("linux/"));
            assert_eq!(image.file("/random"), random, "{name} {platform}");
            assert_eq!(image.has("/seen"), name == "three");
        }
    }
    for (step, times) in [
        ("shared", 1),
        ("cross", 2),
        ("one", 2),
        ("two", 2),
        ("three", 2),
    ] {
        let ran = runs(farm, &format!("{step}-{}", context.nonce));
        let sum: usize = ran.iter().map(|(_, count)| count).sum();
        let plans = || names.map(|name| built.plan_of_target(name));
        assert_eq!(sum, times, "{step}: {ran:?} {:#?}", plans());
    }
}

#[test]
fn what_targets_share_runs_once_though_two_agents_could_run_it() {
    bake_sharing(farm(), "1", "shapes/bake-sharing");
}

#[test]
fn what_targets_share_runs_once_though_its_agent_is_full_and_another_is_idle() {
    // Longer than a step is taken to last of which nothing is known: waiting for it seems a mistake then.
    let farm = farm_of("amd64,amd64,arm64", &["--slots", "1"]);
    bake_sharing(&farm, "6", "shapes/bake-sharing");
}

const LINKED_PLAN: &str = "\
0 target on amd64 for amd64: linux/amd64 1/2 … 2/2
1 target on arm64 for arm64: linux/arm64 1/2 … 2/2
";

#[test]
fn a_target_can_stand_on_another_one() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let repository = Repository::of(farm.registry(), "shapes/bake-linked");
    let file = format!(
        r#"
target "base" {{
  dockerfile = "base.Dockerfile"
  platforms  = {TWO:?}
}}
target "app" {{
  contexts  = {{ foundation = "target:base" }}
  platforms = {TWO:?}
  tags      = [{:?}]
}}
"#,
        repository.tag("latest")
    );
    let context = Context::new("FROM foundation\nRUN : app-$NONCE && cat /random > /seen\n");
    let nonce = context.nonce.clone();
    let context = context
        .file(
            "base.Dockerfile",
            &format!("FROM busybox\nENV FROM_BASE=yes\nRUN : base-{nonce} && head -c 32 /dev/urandom | sha256sum > /random\n"),
        )
        .file("docker-bake.hcl", &file);

    let built = buildx
        .bake(&context)
        .args(["--push", "app"])
        .run()
        .succeeded();

    let published = repository.published("latest");
    assert_eq!(
        built.metadata()["app"]["containerimage.digest"],
        published.digest
    );
    assert_eq!(published.platforms(), TWO);
    for platform in TWO {
        let image = published.image(platform);
        assert_eq!(image.platform(), platform);
        assert_eq!(image.file("/seen"), image.file("/random"));
        let env = image.config["config"]["Env"].to_string();
        assert!(env.contains("FROM_BASE=yes"), "{env}");
    }
    for step in ["base", "app"] {
        let ran = runs(farm, &format!("{step}-{nonce}"));
        assert_eq!(ran.len(), 2, "{step}: {ran:?}");
        assert!(ran.iter().all(|(_, count)| *count == 1), "{step}: {ran:?}");
    }
    built.plan_of_target("app").check_stages(LINKED_PLAN);
}
