//! The Upload service of a client: streams that a build reads once, such as a tar archive from standard input.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use tokio::io::{AsyncRead, AsyncReadExt};
use tonic::Status;

use super::{
    packet::{PIECE, Piece, framed, streamed},
    response,
};
use crate::session::{SessionId, SessionRequest, SessionResponse};

pub(super) const METHOD: &str = "/moby.upload.v1.Upload/Pull";
/// Frontends read what they find under this host through the session.
const HOST: &str = "http://buildkit-session/";

type Content = Pin<Box<dyn AsyncRead + Send>>;

/// What waits to be read, each under the last part of its URL.
#[derive(Default)]
pub(super) struct Uploads(Mutex<HashMap<String, Content>>);

impl Uploads {
    pub(super) fn add(&mut self, content: Content) -> String {
        let id = SessionId::unique().to_string();
        let url = format!("{HOST}{id}");
        self.0
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, content);
        url
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    pub(super) fn answer(
        &self,
        request: &SessionRequest,
    ) -> impl Future<Output = SessionResponse> + use<> {
        let result = self.take(request);
        async move { response(result.map(|content| streamed(pieces(content)))) }
    }

    fn take(&self, request: &SessionRequest) -> Result<Content, Status> {
        let path = request
            .headers()
            .get("urlpath")
            .and_then(|path| path.to_str().ok())
            .unwrap_or_default();
        let id = path.rsplit('/').next().unwrap_or_default();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(id).ok_or_else(|| {
            Status::not_found(format!(
                "nothing is to be read under {path}, or it was read already"
            ))
        })
    }
}

/// The content in messages.
fn pieces(content: Content) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    stream::try_unfold(content, |mut content| async move {
        let mut data = BytesMut::with_capacity(PIECE);
        // What a pipe has now goes now.
        let read = content
            .read_buf(&mut data)
            .await
            .map_err(|e| Status::unknown(format!("what is uploaded can't be read: {e}")))?;
        Ok((read > 0).then(|| {
            (
                framed(&Piece {
                    data: data.freeze(),
                }),
                content,
            )
        }))
    })
}
