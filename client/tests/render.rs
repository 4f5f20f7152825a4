//! What the command shows, whole, against checked-in text. `CROFT_BLESS=1 cargo test -p croft-client --test render` writes the text anew.

use std::{collections::BTreeSet, fs, path::Path};

use chrono::{DateTime, Utc};
use croft_client::{
    builds::Shown,
    config::Context,
    contexts::Named,
    model::{
        Agent, AgentDetail, Attempt, Build, BuildDetail, EngineCache, Event, Export, Moment, Stage,
        Transfer, Work,
    },
    render::{self, Paint},
};

/// Seconds after the build began.
fn at(seconds: f64) -> Moment {
    let start: DateTime<Utc> = "2026-11-21T11:04:05.250Z".parse().expect("a moment");
    Moment(start + chrono::Duration::milliseconds((seconds * 1000.0).round() as i64))
}

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("CROFT_BLESS").is_some() {
        fs::write(&path, text).expect("written");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == golden,
        "{name} is not as checked in\n--- checked in\n{golden}--- is\n{text}"
    );
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

const PLATFORMS: [&str; 4] = ["linux/amd64", "linux/arm64", "linux/ppc64le", "linux/s390x"];
const DIGEST: &str = "sha256:9f2c1f3b9c6d1e5a7b8c9d0e1f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c";

fn build(state: &str, finished: Option<f64>) -> Build {
    Build {
        id: "019aa6a1-6f02-7c31-9d54-3f1f6f0b7a10".to_owned(),
        client_ref: "x3k9q1l2m4n5".to_owned(),
        project: "default".to_owned(),
        state: state.to_owned(),
        created_at: Some(at(0.0)),
        started_at: Some(at(0.4)),
        finished_at: finished.map(at),
        platforms: strings(&PLATFORMS),
        error: None,
        published: vec![],
        digest: None,
    }
}

fn attempt(
    agent: &str,
    state: &str,
    reason: &str,
    times: [Option<f64>; 2],
    steps: [u32; 2],
) -> Attempt {
    Attempt {
        id: format!("attempt-on-{agent}"),
        agent: agent.to_owned(),
        state: state.to_owned(),
        reason: reason.to_owned(),
        created_at: times[0].map(|started| at(started - 0.01)),
        started_at: times[0].map(at),
        finished_at: times[1].map(at),
        error: None,
        vertices_cached: steps[0],
        vertices_run: steps[1],
        fetch_ms: 0,
    }
}

fn stage(
    number: u32,
    kind: &str,
    name: &str,
    users: &[&str],
    inputs: &[u32],
    attempts: Vec<Attempt>,
) -> Stage {
    let done = attempts
        .last()
        .is_some_and(|attempt| attempt.state == "succeeded");
    Stage {
        number,
        name: name.to_owned(),
        kind: kind.to_owned(),
        state: if done { "done" } else { "running" }.to_owned(),
        home: Some(
            if kind == "target" {
                users[0]
            } else {
                "linux/amd64"
            }
            .to_owned(),
        ),
        users: strings(users),
        waiting_for: None,
        inputs: inputs.to_vec(),
        ready_at: None,
        exports: vec![],
        attempts,
    }
}

/// Shape 1: a shared builder, a cross step and a final stage for each platform.
fn whole() -> BuildDetail {
    let mut detail = BuildDetail {
        build: Build {
            published: strings(&[
                "registry.example/team/app:1.2",
                "registry.example/team/app:latest",
            ]),
            digest: Some(DIGEST.to_owned()),
            ..build("succeeded", Some(21.5))
        },
        stages: vec![stage(
            1,
            "shared",
            "builder 2/5 … 4/5",
            &PLATFORMS,
            &[],
            vec![attempt(
                "amd64-1",
                "succeeded",
                "first of equals",
                [Some(0.4), Some(8.9)],
                [1, 3],
            )],
        )],
        transfers: vec![],
        events: vec![],
    };
    for (number, (platform, agent)) in
        (2..).zip(
            PLATFORMS
                .iter()
                .zip(["amd64-1", "arm64-1", "ppc64le-1", "s390x-1"]),
        )
    {
        let start = 8.95 + f64::from(number);
        detail.stages.push(stage(
            number,
            "cross",
            "[builder 5/5] RUN compile",
            &[platform],
            &[1],
            vec![attempt(
                "amd64-1",
                "succeeded",
                "holds its inputs",
                [Some(start), Some(start + 1.5)],
                [0, 1],
            )],
        ));
        detail.stages.push(stage(
            number + 4,
            "target",
            "stage-1 1/3 … 3/3",
            &[platform],
            &[number],
            vec![attempt(
                agent,
                "succeeded",
                "the only agent that can",
                [Some(start + 1.75), Some(start + 3.0)],
                [0, 3],
            )],
        ));
        if agent != "amd64-1" {
            detail.transfers.push(Transfer {
                from_stage: number,
                to_stages: vec![number + 4],
                digest: DIGEST.to_owned(),
                bytes: 1_048_993,
                fetch_ms: vec![],
            });
        }
    }
    detail.stages.sort_by_key(|stage| stage.number);
    detail
}

