//! buildx's commands about a builder: to them the farm is one BuildKit with many platforms.

use crate::support::{Buildx, Context, engine::records, farm_of};

#[test]
fn a_builder_s_whole_life_works_on_the_farm() {
    let farm = farm_of("arm64,amd64", &[]);
    let buildx = Buildx::empty();
    let address = format!("tcp://{}", farm.client_address());
    buildx
        .run(["create", "--name", "mine", "--driver", "remote", &address])
        .succeeded();
    // Before any build.
    buildx.run(["rm", "mine"]).succeeded();
    let bootstrapped = buildx
        .run([
            "create",
            "--name",
            "mine",
            "--driver",
            "remote",
            "--bootstrap",
            &address,
        ])
        .succeeded();
    assert!(bootstrapped.stdout.contains("mine"), "{bootstrapped:?}");

    let listed = buildx.run(["ls"]).succeeded().stdout;
    let node = listed
        .lines()
        .find(|line| line.contains(&address))
        .unwrap_or_else(|| panic!("{listed}"));
    assert!(node.contains("running"), "{listed}");
    for platform in ["linux/amd64", "linux/arm64"] {
        assert!(node.contains(platform), "{listed}");
    }

    for inspect in [
        &["inspect", "mine"][..],
        &["inspect", "--bootstrap", "mine"],
    ] {
        let shown = buildx.run(inspect).succeeded().stdout;
        assert!(shown.contains("running"), "{shown}");
        let platforms = shown
            .lines()
            .find_map(|line| line.strip_prefix("Platforms:"))
            .unwrap_or_else(|| panic!("{shown}"));
        // The build platform first: a frontend takes it for BUILDPLATFORM.
        assert!(platforms.trim().starts_with("linux/amd64, "), "{shown}");
        assert!(platforms.contains("linux/arm64"), "{shown}");
        assert!(!platforms.contains("s390x"), "{shown}");
    }

    buildx.run(["use", "mine"]).succeeded();
    let context = Context::new("FROM busybox\nRUN : used-$NONCE && uname -m > /machine\n");
    let mut build = buildx.command(["build", "--platform", "linux/amd64,linux/arm64"]);
    build.arg(context.path());
    crate::support::process::run(build).succeeded();

    let used = buildx.run(["du"]).succeeded().stdout;
    for agent in farm.agents() {
        assert!(used.contains(&format!("{}/", agent.name)), "{used}");
    }
    let verbose = buildx.run(["du", "--verbose"]).succeeded().stdout;
    let of_build = |text: &str| text.matches(&format!("used-{}", context.nonce)).count();
    assert_eq!(of_build(&verbose), 2, "{verbose}");

    let pruned = buildx.run(["prune", "--all", "--force"]).succeeded().stdout;
    for agent in farm.agents() {
        assert!(pruned.contains(&format!("{}/", agent.name)), "{pruned}");
        let left = records(agent);
        assert!(left.is_empty(), "{left:?}");
    }
    let used = buildx.run(["du"]).succeeded().stdout;
    assert!(!used.contains("amd64-1/"), "{used}");

    buildx.run(["rm", "mine"]).succeeded();
    let listed = buildx.run(["ls"]).succeeded().stdout;
    assert!(!listed.contains("mine"), "{listed}");
}
