//! `croft plan`: what would become of a build, as a tree for people, a flowchart for Markdown, or a picture.

mod mermaid;
mod svg;
mod tree;

pub use mermaid::mermaid;
pub use svg::svg;
pub use tree::tree;

use crate::plan::model::{Advice, Plan, Stage};

/// What is expected of the cache; nothing for a stage without commands.
fn cached(stage: &Stage) -> Option<String> {
    let (all, cached) = (stage.commands, stage.commands_cached);
    let commands = |count: u32| match count {
        1 => "1 command".to_owned(),
        count => format!("{count} commands"),
    };
    match (all, cached) {
        (0, _) => None,
        (all, 0) => Some(format!("{}, none expected in the cache", commands(all))),
        (1, _) => Some("1 command, expected in the cache".to_owned()),
        (all, cached) if all == cached => {
            Some(format!("{}, all expected in the cache", commands(all)))
        }
        (all, cached) => Some(format!("{}, {cached} expected in the cache", commands(all))),
    }
}

/// `Dockerfile:3` or `Dockerfile:3-4`.
fn place(advice: &Advice) -> String {
    if advice.first_line == advice.last_line {
        format!("{}:{}", advice.file, advice.first_line)
    } else {
        format!("{}:{}-{}", advice.file, advice.first_line, advice.last_line)
    }
}

/// `1 shared, 3 cross and 8 target stages on 4 agents; 3 results travel`.
fn summary(plan: &Plan) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for stage in &plan.stages {
        match kinds.iter_mut().find(|(kind, _)| *kind == stage.kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((&stage.kind, 1)),
        }
    }
    let order = |kind: &str| {
        ["shared", "cross", "target"]
            .iter()
            .position(|one| *one == kind)
    };
    kinds.sort_by_key(|(kind, _)| order(kind).unwrap_or(usize::MAX));
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let noun = if plan.stages.len() == 1 {
        "stage"
    } else {
        "stages"
    };
    let agents = match plan.agents().len() {
        1 => "1 agent".to_owned(),
        agents => format!("{agents} agents"),
    };
    let travelling = plan
        .results
        .iter()
        .filter(|result| result.travels())
        .count();
    let travelling = match travelling {
        0 => "nothing travels".to_owned(),
        1 => "1 result travels".to_owned(),
        some => format!("{some} results travel"),
    };
    format!("{} {noun} on {agents}; {travelling}", kinds.join(", "))
}
