//! A plan as a Mermaid flowchart, which GitHub and GitLab draw where they find it in Markdown.

use std::fmt::Write as _;

use super::super::text::clean;
use super::{cached, place, summary};
use crate::plan::model::{Plan, Stage};

/// Letters of a stage's name.
const NAME: usize = 60;

/// The flowchart: stages grouped by agent, what travels drawn thick.
pub fn mermaid(plan: &Plan) -> String {
    let mut out = String::from("flowchart LR\n");
    let mut line = |text: String| {
        // Writing into memory.
        let _ = writeln!(out, "  {text}");
    };
    line(format!("%% {}", clean(&summary(plan))));
    for advice in &plan.advice {
        let advice = format!("%% {} {}: {}", place(advice), advice.kind, advice.remedy);
        line(clean(&advice));
    }
    let agents = plan.agents().into_iter().map(Some).chain([None]);
    for (number, agent) in agents.enumerate() {
        let of_agent = |stage: &&Stage| stage.agent.as_deref() == agent;
        let mut stages = plan.stages.iter().filter(of_agent).peekable();
        if stages.peek().is_none() {
            continue;
        }
        let title = quoted(agent.unwrap_or("no agent"));
        line(format!("subgraph agent{number}[{title}]"));
        for stage in stages {
            let name: String = stage.name.chars().take(NAME).collect();
            let mut text = format!("{} {}<br>{}", stage.number, stage.kind, escaped(&name));
            if let Some(cached) = cached(stage) {
                text.push_str(&format!("<br>{}", escaped(&cached)));
            }
            line(format!(
                "  s{}[\"{text}\"]:::{}",
                stage.number,
                class(stage)
            ));
        }
        line("end".to_owned());
    }
    for result in &plan.results {
        for to in &result.to_stages {
            let taker = plan.stage(*to);
            let arrow = match taker.and_then(|taker| result.travels_to(taker)) {
                Some(_) => "==>",
                None => "-->",
            };
            let what = quoted(&result.what());
            line(format!("s{} {arrow}|{what}| s{to}", result.from_stage));
        }
    }
    for target in &plan.targets {
        let name = quoted(&target.name);
        line(format!("s{} --> t{}([{name}])", target.stage, target.stage));
    }
    for (class, style) in [
        ("shared", "fill:#dbeafe,stroke:#1d4ed8,color:#111"),
        ("cross", "fill:#fef3c7,stroke:#b45309,color:#111"),
        ("target", "fill:#dcfce7,stroke:#15803d,color:#111"),
        ("other", "fill:#f3f4f6,stroke:#4b5563,color:#111"),
        ("refused", "fill:#fee2e2,stroke:#b91c1c,color:#111"),
    ] {
        line(format!("classDef {class} {style}"));
    }
    out
}

fn class(stage: &Stage) -> &str {
    match stage.kind.as_str() {
        _ if stage.agent.is_none() => "refused",
        known @ ("shared" | "cross" | "target") => known,
        _ => "other",
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// As Mermaid wants letters that mean something to it.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in clean(text).chars() {
        match c {
            '"' => out.push_str("#quot;"),
            '#' => out.push_str("#35;"),
            '<' => out.push_str("#lt;"),
            '>' => out.push_str("#gt;"),
            '&' => out.push_str("#amp;"),
            '`' => out.push('\''),
            c => out.push(c),
        }
    }
    out
}
