//! Merges local sources that differ in nothing but the paths that they follow. The Dockerfile frontend collects these for each target
//! by itself, so that one `COPY conf/$TARGETARCH.conf` would change every op after `COPY . .` and nothing would be shared any more.
//! See DESIGN.md, "The union graph".

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard_buildkit_proto::pb;
use prost::Message;

use crate::{
    OpDigest, OpId,
    graph::{Graph, Root, add_location, merge_metadata},
    narrow::{self, Need, cleaned, parent},
    op::{Op, OpKind},
    wire,
};

const FOLLOW_PATHS: &str = "local.followpaths";

/// Merges what can be merged and rewrites all ops after it. A graph in which nothing can be merged stays as it is.
pub(crate) fn merge(graph: Graph, roots: Vec<Root>) -> (Graph, Vec<Root>) {
    let mut replaced: BTreeMap<OpId, Vec<u8>> = BTreeMap::new();
    let mut variants = variants(&graph);
    if variants.is_empty() {
        return (graph, roots);
    }
    drop_those_used_whole(&graph, &roots, &mut variants);
    for group in variants.into_values().filter(|group| group.len() > 1) {
        if let Some(bytes) = merged(&graph, &group) {
            replaced.extend(group.into_keys().map(|id| (id, bytes.clone())));
        }
    }
    if replaced.is_empty() {
        (graph, roots)
    } else {
        rewrite(graph, roots, replaced)
    }
}

/// The paths that a source follows; `None`: it has all.
type Paths = Option<BTreeSet<String>>;

/// Local sources by what they have in common; only groups of several.
fn variants(graph: &Graph) -> BTreeMap<Vec<u8>, BTreeMap<OpId, Paths>> {
    let mut groups: BTreeMap<Vec<u8>, BTreeMap<OpId, Paths>> = BTreeMap::new();
    for (number, op) in graph.ops.iter().enumerate() {
        if op.kind != OpKind::Source || op.facts.local.is_none() {
            continue;
        }
        let Some(pb::op::Op::Source(source)) = pb::Op::decode(op.bytes.as_slice())
            .ok()
            .and_then(|op| op.op)
        else {
            continue;
        };
        if !source.identifier.starts_with("local://") {
            continue;
        }
        let paths = match source
            .attrs
            .get(FOLLOW_PATHS)
            .map(|json| serde_json::from_str::<BTreeSet<String>>(json))
        {
            None => None,
            Some(Ok(paths)) => Some(paths.iter().map(|path| from_root(&cleaned(path))).collect()),
            Some(Err(_)) => continue,
        };
        if let Ok(common) = wire::with_source_attr(&op.bytes, FOLLOW_PATHS, None) {
            groups
                .entry(common)
                .or_default()
                .insert(OpId(number as u32), paths);
        }
    }
    groups.retain(|_, group| group.len() > 1);
    groups
}

/// Leaves alone the sources that would look different to one of their consumers with more paths in them.
fn drop_those_used_whole(
    graph: &Graph,
    roots: &[Root],
    variants: &mut BTreeMap<Vec<u8>, BTreeMap<OpId, Paths>>,
) {
    let paths: BTreeMap<OpId, &BTreeSet<String>> = variants
        .values()
        .flatten()
        .filter_map(|(&id, paths)| Some((id, paths.as_ref()?)))
        .collect();
    let mut whole: BTreeSet<OpId> = roots
        .iter()
        .flatten()
        .map(|&(id, _)| id)
        .filter(|id| paths.contains_key(id))
        .collect();
    for op in &graph.ops {
        let followed = |place: usize| {
            op.inputs
                .get(place)
                .and_then(|(input, _)| paths.get(input).copied())
        };
        if (0..op.inputs.len()).any(|place| followed(place).is_some()) {
            let seen_whole = inputs_seen_whole(op, followed);
            whole.extend(
                seen_whole
                    .into_iter()
                    .filter_map(|place| op.inputs.get(place))
                    .map(|&(input, _)| input),
            );
        }
    }
    for group in variants.values_mut() {
        group.retain(|id, _| !whole.contains(id));
    }
}

