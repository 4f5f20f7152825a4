//! An `ARG` that comes too early: a stage's arguments are in the environment of all commands behind them, so commands that could be one
//! for all targets are one for each.
//!
//! A script may read what its command doesn't name. So an argument counts as needless for a command only if another one further down
//! names it: it was declared for that one.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb;
use prost::Message;

use super::steps::{Place, Steps};
use super::{Advice, AdviceKind, AdvisedStep, Lines, at, times};
use crate::{OpId, Platform, StageId, id::sha256_parts, wire};

/// Names that are looked at; a Dockerfile has a handful.
const MAX_NAMES: usize = 16;
/// Dockerfile stages that are gone back over to find where an argument is declared.
const MAX_STAGES: usize = 100;

/// The arguments that BuildKit itself gives, and no tool reads unasked.
const BUILT_IN: [&str; 4] = ["TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT"];

/// What one declaration costs.
#[derive(Default)]
struct Cost {
    names: BTreeSet<String>,
    /// By step: how many commands it is.
    steps: BTreeMap<AdvisedStep, usize>,
    stages: BTreeSet<StageId>,
}

pub(super) fn advice(steps: &Steps<'_>) -> Vec<Advice> {
    let names = differing(steps);
    if names.is_empty() {
        return Vec::new();
    }
    let needed_later = needed_later(steps, &names);
    // For each command: the names that it could do without, and where they are declared.
    let needless: Vec<BTreeMap<&str, Place>> = (0..steps.commands.len())
        .map(|number| {
            let id = OpId(number as u32);
            let Some(command) = &steps.commands[number] else {
                return BTreeMap::new();
            };
            let later = &needed_later[number];
            let is_needless = |name: &&String| {
                let for_others =
                    later.contains(*name) || BUILT_IN.contains(&name.as_str()) && !later.is_empty();
                for_others && command.value(name).is_some() && !steps.names(id, name)
            };
            let names = names.iter().filter(is_needless);
            names
                .filter_map(|name| Some((name.as_str(), declared(steps, id, name)?)))
                .collect()
        })
        .collect();

    let mut costs: BTreeMap<(usize, Vec<Lines>), Cost> = BTreeMap::new();
    for ((_, place), same) in would_be_one(steps, &needless) {
        let value = |id: &OpId, name: &str| {
            let command = steps.commands[id.index()].as_ref();
            command.and_then(|command| command.value(name).map(str::to_owned))
        };
        // Of the same command behind the same declarations.
        let first = &same[0];
        let found = needless[first.index()].iter().filter(|(name, _)| {
            let values: BTreeSet<_> = same.iter().map(|id| value(id, name)).collect();
            values.len() > 1
        });
        let found: Vec<(&&str, &Place)> = found.collect();
        let Some((_, declaration)) = found.first() else {
            continue;
        };
        let mut lines: Vec<Lines> = found.iter().map(|(_, place)| place.lines).collect();
        lines.sort();
        lines.dedup();
        let cost = costs.entry((declaration.file, lines)).or_default();
        cost.names
            .extend(found.iter().map(|(name, _)| (**name).to_owned()));
        cost.steps.insert(steps.advised(place), same.len());
        cost.stages
            .extend(same.iter().filter_map(|id| steps.stage(*id)));
    }
    costs
        .into_iter()
        .filter_map(|((file, lines), cost)| put(steps, file, &lines, cost))
        .collect()
}

fn put(steps: &Steps<'_>, file: usize, lines: &[Lines], cost: Cost) -> Option<Advice> {
    let lines = Lines {
        first: lines.first()?.first,
        last: lines.last()?.last,
    };
    let most = cost.steps.values().copied().max().unwrap_or_default();
    let last = cost.steps.keys().map(|step| step.lines).max()?;
    let (all, step): (Vec<&str>, _) = (
        cost.names.iter().map(String::as_str).collect(),
        match cost.steps.len() {
            1 => "the step in",
            _ => "the steps in",
        },
    );
    let names = all.join(" and ");
    let plural = cost.steps.len() > 1;
    Some(Advice {
        kind: AdviceKind::EarlyArg,
        file: steps.file_name(Place { file, lines }),
        lines,
        costs: format!(
            "{step} {} {} {} instead of once, as {names} differs, which {} not name",
            at(cost.steps.keys().map(|step| step.lines)),
            if plural { "run" } else { "runs" },
            times(most),
            if plural { "they do" } else { "it does" },
        ),
        remedy: format!(
            "declare {names} below line {}, unless a script that {} reads {}",
            last.last,
            if plural { "these run" } else { "it runs" },
            if all.len() > 1 { "them" } else { "it" },
        ),
        steps: cost.steps.into_keys().collect(),
        stages: cost.stages,
    })
}

