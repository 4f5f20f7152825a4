//! The coordinator is killed in the middle of builds, and started again.

use croft_local::{Access, Farm, Registry, RegistryOptions};

use crate::aftermath::{nothing_left, settled, unharmed};
use crate::farm_of;
use crate::gate::Gate;
use crate::registry_proxy::{Fate, RegistryProxy};
use crate::support::{
    Build, Buildx, Context, Plan, Repository, builds, engine::runs, process::eventually,
};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// Why builds end that need their client.
pub const GONE: &str = "the coordinator was restarted and the client is gone";

/// Runs a build up to its gate and kills the coordinator there.
fn killed_at(farm: &mut Farm, gate: &Gate, build: Build<'_>) {
    let (built, ()) = build.start_with(|_| {
        gate.reached();
        farm.kill_coordinator().expect("it runs");
    });
    built.failed();
}

/// The build with this nonce in a step's name.
fn found(farm: &Farm, nonce: &str) -> Plan {
    builds::find(farm, nonce).unwrap_or_else(|| {
        panic!(
            "the farm knows none of {nonce}: {:#?}",
            builds::listed(farm)
        )
    })
}

/// The same once it is over.
pub fn over(farm: &Farm, nonce: &str) -> Plan {
    eventually("the build is over", || {
        Some(found(farm, nonce))
            .filter(|plan| !["planning", "running", "publishing"].contains(&plan.state.as_str()))
    })
}

#[test]
fn what_runs_when_the_coordinator_is_killed_runs_on_is_adopted_and_published() {
    let mut farm = farm_of("amd64,arm64", &["--build-platform", "linux/amd64"]);
    let buildx = Buildx::of(&farm);
    for opened_while_away in [false, true] {
        let gate = Gate::new();
        let context = Context::new(&format!(
            "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN : $NONCE; {} && cat /proc/sys/kernel/random/uuid > /x\n\
             FROM busybox\nCOPY --from=builder /x /x\nRUN echo $NONCE > /nonce && uname -m > /machine\n",
            gate.step()
        ));
        let image = Repository::of(farm.registry(), &context.nonce);
        let build = buildx.build(&context).platforms(&TWO);
        killed_at(&mut farm, &gate, build.push(&image.tag("1")));
        if opened_while_away {
            gate.open();
        }
        farm.start_coordinator().expect("it starts again");
        if !opened_while_away {
            let plan = found(&farm, &context.nonce);
            assert_eq!(
                (plan.state.as_str(), plan.stage("builder").state.as_str()),
                ("running", "running")
            );
            gate.open();
        }
        let plan = over(&farm, &context.nonce);
        assert_eq!(plan.state, "succeeded", "{plan:#?}");
        // What ends while there is no coordinator finds nobody to ask for the stage registry's credentials, and is repeated; but its engine
        // has the result.
        let tries: Vec<_> = plan
            .stages
            .iter()
            .map(|stage| stage.attempts.len())
            .collect();
        assert!(
            opened_while_away || tries.iter().all(|tries| *tries == 1),
            "{plan:#?}"
        );
        let ran = runs(&farm, &context.nonce);
        assert_eq!(
            ran,
            [("amd64-1".to_owned(), 2), ("arm64-1".to_owned(), 1)],
            "the builder's command, and one of each platform"
        );
        let published = image.published("1");
        assert_eq!(published.platforms(), TWO);
        assert_eq!(Some(&published.digest), plan.digest.as_ref());
        let [amd64, arm64] = TWO.map(|platform| published.image(platform).file("/x"));
        assert_eq!(amd64, arm64, "both have the one artifact");
        unharmed(&farm, &context, &image, &[&gate]);
    }
}

