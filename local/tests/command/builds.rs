//! Builds after the fact and while they run: where their time went, what they said, and removing them.

use croft_local::Farm;
use serde_json::Value;

use crate::support::{
    Buildx, Context, Croft, Repository, builds, farm, nonce,
    process::{self, eventually},
};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// A shared stage and a final one for each of two platforms.
const DOCKERFILE: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS $NONCE
RUN echo made-$NONCE && sleep 1 && echo 1 > /made
FROM busybox
RUN echo final-$NONCE && echo 2 > /final
COPY --from=$NONCE /made /made
";

/// What was built, its id and its tag.
fn build(farm: &Farm) -> (Context, String, String) {
    let context = Context::new(DOCKERFILE);
    let repository = Repository::of(farm.registry(), &format!("command/{}", nonce()));
    let tag = repository.tag("1");
    let buildx = Buildx::of(farm);
    let built = buildx.build(&context).platforms(&TWO).push(&tag).run();
    let id = built.succeeded().plan().id;
    (context, id, tag)
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[track_caller]
fn milliseconds(of: &Value) -> u64 {
    of.as_u64().unwrap_or_else(|| panic!("no time: {of}"))
}

#[test]
fn a_build_tells_where_its_time_went_and_what_each_of_its_stages_said() {
    let farm = farm();
    let (context, id, tag) = build(farm);
    let croft = Croft::of(farm);
    let shown = croft.run(["builds", "show", &id, "--format", "json"]);
    let build = json(&shown.succeeded().stdout);
    let time = |text: &Value| {
        let text = text.as_str().unwrap_or_else(|| panic!("no time: {text}"));
        text.to_owned()
    };
    let stages = build["stages"].as_array().expect("stages");
    for stage in stages {
        let last = stage["attempts"].as_array().expect("attempts").last();
        let began = time(&last.expect("a try")["started_at"]);
        assert!(time(&stage["ready_at"]) >= time(&build["started_at"]));
        assert!(began <= time(&build["finished_at"]));
    }
    // Both finals were pushed, and the shared result went to the agent of the other platform.
    let exports = stages.iter().flat_map(|stage| {
        let exports = stage["exports"].as_array().expect("exports");
        exports.clone()
    });
    let (targets, edges): (Vec<_>, Vec<_>) = exports.partition(|one| one["target"] == true);
    assert_eq!((targets.len(), edges.len()), (2, 1), "{build:#}");
    for export in targets.iter().chain(&edges) {
        assert!(milliseconds(&export["took_ms"]) > 0, "{build:#}");
    }
    let fetched = &build["transfers"][0]["fetch_ms"][0];
    assert!(milliseconds(fetched) > 0, "{build:#}");

    // All of the time, and more than a second of it in commands: the shared stage is on the path.
    let spent = build["spent"].as_object().expect("times");
    assert!(milliseconds(&spent["running_ms"]) > 1000, "{build:#}");
    let shared = stages.iter().find(|stage| stage["kind"] == "shared");
    let shared = &shared.expect("a shared stage")["number"];
    let path = build["critical_path"].as_array().expect("a path");
    assert_eq!(path.first(), Some(shared), "{build:#}");

    let text = croft.run(["builds", "show", &id]).succeeded().stdout;
    assert!(
        text.contains("Timeline") && text.contains("* critical path"),
        "{text}"
    );
    assert!(
        !text.chars().any(|c| c.is_control() && c != '\n'),
        "{text:?}"
    );
    let picture = croft.run(["builds", "show", &id, "--format", "svg"]);
    let picture = picture.succeeded().stdout;
    assert!(
        picture.starts_with("<svg ") && picture.ends_with("</svg>\n"),
        "{picture}"
    );

    let log = croft.run(["builds", "logs", &id]).succeeded().stdout;
    let (made, last) = (
        format!("made-{}", context.nonce),
        format!("final-{}", context.nonce),
    );
    let wrote = |log: &str, word: &str| log.lines().any(|line| line.ends_with(word));
    assert!(wrote(&log, &made) && wrote(&log, &last), "{log}");
    let number = shared.to_string();
    let part = croft.run(["builds", "logs", &id, "--stage", &number]);
    let part = part.succeeded().stdout;
    assert!(wrote(&part, &made) && !wrote(&part, &last), "{part}");

    let only = |flag: &str, value: &str| {
        let listed = croft.run(["builds", "ls", "-n1000", "--format", "json", flag, value]);
        let listed = json(&listed.succeeded().stdout);
        let all = listed.as_array().expect("builds").clone();
        all.iter().any(|build| build["id"] == id.as_str())
    };
    assert!(only("--published", &tag) && !only("--published", &format!("{tag}x")));
    assert!(only("--platform", "linux/arm64") && !only("--platform", "linux/s390x"));
    assert!(only("--since", "1h") && !only("--since", "0s"));
    assert!(!only("--project", "nobody's"));

    let gone = croft.run(["builds", "rm", &id]).succeeded().stdout;
    assert_eq!(gone, format!("{id} is removed\n"));
    for words in [
        ["builds", "show", &id],
        ["builds", "logs", &id],
        ["builds", "rm", &id],
    ] {
        assert_eq!(croft.run(words).failed().status.code(), Some(3));
    }
}

#[test]
fn a_log_is_followed_to_the_end_of_its_build_which_is_not_removed_before() {
    let farm = farm();
    let context = Context::new(
        "FROM busybox AS $NONCE\nRUN --mount=type=cache,id=$NONCE,target=/meet echo first; mkfifo /meet/pipe; timeout 60 cat /meet/pipe\nRUN echo third\n",
    );
    let buildx = Buildx::of(farm);
    let build = buildx.build(&context).args(["--output", "type=cacheonly"]);
    let (built, (mut follower, id)) = build.start_with(|_| {
        let plan = eventually("the build has a plan", || builds::find(farm, &context.nonce));
        let croft = Croft::of(farm);
        let mut follower = croft.terminal(["builds", "logs", "--follow", &plan.id]);
        follower.wait_for(|screen| screen.contains("first"));
        let refused = croft.run(["builds", "rm", &plan.id]).failed();
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains("cancel it first"), "{}", refused.stderr);
        // Let it go on.
        let other = Context::with_nonce(
            "FROM busybox\nRUN --mount=type=cache,id=$NONCE,target=/meet : beside; echo second > /meet/pipe\n",
            &context.nonce,
        );
        let buildx = Buildx::of(farm);
        buildx.build(&other).args(["--output", "type=cacheonly"]).run().succeeded();
        (follower, plan.id)
    });
    built.succeeded();
    follower.wait_for(|screen| screen.contains("third"));
    let seen = follower.finish().succeeded();
    for word in ["first", "second", "third"] {
        assert!(seen.text.contains(word), "{}", seen.text);
    }
    // What is followed is what stands there afterwards.
    let after = process::run(Croft::of(farm).command(["builds", "logs", &id])).succeeded();
    for word in ["first", "second", "third"] {
        assert!(after.stdout.contains(word), "{}", after.stdout);
    }
}

