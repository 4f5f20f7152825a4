//! Cache identities: what an engine that built the same project before may have in its cache. See DESIGN.md, "Scheduler".

use crate::{CacheIdentity, OpId, PlanOptions, graph::Graph, id::sha256_parts, wire};

/// The identity of each op: its digest as it would be if sessions had no ids, its inputs' identities in place of their digests.
pub(crate) fn of_ops(graph: &Graph, options: &PlanOptions) -> Vec<CacheIdentity> {
    let mut identities: Vec<CacheIdentity> = Vec::with_capacity(graph.ops.len());
    for op in &graph.ops {
        let body = match (&op.facts.local, &op.facts.sessionless) {
            (Some(source), Some(sessionless)) => {
                let shared_key = options
                    .shared_keys
                    .get(&source.session)
                    .map_or("", String::as_str);
                let parts = [
                    options.project.as_str(),
                    &source.name,
                    shared_key,
                    sessionless,
                ];
                sha256_parts(parts.map(str::as_bytes)).into_bytes()
            }
            // An op that was decoded once can be walked again.
            _ => wire::without_inputs(&op.bytes).unwrap_or_else(|_| op.bytes.clone()),
        };
        let indexes: Vec<[u8; 4]> = op
            .inputs
            .iter()
            .map(|(_, index)| index.to_be_bytes())
            .collect();
        let inputs = op
            .inputs
            .iter()
            .zip(&indexes)
            .flat_map(|((input, _), index)| {
                let identity = identities
                    .get(input.index())
                    .map_or("", CacheIdentity::as_str);
                [identity.as_bytes(), index.as_slice()]
            });
        let identity = sha256_parts([body.as_slice()].into_iter().chain(inputs));
        identities.push(CacheIdentity::new(identity));
    }
    identities
}

/// The identity of a stage: that of its commands and results together, in any order.
pub(crate) fn of_stage(
    identities: &[CacheIdentity],
    members: impl IntoIterator<Item = OpId>,
) -> CacheIdentity {
    let mut members: Vec<&str> = members
        .into_iter()
        .filter_map(|op| identities.get(op.index()))
        .map(CacheIdentity::as_str)
        .collect();
    members.sort_unstable();
    CacheIdentity::new(sha256_parts(members.into_iter().map(str::as_bytes)))
}
