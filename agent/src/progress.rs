//! What engines say about vertices, on its way to the coordinator: merged where the link is slow, held back where it is stuck.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use croft_buildkit::api::control::{StatusResponse, Vertex};
use prost::Message;
use tokio::sync::Notify;

use crate::ids::{BuildId, OutputId};

/// How much of one source waits before its engine is held back, in encoded bytes. Also bounds what a heartbeat may have to wait for.
const BATCH_BYTES: usize = 256 << 10;

/// Which solve speaks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// The build.
    pub build: BuildId,
    /// The export, by the attempt or the request that it belongs to; none is the keeper.
    pub export: Option<(String, OutputId)>,
}

/// All that waits for the link.
#[derive(Debug, Default)]
pub struct ProgressQueue {
    inner: Mutex<Inner>,
    filled: Notify,
    drained: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Sources with something pending, each once: whoever was served goes to the end.
    turns: VecDeque<Source>,
    pending: HashMap<Source, Batch>,
    /// How many batches have been begun.
    batches: u64,
}

/// A vertex may run several times, for its cache key and then for its content, and clients add these runs up: the end of each must be told.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Run {
    vertex: String,
    /// In seconds and nanoseconds since 1970; none before the first.
    started: Option<(i64, i32)>,
}

impl Run {
    fn of(vertex: &Vertex) -> Self {
        Self {
            vertex: vertex.digest.clone(),
            started: vertex.started.map(|at| (at.seconds, at.nanos)),
        }
    }
}

#[derive(Debug, Default)]
struct Batch {
    status: StatusResponse,
    /// Where in `status` a vertex's run is.
    vertices: HashMap<Run, usize>,
    /// Where in `status` a vertex's status is.
    statuses: HashMap<(String, String), usize>,
    /// At least what `status` takes.
    bytes: usize,
    /// Which batch of all this is.
    number: u64,
}

impl Batch {
    fn has_room(&mut self) -> bool {
        if self.bytes >= BATCH_BYTES {
            self.bytes = self.status.encoded_len();
        }
        self.bytes < BATCH_BYTES
    }

    /// Of a vertex's run and of a status only the newest state is kept; logs and warnings are all kept.
    fn merge(&mut self, newer: StatusResponse) {
        self.bytes += newer.encoded_len();
        for vertex in newer.vertexes {
            let run = Run::of(&vertex);
            match self.vertices.get(&run) {
                Some(&at) => self.status.vertexes[at] = vertex,
                None => {
                    self.vertices.insert(run, self.status.vertexes.len());
                    self.status.vertexes.push(vertex);
                }
            }
        }
        for status in newer.statuses {
            let key = (status.vertex.clone(), status.id.clone());
            match self.statuses.get(&key) {
                Some(&at) => self.status.statuses[at] = status,
                None => {
                    self.statuses.insert(key, self.status.statuses.len());
                    self.status.statuses.push(status);
                }
            }
        }
        self.status.logs.extend(newer.logs);
        self.status.warnings.extend(newer.warnings);
    }
}