#[test]
fn a_list_is_followed_as_builds_come_and_end_whatever_it_is_a_list_of() {
    let farm = farm();
    let croft = Croft::of(farm);
    let listed = ["builds", "ls", "--follow", "--state", "running"];
    let mut programs = croft.start(listed.iter().copied().chain(["--format", "json"]));
    let mut person = croft.terminal(listed);
    person.resize(50, 200);
    let context = Context::new("FROM busybox\nRUN : $NONCE && sleep 600\n");
    let buildx = Buildx::of(farm);
    let build = buildx.build(&context).args(["--output", "type=cacheonly"]);
    let (built, id) = build.start_with(|_| {
        let id = eventually("the build has a plan", || {
            builds::find(farm, &context.nonce)
        })
        .id;
        let of = |line: &str, state: &str| {
            let build = serde_json::from_str::<Value>(line).ok();
            build.is_some_and(|build| build["id"] == id.as_str() && build["state"] == state)
        };
        programs.wait_for_output(|line| of(line, "running"));
        let says = |screen: &str, state: &str| {
            let mut lines = screen.lines();
            lines.any(|line| line.starts_with(&id) && line.contains(state))
        };
        person.wait_for(|screen| says(screen, "running"));
        croft.run(["builds", "cancel", &id]).succeeded();
        programs.wait_for_output(|line| of(line, "cancelled"));
        person.wait_for(|screen| says(screen, "cancelled"));
        id
    });
    built.failed();
    // It goes on; how it ends is the user's business.
    programs.interrupt();
    let programs = programs.finish();
    let told = programs.stdout.lines().map(json);
    let states: Vec<_> = told
        .filter(|build| build["id"] == id.as_str())
        .map(|build| build["state"].as_str().expect("a state").to_owned())
        .collect();
    assert_eq!(states.last().map(String::as_str), Some("cancelled"));
    assert_eq!(
        states.iter().filter(|state| *state == "cancelled").count(),
        1
    );
    person.interrupt();
    person.finish();
}
