//! Whole roots that travel, base image and all, because one step doesn't say which paths it needs, or says it so that nobody can tell.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb;

use super::steps::{Place, Steps};
use super::{Advice, AdviceKind, at};
use crate::{
    EdgeId, OpId, StageId,
    narrow::{self, Name, Need, is_pattern, parent},
};

/// What makes a step take all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Because {
    CopiesAll,
    BindsAll,
    Pattern,
    Overlap,
}

pub(super) fn advice(steps: &Steps<'_>) -> Vec<Advice> {
    let mut found: BTreeMap<(Place, Because), (BTreeSet<EdgeId>, BTreeSet<StageId>)> =
        BTreeMap::new();
    for (&(taker, op, output), &edge) in &steps.plan.edge_of {
        let Some(cut) = steps.plan.edge(edge) else {
            continue;
        };
        let travels = |stage: &StageId| {
            cut.consumers.contains(stage)
                && steps.plan.likely_home(*stage) != steps.plan.likely_home(cut.producer)
        };
        if !cut.is_whole() {
            continue;
        }
        let stages: BTreeSet<StageId> = steps.stages_with(taker).filter(travels).collect();
        let (Some(place), Some(because)) = (steps.place(taker), why(steps, taker, (op, output)))
        else {
            continue;
        };
        if !stages.is_empty() {
            let (edges, of) = found.entry((place, because)).or_default();
            edges.insert(edge);
            of.extend(stages);
        }
    }
    let put = |((place, because), (edges, stages)): (
        (Place, Because),
        (BTreeSet<EdgeId>, BTreeSet<StageId>),
    )| {
        let roots = match edges.len() {
            1 => "a whole root travels, with the layers of its base image,".to_owned(),
            some => format!("{some} whole roots travel, with the layers of their base images,"),
        };
        let (why, remedy) = match because {
            Because::CopiesAll => (
                "copies everything",
                "COPY --from only the paths that are needed",
            ),
            Because::BindsAll => (
                "binds everything",
                "name what it needs in the mount: source=<path>",
            ),
            Because::Pattern => (
                "has a pattern before the last part of a path",
                "use *, ? and [ in the last part of a path only",
            ),
            Because::Overlap => (
                "copies a path and another one that lies in it",
                "copy them in two steps",
            ),
        };
        Advice {
            kind: AdviceKind::WholeRoot,
            file: steps.file_name(place),
            lines: place.lines,
            steps: vec![steps.advised(place)],
            stages,
            costs: format!("{roots} because the step in {} {why}", at([place.lines])),
            remedy: remedy.to_owned(),
        }
    };
    found.into_iter().map(put).collect()
}

/// Why a step takes all of an input, if a person could change that in the step itself.
fn why(steps: &Steps<'_>, taker: OpId, input: (OpId, u32)) -> Option<Because> {
    let op = steps.op(taker);
    let places = op.inputs.iter().enumerate();
    let places = places.filter(|(_, of)| **of == input);
    let needs = narrow::of_inputs(op);
    for (place, _) in places {
        match needs.get(place)? {
            Need::Whole => {
                let exec = &steps.commands[taker.index()].as_ref()?.exec;
                let mut mounts = exec.mounts.iter();
                let is_bound = |mount: &pb::Mount| {
                    usize::try_from(mount.input) == Ok(place)
                        && mount.mount_type() == pb::MountType::Bind
                        && mount.dest != "/"
                        && narrow::cleaned(&mount.selector) == "/"
                };
                if mounts.any(is_bound) && op.facts.primary != Some(place) {
                    return Some(Because::BindsAll);
                }
            }
            Need::Reads(reads) => {
                let all = |read: &narrow::Read| read.path == "/" && read.include.is_empty();
                if reads.iter().any(all) {
                    return Some(Because::CopiesAll);
                }
                let pattern = |read: &narrow::Read| {
                    read.name == Name::Pattern && is_pattern(parent(&read.path))
                };
                if reads.iter().any(pattern) {
                    return Some(Because::Pattern);
                }
                let lies_in = |one: &narrow::Read| {
                    let within = format!("{}/", one.path);
                    reads.iter().any(|other| other.path.starts_with(&within))
                };
                if reads.iter().any(lies_in) {
                    return Some(Because::Overlap);
                }
            }
        }
    }
    None
}
