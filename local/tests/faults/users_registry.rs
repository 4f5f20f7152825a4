//! The user's registry refuses what is pushed, or dies between two tags: the build fails with its message, and what moved is known.

use croft_local::Farm;

use crate::aftermath::settled;
use crate::farm_of;
use crate::registry_proxy::{Fate, REFUSAL, RegistryProxy};
use crate::support::{Buildx, Context, Plan, Repository};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];
const TAGS: [&str; 3] = ["one", "two", "three"];
const DOCKERFILE: &str = "FROM busybox\nRUN echo $NONCE > /x\n";

/// A build with three tags that all pointed at something before: what it says at its end, and where the tags point now, by whether they moved.
fn broken(farm: &Farm, platforms: &[&str], tag: &str, fate: Fate) -> (String, Plan, [bool; 3]) {
    let context = Context::new(DOCKERFILE);
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(farm);
    let tags = |name: &dyn Fn(&str) -> String| TAGS.map(|tag| ["--tag".to_owned(), name(tag)]);
    let build = |context| buildx.build(context).platforms(platforms).args(["--push"]);
    let before = build(&context).args(tags(&|tag| image.tag(tag)).as_flattened());
    let before = before.run().succeeded().digest();

    let next = Context::new(DOCKERFILE);
    let proxy = RegistryProxy::at_put(farm.registry().address(), &context.nonce, tag, fate);
    let through = |tag: &str| format!("{}/{}:{tag}", proxy.address(), context.nonce);
    let built = build(&next).args(tags(&through).as_flattened()).run();
    proxy.reached();
    let said = built.failed().progress().to_owned();
    let moved = TAGS.map(|tag| image.published(tag).digest != before);
    for (tag, moved) in TAGS.into_iter().zip(moved) {
        let times = image.moves(farm.registry(), tag);
        assert_eq!(times, 1 + usize::from(moved), "{tag}");
    }
    (said, settled(farm, &next), moved)
}

/// Each tag, what became of it, and why.
fn stored(farm: &Farm, plan: &Plan) -> Vec<(String, String, String)> {
    let rows = format!(
        "SELECT tag, state, COALESCE(error, '') FROM publications WHERE build = '{}' ORDER BY tag",
        plan.id
    );
    let rows = farm.postgres().query(farm.database_url(), &rows);
    let rows = rows.expect("a database");
    let row = |line: &str| {
        let mut words = line.splitn(3, '|').map(str::to_owned);
        let mut word = || words.next().expect("three columns");
        (word(), word(), word())
    };
    rows.lines().map(row).collect()
}

#[test]
fn a_registry_that_refuses_or_dies_between_two_tags_fails_the_build_which_says_what_moved() {
    let farm = farm_of("amd64,arm64", &[]);
    for (fate, why) in [(Fate::Refused, REFUSAL), (Fate::Deadly, "connection")] {
        let (said, plan, moved) = broken(&farm, &TWO, "two ", fate);
        assert_eq!(moved, [true, false, false], "{fate:?}");
        assert_eq!(plan.state, "failed", "{plan:#?}");
        let error = plan.error.clone().unwrap_or_default();
        let last = said.lines().last().unwrap_or_default();
        for text in [&error, last] {
            let (failed, tags) = text.split_once("; moved already: ").unwrap_or_default();
            assert!(failed.contains(":two") && failed.contains(why), "{text}");
            let (moved, not) = tags.split_once("; not moved: ").unwrap_or_default();
            assert!(moved.ends_with(":one"), "{text}");
            assert!(not.contains(":two") && not.contains(":three"), "{text}");
        }
        let [published] = &plan.published[..] else {
            panic!("one tag, not {:?}", plan.published)
        };
        assert!(published.ends_with(":one"), "{published}");
        let rows = stored(&farm, &plan);
        let [one, three, two] = &rows[..] else {
            panic!("three tags, not {rows:?}")
        };
        assert_eq!((&*one.1, &*one.2), ("published", ""));
        assert_eq!((&*two.1, &*three.1), ("left", "left"), "{rows:?}");
        assert!(two.2.contains(why), "{two:?}");
        assert!(three.2.contains("its build failed"), "{three:?}");
        for stage in &plan.stages {
            assert_eq!(stage.attempts.len(), 1, "what was made is made: {plan:#?}");
        }
    }
}

#[test]
fn a_registry_that_refuses_an_image_fails_the_build_before_any_tag_moves() {
    // One platform: an engine that is told to stop at the very moment when a step ends may count its result as in use from then on, even when
    // all its clients are gone.
    let farm = farm_of("amd64", &[]);
    let (said, plan, moved) = broken(&farm, &TWO[..1], "sha256:", Fate::Refused);
    assert_eq!(moved, [false, false, false]);
    assert_eq!(plan.state, "failed", "{plan:#?}");
    let error = plan.error.clone().unwrap_or_default();
    let last = said.lines().last().unwrap_or_default();
    assert!(error.contains(REFUSAL), "{error}");
    assert!(last.contains(REFUSAL), "{last}");
    // It is not the farm's fault, and no other agent would be let in.
    for stage in &plan.stages {
        assert!(stage.attempts.len() <= 1, "{plan:#?}");
    }
    assert_eq!(stored(&farm, &plan), []);
}
