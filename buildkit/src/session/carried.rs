//! What the messages of a `Control.Session` call carry, as it comes.
//!
//! A large upload passes through here in pieces of 16 KiB. Putting each message together, decoding it and copying the bytes out of it would
//! touch each byte three times more; here a piece goes on as the connection received it, and no message is ever held whole.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures::Stream;
use http_body::Body as _;
use tonic::Status;

use super::SessionBody;

/// gRPC's prefix (a byte for compression, four for the length), and before a `BytesMessage`'s bytes their key and their length.
const PREFIX: usize = 5;
const HEAD_LIMIT: usize = PREFIX + 1 + 5;
/// Field 1, of a length that follows.
const DATA: u8 = 1 << 3 | 2;

/// How the client's half of the call ended, once it has.
pub(super) type Half = Arc<OnceLock<Result<(), Status>>>;

/// The bytes in a call's body, which consists of `BytesMessage`s.
pub(super) struct Carried {
    body: SessionBody,
    /// Came and was not read yet.
    piece: Bytes,
    at: At,
    half: Half,
}

enum At {
    /// In what comes before a message's bytes: so much of it is there.
    Head {
        read: [u8; HEAD_LIMIT],
        length: usize,
    },
    /// Among the bytes of a message: so many are to come.
    Data(usize),
}

impl At {
    const START: At = At::Head {
        read: [0; HEAD_LIMIT],
        length: 0,
    };
}

impl Carried {
    pub(super) fn new(body: SessionBody) -> Self {
        Self {
            body,
            piece: Bytes::new(),
            at: At::START,
            half: Half::default(),
        }
    }

    /// Tells how it ended.
    pub(super) fn half(&self) -> Half {
        self.half.clone()
    }

    /// Bytes of what has come already.
    fn next_bytes(&mut self) -> Result<Option<Bytes>, Status> {
        while !self.piece.is_empty() {
            match &mut self.at {
                At::Data(left) => {
                    let bytes = self.piece.split_to(self.piece.len().min(*left));
                    *left -= bytes.len();
                    if *left == 0 {
                        self.at = At::START;
                    }
                    return Ok(Some(bytes));
                }
                At::Head { read, length } => {
                    read[*length] = self.piece.get_u8();
                    *length += 1;
                    match data_length(&read[..*length])? {
                        None => {}
                        Some(0) => self.at = At::START,
                        Some(data) => self.at = At::Data(data),
                    }
                }
            }
        }
        Ok(None)
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(bytes) = self.next_bytes()? {
                return Poll::Ready(Ok(Some(bytes)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // Trailers of a request mean nothing.
                Some(Ok(frame)) => self.piece = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    let why = format!("the client's half of the session broke: {error}");
                    return Poll::Ready(Err(Status::unavailable(why)));
                }
                None if matches!(self.at, At::Head { length: 0, .. }) => {
                    return Poll::Ready(Ok(None));
                }
                None => {
                    let why = "the client's half of the session ended within a message";
                    return Poll::Ready(Err(Status::unavailable(why)));
                }
            }
        }
    }
}

impl Stream for Carried {
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        let next = ready!(self.poll_bytes(cx));
        // Only the first end counts.
        let _ = match &next {
            Ok(Some(_)) => Ok(()),
            Ok(None) => self.half.set(Ok(())),
            Err(status) => self.half.set(Err(status.clone())),
        };
        Poll::Ready(next.map_err(io::Error::other).transpose())
    }
}

/// How many bytes a message carries, once enough of its beginning is there.
fn data_length(head: &[u8]) -> Result<Option<usize>, Status> {
    let Some((&[compressed, ref length @ ..], message)) = head.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    if compressed != 0 {
        return Err(Status::unimplemented(
            "compressed messages are not supported in a session",
        ));
    }
    let whole = u32::from_be_bytes(*length) as usize;
    match message {
        [] if whole == 0 => Ok(Some(0)),
        [] => Ok(None),
        [DATA, data @ ..] => match data.last() {
            Some(last) if last & 0x80 == 0 => {
                let data_length = (data.iter().rev())
                    .fold(0_u64, |length, byte| length << 7 | u64::from(byte & 0x7f));
                match whole.checked_sub(message.len()) {
                    Some(rest) if rest as u64 == data_length => Ok(Some(rest)),
                    _ => Err(unreadable()),
                }
            }
            _ if head.len() == HEAD_LIMIT => Err(unreadable()),
            _ => Ok(None),
        },
        _ => Err(unreadable()),
    }
}

