//! What `buildctl` asks besides builds, and TLS as it speaks it.

use crate::{
    buildctl::Buildctl,
    support::{Buildx, Context, PLATFORMS, farm, farm_of},
};

#[test]
fn the_farm_is_one_worker_with_all_its_platforms() {
    let printed = Buildctl::of(farm()).run(["debug", "workers"]);
    let printed = printed.succeeded().stdout;
    let workers: Vec<_> = printed.lines().skip(1).collect();
    assert_eq!(workers.len(), 1, "{printed}");
    for platform in PLATFORMS {
        assert!(workers[0].contains(platform), "{printed}");
    }
    let version = Buildctl::of(farm()).run(["debug", "info"]).succeeded();
    assert!(version.stdout.contains("croft"), "{}", version.stdout);
}

#[test]
fn what_engines_have_is_shown_with_its_agent_and_goes_when_it_is_pruned() {
    let farm = farm_of("amd64,arm64", &[]);
    let buildctl = Buildctl::of(&farm);
    let context = Context::new("FROM busybox\nRUN : $NONCE && head -c 100000 /dev/zero > /x\n");
    let buildx = Buildx::of(&farm);
    let build = buildx.build(&context);
    build
        .platforms(&["linux/amd64", "linux/arm64"])
        .run()
        .succeeded();

    let used = |buildctl: &Buildctl| buildctl.run(["du", "-v"]).succeeded().stdout;
    let before = used(&buildctl);
    for agent in farm.agents() {
        let id = format!("{}/", agent.name);
        assert!(before.contains(&id), "nothing of {id} in {before}");
    }
    assert!(before.contains(&context.nonce), "{before}");
    let pruned = buildctl.run(["prune", "--all"]).succeeded().stdout;
    assert!(pruned.contains("Total:"), "{pruned}");
    let after = used(&buildctl);
    assert!(!after.contains(&context.nonce), "{after}");
}
