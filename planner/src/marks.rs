//! Marks that say that an op's cache is to be ignored (`--no-cache`).

use std::collections::BTreeSet;

use crate::{OpId, Plan};

impl Plan {
    /// The ops whose cache is to be ignored, and those that need one of them.
    pub fn ignoring_cache(&self) -> BTreeSet<OpId> {
        let mut marked = BTreeSet::new();
        // Each op comes after its inputs.
        for (number, op) in self.graph.ops.iter().enumerate() {
            let needs_one = op.inputs.iter().any(|(input, _)| marked.contains(input));
            if op.metadata.ignore_cache || needs_one {
                marked.insert(OpId(number as u32));
            }
        }
        marked
    }
}
