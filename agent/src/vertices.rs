//! What is known of a build's vertices on this engine: several jobs of one keeper report the same ones, and each is to be told once.

use std::collections::{HashMap, HashSet};

use croft_buildkit::api::{
    control::StatusResponse,
    pb::{self},
};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::ledger::Tally;

/// One job of a keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobId(pub u64);

/// The vertices of a keeper.
#[derive(Debug, Default)]
pub struct Vertices {
    seen: HashMap<String, Vertex>,
    /// Jobs that are about to end.
    retired: HashSet<JobId>,
}

#[derive(Debug, Default)]
struct Vertex {
    /// The job whose word counts; the first to speak of it.
    teller: Option<JobId>,
    end: End,
    /// An attempt is at it that began with it before all others that are.
    claimed: bool,
    /// An attempt has counted it as run.
    counted: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    None,
    Cached,
    Ran,
}

impl Vertices {
    /// An attempt begins with these: they are the keeper's, even if no job has spoken of them yet. Returns those that no other attempt is
    /// at: they are counted as this one's.
    pub fn expect(&mut self, digests: &HashSet<String>) -> HashSet<String> {
        let claim = |digest: &&String| {
            let vertex = self.seen.entry((*digest).clone()).or_default();
            !std::mem::replace(&mut vertex.claimed, true)
        };
        digests.iter().filter(claim).cloned().collect()
    }

    /// The attempt that claimed these is over.
    pub fn release(&mut self, claimed: &HashSet<String>) {
        for digest in claimed {
            if let Some(vertex) = self.seen.get_mut(digest) {
                vertex.claimed = false;
            }
        }
    }

    /// Takes out of a job's report what another job tells already.
    pub fn admit(&mut self, job: JobId, mut status: StatusResponse) -> StatusResponse {
        for vertex in &status.vertexes {
            let known = self.seen.entry(vertex.digest.clone()).or_default();
            if known.teller.is_none() && !self.retired.contains(&job) {
                known.teller = Some(job);
            }
            let told = known.teller.is_none_or(|teller| teller == job);
            if told && vertex.completed.is_some() && vertex.error.is_empty() {
                known.end = if vertex.cached { End::Cached } else { End::Ran };
            }
        }
        self.retain(&mut status, |known| {
            known.is_none_or(|known| known.teller.is_none_or(|teller| teller == job))
        });
        status
    }

    /// Takes out of an export's report what the keeper tells already. What is left is the export's own: its digests are made from the
    /// session's name, so two exports may well share them.
    pub fn admit_export(&self, mut status: StatusResponse) -> StatusResponse {
        self.retain(&mut status, |known| known.is_none());
        status
    }

    fn retain(&self, status: &mut StatusResponse, keep: impl Fn(Option<&Vertex>) -> bool) {
        let keep = |digest: &String| keep(self.seen.get(digest));
        status.vertexes.retain(|vertex| keep(&vertex.digest));
        status.statuses.retain(|status| keep(&status.vertex));
        status.logs.retain(|log| keep(&log.vertex));
        status.warnings.retain(|warning| keep(&warning.vertex));
    }

    /// The job is about to end, and the engine may stop telling it things at any moment: whoever speaks of its vertices next tells them
    /// from then on.
    pub fn retire(&mut self, job: JobId) {
        self.retired.insert(job);
        for vertex in self.seen.values_mut() {
            vertex.teller = vertex.teller.filter(|teller| *teller != job);
        }
    }

    /// The job says no more.
    pub fn ended(&mut self, job: JobId) {
        self.retire(job);
        self.retired.remove(&job);
    }

    /// Whether a vertex is known to be finished.
    pub fn is_done(&self, digest: &str) -> bool {
        self.seen
            .get(digest)
            .is_some_and(|vertex| vertex.end != End::None)
    }

    /// How many of these vertices ran for the one who asks; a vertex that several share is counted as run once, by the one who claimed it,
    /// and the others have it from the cache.
    pub fn tally(&mut self, digests: &HashSet<String>, claimed: &HashSet<String>) -> Tally {
        let mut tally = Tally::default();
        for digest in digests {
            match self.seen.get_mut(digest) {
                Some(vertex)
                    if vertex.end == End::Ran
                        && !vertex.counted
                        && (!vertex.claimed || claimed.contains(digest)) =>
                {
                    vertex.counted = true;
                    tally.run += 1;
                }
                _ => tally.cached += 1,
            }
        }
        tally
    }
}