/// The names whose values differ between commands that are the same step on the same platform.
fn differing(steps: &Steps<'_>) -> BTreeSet<String> {
    type Same<'a> = (Place, &'a [String], Option<&'a Platform>);
    let mut same: BTreeMap<Same<'_>, Vec<OpId>> = BTreeMap::new();
    for (id, command) in steps.commands() {
        if let Some(place) = steps.place(id) {
            let key = (
                place,
                command.args.as_slice(),
                steps.op(id).platform.as_ref(),
            );
            same.entry(key).or_default().push(id);
        }
    }
    let mut names = BTreeSet::new();
    for ids in same.into_values().filter(|ids| ids.len() > 1) {
        let commands = ids
            .iter()
            .filter_map(|id| steps.commands[id.index()].as_ref());
        let commands: Vec<_> = commands.collect();
        for (name, _) in commands.iter().flat_map(|command| &command.env) {
            let values: BTreeSet<_> = commands.iter().map(|command| command.value(name)).collect();
            if values.len() > 1 && names.len() < MAX_NAMES {
                names.insert(name.clone());
            }
        }
    }
    names
}

/// For each op, which of the names a step that goes on from it names.
fn needed_later(steps: &Steps<'_>, names: &BTreeSet<String>) -> Vec<BTreeSet<String>> {
    let mut later: Vec<BTreeSet<String>> = vec![BTreeSet::new(); steps.commands.len()];
    // An op's number is greater than those of its inputs.
    for number in (0..later.len()).rev() {
        let mut needed = BTreeSet::new();
        for &next in &steps.next[number] {
            needed.extend(later[next.index()].iter().cloned());
            let own = names.iter().filter(|name| steps.names(next, name));
            needed.extend(own.cloned());
        }
        later[number] = needed;
    }
    later
}

/// Where the argument is declared that a command has in its environment: above it in its Dockerfile stage, or in one that this goes on from.
fn declared(steps: &Steps<'_>, id: OpId, name: &str) -> Option<Place> {
    let Place { file, lines } = steps.place(id)?;
    let mut below = lines.first.min(steps.end(file));
    for _ in 0..MAX_STAGES {
        let from = steps.stage_start(file, below)?;
        if let Some(lines) = declaration(steps, file, from + 1..below, name) {
            return Some(Place { file, lines });
        }
        below = steps.end_of_stage_below(file, from)?;
    }
    None
}

/// The last `ARG` of a name in a range of lines of one Dockerfile stage.
fn declaration(
    steps: &Steps<'_>,
    file: usize,
    range: std::ops::Range<u32>,
    name: &str,
) -> Option<Lines> {
    let lines = range
        .clone()
        .rev()
        .filter(|line| steps.begins_with(file, *line, "ARG"));
    lines.into_iter().find_map(|first| {
        let (mut last, mut text) = (first, steps.line(file, first).trim_end().to_owned());
        while text.ends_with('\\') && last + 1 < range.end {
            last += 1;
            text.pop();
            text.push(' ');
            text.push_str(steps.line(file, last).trim_end());
        }
        let mut words = text.split_whitespace().skip(1);
        let declares = |word: &str| word.split('=').next() == Some(name);
        words.any(declares).then_some(Lines { first, last })
    })
}

/// The commands that would be one if none had a name that it can do without, by what they would be and where they are written; groups of
/// several only.
fn would_be_one(
    steps: &Steps<'_>,
    needless: &[BTreeMap<&str, Place>],
) -> BTreeMap<(String, Place), Vec<OpId>> {
    let mut classes: Vec<String> = Vec::with_capacity(steps.commands.len());
    let mut same: BTreeMap<(String, Place), Vec<OpId>> = BTreeMap::new();
    for (number, command) in steps.commands.iter().enumerate() {
        let op = steps.op(OpId(number as u32));
        let body = match command {
            Some(command) => {
                let mut exec = command.exec.clone();
                if let Some(meta) = &mut exec.meta {
                    meta.env.retain(|entry| {
                        let name = entry.split('=').next().unwrap_or_default();
                        !needless[number].contains_key(name)
                    });
                }
                let platform = op.platform.as_ref().map(ToString::to_string);
                let exec = pb::Op {
                    op: Some(pb::op::Op::Exec(exec)),
                    ..pb::Op::default()
                };
                [
                    exec.encode_to_vec(),
                    platform.unwrap_or_default().into_bytes(),
                ]
                .concat()
            }
            None => wire::without_inputs(&op.bytes).unwrap_or_else(|_| op.bytes.clone()),
        };
        let inputs = op.inputs.iter().map(|(input, index)| {
            let class = &classes[input.index()];
            format!("{class} {index}")
        });
        let inputs: Vec<String> = inputs.collect();
        let parts = [body.as_slice()]
            .into_iter()
            .chain(inputs.iter().map(String::as_bytes));
        classes.push(sha256_parts(parts));
        let id = OpId(number as u32);
        if let (Some(_), Some(place)) = (command, steps.place(id)) {
            let key = (classes[number].clone(), place);
            same.entry(key).or_default().push(id);
        }
    }
    same.retain(|_, ids| ids.len() > 1);
    same
}
