//! Sources that may look different from one engine to the next, or from one moment to the next: a client's folder, a branch of a
//! repository, a URL. One that several stages need is read in one of them, and the others take it from there like any other result, so
//! that all see the same, and a client sends its folder once. See DESIGN.md, "Cut edges are narrowed".
//!
//! Image layouts of a client aren't among them: their digest says what is in them, and their layers must stay as they are.

use std::collections::HashMap;

use bollard_buildkit_proto::pb;

use crate::{OpId, graph::Graph, groups::Group};

/// Why a source may not be read by several engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Varies {
    /// What is read tomorrow, or elsewhere, may be something else.
    ByTime,
    /// It can be read once, and the engine that ran the frontend has done so: a context that the client sent through a pipe.
    ReadOnce,
}

/// What a source's bytes say about it. `None`: it is the same everywhere.
pub(crate) fn varies(source: &pb::SourceOp) -> Option<Varies> {
    let (scheme, rest) = source.identifier.split_once("://")?;
    let has = |key: &str| source.attrs.get(key).is_some_and(|value| !value.is_empty());
    match scheme {
        "local" => Some(Varies::ByTime),
        "http" | "https" => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            match host {
                "buildkit-session" => Some(Varies::ReadOnce),
                _ => (!has("http.checksum")).then_some(Varies::ByTime),
            }
        }
        "git" => {
            // `git://host/repository#reference:folder`
            let reference = rest.split_once('#').map_or("", |(_, fragment)| fragment);
            let reference = reference.split(':').next().unwrap_or_default();
            (!is_commit(reference) && !has("git.checksum")).then_some(Varies::ByTime)
        }
        _ => None,
    }
}

fn is_commit(reference: &str) -> bool {
    matches!(reference.len(), 40 | 64) && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Leaves each source that varies in the first of the groups that have it, and says which these are: `(source, place in groups)`.
/// Groups are in the plan's order, so that no group comes to need a later one.
pub(crate) fn settle(graph: &Graph, groups: &mut [Group]) -> HashMap<OpId, usize> {
    let mut first: HashMap<OpId, usize> = HashMap::new();
    let mut shared: HashMap<OpId, usize> = HashMap::new();
    for (number, group) in groups.iter_mut().enumerate() {
        group.ops.retain(|op| {
            if graph.ops[op.index()].facts.varies.is_none() {
                return true;
            }
            let owner = *first.entry(*op).or_insert(number);
            if owner != number {
                shared.insert(*op, owner);
            }
            owner == number
        });
    }
    shared
}
