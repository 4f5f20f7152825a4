//! The coordinator is killed between two tags: the tag is ours, then that is done; it is what it was before, then it is moved; it is anything
//! else, then it is left, and the build says so.

use croft_local::Farm;

use crate::aftermath::settled;
use crate::farm_of;
use crate::registry_proxy::{Fate, RegistryProxy};
use crate::support::{Buildx, Context, Plan, Repository, builds, process::eventually};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// A build with two tags that both pointed at something before. The coordinator is killed at the second, and `meanwhile` happens before it
/// is started again.
fn check(
    farm: &mut Farm,
    fate: Fate,
    meanwhile: impl FnOnce(&Repository),
) -> (Plan, Repository, [String; 2]) {
    let dockerfile = "FROM busybox\nRUN echo $NONCE > /x\n";
    let context = Context::new(dockerfile);
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(farm);
    let before = buildx.build(&context).platforms(&TWO);
    let before = before
        .push(&image.tag("one"))
        .args(["--tag", &image.tag("two")])
        .run()
        .succeeded()
        .digest();

    let next = Context::new(dockerfile);
    let address = farm.registry().address();
    let proxy = RegistryProxy::at_put(address, &context.nonce, "two ", fate);
    let tag = |tag: &str| format!("{}/{}:{tag}", proxy.address(), context.nonce);
    let build = buildx.build(&next).platforms(&TWO);
    let build = build.push(&tag("one")).args(["--tag", &tag("two")]);
    let (built, ()) = build.start_with(|running| {
        running.wait_for(|line| line.contains("tagging ") && line.contains(":two"));
        proxy.reached();
        farm.kill_coordinator().expect("it runs");
        proxy.let_go();
    });
    built.failed();
    let one = image.published("one").digest;
    assert_ne!(one, before, "the first has moved");
    meanwhile(&image);
    farm.start_coordinator().expect("it starts again");
    let plan = eventually("the build is over", || {
        builds::find(farm, &next.nonce)
            .filter(|plan| !["running", "publishing"].contains(&plan.state.as_str()))
    });
    assert_eq!(image.published("one").digest, one, "it does not move again");
    // Once before, and once in the build that broke.
    assert_eq!(image.moves(farm.registry(), "one"), 2);
    settled(farm, &next);
    (plan, image, [before, one])
}

#[test]
fn a_coordinator_that_starts_between_two_tags_moves_what_is_as_it_was_and_leaves_what_others_changed()
 {
    let mut farm = farm_of("amd64,arm64", &[]);

    let (plan, image, [before, one]) = check(&mut farm, Fate::HeldBefore, |image| {
        assert_ne!(image.published("one").digest, image.published("two").digest);
    });
    assert_eq!(plan.state, "succeeded", "{plan:#?}");
    assert_ne!(image.published("two").digest, before);
    assert_eq!(
        (&image.published("two").digest, plan.digest.as_ref()),
        (&one, Some(&one))
    );
    assert_eq!(plan.published.len(), 2, "{plan:#?}");

    let (plan, image, [_, one]) = check(&mut farm, Fate::HeldAfter, |image| {
        assert_eq!(image.published("one").digest, image.published("two").digest);
    });
    assert_eq!(plan.state, "succeeded", "{plan:#?}");
    assert_eq!(image.published("two").digest, one);

    let mut others = String::new();
    let (plan, image, [before, one]) = check(&mut farm, Fate::HeldBefore, |image| {
        let platform = image.published("two").image("linux/amd64");
        image.put_copy("two", &platform.manifest);
        others = image.published("two").digest;
    });
    assert!(others != before && others != one);
    assert_eq!(
        image.published("two").digest,
        others,
        "it is somebody else's"
    );
    assert_eq!(plan.state, "failed", "{plan:#?}");
    let error = plan.error.unwrap_or_default();
    assert!(
        error.contains(":two was left alone") && error.contains(&others),
        "{error}"
    );
    assert_eq!(plan.published.len(), 1, "{:?}", plan.published);
}
