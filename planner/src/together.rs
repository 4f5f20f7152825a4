//! Stages that must share an agent, because people pass data from one command to another in a cache mount, and what that agent must be
//! able to do.
//!
//! Mounts with the same id on different homes are different mounts: no engine runs both natively.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Home, Platform, Requirements, Stage, StageId, groups::Sets};

/// Says of each stage which others it belongs with. All of them then ask for what one of them needs, so that the first is placed where
/// the others can follow.
pub(crate) fn settle(stages: &mut [Stage]) {
    let mut sets = Sets::new(stages.len());
    let mut first: BTreeMap<(&Option<Home>, &String), usize> = BTreeMap::new();
    for (number, stage) in stages.iter().enumerate() {
        for mount in &stage.cache_mounts {
            sets.unite(*first.entry((&stage.home, mount)).or_insert(number), number);
        }
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for number in 0..stages.len() {
        groups.entry(sets.leader(number)).or_default().push(number);
    }
    for members in groups.into_values().filter(|members| members.len() > 1) {
        let (mut platforms, mut requirements) =
            (BTreeSet::<Platform>::new(), Requirements::default());
        for &member in &members {
            platforms.extend(stages[member].platforms.iter().cloned());
            requirements.extend(&stages[member].requirements);
        }
        for &member in &members {
            let stage = &mut stages[member];
            stage.together = Some(StageId(members[0] as u32));
            stage.platforms.clone_from(&platforms);
            stage.requirements.clone_from(&requirements);
        }
    }
}
