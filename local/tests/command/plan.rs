//! `croft plan`: what it says is what a build then does, and nothing of it is done.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;

use croft_local::Farm;
use serde_json::Value;

use crate::support::{
    Context, Croft, Plan, Repository, builds, engine, farm, farm_of,
    process::{Finished, PATIENCE, eventually},
};

const BOTH: &str = "linux/amd64,linux/arm64";

/// A shared stage, a cross stage, and of each target what waits for nothing and what waits for all.
const CROSS: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
WORKDIR /src
RUN echo $NONCE > shared
ARG TARGETARCH
RUN cp shared \"app-$TARGETARCH\" && mv app-* /app

FROM busybox
RUN uname -m > /machine-$NONCE
COPY --from=builder /app /app
";

fn planned(croft: &Croft, context: &Path, flags: &[&str]) -> Value {
    let context = context.to_str().expect("a path in UTF-8");
    let words = ["plan", "--format", "json"].into_iter();
    let printed = croft.run(words.chain(flags.iter().copied()).chain([context]));
    let printed = printed.succeeded().stdout;
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> Vec<String> {
    let texts = list(value)
        .iter()
        .map(|text| text.as_str().expect("a text"));
    texts.map(str::to_owned).collect()
}

fn numbers(value: &Value) -> Vec<u32> {
    let numbers = list(value)
        .iter()
        .map(|number| number.as_u64().expect("a number"));
    numbers
        .map(|number| u32::try_from(number).expect("small"))
        .collect()
}

/// What a plan and a build that ran have in common, stage by stage.
type Shape = Vec<(
    String,
    String,
    Option<String>,
    Vec<String>,
    Vec<u32>,
    String,
)>;

fn shape_of_plan(plan: &Value) -> Shape {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let stage = |stage: &Value| {
        (
            text(&stage["kind"]).expect("a kind"),
            text(&stage["name"]).expect("a name"),
            text(&stage["home"]),
            texts(&stage["users"]),
            numbers(&stage["inputs"]),
            text(&stage["agent"]).expect("an agent"),
        )
    };
    list(&plan["stages"]).iter().map(stage).collect()
}

fn shape_of_build(build: &Plan) -> Shape {
    let stages = build.stages.iter();
    stages
        .map(|stage| {
            (
                stage.kind.clone(),
                stage.name.clone(),
                stage.home.clone(),
                stage.users.clone(),
                stage.inputs.clone(),
                stage.agent().to_owned(),
            )
        })
        .collect()
}

/// The stages whose results go to another agent.
fn travelling(plan: &Value) -> BTreeSet<u32> {
    let results = list(&plan["results"]).iter();
    let travelling = results.filter(|result| !list(&result["to_agents"]).is_empty());
    let from = travelling.map(|result| result["from_stage"].as_u64().expect("a number"));
    from.map(|number| u32::try_from(number).expect("small"))
        .collect()
}

fn commands(plan: &Value, key: &str) -> u64 {
    let stages = list(&plan["stages"]).iter();
    stages
        .map(|stage| stage[key].as_u64().expect("a number"))
        .sum()
}

fn latest(croft: &Croft) -> Plan {
    let printed = croft.run(["builds", "show", "latest", "--format", "json"]);
    let printed = printed.succeeded().stdout;
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[test]
fn a_build_goes_where_its_plan_said_and_the_plan_itself_runs_and_keeps_nothing() {
    let farm: Farm = farm_of("amd64,arm64", &[]);
    let croft = Croft::of(&farm);
    let context = Context::new(CROSS);
    let image = Repository::of(farm.registry(), "planned").tag("1");
    let flags = ["--platform", BOTH, "--push", "-t", &image];

    let plan = planned(&croft, context.path(), &flags);
    assert!(list(&plan["advice"]).is_empty(), "{plan:#}");
    assert_eq!(plan["refused"], Value::Null);
    assert_eq!(commands(&plan, "commands"), 5);
    assert_eq!(commands(&plan, "commands_cached"), 0);
    assert_eq!(engine::runs(&farm, &context.nonce), []);
    assert!(builds::listed(&farm).is_empty());
    assert!(Repository::of(farm.registry(), "planned").tags().is_empty());

    let path = context.path().to_str().expect("a path in UTF-8");
    let words = ["build"].into_iter().chain(flags).chain([path]);
    croft.run(words).succeeded();
    let build = latest(&croft);
    assert_eq!(shape_of_plan(&plan), shape_of_build(&build));
    let travelled: BTreeSet<u32> = build.transfers.iter().map(|one| one.from_stage).collect();
    assert_eq!(travelling(&plan), travelled);

    // Now the farm knows who ran what.
    let again = planned(&croft, context.path(), &flags);
    assert_eq!(shape_of_plan(&again), shape_of_plan(&plan));
    for stage in list(&again["stages"]) {
        assert_eq!(stage["commands_cached"], stage["commands"], "{stage:#}");
        if stage["commands"] != 0 {
            assert_eq!(
                texts(&stage["cached_on"]),
                [stage["agent"].as_str().unwrap()]
            );
        }
    }
    assert_eq!(builds::listed(&farm).len(), 1);
}

#[test]
fn advice_names_the_lines_to_change_on_a_terminal_as_in_a_pipe() {
    let croft = Croft::of(farm());
    let context = Context::new(
        "\
FROM --platform=$BUILDPLATFORM busybox AS builder
ARG TARGETARCH
RUN echo download
RUN echo \"compile for $TARGETARCH\" > /app

FROM busybox
RUN uname -m > /machine
COPY --from=builder / /all/
",
    );
    let plan = planned(&croft, context.path(), &["--platform", BOTH]);
    let advice = list(&plan["advice"]).iter();
    let found: Vec<_> = advice
        .map(|one| {
            let steps = list(&one["steps"]).iter();
            let steps = steps.map(|step| step["text"].as_str().unwrap().to_owned());
            (
                one["kind"].as_str().unwrap(),
                one["file"].as_str().unwrap(),
                one["first_line"].as_u64().unwrap(),
                one["last_line"].as_u64().unwrap(),
                steps.collect::<Vec<_>>(),
            )
        })
        .collect();
    let step = |text: &str| vec![text.to_owned()];
    assert_eq!(
        found,
        [
            ("early-arg", "Dockerfile", 2, 2, step("RUN echo download")),
            (
                "whole-root",
                "Dockerfile",
                8,
                8,
                step("COPY --from=builder / /all/")
            ),
        ]
    );

    let path = context.path().to_str().expect("a path in UTF-8");
    let words = ["plan", "--platform", BOTH, path];
    let piped = croft.run(words).succeeded().stdout;
    assert!(
        !piped.chars().any(|c| c.is_control() && c != '\n'),
        "{piped:?}"
    );
    let seen = croft.terminal(words).finish().succeeded();
    assert!(seen.raw.contains("\u{1b}["), "{:?}", seen.raw);
    for text in [
        "Plan for linux/amd64, linux/arm64",
        "Dockerfile:2",
        "Dockerfile:8",
    ] {
        assert!(piped.contains(text), "{piped}");
        assert!(seen.text.contains(text), "{}", seen.text);
    }
    for (form, begin) in [("mermaid", "flowchart LR\n"), ("svg", "<svg ")] {
        let drawn = croft.run(["plan", "--format", form, "--platform", BOTH, path]);
        let drawn = drawn.succeeded().stdout;
        assert!(drawn.starts_with(begin), "{drawn}");
        assert!(drawn.contains("early-arg"), "{drawn}");
    }
}

#[test]
fn the_examples_need_no_advice() {
    let croft = Croft::of(farm());
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(&examples).expect("examples") {
        let folder = entry.expect("readable").path();
        if !folder.join("Dockerfile").exists() {
            continue;
        }
        let plan = planned(&croft, &folder, &["--platform", BOTH]);
        assert!(
            list(&plan["advice"]).is_empty(),
            "{}: {plan:#}",
            folder.display()
        );
        seen += 1;
    }
    assert!(seen >= 3, "{seen} examples");
}

#[test]
fn what_would_be_refused_is_refused_in_the_same_words() {
    let croft = Croft::of(farm());
    let ask = |command: &str, context: &Context, flags: &[&str]| -> Finished {
        let path = context.path().to_str().expect("a path in UTF-8").to_owned();
        let words = [command].into_iter().chain(flags.iter().copied());
        croft.run(words.chain([path.as_str()])).failed()
    };

    // No agent is of this platform, and no base image has to be found for it.
    let foreign = Context::new("FROM scratch\nCOPY Dockerfile /\nRUN [\"/$NONCE\"]\n");
    let flags = ["--platform", "linux/amd64,linux/riscv64"];
    let by_plan = ask("plan", &foreign, &flags);
    let by_build = ask("build", &foreign, &flags);
    let why = "no agent can run linux/riscv64: the farm has linux/amd64 (amd64-1, amd64-2)";
    assert!(by_plan.stderr.contains(why), "{}", by_plan.report());
    assert!(by_build.stderr.contains(why), "{}", by_build.report());
    assert!(
        by_plan.stdout.contains("on no agent"),
        "{}",
        by_plan.report()
    );

    // Like no instruction, as BuildKit proposes one of those that are alike at random.
    let wrong = Context::new("FROM busybox\nNOTHING echo\n");
    let by_plan = ask("plan", &wrong, &[]);
    let by_build = ask("build", &wrong, &[]);
    let last = |finished: &Finished| {
        let last = finished.stderr.lines().last().expect("an error").to_owned();
        assert!(
            last.contains("unknown instruction: NOTHING"),
            "{}",
            finished.report()
        );
        last
    };
    assert_eq!(last(&by_plan), last(&by_build));
    assert!(by_plan.stdout.is_empty(), "{}", by_plan.report());
    assert!(
        by_plan.stderr.contains(">>> NOTHING echo"),
        "{}",
        by_plan.report()
    );
}

#[test]
fn a_plan_that_nobody_waits_for_any_more_is_given_up() {
    let croft = Croft::of(farm());
    // A context that never comes: the engine asks for it as long as it is to plan.
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("an address");
    let mut running = croft.start(["plan", &format!("http://{address}/context.tar")]);
    server.set_nonblocking(true).expect("a socket");
    let mut asked = eventually("the engine asks for the context", || {
        server.accept().ok().map(|(stream, _)| stream)
    });
    asked.set_nonblocking(false).expect("a socket");
    asked.set_read_timeout(Some(PATIENCE)).expect("a socket");
    running.kill();
    // Its request, and then the end of the connection.
    let mut request = Vec::new();
    asked
        .read_to_end(&mut request)
        .expect("the engine gives up");
    assert!(request.starts_with(b"GET ") || request.starts_with(b"HEAD "));
}
