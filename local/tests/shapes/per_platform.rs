//! Shape 5: a plain Dockerfile, each platform on its own agent.

use crate::support::{Buildx, Context, PLATFORMS, Repository, engine::runs, farm, machine};

#[test]
fn each_platform_is_built_on_its_own_agent() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new("FROM busybox\nRUN : plain-$NONCE && uname -m > /arch\n");
    let repository = Repository::of(farm.registry(), "shapes/per-platform");

    let built = buildx
        .build(&context)
        .platforms(&PLATFORMS)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();

    let published = repository.published("latest");
    assert_eq!(published.platforms(), PLATFORMS);
    let ran = runs(farm, &format!("plain-{}", context.nonce));
    let plan = built.plan();
    assert_eq!((ran.len(), plan.stages.len()), (4, 4), "{ran:?} {plan:#?}");
    for (platform, (agent, count)) in PLATFORMS.iter().zip(ran) {
        let image = published.image(platform);
        assert_eq!(image.platform(), *platform);
        assert_eq!(image.file("/arch"), machine(platform));
        let stage = plan
            .stages
            .iter()
            .find(|stage| stage.users == [*platform])
            .unwrap();
        assert_eq!((stage.kind.as_str(), stage.agent()), ("target", &*agent));
        assert_eq!(stage.home.as_deref(), Some(*platform));
        assert!(agent.starts_with(platform.trim_start_matches("linux/")));
        assert_eq!(count, 1);
    }
    assert_eq!(plan.transfers.len(), 0, "{plan:#?}");
}
