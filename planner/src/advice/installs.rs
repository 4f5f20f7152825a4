//! Packages that are installed behind a copy from another Dockerfile stage: that waits for what is copied, and is done again whenever that
//! changes, though it needs nothing of it.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb;

use super::steps::{Place, Steps};
use super::{Advice, AdviceKind, Lines, at, shell};
use crate::{OpId, OpKind, StageId, op::decode};

/// Where package managers keep their sources and keys: what is copied there may be needed by them.
const SETTINGS: [&str; 4] = ["/etc", "/usr/share", "/root", "/var"];

pub(super) fn advice(steps: &Steps<'_>) -> Vec<Advice> {
    let mut found: BTreeMap<Place, (BTreeSet<Lines>, BTreeSet<StageId>)> = BTreeMap::new();
    for (id, command) in steps.commands() {
        let Some(place) = steps.place(id).filter(|_| shell::only_installs(command)) else {
            continue;
        };
        let copies = copies_before(steps, id, place);
        if !copies.is_empty() {
            let (lines, stages) = found.entry(place).or_default();
            lines.extend(copies);
            stages.extend(steps.stage(id));
        }
    }
    let put = |(place, (copies, stages)): (Place, (BTreeSet<Lines>, BTreeSet<StageId>))| Advice {
        kind: AdviceKind::LateInstall,
        file: steps.file_name(place),
        lines: place.lines,
        steps: vec![steps.advised(place)],
        stages,
        costs: format!(
            "the step in {} waits for what {} from another stage, and runs again whenever that changes",
            at([place.lines]),
            match copies.len() {
                1 => format!("{} copies", at(copies.iter().copied())),
                _ => format!("{} copy", at(copies.iter().copied())),
            },
        ),
        remedy: format!(
            "move it above line {}",
            copies.first().map_or(0, |lines| lines.first)
        ),
    };
    found.into_iter().map(put).collect()
}

/// The copies of what commands of other Dockerfile stages made, between a step and the command before it. None if one of them may matter to
/// a package manager.
fn copies_before(steps: &Steps<'_>, id: OpId, place: Place) -> BTreeSet<Lines> {
    let mut copies = BTreeSet::new();
    let mut here = id;
    while let Some(parent) = steps.parent(here) {
        let op = steps.op(parent);
        if !matches!(op.kind, OpKind::File | OpKind::Merge) {
            break;
        }
        let made = |(at, (input, _)): (usize, &(OpId, u32))| {
            op.facts.primary != Some(at) && steps.is_made(*input)
        };
        if op.inputs.iter().enumerate().any(made) {
            let copied = match op.kind {
                OpKind::File => vec![parent],
                _ => op.inputs.iter().map(|(input, _)| *input).collect(),
            };
            if copied.iter().any(|id| may_matter(steps, *id)) {
                return BTreeSet::new();
            }
            if let Some(before) = steps.place_before(parent, place.file, place.lines.first) {
                copies.insert(before.lines);
            }
        }
        here = parent;
    }
    copies
}

fn may_matter(steps: &Steps<'_>, id: OpId) -> bool {
    let Some(pb::op::Op::File(file)) = decode(&steps.op(id).bytes).ok().and_then(|op| op.op) else {
        return false;
    };
    file.actions.iter().any(|action| match &action.action {
        Some(pb::file_action::Action::Copy(copy)) => {
            copy.dest.trim_end_matches('/').is_empty()
                || SETTINGS.iter().any(|place| copy.dest.starts_with(place))
        }
        _ => false,
    })
}