#[test]
fn a_build_whose_client_went_with_the_coordinator_ends_where_it_needs_it_and_says_so() {
    let mut farm = farm_of("amd64,arm64", &["--build-platform", "linux/amd64"]);
    let buildx = Buildx::of(&farm);
    let private = Repository::of(farm.private(), "library/alone").tag("1");
    let password = &farm.private().credentials().expect("it wants one").password;
    buildx.log_in(&farm.private().address().to_string(), "user", password);
    std::fs::write(buildx.home().join("token"), "t").expect("writable");
    let none: &[&str] = &[];
    for (last, arguments, wanted) in [
        (
            "RUN --mount=type=secret,id=token,required=true cat /run/secrets/token",
            &["--secret", "id=token,src=token"][..],
            "its secrets",
        ),
        ("COPY file /file\nRUN cat /file", none, "its files"),
        (
            "RUN uname -m",
            &["--push", "--tag", private.as_str()],
            "its credentials",
        ),
    ] {
        let gate = Gate::new();
        let context = Context::new(&format!(
            "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN : $NONCE; {} && cat /proc/sys/kernel/random/uuid > /x\n\
             FROM busybox\nCOPY --from=builder /x /x\n{last}\n",
            gate.step()
        ))
        .file("file", "from the client");
        let build = buildx.build(&context).platforms(&["linux/arm64"]);
        killed_at(&mut farm, &gate, build.args(arguments));
        farm.start_coordinator().expect("it starts again");
        gate.open();
        let plan = over(&farm, &context.nonce);
        let error = plan.error.clone().unwrap_or_default();
        assert_eq!(plan.state, "cancelled", "{plan:#?}");
        assert!(
            error.starts_with(GONE) && error.contains(wanted),
            "{wanted}: {error}"
        );
        // As far as it needed nobody it went.
        assert_eq!(plan.stage("builder").state, "done", "{plan:#?}");
        assert_eq!(plan.stage("builder").attempts.len(), 1, "{plan:#?}");
        settled(&farm, &context);
    }
}

#[test]
fn the_farms_own_credentials_publish_for_clients_that_have_none_or_are_gone() {
    let private = Registry::start(RegistryOptions {
        access: Access::Password("robot".to_owned()),
        ..RegistryOptions::default()
    })
    .expect("a registry");
    let password = &private.credentials().expect("it wants one").password;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{password}\n")).expect("writable");
    let secret = format!("{}/team=robot:{}", private.address(), file.display());
    let mut farm = farm_of("amd64", &["--registry-secret", &secret]);
    let buildx = Buildx::of(&farm);

    let context = Context::new("FROM busybox\nRUN echo $NONCE > /x\n");
    let image = Repository::of(&private, "team/here");
    let build = buildx.build(&context).push(&image.tag("1"));
    let digest = build.run().succeeded().digest();
    assert_eq!(image.published("1").digest, digest);
    // Not where they are not for.
    let other = Repository::of(&private, "others/here");
    let refused = buildx.build(&context).push(&other.tag("1")).run().failed();
    assert!(refused.progress().contains("401"), "{}", refused.progress());

    let gate = Gate::new();
    let context = Context::new(&format!(
        "FROM busybox\nRUN : $NONCE; {} && cat /proc/sys/kernel/random/uuid > /x\n",
        gate.step()
    ));
    let image = Repository::of(&private, "team/gone");
    killed_at(
        &mut farm,
        &gate,
        buildx.build(&context).push(&image.tag("1")),
    );
    farm.start_coordinator().expect("it starts again");
    gate.open();
    let plan = over(&farm, &context.nonce);
    assert_eq!(plan.state, "succeeded", "{plan:#?}");
    assert_eq!(Some(image.published("1").digest), plan.digest);
    assert_eq!(image.moves(&private, "1"), 1);
    settled(&farm, &context);
}

