//! A build's log, read piece by piece as the caller takes it: what waits for a slow reader is in the database, not here.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use croft_proto::v1 as wire;
use croft_scheduler::BuildId;
use futures::Stream;
use tonic::Status;

use super::farm::{find_build, status};
use crate::control::Control;
use crate::store::LogChunk;

/// A log's pieces.
pub(super) type Pieces =
    Pin<Box<dyn Stream<Item = Result<wire::ReadLogResponse, Status>> + Send + 'static>>;

/// Pieces that are read at once: of 64 KiB each, or a little more.
const AT_ONCE: u32 = 8;
/// How often it is looked whether there is more; it is written down once a second.
const LOOK: Duration = Duration::from_millis(300);

/// Who reads, and how far he has come.
struct Reader {
    control: Arc<Control>,
    build: BuildId,
    follow: bool,
    after: i64,
    read: std::vec::IntoIter<LogChunk>,
    /// The build was over before it was looked for more.
    complete: bool,
}

/// What the request asks for.
pub(super) async fn read(
    control: Arc<Control>,
    asked: wire::ReadLogRequest,
) -> Result<Pieces, Status> {
    let build = find_build(&control, &asked.id).await?;
    let after = i64::try_from(asked.after)
        .map_err(|_| Status::invalid_argument("there is no such position"))?;
    let reader = Reader {
        control,
        build,
        follow: asked.follow,
        after,
        read: Vec::new().into_iter(),
        complete: false,
    };
    Ok(Box::pin(futures::stream::try_unfold(
        reader,
        async |mut reader| {
            let piece = reader.next().await?;
            Ok(piece.map(|piece| (piece, reader)))
        },
    )))
}

impl Reader {
    async fn next(&mut self) -> Result<Option<wire::ReadLogResponse>, Status> {
        loop {
            if let Some(chunk) = self.read.next() {
                self.after = chunk.seq;
                return Ok(Some(wire::ReadLogResponse {
                    position: u64::try_from(chunk.seq).unwrap_or_default(),
                    data: chunk.data,
                }));
            }
            let store = self.control.store();
            let read = store.log_read(self.build, self.after, AT_ONCE).await;
            let read = read.map_err(status)?;
            if !read.is_empty() {
                self.read = read.into_iter();
                continue;
            }
            if self.complete || !self.follow {
                return Ok(None);
            }
            let row = store.build_get(self.build).await.map_err(status)?;
            let row = row.ok_or_else(|| {
                Status::not_found(format!("build {} has been removed", self.build))
            })?;
            if row.state.is_final() {
                self.control.recorded(self.build).await;
                self.complete = true;
            } else {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}
