//! How much the definitions of all results of a plan come to, before any is written. A definition has everything upstream in it, so that a
//! hundred thousand results of a chain would fill any memory.

use crate::{Limits, OpId, Plan, PlanError};

/// What an op costs beyond its bytes: its digest is in several maps.
const OVERHEAD: usize = 512;

/// Refuses a plan whose definitions, bound to one another, have more than [`Limits::max_written_bytes`].
pub(crate) fn check(plan: &Plan, limits: &Limits) -> Result<(), PlanError> {
    let limit = limits.max_written_bytes;
    if limit == usize::MAX {
        return Ok(());
    }
    let edges = plan.edges.iter().map(|edge| edge.op);
    let targets = plan
        .targets
        .iter()
        .filter_map(|target| target.root)
        .map(|(op, _)| op);
    let mut left = limit;
    let mut seen_for = vec![usize::MAX; plan.graph.ops.len()];
    let mut next: Vec<OpId> = Vec::new();
    for (number, root) in edges.chain(targets).enumerate() {
        seen_for[root.index()] = number;
        next.push(root);
        while let Some(op) = next.pop() {
            let op = &plan.graph.ops[op.index()];
            let spent = OVERHEAD + op.bytes.len() + op.inputs.len();
            left = left.checked_sub(spent).ok_or(PlanError::TooMany {
                what: "bytes in the definitions of all its results together",
                limit,
            })?;
            for &(input, _) in &op.inputs {
                if seen_for[input.index()] != number {
                    seen_for[input.index()] = number;
                    next.push(input);
                }
            }
        }
    }
    Ok(())
}
