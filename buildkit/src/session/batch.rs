//! What a connection says in one turn goes to its peer in one piece. HTTP/2 cuts a large body into frames of 16 KiB; a system call for
//! each of them, and a peer that wakes up for each, cost more than one copy of it all.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};

/// So much goes without waiting for the turn's end, in bytes.
const FULL: usize = 128 << 10;

/// A connection's input and output, shared by the connection and by who runs it.
pub(super) struct Batched<I>(Arc<Mutex<Batch<I>>>);

struct Batch<I> {
    io: I,
    waiting: BytesMut,
}

impl<I> Clone for Batched<I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I> Batched<I> {
    pub(super) fn new(io: I) -> Self {
        let waiting = BytesMut::new();
        Self(Arc::new(Mutex::new(Batch { io, waiting })))
    }

    fn lock(&self) -> MutexGuard<'_, Batch<I>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Write + Unpin> Batched<I> {
    /// Polls the connection that has the other clone, and sends what it said.
    pub(super) fn turn<T>(
        &self,
        cx: &mut Context<'_>,
        connection: Pin<&mut impl Future<Output = T>>,
    ) -> Poll<T> {
        let ended = connection.poll(cx);
        // Who can't be written to can't be read from either, which the connection notices.
        let _ = self.lock().poll_send(cx);
        ended
    }
}

impl<I: Write + Unpin> Batch<I> {
    /// Sends all that waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.waiting.advance(n),
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

impl<I: Read + Unpin> Read for Batched<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().io).poll_read(cx, buf)
    }
}

impl<I: Write + Unpin> Write for Batched<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut batch = self.lock();
        if batch.waiting.len() >= FULL {
            ready!(batch.poll_send(cx))?;
        }
        let before = batch.waiting.len();
        for buf in bufs {
            let room = FULL - batch.waiting.len();
            batch.waiting.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        Poll::Ready(Ok(batch.waiting.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// There may be more to come in this turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut batch = self.lock();
        ready!(batch.poll_send(cx))?;
        Pin::new(&mut batch.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Takes so many bytes at most, all told, and keeps them as they came.
    #[derive(Default)]
    struct Peer {
        pieces: Arc<Mutex<Vec<Vec<u8>>>>,
        room: usize,
    }

    impl Read for Peer {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl Write for Peer {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = buf.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.pieces.lock().unwrap().push(buf[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_said_in_one_turn_goes_in_one_piece() {
        let peer = Peer {
            room: usize::MAX,
            ..Peer::default()
        };
        let pieces = peer.pieces.clone();
        let io = Batched::new(peer);
        let mut connection = Box::pin({
            let mut io = TokioIo::new(io.clone());
            async move {
                for word in ["a", "b", "c"] {
                    io.write_all(word.as_bytes()).await.unwrap();
                    io.flush().await.unwrap();
                }
                tokio::task::yield_now().await;
                io.write_all(b"d").await.unwrap();
            }
        });
        poll_fn(|cx| io.turn(cx, connection.as_mut())).await;
        assert_eq!(*pieces.lock().unwrap(), [b"abc".to_vec(), b"d".to_vec()]);
    }

    #[tokio::test]
    async fn who_is_not_read_must_wait_and_goes_on_where_he_stopped() {
        let (near, mut far) = tokio::io::duplex(1000);
        let io = Batched::new(TokioIo::new(near));
        let data: Vec<u8> = (0..3 * FULL).map(|at| (at % 251) as u8).collect();
        let mut sent = 0;
        let mut connection = Box::pin({
            let (mut io, data, sent) = (TokioIo::new(io.clone()), &data, &mut sent);
            async move {
                while *sent < data.len() {
                    *sent += io.write(&data[*sent..]).await.unwrap();
                }
                io.shutdown().await.unwrap();
            }
        });
        let stalled = poll_fn(|cx| Poll::Ready(io.turn(cx, connection.as_mut()))).await;
        assert!(stalled.is_pending());
        let mut read = Vec::new();
        let (_, ended) = tokio::join!(
            poll_fn(|cx| io.turn(cx, connection.as_mut())),
            far.read_to_end(&mut read)
        );
        ended.unwrap();
        drop(connection);
        assert!(read == data && sent == data.len());
    }

    #[tokio::test]
    async fn no_more_waits_than_fits() {
        let mut io = TokioIo::new(Batched::new(Peer::default()));
        let mut taken = 0;
        while let Some(more) = io.write(&[0; 1000]).now_or_never() {
            taken += more.unwrap();
        }
        assert_eq!(taken, FULL);
    }
}
