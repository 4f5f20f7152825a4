//! Stages that had better share an agent, because a later one takes the whole roots of both: one of them would have to travel, with all the
//! layers of its base image.

use std::collections::BTreeSet;

use crate::{CutEdge, Stage, StageId};

/// Says of each stage which others it meets.
pub(crate) fn settle(stages: &mut [Stage], edges: &[CutEdge]) {
    for taker in 0..stages.len() {
        let Some(home) = &stages[taker].home else {
            continue;
        };
        let inputs = stages[taker].inputs.iter();
        let inputs = inputs.map(|edge| &edges[edge.index()]);
        let roots: BTreeSet<StageId> = inputs
            .filter(|edge| edge.is_whole())
            .map(|edge| edge.producer)
            .filter(|producer| stages[producer.index()].home.as_ref() == Some(home))
            .collect();
        for one in &roots {
            let others = roots.iter().filter(|other| *other != one);
            stages[one.index()].meets.extend(others);
        }
    }
}
