//! What would become of a build, on the wire.

use std::collections::BTreeSet;

use croft_planner::{
    Advice, AdvisedStep, CutEdge, EdgeSummary, NarrowPath, Narrowing, Stage, StageId, StageSummary,
};
use croft_proto::v1 as wire;
use croft_scheduler::AgentId;
use croft_scheduler::forecast::{Forecast, Outcome};

use crate::control::Foreseen;

/// Paths of one result that are told; a person reads no more.
const MAX_PATHS: usize = 100;

/// The whole answer.
pub(super) fn planned(foreseen: &Foreseen) -> wire::PlanBuildResponse {
    let described = foreseen.plan.describe();
    let stages = foreseen.plan.stages().iter().zip(&described.stages);
    let stages = stages.zip(&foreseen.forecasts);
    let results = foreseen.plan.edges().iter().zip(&described.edges);
    let refused = foreseen.refused.as_ref();
    wire::PlanBuildResponse {
        build_platform: foreseen.build_platform.to_string(),
        targets: described
            .targets
            .iter()
            .map(|target| wire::PlannedTarget {
                name: target.name.clone(),
                platform: target.platform.to_string(),
                stage: target.stage,
            })
            .collect(),
        stages: stages
            .map(|((stage, described), forecast)| {
                planned_stage(foreseen, stage, described, forecast)
            })
            .collect(),
        results: results
            .map(|(edge, described)| planned_result(foreseen, edge, described))
            .collect(),
        advice: foreseen.advice.iter().map(advice).collect(),
        refused: refused.map_or_else(String::new, |failure| failure.message.clone()),
    }
}

fn planned_stage(
    foreseen: &Foreseen,
    stage: &Stage,
    described: &StageSummary,
    forecast: &Forecast,
) -> wire::PlannedStage {
    let mut planned = wire::PlannedStage {
        number: stage.id.0,
        name: stage.name.clone(),
        kind: stage.kind.as_str().to_owned(),
        home: stage
            .home
            .as_ref()
            .map_or_else(String::new, |home| home.platform().to_string()),
        users: described.users.clone(),
        inputs: described.needs.iter().copied().collect(),
        steps: described.steps.clone(),
        commands: count(stage.cache.len()),
        cached_on: cached_on(foreseen, stage),
        together: together(foreseen, stage),
        waits: forecast
            .waits
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        ..wire::PlannedStage::default()
    };
    match &forecast.outcome {
        Outcome::Placed {
            agent,
            reason,
            cached,
            expected,
        } => {
            planned.agent = name_of(foreseen, *agent);
            planned.reason = reason.to_string();
            planned.commands_cached = count(*cached);
            planned.expected_ms =
                expected.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
        Outcome::Refused(why) => planned.reason = why.to_string(),
        Outcome::Blocked(on) => {
            let numbers: Vec<String> = on.iter().map(ToString::to_string).collect();
            planned.reason = match &numbers[..] {
                [one] => format!("it needs stage {one}, which no agent can take"),
                several => {
                    format!(
                        "it needs stages {}, which no agent can take",
                        several.join(", ")
                    )
                }
            };
        }
    }
    planned
}

/// The agents whose engines ran all commands of a stage.
fn cached_on(foreseen: &Foreseen, stage: &Stage) -> Vec<String> {
    if stage.cache.is_empty() {
        return Vec::new();
    }
    let agents = foreseen.fleet.agents.iter();
    let mut names: Vec<String> = agents
        .filter(|agent| stage.cache.iter().all(|one| agent.cache.contains(one)))
        .map(|agent| agent.name.clone())
        .collect();
    names.sort();
    names
}

fn together(foreseen: &Foreseen, stage: &Stage) -> Vec<u32> {
    let stages = foreseen.plan.stages().iter();
    let group = stages.filter(|other| stage.together.is_some() && other.together == stage.together);
    group.map(|stage| stage.id.0).collect()
}

fn planned_result(
    foreseen: &Foreseen,
    edge: &CutEdge,
    described: &EdgeSummary,
) -> wire::PlannedResult {
    let made_on = agent_of(foreseen, edge.producer);
    let takers = edge.consumers.iter();
    let to: BTreeSet<String> = takers
        .filter_map(|taker| agent_of(foreseen, *taker))
        .filter(|agent| Some(*agent) != made_on)
        .map(|agent| name_of(foreseen, agent))
        .collect();
    let paths = match &edge.narrowing {
        Narrowing::Whole => Vec::new(),
        Narrowing::Paths(paths) => {
            let paths = paths.iter().take(MAX_PATHS);
            paths.map(|path: &NarrowPath| path.path.clone()).collect()
        }
    };
    wire::PlannedResult {
        name: edge.name.clone(),
        from_stage: edge.producer.0,
        to_stages: described.consumers.iter().copied().collect(),
        to_agents: to.into_iter().collect(),
        paths,
        platform: edge.platform.to_string(),
    }
}

fn agent_of(foreseen: &Foreseen, stage: StageId) -> Option<AgentId> {
    match foreseen.forecasts.get(stage.index())?.outcome {
        Outcome::Placed { agent, .. } => Some(agent),
        Outcome::Refused(_) | Outcome::Blocked(_) => None,
    }
}

fn name_of(foreseen: &Foreseen, agent: AgentId) -> String {
    let mut agents = foreseen.fleet.agents.iter();
    let found = agents.find(|view| view.id == agent);
    found.map_or_else(|| agent.to_string(), |view| view.name.clone())
}

fn advice(advice: &Advice) -> wire::Advice {
    wire::Advice {
        kind: advice.kind.as_str().to_owned(),
        file: advice.file.clone(),
        first_line: advice.lines.first,
        last_line: advice.lines.last,
        costs: advice.costs.clone(),
        remedy: advice.remedy.clone(),
        steps: advice.steps.iter().map(step).collect(),
        stages: advice.stages.iter().map(|stage| stage.0).collect(),
    }
}

fn step(step: &AdvisedStep) -> wire::AdvisedStep {
    wire::AdvisedStep {
        first_line: step.lines.first,
        last_line: step.lines.last,
        text: step.text.clone(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
