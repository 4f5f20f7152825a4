//! What waits together travels together. A large upload comes in pieces of 16 KiB, and a system call, a frame and a wake-up for each of
//! them, at every hop, is most of what passing it on costs. Nothing is held back for more to come: a piece that is alone goes alone.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body::{Body, Frame};
use tokio::sync::mpsc;

use super::{BoxError, SessionBody, grpc::boxed};
use crate::api::control::BytesMessage;

/// Once so much is together it goes, in bytes: a connection that takes gathered bodies should allow frames of this size.
pub const GATHERED: usize = 128 << 10;

/// The same body in fewer frames.
pub fn gathered(body: SessionBody) -> SessionBody {
    boxed(Gathered {
        body,
        next: None,
        over: false,
    })
}

struct Gathered {
    body: SessionBody,
    /// Comes after what was gathered: trailers or an error.
    next: Option<Result<Frame<Bytes>, BoxError>>,
    over: bool,
}

impl Body for Gathered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut pieces = Pieces::default();
        while self.next.is_none() && !self.over && pieces.length < GATHERED {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) => pieces.add(piece),
                    Err(trailers) => self.next = Some(Ok(trailers)),
                },
                Poll::Ready(Some(Err(error))) => {
                    self.next = Some(Err(error));
                    self.over = true;
                }
                Poll::Ready(None) => self.over = true,
                Poll::Pending if pieces.count == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(match pieces.count {
            0 => self.next.take(),
            _ => Some(Ok(Frame::data(pieces.joined()))),
        })
    }

    /// An answer that is nothing but an error stays one: its headers are its end.
    fn is_end_stream(&self) -> bool {
        self.next.is_none() && (self.over || self.body.is_end_stream())
    }
}

/// Bytes that are copied only if there is something to join.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    all: BytesMut,
    count: usize,
    length: usize,
}

impl Pieces {
    fn add(&mut self, piece: Bytes) {
        self.count += 1;
        self.length += piece.len();
        match self.count {
            1 => self.first = piece,
            2 => {
                self.all.reserve(GATHERED + piece.len());
                self.all.extend_from_slice(&self.first);
                self.all.extend_from_slice(&piece);
            }
            _ => self.all.extend_from_slice(&piece),
        }
    }

    fn joined(self) -> Bytes {
        match self.count {
            0 | 1 => self.first,
            _ => self.all.freeze(),
        }
    }
}

/// The messages of a session on their way out, the waiting ones as one.
pub(super) struct GatheredMessages(pub mpsc::Receiver<BytesMessage>);

impl Stream for GatheredMessages {
    type Item = BytesMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<BytesMessage>> {
        let Some(mut message) = std::task::ready!(self.0.poll_recv(cx)) else {
            return Poll::Ready(None);
        };
        while message.data.len() < GATHERED {
            match self.0.try_recv() {
                Ok(next) => {
                    if message.data.capacity() < GATHERED {
                        message.data.reserve(2 * GATHERED - message.data.len());
                    }
                    message.data.extend_from_slice(&next.data);
                }
                Err(_) => break,
            }
        }
        Poll::Ready(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use http::HeaderMap;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// A body that has nothing to say for a moment wherever there is a `None`.
    fn body(steps: Vec<Option<Result<Frame<Bytes>, BoxError>>>) -> SessionBody {
        let mut steps = steps.into_iter();
        let frames = stream::poll_fn(move |cx| match steps.next() {
            Some(Some(frame)) => Poll::Ready(Some(frame)),
            Some(None) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        });
        gathered(boxed(StreamBody::new(frames)))
    }

    fn data(text: &'static str) -> Option<Result<Frame<Bytes>, BoxError>> {
        Some(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))
    }

    async fn frames(mut body: SessionBody) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            seen.push(match frame {
                Err(error) => format!("error: {error}"),
                Ok(frame) => match frame.into_data() {
                    Ok(data) => String::from_utf8_lossy(&data).into_owned(),
                    Err(frame) => format!("trailers: {}", frame.into_trailers().is_ok()),
                },
            });
        }
        seen
    }

    #[tokio::test]
    async fn what_is_there_goes_at_once_and_in_order_and_trailers_come_last() {
        let trailers = Some(Ok(Frame::trailers(HeaderMap::new())));
        let steps = vec![
            data("a"),
            data("b"),
            data("c"),
            None,
            data("d"),
            None,
            data("e"),
            trailers,
        ];
        assert_eq!(
            frames(body(steps)).await,
            ["abc", "d", "e", "trailers: true"]
        );
    }

    #[test]
    fn what_is_over_before_it_begins_is_known_to_be() {
        assert!(gathered(boxed(http_body_util::Empty::new())).is_end_stream());
        assert!(!body(vec![data("a")]).is_end_stream());
    }

    #[tokio::test]
    async fn an_error_comes_after_what_was_said_before_it_and_is_the_end() {
        let steps = vec![data("a"), data("b"), Some(Err("gone".into()))];
        assert_eq!(frames(body(steps)).await, ["ab", "error: gone"]);
        assert_eq!(frames(body(vec![])).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn no_more_is_gathered_than_fits() {
        let piece = Bytes::from(vec![7; GATHERED / 4]);
        let steps = (0..9).map(|_| Some(Ok(Frame::data(piece.clone()))));
        let lengths = frames(body(steps.collect())).await;
        let lengths: Vec<_> = lengths.iter().map(String::len).collect();
        assert_eq!(lengths, [GATHERED, GATHERED, GATHERED / 4]);
    }

    #[tokio::test]
    async fn waiting_messages_go_as_one_and_a_lone_one_alone() {
        let (sender, receiver) = mpsc::channel(8);
        let mut messages = GatheredMessages(receiver);
        let send = |data: Vec<u8>| sender.try_send(BytesMessage { data }).expect("room");
        send(vec![1]);
        send(vec![2, 3]);
        assert_eq!(messages.next().await.expect("one").data, [1, 2, 3]);
        send(vec![4]);
        assert_eq!(messages.next().await.expect("one").data, [4]);
        for _ in 0..5 {
            send(vec![5; GATHERED / 2]);
        }
        assert_eq!(messages.next().await.expect("one").data.len(), GATHERED);
        drop(sender);
        let rest = messages.map(|message| message.data.len());
        assert_eq!(rest.collect::<Vec<_>>().await, [GATHERED, GATHERED / 2]);
    }
}
