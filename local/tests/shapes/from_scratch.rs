//! Shape 2: the same builder with `FROM scratch` at the end. No command runs on a target's platform, so nothing needs to go there.

use crate::support::{
    Buildx, Context, PLATFORMS, Repository,
    engine::{records, records_of, runs},
    farm, farm_of,
    registry::repositories,
};

const DOCKERFILE: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
WORKDIR /src
RUN : slow-$NONCE && head -c 32 /dev/urandom | sha256sum > random
ARG TARGETOS
ARG TARGETARCH
RUN : cross-$NONCE && echo $TARGETOS/$TARGETARCH > target
FROM scratch
COPY --from=builder /src /app
ENTRYPOINT [\"/app/target\"]
";

fn check_images(repository: &Repository) {
    let published = repository.published("latest");
    assert_eq!(published.platforms(), PLATFORMS);
    let images = PLATFORMS.map(|platform| published.image(platform));
    for (platform, image) in PLATFORMS.iter().zip(&images) {
        assert_eq!(image.platform(), *platform);
        assert_eq!(image.file("/app/target"), *platform);
        assert_eq!(image.file("/app/random"), images[0].file("/app/random"));
        assert!(!image.has("/bin"));
    }
}

#[test]
fn with_one_agent_of_the_build_platform_nothing_travels() {
    let farm = farm_of("amd64,arm64", &[]);
    let buildx = Buildx::of(&farm);
    let context = Context::new(DOCKERFILE);
    let repository = Repository::of(farm.registry(), "shapes/scratch");

    let built = buildx
        .build(&context)
        .platforms(&PLATFORMS)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();

    check_images(&repository);
    let plan = built.plan();
    assert_eq!(plan.agents().into_iter().collect::<Vec<_>>(), ["amd64-1"]);
    assert_eq!(plan.transfers.len(), 0, "{plan:#?}");
    assert_eq!(repositories(farm.stage()), Vec::<String>::new());
    assert_eq!(records(&farm.agents()[1]).len(), 0);
}

#[test]
fn nothing_leaves_the_build_platform_and_the_shared_result_travels_once_at_most() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(DOCKERFILE);
    let repository = Repository::of(farm.registry(), "shapes/scratch");

    let built = buildx
        .build(&context)
        .platforms(&PLATFORMS)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();

    check_images(&repository);
    let plan = built.plan();
    let of_build_platform = |agent: &str| agent.starts_with("amd64-");
    assert!(
        plan.agents().into_iter().all(of_build_platform),
        "{plan:#?}"
    );
    assert!(plan.transfers.len() <= 1, "{plan:#?}");
    let shared = plan.of_kind("shared")[0];
    let left = plan
        .transfers
        .iter()
        .filter(|transfer| transfer.from_stage != shared.number);
    assert_eq!(left.count(), 0, "{plan:#?}");
    let slow = runs(farm, &format!("slow-{}", context.nonce));
    assert_eq!(slow, [(shared.agent().to_owned(), 1)]);
    let cross = runs(farm, &format!("cross-{}", context.nonce));
    assert!(cross.iter().all(|(agent, _)| of_build_platform(agent)));
    assert_eq!(cross.iter().map(|(_, count)| count).sum::<usize>(), 4);
    for agent in farm.agents() {
        if of_build_platform(&agent.name.to_string()) {
            continue;
        }
        for transfer in &plan.transfers {
            assert_eq!(records_of(agent, &transfer.digest).len(), 0);
        }
    }
}
