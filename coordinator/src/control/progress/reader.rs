//! Who follows a build's progress, and from where.

use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use tokio::sync::watch;

use super::Progress;

/// A place in the story. Each reader goes at its own pace.
pub struct Reader {
    pub(super) progress: Arc<Progress>,
    pub(super) end: watch::Receiver<Option<u64>>,
    pub(super) next: u64,
}

impl Reader {
    /// What comes next, waiting for it; `None` at the end of the story.
    pub async fn next(&mut self) -> Option<Arc<StatusResponse>> {
        loop {
            let end = *self.end.borrow_and_update();
            if let Some(status) = self.take() {
                return Some(status);
            }
            end?;
            if self.end.changed().await.is_err() {
                return None;
            }
        }
    }

    fn take(&mut self) -> Option<Arc<StatusResponse>> {
        let inner = self.progress.lock();
        if self.next < inner.first {
            // What was missed is gone; what matters of it is how each vertex stands now.
            self.next = inner.first;
            return Some(Arc::new(StatusResponse {
                vertexes: inner.vertices.clone(),
                ..StatusResponse::default()
            }));
        }
        let place = usize::try_from(self.next - inner.first).ok()?;
        let entry = inner.log.get(place)?;
        self.next += 1;
        Some(Arc::clone(&entry.status))
    }
}
