//! How a plan looks: as a tree, a flowchart, a picture and JSON.

use croft_client::plan::model::{Advice, Handed, Plan, Stage, Step, Target};
use croft_client::render::{self, Paint};

fn stage(
    number: u32,
    kind: &str,
    agent: &str,
    name: &str,
    inputs: &[u32],
    users: &[&str],
) -> Stage {
    Stage {
        number,
        name: name.to_owned(),
        kind: kind.to_owned(),
        home: Some("linux/amd64".to_owned()),
        users: users.iter().map(|&user| user.to_owned()).collect(),
        inputs: inputs.to_vec(),
        steps: vec![name.to_owned()],
        agent: Some(agent.to_owned()),
        reason: "the only agent that can".to_owned(),
        waits: None,
        commands: 1,
        commands_cached: 0,
        cached_on: Vec::new(),
        expected_ms: None,
        together: Vec::new(),
    }
}

fn handed(from: u32, to: &[u32], agents: &[&str], paths: &[&str]) -> Handed {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    Handed {
        name: "builder".to_owned(),
        from_stage: from,
        to_stages: to.to_vec(),
        to_agents: texts(agents),
        paths: texts(paths),
        platform: "linux/amd64".to_owned(),
    }
}

fn target(platform: &str, stage: u32) -> Target {
    Target {
        name: platform.to_owned(),
        platform: platform.to_owned(),
        stage,
    }
}

/// A shared stage that both targets take from; one of them on another agent.
fn plan() -> Plan {
    let both = ["linux/amd64", "linux/arm64"];
    let mut shared = stage(0, "shared", "amd64-1", "[builder 2/3] RUN make", &[], &both);
    (shared.commands, shared.commands_cached) = (3, 1);
    shared.expected_ms = Some(2500);
    let mut anywhere = stage(
        2,
        "target",
        "arm64-1",
        "COPY --from=builder",
        &[0],
        &both[1..],
    );
    anywhere.home = None;
    anywhere.commands = 0;
    Plan {
        build_platform: "linux/amd64".to_owned(),
        targets: vec![target(both[0], 1), target(both[1], 2)],
        stages: vec![
            shared,
            stage(1, "target", "amd64-1", "RUN uname", &[0], &both[..1]),
            anywhere,
        ],
        results: vec![
            handed(0, &[1], &[], &[]),
            handed(0, &[2], &["arm64-1"], &["/app", "/data"]),
        ],
        advice: vec![Advice {
            kind: "early-arg".to_owned(),
            file: "Dockerfile".to_owned(),
            first_line: 3,
            last_line: 4,
            costs: "the step in line 7 runs twice".to_owned(),
            remedy: "declare TARGETARCH below line 7".to_owned(),
            steps: vec![Step {
                first_line: 7,
                last_line: 7,
                text: "RUN make".to_owned(),
            }],
            stages: vec![0],
        }],
        refused: None,
    }
}

#[test]
fn a_tree_goes_from_each_result_down_and_shows_a_shared_stage_once() {
    let expected = "\
Plan for linux/amd64, linux/arm64, built on linux/amd64
  1 shared, 2 target stages on 2 agents; 1 result travels

linux/amd64
└─ 1 target on amd64-1  RUN uname
   │  runs on linux/amd64
   │  why amd64-1: the only agent that can
   │  1 command, none expected in the cache
   └─ 0 shared on amd64-1  [builder 2/3] RUN make
         the whole root stays there
         for all 2 platforms; runs on linux/amd64
         why amd64-1: the only agent that can
         3 commands, 1 expected in the cache; the rest took 2.5s last time

linux/arm64
└─ 2 target on arm64-1  COPY --from=builder
   │  runs anywhere
   │  why arm64-1: the only agent that can
   └─ 0 shared on amd64-1  (above)
         /app /data → arm64-1

Advice
  Dockerfile:3-4  early-arg
         7 | RUN make
    The step in line 7 runs twice.
    Declare TARGETARCH below line 7.
";
    let found = render::plan(&plan(), Paint::None);
    assert!(found == expected, "{found}");
}

#[test]
fn a_stage_that_no_agent_can_take_says_why_in_all_forms() {
    let mut plan = plan();
    plan.stages[2].agent = None;
    plan.stages[2].reason = "no agent can run linux/arm64".to_owned();
    plan.results[1].to_agents.clear();
    for text in [
        render::plan(&plan, Paint::None),
        render::plan_mermaid(&plan),
        render::plan_svg(&plan),
        render::json(&plan),
    ] {
        assert!(text.contains("no agent"), "{text}");
    }
}

#[test]
fn nothing_that_a_farm_says_becomes_a_code_or_a_tag() {
    let mut plan = plan();
    let bad = "a\u{1b}[31m<script>\"#\u{202e}\n`";
    plan.stages[0].name = bad.to_owned();
    plan.stages[0].agent = Some(bad.to_owned());
    plan.targets[0].name = bad.to_owned();
    plan.results[1].paths = vec![bad.to_owned()];
    plan.advice[0].remedy = bad.to_owned();
    // A farm that contradicts itself: stages that take from one another.
    plan.stages[0].inputs = vec![2, 0, 99];
    for text in [
        render::plan(&plan, Paint::None),
        render::plan_mermaid(&plan),
        render::plan_svg(&plan),
    ] {
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(!text.contains('\u{202e}'), "{text:?}");
    }
    assert!(!render::plan_svg(&plan).contains("<script"));
    let chart = render::plan_mermaid(&plan);
    let drawn = chart
        .lines()
        .filter(|line| !line.trim_start().starts_with("%%"));
    for line in drawn {
        assert!(!line.contains("<script"), "{line}");
    }
}

#[test]
fn a_flowchart_draws_what_travels_thick() {
    let chart = render::plan_mermaid(&plan());
    for line in [
        "  s0 -->|\"the whole root\"| s1\n",
        "  s0 ==>|\"/app /data\"| s2\n",
        "  %% Dockerfile:3-4 early-arg: declare TARGETARCH below line 7\n",
    ] {
        assert!(chart.contains(line), "{chart}");
    }
}