/// The places of the inputs of which `op` sees more than paths that are followed there.
fn inputs_seen_whole<'a>(
    op: &Op,
    followed: impl Fn(usize) -> Option<&'a BTreeSet<String>>,
) -> Vec<usize> {
    let is_seen_whole = |(place, need): &(usize, Need)| match (need, followed(*place)) {
        (Need::Reads(reads), Some(followed)) => {
            !reads.iter().all(|read| is_covered(&read.path, followed))
        }
        _ => true,
    };
    narrow::of_inputs(op)
        .into_iter()
        .enumerate()
        .filter(is_seen_whole)
        .map(|(place, _)| place)
        .collect()
}

/// Whether `path`, which is cleaned, is one of those that are followed, or under one. No path that a file system could have is longer than
/// 4096 bytes.
fn is_covered(path: &str, followed: &BTreeSet<String>) -> bool {
    if path.len() > 4096 {
        return false;
    }
    let mut above = std::iter::successors(Some(path), |path| (*path != "/").then(|| parent(path)));
    above.any(|path| path != "/" && followed.contains(&from_root(path)))
}

/// A path as the frontend writes it: without the slash before it.
fn from_root(path: &str) -> String {
    path.trim_start_matches('/').to_owned()
}

/// The bytes of one source that serves a whole group.
fn merged(graph: &Graph, group: &BTreeMap<OpId, Paths>) -> Option<Vec<u8>> {
    let all: Option<BTreeSet<&String>> = group.values().try_fold(BTreeSet::new(), |all, paths| {
        paths
            .as_ref()
            .map(|paths| all.into_iter().chain(paths).collect())
    });
    let json = all
        .map(|paths| serde_json::to_string(&paths))
        .transpose()
        .ok()?;
    // Of one that follows paths, so that there is an attribute to set.
    let (like, _) = group.iter().find(|(_, paths)| paths.is_some())?;
    wire::with_source_attr(
        &graph.ops.get(like.index())?.bytes,
        FOLLOW_PATHS,
        json.as_deref(),
    )
    .ok()
}

/// Puts new bytes in and points everything after at the new digests. Ops that become equal become one.
fn rewrite(
    graph: Graph,
    roots: Vec<Root>,
    mut replaced: BTreeMap<OpId, Vec<u8>>,
) -> (Graph, Vec<Root>) {
    let mut ops: Vec<Op> = Vec::with_capacity(graph.ops.len());
    let mut by_digest: HashMap<OpDigest, OpId> = HashMap::with_capacity(graph.ops.len());
    let mut moved: Vec<OpId> = Vec::with_capacity(graph.ops.len());
    let mut changed = vec![false; graph.ops.len()];
    for (number, mut op) in graph.ops.into_iter().enumerate() {
        let new_bytes = replaced.remove(&OpId(number as u32)).or_else(|| {
            let inputs = || {
                op.inputs
                    .iter()
                    .map(|&(input, index)| (&ops[moved[input.index()].index()].digest, index))
            };
            let any = op.inputs.iter().any(|(input, _)| changed[input.index()]);
            any.then(|| wire::with_inputs(&op.bytes, inputs()).ok())
                .flatten()
        });
        if let Some(bytes) = new_bytes {
            changed[number] = true;
            op.digest = OpDigest::of(&bytes);
            op.bytes = bytes;
        }
        for (input, _) in &mut op.inputs {
            *input = moved[input.index()];
        }
        let next = OpId(ops.len() as u32);
        let id = *by_digest.entry(op.digest.clone()).or_insert(next);
        moved.push(id);
        if id == next {
            ops.push(op);
        } else {
            let known = &mut ops[id.index()];
            merge_metadata(&mut known.metadata, op.metadata);
            op.locations
                .into_iter()
                .for_each(|location| add_location(&mut known.locations, location));
        }
    }
    let roots = roots
        .into_iter()
        .map(|root| root.map(|(op, index)| (moved[op.index()], index)))
        .collect();
    (
        Graph {
            ops,
            infos: graph.infos,
        },
        roots,
    )
}
