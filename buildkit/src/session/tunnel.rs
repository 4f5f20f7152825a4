//! A byte stream over gRPC's `BytesMessage`s, so that HTTP/2 can run inside `Control.Session`.
//!
//! Nothing is buffered but the piece that is being read and a few messages that wait to be sent: whoever is slow slows the
//! other side down.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::{io::StreamReader, sync::PollSender};

use crate::api::control::BytesMessage;

/// The most that goes into one message: what BuildKit's own side reads at once.
pub(super) const CHUNK: usize = 32 << 10;
/// How many messages may wait to be sent.
pub(super) const QUEUE: usize = 8;

/// A stream that is read by the connection in it and, after that, to its end by whoever opened it.
pub(super) struct SharedStream<S>(Arc<Mutex<S>>);

impl<S> SharedStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }
}

impl<S> Clone for SharedStream<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Stream + Unpin> Stream for SharedStream<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .poll_next_unpin(cx)
    }
}

/// Both directions of a session's bytes.
pub(super) struct Tunnel<S, T> {
    incoming: StreamReader<S, Bytes>,
    outgoing: PollSender<T>,
    wrap: fn(BytesMessage) -> T,
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin, T: Send + 'static> Tunnel<S, T> {
    /// Reads from `incoming` until it ends, which is the end of the connection; sends to `outgoing`, wrapped.
    pub(super) fn new(incoming: S, outgoing: mpsc::Sender<T>, wrap: fn(BytesMessage) -> T) -> Self {
        Self {
            incoming: StreamReader::new(incoming),
            outgoing: PollSender::new(outgoing),
            wrap,
        }
    }
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin, T: Send + 'static> AsyncRead for Tunnel<S, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.incoming).poll_read(cx, buf)
    }
}

impl<S: Unpin, T: Send + 'static> AsyncWrite for Tunnel<S, T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(cx)).map_err(gone)?;
        let mut data =
            Vec::with_capacity(bufs.iter().map(|buf| buf.len()).sum::<usize>().min(CHUNK));
        for buf in bufs {
            let room = CHUNK - data.len();
            data.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        let n = data.len();
        let message = (self.wrap)(BytesMessage { data });
        self.outgoing.send_item(message).map_err(gone)?;
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    type Silent = futures::stream::Empty<io::Result<Bytes>>;

    fn tunnel() -> (Tunnel<Silent, BytesMessage>, mpsc::Receiver<BytesMessage>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (
            Tunnel::new(futures::stream::empty(), sender, |m| m),
            receiver,
        )
    }

    #[tokio::test]
    async fn writes_are_cut_into_chunks_and_stop_when_nobody_takes_them() {
        let (mut io, mut out) = tunnel();
        let data = vec![7u8; CHUNK * QUEUE + 1];
        let mut sent = 0;
        let stalled = futures::poll!(std::pin::pin!(async {
            while sent < data.len() {
                sent += io.write(&data[sent..]).await.unwrap();
            }
        }));
        assert_eq!((stalled, sent), (Poll::Pending, CHUNK * QUEUE));
        assert_eq!(out.recv().await.unwrap().data.len(), CHUNK);
        io.write_all(&data[sent..]).await.unwrap();
        io.shutdown().await.unwrap();
        let mut rest = 0;
        while let Some(message) = out.recv().await {
            rest += message.data.len();
        }
        assert_eq!(rest + CHUNK, data.len());
    }

    #[tokio::test]
    async fn header_and_payload_share_a_message() {
        let (mut io, mut out) = tunnel();
        let n = io
            .write_vectored(&[IoSlice::new(b"head"), IoSlice::new(b"body")])
            .await
            .unwrap();
        assert_eq!(
            (n, &out.recv().await.unwrap().data[..]),
            (8, &b"headbody"[..])
        );
    }

    #[tokio::test]
    async fn writing_to_someone_who_left_is_an_error() {
        let (mut io, out) = tunnel();
        drop(out);
        assert_eq!(
            io.write(b"x").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
