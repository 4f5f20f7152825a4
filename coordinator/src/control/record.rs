//! What is written down of a build for those who come later: its progress, and what happened to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use croft_proto::v1 as wire;
use croft_scheduler::BuildId;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::Control;
use super::build::Build;
use super::progress::Progress;

/// A build's progress is appended when so many bytes wait …
const CHUNK: usize = 64 << 10;
/// … or when the first of them has waited so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes the build's progress to the store until it ends. Each append is a run of `StatusResponse` messages, each behind its length and with
/// `LogExtras` in it.
pub(super) fn start(control: &Control, build: &Build) {
    let (store, id) = (control.store.clone(), build.id());
    let progress = Arc::clone(build.progress());
    let mut reader = progress.reader();
    let end = control.recording.begin(id);
    tokio::spawn(async move {
        let _end = end;
        let mut chunk = Vec::new();
        loop {
            let Some(status) = reader.next().await else {
                return;
            };
            append(&mut chunk, &status, &progress);
            let pause = tokio::time::sleep(PAUSE);
            tokio::pin!(pause);
            let mut open = true;
            while open && chunk.len() < CHUNK {
                tokio::select! {
                    () = &mut pause => break,
                    status = reader.next() => match status {
                        Some(status) => append(&mut chunk, &status, &progress),
                        None => open = false,
                    },
                }
            }
            if let Err(error) = store.log_append(id, &chunk).await
                && !error.is_closed()
            {
                tracing::warn!(build = %id, %error, "some of a build's progress is not recorded");
            }
            chunk.clear();
            if !open {
                return;
            }
        }
    });
}

fn append(chunk: &mut Vec<u8>, status: &StatusResponse, progress: &Progress) {
    let stage = |digest: &String| {
        let stage = progress.stage_of(digest)?.0;
        let vertex = digest.clone();
        Some(wire::VertexStage { vertex, stage })
    };
    let digests = status.vertexes.iter().map(|vertex| &vertex.digest);
    let extras = wire::LogExtras {
        stages: digests.filter_map(stage).collect(),
    };
    // Fields may stand in any order, so one message behind the other is a message with the fields of both.
    let length = status.encoded_len() + extras.encoded_len();
    chunk.reserve(length + 10);
    let written = prost::encode_length_delimiter(length, chunk)
        .and_then(|()| status.encode(chunk))
        .and_then(|()| extras.encode(chunk));
    // A vector has room for all of it.
    debug_assert!(written.is_ok());
}

/// The builds that are being written down, each with what is cancelled at the end of it.
#[derive(Clone, Default)]
pub(super) struct Recording(Arc<Mutex<HashMap<BuildId, CancellationToken>>>);

impl Recording {
    fn begin(&self, id: BuildId) -> End {
        let recorded = CancellationToken::new();
        self.lock().insert(id, recorded.clone());
        let recording = self.clone();
        End {
            recording,
            id,
            recorded,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BuildId, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a build is written down, when it is dropped.
struct End {
    recording: Recording,
    id: BuildId,
    recorded: CancellationToken,
}

impl Drop for End {
    fn drop(&mut self) {
        self.recording.lock().remove(&self.id);
        self.recorded.cancel();
    }
}

impl Control {
    /// Waits until what a build that is over has said is written down.
    pub async fn recorded(&self, build: BuildId) {
        let recorded = self.recording.lock().get(&build).cloned();
        if let Some(recorded) = recorded {
            recorded.cancelled().await;
        }
    }

    /// Notes that something happened, to a build or to the farm, that no row of its own tells: for those who ask later why it took longer.
    pub(super) async fn note(&self, build: Option<BuildId>, kind: &str, data: serde_json::Value) {
        if let Err(error) = self.store.event_append(build, kind, &data).await
            && !error.is_closed()
        {
            tracing::warn!(kind, %error, "an event is not recorded");
        }
    }
}