/// The digests of a definition's vertices.
pub fn digests(definition: &pb::Definition) -> impl Iterator<Item = String> {
    // The last op only points at the result.
    let ops = definition.def.split_last().map_or(&[][..], |(_, ops)| ops);
    ops.iter()
        .map(|op| format!("sha256:{}", hex::encode(Sha256::digest(op))))
}

/// One output of a vertex.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Edge {
    /// The vertex.
    pub vertex: String,
    index: i64,
}

/// What a definition is the definition of. `None` if it isn't one.
pub fn result(definition: &pb::Definition) -> Option<Edge> {
    let last = pb::Op::decode(definition.def.last()?.as_slice()).ok()?;
    let pb::Input { digest, index } = last.inputs.into_iter().next()?;
    Some(Edge {
        vertex: digest,
        index,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use croft_buildkit::api::{
        control::{self, VertexLog},
        wkt::Timestamp,
    };

    const A: JobId = JobId(1);
    const B: JobId = JobId(2);

    fn ran(digest: &str, cached: bool) -> StatusResponse {
        let vertex = control::Vertex {
            digest: digest.into(),
            completed: Some(Timestamp::default()),
            cached,
            ..Default::default()
        };
        StatusResponse {
            vertexes: vec![vertex],
            ..Default::default()
        }
    }

    fn log(digest: &str) -> StatusResponse {
        StatusResponse {
            logs: vec![VertexLog {
                vertex: digest.into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_vertex_is_told_by_one_job_at_a_time() {
        let mut vertices = Vertices::default();
        assert_eq!(vertices.admit(A, ran("v", false)).vertexes.len(), 1);
        assert_eq!(
            vertices.admit(B, ran("v", false)),
            StatusResponse::default()
        );
        assert_eq!(vertices.admit(B, log("v")), StatusResponse::default());
        assert_eq!(vertices.admit(A, log("v")).logs.len(), 1);
        vertices.retire(A);
        // Its last words are heard as long as nobody else speaks.
        assert_eq!(vertices.admit(A, log("v")).logs.len(), 1);
        assert_eq!(vertices.admit(B, log("v")).logs.len(), 1);
        assert_eq!(vertices.admit(B, ran("v", false)).vertexes.len(), 1);
    }

    #[test]
    fn exports_tell_only_of_what_is_theirs() {
        let mut vertices = Vertices::default();
        vertices.admit(A, ran("v", false));
        vertices.expect(&HashSet::from(["w".to_owned()]));
        for keepers in ["v", "w"] {
            let left = vertices.admit_export(ran(keepers, false));
            assert_eq!(left, StatusResponse::default());
        }
        for _ in 0..2 {
            assert_eq!(
                vertices
                    .admit_export(ran("exporting", false))
                    .vertexes
                    .len(),
                1
            );
        }
    }

    #[test]
    fn a_shared_vertex_counts_as_run_once() {
        let mut vertices = Vertices::default();
        vertices.admit(A, ran("ran", false));
        vertices.admit(A, ran("hit", true));
        let digests = ["ran", "hit", "below the hit"].map(str::to_owned).into();
        let nobodys = HashSet::new();
        assert_eq!(
            vertices.tally(&digests, &nobodys),
            Tally { cached: 2, run: 1 }
        );
        assert_eq!(
            vertices.tally(&digests, &nobodys),
            Tally { cached: 3, run: 0 }
        );
    }

    #[test]
    fn what_two_attempts_are_at_is_counted_by_the_first_whichever_ends_first() {
        let mut vertices = Vertices::default();
        let (below, both) = (
            HashSet::from(["below".to_owned()]),
            ["below", "above"].map(str::to_owned).into(),
        );
        let (first, second) = (vertices.expect(&below), vertices.expect(&both));
        assert_eq!((first.len(), second.len()), (1, 1));
        vertices.admit(A, ran("below", false));
        vertices.admit(B, ran("above", false));
        assert_eq!(vertices.tally(&both, &second), Tally { cached: 1, run: 1 });
        vertices.release(&second);
        assert_eq!(vertices.tally(&below, &first), Tally { cached: 0, run: 1 });
    }
}
