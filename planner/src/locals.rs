//! Merges local sources that differ in nothing but the paths that they follow. The Dockerfile frontend collects these for each target
//! by itself, so that one `COPY conf/$TARGETARCH.conf` would change every op after `COPY . .` and nothing would be shared any more.
//! See DESIGN.md, "The union graph".

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard_buildkit_proto::pb;
use prost::Message;

use crate::{
    OpDigest, OpId,
    graph::{Graph, Root, add_location, merge_metadata},
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
            Some(Ok(paths)) => Some(paths.iter().map(|path| cleaned(path)).collect()),
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
        for (place, (input, _)) in op.inputs.iter().enumerate() {
            if paths
                .get(input)
                .is_some_and(|paths| !whole.contains(input) && !names_sub_paths(op, place, paths))
            {
                whole.insert(*input);
            }
        }
    }
    for group in variants.values_mut() {
        group.retain(|id, _| !whole.contains(id));
    }
}

/// Whether `op` sees of its input `place` nothing but paths that `followed` covers.
fn names_sub_paths(op: &Op, place: usize, followed: &BTreeSet<String>) -> bool {
    let is_it = |input: i64| usize::try_from(input) == Ok(place);
    let covered = |path: &str| {
        let path = cleaned(path);
        let mut ends = path
            .match_indices('/')
            .map(|(end, _)| end)
            .chain([path.len()]);
        !path.is_empty() && ends.any(|end| followed.contains(&path[..end]))
    };
    match pb::Op::decode(op.bytes.as_slice())
        .ok()
        .and_then(|op| op.op)
    {
        Some(pb::op::Op::File(file)) => file.actions.iter().all(|action| {
            let copy = match &action.action {
                Some(pb::file_action::Action::Copy(copy)) => Some(copy),
                _ => None,
            };
            !is_it(action.input)
                && owner_inputs(action).all(|input| !is_it(input))
                && (!is_it(action.secondary_input) || copy.is_some_and(|copy| covered(&copy.src)))
        }),
        Some(pb::op::Op::Exec(exec)) => {
            exec.mounts
                .iter()
                .filter(|mount| is_it(mount.input))
                .all(|mount| {
                    const NO_OUTPUT: i64 = -1;
                    (mount.readonly || mount.output == NO_OUTPUT) && covered(&mount.selector)
                })
        }
        _ => false,
    }
}

/// The inputs whose `/etc/passwd` and `/etc/group` an action reads.
fn owner_inputs(action: &pb::FileAction) -> impl Iterator<Item = i64> {
    use pb::{file_action::Action, user_opt::User};
    let owner = match &action.action {
        Some(Action::Copy(copy)) => copy.owner.as_ref(),
        Some(Action::Mkfile(file)) => file.owner.as_ref(),
        Some(Action::Mkdir(dir)) => dir.owner.as_ref(),
        Some(Action::Symlink(link)) => link.owner.as_ref(),
        Some(Action::Rm(_)) | None => None,
    };
    let users = owner
        .into_iter()
        .flat_map(|owner| [&owner.user, &owner.group])
        .flatten();
    users.filter_map(|user| match &user.user {
        Some(User::ByName(named)) => Some(named.input),
        Some(User::ById(_)) | None => None,
    })
}

/// The path without `.`, `..`, doubled and outer slashes; empty for the whole.
fn cleaned(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
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