#[test]
fn a_build_that_succeeded_shows_what_was_shared_where_it_ran_and_what_travelled() {
    check(
        "show-succeeded.txt",
        &render::build(&whole(), Paint::None, at(100.0)),
    );
}

#[test]
fn a_build_s_json_has_all_of_it() {
    check("show-succeeded.json", &render::json(&whole()));
}

#[test]
fn a_running_build_shows_what_waits_and_why_and_earlier_tries() {
    let mut lost = attempt(
        "arm64-1",
        "lost",
        "the only agent that can",
        [Some(2.0), Some(32.0)],
        [0, 0],
    );
    lost.error = Some("the agent was not heard of for 30 s".to_owned());
    let mut waiting = stage(
        3,
        "target",
        "stage-1 1/2 … 2/2",
        &["linux/s390x"],
        &[],
        vec![],
    );
    waiting.state = "ready".to_owned();
    waiting.waiting_for = Some("for an agent that runs linux/s390x: s390x-1 is away".to_owned());
    let mut later = stage(
        4,
        "target",
        "stage-1 3/3",
        &["linux/arm64"],
        &[1, 2],
        vec![],
    );
    later.state = "waiting".to_owned();
    later.home = None;
    let detail = BuildDetail {
        build: build("running", None),
        stages: vec![
            stage(
                1,
                "shared",
                "builder 2/3",
                &PLATFORMS,
                &[],
                vec![attempt(
                    "amd64-1",
                    "succeeded",
                    "native",
                    [Some(1.0), Some(3.0)],
                    [2, 0],
                )],
            ),
            stage(
                2,
                "target",
                "stage-1 1/2",
                &["linux/arm64"],
                &[1],
                vec![
                    lost,
                    attempt(
                        "arm64-2",
                        "running",
                        "another try, elsewhere",
                        [Some(33.5), None],
                        [1, 1],
                    ),
                ],
            ),
            waiting,
            later,
        ],
        transfers: vec![],
        events: vec![],
    };
    check(
        "show-running.txt",
        &render::build(&detail, Paint::None, at(40.0)),
    );
}

#[test]
fn a_failed_build_shows_its_error_and_nothing_that_a_terminal_acts_on() {
    let mut detail = BuildDetail {
        build: build("failed", Some(4.0)),
        stages: vec![stage(
            1,
            "target",
            "RUN printf '\u{1b}]0;owned\u{7}'",
            &["linux/amd64"],
            &[],
            vec![attempt(
                "amd64-1\u{9b}2J",
                "failed",
                "native\nby far",
                [Some(1.0), Some(3.0)],
                [0, 0],
            )],
        )],
        transfers: vec![],
        events: vec![],
    };
    detail.stages[0].state = "failed".to_owned();
    let error = "process \"/bin/sh -c make\" did not complete successfully: exit code: 2\n\tmake: *** [all]\u{1b}[31m Error 2\n";
    detail.build.error = Some(error.to_owned());
    detail.stages[0].attempts[0].error =
        Some("the engine's own words\u{1b}c\nin two lines".to_owned());
    let text = render::build(&detail, Paint::None, at(100.0));
    assert!(
        !text.chars().any(|c| c.is_control() && c != '\n'),
        "{text:?}"
    );
    check("show-failed.txt", &text);
}

