//! Several targets at once.

use crate::support::{Buildx, Context, Repository, engine::runs, farm, machine};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];
/// With one agent each: the linked targets are two builds, and the second may spill where there is another agent.
const SINGLE: [&str; 2] = ["linux/arm64", "linux/s390x"];

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

#[test]
fn a_target_can_stand_on_another_one() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let repository = Repository::of(farm.registry(), "shapes/bake-linked");
    let file = format!(
        r#"
target "base" {{
  dockerfile = "base.Dockerfile"
  platforms  = {SINGLE:?}
}}
target "app" {{
  contexts  = {{ foundation = "target:base" }}
  platforms = {SINGLE:?}
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
    assert_eq!(published.platforms(), SINGLE);
    for platform in SINGLE {
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
}