fn unreadable() -> Status {
    Status::invalid_argument("a message of the session is no BytesMessage as BuildKit has them")
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use proptest::prelude::*;
    use prost::Message as _;
    use tonic::Code;

    use super::*;
    use crate::{api::control::BytesMessage, session::grpc::boxed};

    fn encoded(data: &[u8]) -> Vec<u8> {
        let message = BytesMessage { data: data.into() }.encode_to_vec();
        let mut all = vec![0];
        all.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        all.extend(message);
        all
    }

    /// What is carried by these bytes, which come in pieces of at most so many, and how the half ended.
    fn carried(bytes: &[u8], piece: usize) -> (Vec<u8>, Result<(), Code>) {
        let frames: Vec<_> = bytes
            .chunks(piece)
            .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let body = boxed(StreamBody::new(futures::stream::iter::<
            Vec<io::Result<Frame<Bytes>>>,
        >(frames)));
        let mut carried = Carried::new(body);
        let half = carried.half();
        let mut all = Vec::new();
        while let Some(Ok(bytes)) = carried.next().now_or_never().expect("all is there") {
            assert!(!bytes.is_empty());
            all.extend(bytes);
        }
        let half = half.get().expect("it ended").clone();
        (all, half.map_err(|status| status.code()))
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order_however_they_were_cut(
            messages in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..300),
                0..8,
            ),
            piece in 1..700_usize,
        ) {
            let body = messages.iter().flat_map(|data| encoded(data)).collect::<Vec<_>>();
            prop_assert_eq!(carried(&body, piece), (messages.concat(), Ok(())));
        }

        #[test]
        fn what_is_no_message_is_an_error_or_an_end(
            bytes in proptest::collection::vec(prop_oneof![Just(0), Just(DATA), any::<u8>()], 0..60),
            piece in 1..60_usize,
        ) {
            let _ = carried(&bytes, piece);
        }
    }

    #[test]
    fn a_message_of_any_length_is_passed_on() {
        for length in [127, 128, 16 << 10, (2 << 20) + 1] {
            let data = vec![7; length];
            assert_eq!(carried(&encoded(&data), 16 << 10), (data, Ok(())));
        }
    }

    #[test]
    fn a_broken_half_is_an_error_and_not_an_end() {
        let whole = encoded(b"hello");
        for end in 1..whole.len() {
            let (_, half) = carried(&whole[..end], 100);
            assert_eq!(half, Err(Code::Unavailable), "{end} bytes");
        }
    }

    #[test]
    fn what_other_messages_carry_is_refused() {
        let prefix = [0, 0, 0, 0];
        for (message, code) in [
            // Compressed.
            (&[1, 0, 0, 0, 2, DATA, 0][..], Code::Unimplemented),
            // Another field.
            (
                &[&prefix[..], &[2, 2 << 3 | 2, 0]].concat(),
                Code::InvalidArgument,
            ),
            // A field behind the bytes, and bytes that are longer than their message.
            (
                &[&prefix[..], &[4, DATA, 0, DATA, 0]].concat(),
                Code::InvalidArgument,
            ),
            (
                &[&prefix[..], &[2, DATA, 1]].concat(),
                Code::InvalidArgument,
            ),
            // A length without end.
            (
                &[&prefix[..], &[9, DATA, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]].concat(),
                Code::InvalidArgument,
            ),
        ] {
            assert_eq!(carried(message, 100), (vec![], Err(code)), "{message:?}");
        }
    }
}
