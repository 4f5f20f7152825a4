//! A plan as a picture: a lane for each agent, stages from left to right in the order in which they can run.

use std::collections::BTreeMap;

use super::super::{svg::Svg, text::clean};
use super::{place, summary};
use crate::plan::model::{Handed, Plan, Stage};

const BOX: (u32, u32) = (250, 58);
const GAP: (u32, u32) = (110, 14);
const LEFT: u32 = 120;
const TOP: u32 = 64;
const PAD: u32 = 12;
/// Letters that fit a box, and an arrow.
const LETTERS: usize = 34;
const ON_ARROW: usize = 14;

const STYLE: &str = "\
text { font: 11px ui-monospace, Menlo, Consolas, monospace; fill: #111827 }
.page { fill: #ffffff } .lane { fill: #f9fafb; stroke: #e5e7eb }
.title { font-size: 15px; font-weight: bold } .strong { font-weight: bold } .faint { fill: #6b7280 } .bad { fill: #b91c1c }
.shared { fill: #dbeafe; stroke: #1d4ed8 } .cross { fill: #fef3c7; stroke: #b45309 } .target { fill: #dcfce7; stroke: #15803d }
.other { fill: #f3f4f6; stroke: #4b5563 } .refused { fill: #fee2e2; stroke: #b91c1c }
.stays { fill: none; stroke: #9ca3af; stroke-dasharray: 4 3 } .travels { fill: none; stroke: #7c3aed; stroke-width: 2 }
.parcel { fill: #6d28d9; font-size: 10px }";

/// The picture.
pub fn svg(plan: &Plan) -> String {
    let depths = plan.depths();
    let columns = depths.iter().max().map_or(1, |most| most + 1);
    let mut lanes: Vec<Option<&str>> = plan.agents().into_iter().map(Some).collect();
    if plan.stages.iter().any(|stage| stage.agent.is_none()) {
        lanes.push(None);
    }
    // Where each stage is: the lane's top, and how many stand above it in the same column of the lane.
    let mut places: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    let mut tops: Vec<(u32, u32)> = Vec::new();
    let mut top = TOP;
    for lane in &lanes {
        let mut filled = vec![0u32; columns];
        for (stage, &depth) in plan.stages.iter().zip(&depths) {
            if stage.agent.as_deref() != *lane {
                continue;
            }
            let x = LEFT + number(depth) * (BOX.0 + GAP.0);
            let y = top + PAD + filled[depth] * (BOX.1 + GAP.1);
            filled[depth] += 1;
            places.insert(stage.number, (x, y));
        }
        let most = filled.into_iter().max().unwrap_or(1).max(1);
        let height = most * (BOX.1 + GAP.1) - GAP.1 + 2 * PAD;
        tops.push((top, height));
        top += height + PAD;
    }
    let width = LEFT + number(columns) * (BOX.0 + GAP.0) - GAP.0 + 2 * PAD;
    let advice = number(plan.advice.len()) * 18;
    let height = top + if advice > 0 { advice + 24 } else { PAD };
    let mut svg = Svg::new(width, height, STYLE);
    svg.rect((0, 0), (width, height), "page");
    let targets: Vec<&str> = plan.targets.iter().map(|one| one.name.as_str()).collect();
    let title = format!("Plan for {}", targets.join(", "));
    svg.text((PAD, 26), "title", &clean(&title));
    svg.text((PAD, 46), "faint", &clean(&summary(plan)));
    for (lane, (top, height)) in lanes.iter().zip(&tops) {
        svg.rounded((PAD, *top), (width - 2 * PAD, *height), "lane");
        let class = if lane.is_some() {
            "strong"
        } else {
            "strong bad"
        };
        svg.text(
            (2 * PAD, top + height / 2 + 4),
            class,
            &clean(lane.unwrap_or("no agent")),
        );
    }
    for result in &plan.results {
        for to in &result.to_stages {
            let taker = plan.stage(*to);
            let travels = taker.and_then(|taker| result.travels_to(taker)).is_some();
            let (Some(from), Some(to)) = (places.get(&result.from_stage), places.get(to)) else {
                continue;
            };
            let start = (from.0 + BOX.0, from.1 + BOX.1 / 2);
            let end = (to.0, to.1 + BOX.1 / 2);
            let class = if travels { "travels" } else { "stays" };
            svg.curve(start, end, class);
            if travels {
                let what = shortened(&clean(&names(result)), ON_ARROW);
                svg.text(
                    (end.0.saturating_sub(GAP.0 - 8), end.1 - 6),
                    "parcel",
                    &what,
                );
            }
        }
    }
    for stage in &plan.stages {
        if let Some(at) = places.get(&stage.number) {
            stage_box(&mut svg, plan, stage, *at);
        }
    }
    for (line, advice) in plan.advice.iter().enumerate() {
        let text = format!("{} {}: {}", place(advice), advice.kind, advice.remedy);
        svg.text((PAD, top + 18 + number(line) * 18), "", &clean(&text));
    }
    svg.finish()
}

fn stage_box(svg: &mut Svg, plan: &Plan, stage: &Stage, (x, y): (u32, u32)) {
    let class = match stage.kind.as_str() {
        _ if stage.agent.is_none() => "refused",
        known @ ("shared" | "cross" | "target") => known,
        _ => "other",
    };
    svg.rounded((x, y), BOX, class);
    let users = match stage.users.len() {
        0 => String::new(),
        1 => format!(" for {}", stage.users[0]),
        all if all == plan.targets.len() => format!(" for all {all} platforms"),
        some => format!(" for {some} platforms"),
    };
    let line = |text: &str| shortened(&clean(text), LETTERS);
    let head = format!("{} {}{users}", stage.number, stage.kind);
    svg.text((x + 8, y + 17), "strong", &line(&head));
    svg.text((x + 8, y + 33), "", &line(&without_platforms(&stage.name)));
    let foot = match (&stage.agent, stage.commands) {
        (None, _) => stage.reason.clone(),
        (Some(_), 0) => "no commands".to_owned(),
        (Some(_), all) => format!("expected in the cache: {} of {all}", stage.commands_cached),
    };
    svg.text((x + 8, y + 49), "faint", &line(&foot));
}

/// `stage-1 3/3 COPY …` of `[linux/arm64 stage-1 3/3] COPY …`: the box is for few letters, and says the platform.
fn without_platforms(name: &str) -> String {
    let words = name.split_whitespace();
    let words = words.map(|word| word.trim_start_matches('['));
    let words = words.filter(|word| !word.starts_with("linux/"));
    let words = words.map(|word| match word.strip_suffix(']') {
        Some(number) if number.contains('/') => number,
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What travels, without the folders that it is in.
fn names(result: &Handed) -> String {
    match result.paths.as_slice() {
        [] => result.what(),
        [root] if root == "/" => result.what(),
        paths => {
            let names = paths.iter().filter_map(|path| path.rsplit('/').next());
            names.collect::<Vec<_>>().join(" ")
        }
    }
}

fn shortened(text: &str, letters: usize) -> String {
    match text.char_indices().nth(letters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Pictures are small.
fn number(count: usize) -> u32 {
    u32::try_from(count)
        .unwrap_or(u32::MAX / 10_000)
        .min(10_000)
}