#[test]
fn a_build_without_stages_says_whether_they_will_come() {
    let detail = |build| BuildDetail {
        build,
        stages: vec![],
        transfers: vec![],
        events: vec![],
    };
    let planning = render::build(&detail(build("planning", None)), Paint::None, at(0.3));
    assert!(
        planning.contains("planning for 0.3s\n") && planning.ends_with("is being planned.\n"),
        "{planning}"
    );
    let cancelled = render::build(&detail(build("cancelled", Some(0.2))), Paint::None, at(9.0));
    assert!(
        cancelled.contains("cancelled in 0.2s\n")
            && cancelled.ends_with("before it was planned.\n"),
        "{cancelled}"
    );
}

#[test]
fn builds_are_listed_one_a_line() {
    let mut other = build("running", None);
    other.id = "019aa6a1-7f02-7c31-9d54-3f1f6f0b7a11".to_owned();
    other.platforms = strings(&["linux/amd64"]);
    let all = [other, whole().build];
    check(
        "builds.txt",
        &render::builds(&all, render::Width::Narrow, Paint::None, at(75.0)),
    );
    check("builds.json", &render::json(&all));
    assert_eq!(
        render::builds(&[], render::Width::Narrow, Paint::None, at(0.0)),
        "No builds.\n"
    );
}

fn agents() -> Vec<Agent> {
    let agent = Agent {
        id: "019aa6a0-0000-7000-8000-000000000001".to_owned(),
        name: "amd64-1".to_owned(),
        state: "connected".to_owned(),
        draining: false,
        native_platform: "linux/amd64".to_owned(),
        platforms: strings(&["linux/amd64", "linux/386"]),
        emulated_platforms: vec![],
        slots: 4,
        running: 1,
        engine: "docker 28.5.2".to_owned(),
        version: "0.1.0".to_owned(),
        last_seen: Some(at(98.5)),
        disk_total_bytes: 500_000_000_000,
        disk_free_bytes: 123_456_789_012,
        memory_total_bytes: 64_000_000_000,
        memory_available_bytes: 48_500_000_000,
        condition: "ready".to_owned(),
        holding: 0,
        entitlements: strings(&["network.host"]),
        devices: vec![],
        labels: Default::default(),
        first_seen: None,
    };
    let draining = Agent {
        name: "arm64-1".to_owned(),
        draining: true,
        native_platform: "linux/arm64".to_owned(),
        platforms: strings(&["linux/arm64"]),
        emulated_platforms: strings(&["linux/arm/v7"]),
        disk_total_bytes: 0,
        disk_free_bytes: 0,
        memory_total_bytes: 0,
        ..agent.clone()
    };
    let holding = Agent {
        name: "arm64-2".to_owned(),
        running: 0,
        holding: 1,
        ..draining.clone()
    };
    let drained = Agent {
        name: "arm64-3".to_owned(),
        holding: 0,
        ..holding.clone()
    };
    let full = Agent {
        name: "ppc64le-1".to_owned(),
        condition: "disk-full".to_owned(),
        ..agent.clone()
    };
    let silent = Agent {
        name: "ppc64le-2".to_owned(),
        condition: "engine-silent".to_owned(),
        ..draining.clone()
    };
    let away = Agent {
        name: "s390x-1".to_owned(),
        state: "away".to_owned(),
        native_platform: "linux/s390x".to_owned(),
        platforms: strings(&["linux/s390x"]),
        last_seen: Some(at(-4000.0)),
        running: 0,
        ..agent.clone()
    };
    vec![agent, draining, holding, drained, full, silent, away]
}

#[test]
fn agents_are_listed_one_a_line() {
    check(
        "agents.txt",
        &render::agents(&agents(), Paint::None, at(100.0)),
    );
    check("agents.json", &render::json(&agents()));
}

#[test]
fn colours_are_put_on_top_of_the_same_text() {
    for (bare, coloured) in [
        (
            render::build(&whole(), Paint::None, at(100.0)),
            render::build(&whole(), Paint::Colours, at(100.0)),
        ),
        (
            render::agents(&agents(), Paint::None, at(100.0)),
            render::agents(&agents(), Paint::Colours, at(100.0)),
        ),
    ] {
        assert!(coloured.contains("\u{1b}[32m"));
        let mut stripped = String::new();
        let mut parts = coloured.split('\u{1b}');
        stripped.push_str(parts.next().unwrap_or_default());
        for part in parts {
            stripped.push_str(part.split_once('m').expect("a colour's end").1);
        }
        assert_eq!(stripped, bare);
    }
}