#[test]
fn a_build_that_is_being_planned_when_the_coordinator_is_killed_ends_and_says_so() {
    let mut farm = farm_of("amd64", &[]);
    let buildx = Buildx::of(&farm);
    // Planning looks the base image up.
    let line = "HEAD /v2/library/busybox/manifests/latest".to_owned();
    let registry = RegistryProxy::at(farm.registry().address(), line, Fate::HeldBefore);
    let base = format!("{}/library/busybox", registry.address());
    let context = Context::new(&format!("FROM {base}\nRUN : $NONCE\n"));
    let (built, ()) = buildx.build(&context).start_with(|_| {
        registry.reached();
        farm.kill_coordinator().expect("it runs");
    });
    built.failed();
    let listed = |farm: &Farm| {
        let builds = builds::listed(farm);
        let [only] = &builds[..] else {
            panic!("one build, not {builds:#?}")
        };
        Plan::of(
            &farm.binaries().croft(),
            &farm.client_address().to_string(),
            &builds::text(only, "id"),
        )
    };
    farm.start_coordinator().expect("it starts again");
    let plan = listed(&farm);
    let error = plan.error.clone().unwrap_or_default();
    assert_eq!(plan.state, "cancelled", "{plan:#?}");
    assert!(
        error.contains("while the build was being planned"),
        "{error}"
    );
    assert!(plan.stages.is_empty(), "{plan:#?}");
    registry.let_go();
    nothing_left(&farm, &context.nonce);

    // Nothing of it stands in the way.
    let image = Repository::of(farm.registry(), &context.nonce);
    let again = buildx.build(&context).push(&image.tag("1"));
    again.run().succeeded();
    unharmed(&farm, &context, &image, &[]);
}

/// A bake of one target that stands on another, which its client has made first.
fn on_another(below: &str, above: &str, tag: &str) -> Context {
    let nonce = crate::support::nonce();
    let file = format!(
        "target \"below\" {{\n  dockerfile-inline = \"FROM busybox\\nRUN : below-{nonce}; {below}\"\n}}\n\
         target \"above\" {{\n  contexts = {{ below = \"target:below\" }}\n  \
         dockerfile-inline = \"FROM below\\nRUN : above-{nonce}; {above} && cat /proc/sys/kernel/random/uuid > /x\"\n  \
         tags = [{tag:?}]\n  output = [\"type=registry\"]\n}}\n"
    );
    Context::with_nonce("", &nonce).file("docker-bake.hcl", &file)
}

#[test]
fn builds_within_builds_end_or_go_on_with_the_one_they_are_for_when_the_coordinator_is_killed() {
    let mut farm = farm_of("amd64", &[]);
    let buildx = Buildx::of(&farm);
    for below_is_made in [false, true] {
        let gate = Gate::new();
        let image = Repository::of(farm.registry(), &crate::support::nonce());
        let context = match below_is_made {
            true => on_another(":", &gate.step(), &image.tag("1")),
            false => on_another(&gate.step(), ":", &image.tag("1")),
        };
        let build = buildx.bake(&context).args(["above"]);
        killed_at(&mut farm, &gate, build);
        farm.start_coordinator().expect("it starts again");
        gate.open();
        let ends = || {
            let builds = builds::listed(&farm);
            let over = builds.iter().all(|one| !one["finished_at"].is_null());
            over.then(|| {
                builds
                    .iter()
                    .map(|one| builds::text(one, "state"))
                    .collect()
            })
        };
        let ends: Vec<String> = eventually("all builds are over", ends);
        nothing_left(&farm, &context.nonce);
        // The one that its client waited for goes on once it is planned; what its client had made first ends, or is a part of it.
        let above = builds::find(&farm, &format!("above-{}", context.nonce));
        match above.filter(|plan| plan.state == "succeeded") {
            Some(plan) => {
                assert_eq!(Some(image.published("1").digest), plan.digest);
                assert_eq!(image.moves(farm.registry(), "1"), 1);
                let ran = runs(&farm, &format!("below-{}", context.nonce));
                assert_eq!(ran, [("amd64-1".to_owned(), 1)], "once for both");
            }
            None => {
                assert!(!below_is_made, "{ends:?}");
                assert!(ends.contains(&"cancelled".to_owned()), "{ends:?}");
                assert_eq!(image.tags(), [""; 0]);
            }
        }
    }
}
