//! The plans of real definitions, one golden file for each shape of build. See README.md here.

mod support;

use std::{fmt::Write, fs};

use croft_planner::{Narrowing, Plan};
use support::{planned, shape_names, shapes};

#[test]
fn every_shape_is_planned_as_its_golden_file_says() {
    let bless = std::env::var_os("CROFT_BLESS").is_some();
    let mut differing = Vec::new();
    for name in shape_names() {
        let plan = planned(&name);
        let found = golden(&plan) + &advice(&plan);
        let file = shapes().join(&name).with_extension("golden");
        if bless {
            fs::write(&file, &found).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        if found != expected {
            differing.push(format!(
                "--- {name}: expected\n{expected}--- {name}: found\n{found}"
            ));
        }
    }
    assert!(
        differing.is_empty(),
        "CROFT_BLESS=1 accepts what was found\n{}",
        differing.join("\n")
    );
}

/// A plan as a text that people can check.
fn golden(plan: &Plan) -> String {
    let plan = plan.describe();
    let mut text = String::new();
    let mut line = |args: std::fmt::Arguments<'_>| {
        text.write_fmt(args).unwrap();
        text.push('\n');
    };
    for stage in plan.stages {
        line(format_args!("stage {}: {}", stage.number, stage.name));
        let home = stage
            .home
            .map_or("anywhere".to_owned(), |home| home.to_string());
        line(format_args!("  {} on {home}", stage.kind.as_str()));
        if stage
            .platforms
            .iter()
            .any(|platform| platform.to_string() != home)
        {
            line(format_args!("  runs {}", join(&stage.platforms)));
        }
        line(format_args!("  for {}", stage.users.join(", ")));
        for edge in plan
            .edges
            .iter()
            .filter(|edge| edge.consumers.contains(&stage.number))
        {
            let narrowing = match &edge.narrowing {
                Narrowing::Whole => "the whole".to_owned(),
                Narrowing::Paths(paths) => paths
                    .iter()
                    .map(|path| path.path.as_str())
                    .collect::<Vec<_>>()
                    .join(" "),
            };
            line(format_args!(
                "  needs {narrowing} of stage {} ({}): {}",
                edge.producer, edge.platform, edge.name
            ));
        }
        if let Some(other) = stage.placed_with {
            line(format_args!("  placed with stage {other}"));
        }
        if let Some(first) = stage.together {
            line(format_args!("  together with stage {first}"));
        }
        for target in stage.results {
            line(format_args!("  finishes {target}"));
        }
        for step in stage.steps {
            line(format_args!("    {step}"));
        }
        line(format_args!(""));
    }
    text
}

/// What would make the build faster; nothing for a Dockerfile that is right.
fn advice(plan: &Plan) -> String {
    let mut text = String::new();
    for one in plan.advice() {
        let stages: Vec<u32> = one.stages.iter().map(|stage| stage.0).collect();
        writeln!(
            text,
            "advice {} at {}:{} for stages {}",
            one.kind.as_str(),
            one.file,
            one.lines,
            join(stages)
        )
        .unwrap();
        writeln!(text, "  {}.\n  {}.", one.costs, one.remedy).unwrap();
        for step in one.steps {
            writeln!(text, "    {}: {}", step.lines, step.text).unwrap();
        }
    }
    text
}

fn join(list: impl IntoIterator<Item = impl ToString>) -> String {
    list.into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