/// The places of all values in an answer, lists being one place.
fn places(answer: &serde_json::Value, at: &str, found: &mut BTreeSet<String>) {
    match answer {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let at = match at {
                    "" => name.clone(),
                    at => format!("{at}.{name}"),
                };
                found.insert(at.clone());
                // Labels have the names that operators give them.
                if name != "labels" {
                    places(value, &at, found);
                }
            }
        }
        serde_json::Value::Array(all) => {
            for one in all {
                places(one, &format!("{at}[]"), found);
            }
        }
        _ => {}
    }
}

/// A plan with one of everything that there can be several of.
fn a_plan_of_one_of_each() -> croft_client::plan::model::Plan {
    use croft_proto::v1;
    let advice = v1::Advice {
        steps: vec![v1::AdvisedStep::default()],
        ..v1::Advice::default()
    };
    v1::PlanBuildResponse {
        targets: vec![v1::PlannedTarget::default()],
        stages: vec![v1::PlannedStage::default()],
        results: vec![v1::PlannedResult::default()],
        advice: vec![advice],
        ..v1::PlanBuildResponse::default()
    }
    .into()
}

/// `docs/json.md` promises these. What is there may not go; `CROFT_BLESS=1` adds what is new.
#[test]
fn no_field_of_the_json_answers_disappears() {
    let mut detail = whole();
    detail.events = vec![Event {
        at: Some(at(1.0)),
        kind: "stage retried".to_owned(),
        text: "again".to_owned(),
    }];
    detail.stages[0].exports = vec![Export {
        name: "out".to_owned(),
        finished_at: Some(at(2.0)),
        took_ms: 5,
        target: false,
    }];
    let agent = AgentDetail {
        agent: agents().remove(0),
        work: vec![Work {
            build: "b".to_owned(),
            stage: 1,
            name: "s".to_owned(),
            since: None,
        }],
        cache: Some(EngineCache {
            bytes: 1,
            records: 1,
            reclaimable_bytes: 1,
        }),
        known_commands: 1,
        known_mounts: 1,
    };
    let shown = Shown::of(&detail, at(30.0));
    let context = Named {
        name: "prod".to_owned(),
        in_use: true,
        context: Context::default(),
    };
    let answers = [
        (
            "croft builds ls, cancel, rm",
            render::json(&[&detail.build]),
        ),
        ("croft builds show", render::json(&shown)),
        ("croft plan", render::json(&a_plan_of_one_of_each())),
        ("croft agents ls", render::json(&agents())),
        ("croft agents show", render::json(&agent)),
        ("croft agents drain, resume, rm", render::json(&agents()[0])),
        ("croft context ls", render::json(&[&context])),
        ("croft context show", render::json(&context)),
    ];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let written = fs::read_to_string(&path).unwrap_or_default();
    let mut page = String::from(
        "# What `--format json` answers\n\n\
         Fields keep their names, places and meanings; new ones may come, so ignore those that you don't know. Moments are RFC 3339 in UTC,\n\
         with milliseconds; names that end in `_ms` are milliseconds, in `_bytes` and `bytes` bytes. What is not known is `null`. `[]` stands for each\n\
         item of a list. What the fields mean is said in [farm.proto](../proto/proto/croft/v1/farm.proto), whose names they have.\n\n\
         `croft builds ls --follow` prints no list, but its items, each on a line.\n",
    );
    let mut all = BTreeSet::new();
    for (command, answer) in answers {
        let mut found = BTreeSet::new();
        places(
            &serde_json::from_str(&answer).expect("JSON"),
            "",
            &mut found,
        );
        page.push_str(&format!("\n## {command}\n\n"));
        for place in found {
            page.push_str(&format!("- `{place}`\n"));
            all.insert(format!("{command}: {place}"));
        }
    }
    if std::env::var_os("CROFT_BLESS").is_some() {
        fs::write(&path, &page).expect("written");
        return;
    }
    let mut command = "";
    for line in written.lines() {
        if let Some(head) = line.strip_prefix("## ") {
            command = head;
        } else if let Some(place) = line.strip_prefix("- `") {
            let place = format!("{command}: {}", place.trim_end_matches('`'));
            assert!(
                all.contains(&place),
                "{place} is promised in docs/json.md, and gone"
            );
        }
    }
    assert!(
        written == page,
        "docs/json.md lacks new fields: run this with CROFT_BLESS=1"
    );
}