impl ProgressQueue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what a source says; waits while too much of it is pending, which holds back the stream that it comes from.
    pub async fn push(&self, source: &Source, status: StatusResponse) {
        let mut status = Some(status);
        loop {
            let drained = self.drained.notified();
            if self.try_push(source, &mut status) {
                self.filled.notify_one();
                return;
            }
            drained.await;
        }
    }

    fn try_push(&self, source: &Source, status: &mut Option<StatusResponse>) -> bool {
        let mut inner = self.lock();
        let Inner {
            turns,
            pending,
            batches,
        } = &mut *inner;
        let batch = pending.entry(source.clone()).or_insert_with(|| {
            turns.push_back(source.clone());
            *batches += 1;
            Batch {
                number: *batches,
                ..Batch::default()
            }
        });
        let room = batch.has_room();
        if room && let Some(status) = status.take() {
            batch.merge(status);
        }
        room
    }

    /// The next batch, as soon as there is one; sources take turns. For one caller at a time; nothing is lost if it is dropped while it waits.
    pub async fn next(&self) -> (Source, StatusResponse) {
        loop {
            if let Some(next) = self.try_next() {
                self.drained.notify_waiters();
                return next;
            }
            self.filled.notified().await;
        }
    }

    /// Waits until all that waits now of this build has been taken.
    pub async fn taken(&self, build: &BuildId) {
        let latest = self.lock().batches;
        loop {
            let drained = self.drained.notified();
            let waiting = |(source, batch): (&Source, &Batch)| {
                source.build == *build && batch.number <= latest
            };
            if !self.lock().pending.iter().any(waiting) {
                return;
            }
            drained.await;
        }
    }

    fn try_next(&self) -> Option<(Source, StatusResponse)> {
        let mut inner = self.lock();
        let source = inner.turns.pop_front()?;
        let batch = inner.pending.remove(&source)?;
        Some((source, batch.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use croft_buildkit::api::{
        control::{VertexLog, VertexStatus},
        wkt::Timestamp,
    };
    use futures::FutureExt;

    fn source(build: &str) -> Source {
        Source {
            build: build.to_owned().into(),
            export: None,
        }
    }

    fn vertex(digest: &str, name: &str) -> StatusResponse {
        let vertex = Vertex {
            digest: digest.into(),
            name: name.into(),
            ..Default::default()
        };
        StatusResponse {
            vertexes: vec![vertex],
            ..Default::default()
        }
    }

    fn log(bytes: usize) -> StatusResponse {
        let log = VertexLog {
            vertex: "v".into(),
            msg: vec![b'x'; bytes],
            ..Default::default()
        };
        StatusResponse {
            logs: vec![log],
            ..Default::default()
        }
    }

    #[test]
    fn while_nobody_takes_it_only_the_newest_state_of_a_vertex_waits() {
        let queue = ProgressQueue::default();
        for name in ["first", "second"] {
            queue
                .push(&source("b"), vertex("v", name))
                .now_or_never()
                .expect("room");
            let status = VertexStatus {
                id: "layer".into(),
                vertex: "v".into(),
                name: name.into(),
                ..Default::default()
            };
            let status = StatusResponse {
                statuses: vec![status],
                ..Default::default()
            };
            queue
                .push(&source("b"), status)
                .now_or_never()
                .expect("room");
        }
        queue
            .push(&source("b"), vertex("w", "other"))
            .now_or_never()
            .expect("room");
        let (_, batch) = queue.next().now_or_never().expect("a batch");
        let names: Vec<_> = batch
            .vertexes
            .iter()
            .map(|vertex| vertex.name.as_str())
            .collect();
        assert_eq!(names, ["second", "other"]);
        assert_eq!(batch.statuses.len(), 1);
        assert_eq!(batch.statuses[0].name, "second");
        assert!(queue.next().now_or_never().is_none());
    }

    #[test]
    fn the_end_of_a_vertexs_run_is_not_lost_to_its_next_run() {
        let queue = ProgressQueue::default();
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        for (started, completed) in [(1, None), (1, at(2)), (3, None), (3, at(4))] {
            let mut status = vertex("v", "v");
            status.vertexes[0].started = at(started);
            status.vertexes[0].completed = completed;
            queue
                .push(&source("b"), status)
                .now_or_never()
                .expect("room");
        }
        let (_, batch) = queue.next().now_or_never().expect("a batch");
        let runs: Vec<_> = batch
            .vertexes
            .iter()
            .map(|vertex| (vertex.started, vertex.completed))
            .collect();
        assert_eq!(runs, [(at(1), at(2)), (at(3), at(4))]);
    }

    #[test]
    fn logs_are_held_back_but_never_lost() {
        let queue = ProgressQueue::default();
        queue
            .push(&source("b"), log(BATCH_BYTES))
            .now_or_never()
            .expect("room");
        let full = source("b");
        let mut second = Box::pin(queue.push(&full, log(1)));
        assert!(
            second.as_mut().now_or_never().is_none(),
            "the source is full"
        );
        queue
            .push(&source("c"), log(1))
            .now_or_never()
            .expect("another source is not");
        assert_eq!(queue.next().now_or_never().expect("a batch").0, source("b"));
        second.now_or_never().expect("room again");
        assert_eq!(queue.next().now_or_never().expect("a batch").0, source("c"));
        let (from, batch) = queue.next().now_or_never().expect("a batch");
        assert_eq!((from, batch.logs.len()), (source("b"), 1));
    }

    #[test]
    fn what_waits_of_one_build_is_waited_for_and_nothing_newer() {
        let queue = ProgressQueue::default();
        for build in ["b", "c"] {
            queue
                .push(&source(build), log(1))
                .now_or_never()
                .expect("room");
        }
        let build = source("b").build;
        let mut taken = Box::pin(queue.taken(&build));
        assert!(taken.as_mut().now_or_never().is_none());
        assert_eq!(queue.next().now_or_never().expect("a batch").0, source("b"));
        queue
            .push(&source("b"), log(1))
            .now_or_never()
            .expect("room");
        taken.now_or_never().expect("taken");
    }

    #[test]
    fn endless_updates_of_one_vertex_never_fill_the_queue() {
        let queue = ProgressQueue::default();
        let name = "n".repeat(1000);
        for _ in 0..2 * BATCH_BYTES / name.len() {
            queue
                .push(&source("b"), vertex("v", &name))
                .now_or_never()
                .expect("room");
        }
        assert_eq!(
            queue
                .next()
                .now_or_never()
                .expect("a batch")
                .1
                .vertexes
                .len(),
            1
        );
    }
}
