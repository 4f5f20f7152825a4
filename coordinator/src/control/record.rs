//! What is written down of a build for those who come later: its progress, and what happened to it.

use std::time::Duration;

use croft_scheduler::BuildId;
use prost::Message as _;

use super::Control;
use super::build::Build;
use crate::store::Store;

/// A build's progress is appended when so many bytes wait …
const CHUNK: usize = 64 << 10;
/// … or when the first of them has waited so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes the build's progress to the store until it ends. Each append is a run of `StatusResponse` messages, each behind its length.
pub(super) fn start(store: &Store, build: &Build) {
    let (store, id) = (store.clone(), build.id());
    let mut reader = build.progress().reader();
    tokio::spawn(async move {
        let mut chunk = Vec::new();
        loop {
            let Some(status) = reader.next().await else {
                return;
            };
            chunk.extend(status.encode_length_delimited_to_vec());
            let pause = tokio::time::sleep(PAUSE);
            tokio::pin!(pause);
            let mut open = true;
            while open && chunk.len() < CHUNK {
                tokio::select! {
                    () = &mut pause => break,
                    status = reader.next() => match status {
                        Some(status) => chunk.extend(status.encode_length_delimited_to_vec()),
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

impl Control {
    /// Notes that something happened, to a build or to the farm, that no row of its own tells: for those who ask later why it took longer.
    pub(super) async fn note(&self, build: Option<BuildId>, kind: &str, data: serde_json::Value) {
        if let Err(error) = self.store.event_append(build, kind, &data).await
            && !error.is_closed()
        {
            tracing::warn!(kind, %error, "an event is not recorded");
        }
    }
}
