//! The messages of file transfers on the wire. They are cut and joined here rather than by a gRPC library: many small ones go in one piece,
//! and what a file has in it is copied as seldom as possible.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::{
    Message,
    encoding::{encode_varint, encoded_len_varint},
};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    api::fsutil::Stat,
    session::{BoxError, SessionBody, SessionResponse, grpc::boxed},
};

/// How much of a file goes into one message, in bytes.
pub(super) const PIECE: usize = 64 << 10;
/// The largest message that is taken, in bytes: BuildKit's own take 4 MiB.
const LIMIT: usize = 4 << 20;
/// One byte says whether a message is compressed, four how long it is.
const PREFIX: usize = 5;

/// A message of fsutil's protocol. Its own type is that of the generated code, but for the data, which is not copied when it is read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Packet {
    #[prost(enumeration = "Kind", tag = "1")]
    pub kind: i32,
    #[prost(message, optional, tag = "2")]
    pub stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub id: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Kind {
    /// The next file; without one, there are no more.
    Stat = 0,
    /// Wants the content of a file, by its place in the order of the former.
    Request = 1,
    /// A piece of it; an empty one is its end.
    Data = 2,
    /// All that was wanted is there, and the same as an answer.
    Fin = 3,
    /// The transfer failed.
    Error = 4,
}

impl Packet {
    pub(super) fn of(kind: Kind) -> Self {
        Self {
            kind: kind.into(),
            ..Self::default()
        }
    }

    pub(super) fn error(message: &str) -> Self {
        Self {
            data: Bytes::copy_from_slice(message.as_bytes()),
            ..Self::of(Kind::Error)
        }
    }
}

/// A message that is nothing but bytes, as several services have one.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Piece {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

/// Appends a message with its prefix.
pub(super) fn push(buffer: &mut BytesMut, message: &impl Message) {
    let length = message.encoded_len();
    buffer.reserve(PREFIX + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).expect("no message here comes near 4 GiB"));
    message.encode_raw(buffer);
}

/// A message with its prefix.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::new();
    push(&mut buffer, message);
    buffer.freeze()
}

/// Appends a packet with a piece of a file that `read` fills: as much as it can, up to [`PIECE`] and `expected`. Returns how much that was.
pub(super) fn push_data<E>(
    buffer: &mut BytesMut,
    id: u32,
    expected: usize,
    read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> Result<usize, E> {
    let expected = expected.min(PIECE);
    let start = buffer.len();
    push_data_header(buffer, id, expected);
    let body = buffer.len();
    buffer.resize(body + expected, 0);
    let filled = match read(&mut buffer[body..]) {
        Ok(filled) => filled,
        Err(error) => {
            buffer.truncate(start);
            return Err(error);
        }
    };
    if filled < expected {
        // The header says how much it is, and so is another one.
        let piece = Bytes::copy_from_slice(&buffer[body..body + filled]);
        buffer.truncate(start);
        push_data_header(buffer, id, filled);
        buffer.extend_from_slice(&piece);
    }
    Ok(filled)
}

/// Appends all of a data packet but its data. Without data it is a whole one.
fn push_data_header(buffer: &mut BytesMut, id: u32, length: usize) {
    const KIND: [u8; 2] = [1 << 3, Kind::Data as u8];
    const ID: u8 = 3 << 3;
    const DATA: u8 = (4 << 3) | 2;
    let of_id = if id == 0 {
        0
    } else {
        1 + encoded_len_varint(id.into())
    };
    let of_data = if length == 0 {
        0
    } else {
        1 + encoded_len_varint(length as u64) + length
    };
    buffer.put_u8(0);
    buffer.put_u32((KIND.len() + of_id + of_data) as u32);
    buffer.put_slice(&KIND);
    if id != 0 {
        buffer.put_u8(ID);
        encode_varint(id.into(), buffer);
    }
    if length != 0 {
        buffer.put_u8(DATA);
        encode_varint(length as u64, buffer);
    }
}

/// A streaming call's answer: these messages, framed, and then how it ended.
pub(super) fn streamed(
    messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> SessionResponse {
    let ended = stream::once(async { Err(Status::ok("")) });
    // Whatever comes after an end does not exist.
    let frames = messages.chain(ended).scan(false, |over, message| {
        let frame = (!*over).then(|| match message {
            Ok(data) => Frame::data(data),
            Err(status) => {
                *over = true;
                Frame::trailers(trailers(&status))
            }
        });
        futures::future::ready(frame)
    });
    let body = StreamBody::new(frames.map(Ok::<_, BoxError>));
    let mut response = http::Response::new(boxed(body));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.clear();
        trailers.insert("grpc-status", HeaderValue::from_static("2"));
    }
    trailers
}

/// The messages of a streaming call, as they come.
pub(super) struct Messages {
    body: SessionBody,
    unread: BytesMut,
}

impl Messages {
    pub(super) fn new(body: SessionBody) -> Self {
        Self {
            body,
            unread: BytesMut::new(),
        }
    }

    /// The next one; `None` once the peer has said all.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return M::decode(message)
                    .map(Some)
                    .map_err(|e| Status::internal(format!("a message can't be read: {e}")));
            }
            let Some(frame) = self.body.frame().await else {
                return match self.unread.is_empty() {
                    true => Ok(None),
                    false => Err(Status::internal("a message broke off")),
                };
            };
            let frame =
                frame.map_err(|e| Status::unavailable(format!("the call broke off: {e}")))?;
            if let Ok(data) = frame.into_data() {
                self.unread.extend_from_slice(&data);
            }
        }
    }

    /// A whole message, if there is one.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((prefix, _)) = self.unread.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(Status::unimplemented(
                "compressed messages are not supported",
            ));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > LIMIT {
            return Err(Status::resource_exhausted(format!(
                "a message may have {LIMIT} bytes, and one has {length}"
            )));
        }
        if self.unread.len() < PREFIX + length {
            self.unread.reserve(PREFIX + length - self.unread.len());
            return Ok(None);
        }
        self.unread.advance(PREFIX);
        Ok(Some(self.unread.split_to(length).freeze()))
    }
}

/// Hands the messages of a call, as they come, to a writer that blocks; gives what that has when the peer has said all. `queue` messages may
/// wait for it. A writer that fails is not kept waiting for the peer, which may have nothing more to say until it hears of that; and what broke
/// off is put away before that is told.
pub(super) async fn write_each<M, T, E>(
    messages: &mut Messages,
    queue: usize,
    write: impl FnOnce(mpsc::Receiver<M>) -> Result<T, E> + Send + 'static,
) -> Result<T, Status>
where
    M: Message + Default + 'static,
    T: Send + 'static,
    E: Into<Status> + Send + 'static,
{
    let (waiting, taken) = mpsc::channel(queue);
    let mut writing = tokio::task::spawn_blocking(move || write(taken));
    let taking = async move {
        while let Some(message) = messages.next().await? {
            if waiting.send(message).await.is_err() {
                break;
            }
        }
        Ok::<_, Status>(())
    };
    let written = tokio::select! {
        biased;
        written = &mut writing => written,
        taken = taking => {
            let written = writing.await;
            taken?;
            written
        }
    };
    written
        .map_err(|e| Status::internal(e.to_string()))?
        .map_err(Into::into)
}

/// What tests say as an engine, and hear.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A call that says these and ends.
    pub(in super::super) fn body(messages: &[impl Message]) -> SessionBody {
        let said: Vec<u8> = messages.iter().flat_map(framed).collect();
        boxed(http_body_util::Full::new(Bytes::from(said)))
    }

    /// All that is answered, and how it ends.
    pub(in super::super) async fn heard(response: SessionResponse) -> (Vec<Packet>, Status) {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap();
        let end = body.trailers().unwrap_or(&head.headers);
        let status = Status::from_header_map(end).unwrap();
        let mut messages = Messages::new(boxed(http_body_util::Full::new(body.to_bytes())));
        let mut packets = Vec::new();
        while let Some(packet) = messages.next().await.unwrap() {
            packets.push(packet);
        }
        (packets, status)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::{
        testing::{body, heard},
        *,
    };

    #[tokio::test]
    async fn pieces_of_files_read_as_packets_however_much_was_there() {
        for (id, expected, there) in [
            (0, 10, 10),
            (1, 10, 3),
            (300, 10, 0),
            (u32::MAX, 1 << 20, PIECE),
            (7, 200, 100),
            (7, 0, 0),
        ] {
            let mut buffer = BytesMut::from(&framed(&Packet::of(Kind::Fin))[..]);
            let read = push_data(&mut buffer, id, expected, |space| {
                space[..there].fill(7);
                Ok::<_, Infallible>(there)
            });
            assert_eq!(read, Ok(there));
            let mut messages = Messages::new(boxed(http_body_util::Full::new(buffer.freeze())));
            let first: Option<Packet> = messages.next().await.unwrap();
            assert_eq!(first, Some(Packet::of(Kind::Fin)));
            let wanted = Packet {
                id,
                data: vec![7; there].into(),
                ..Packet::of(Kind::Data)
            };
            assert_eq!(messages.next().await.unwrap(), Some(wanted));
            assert_eq!(messages.next::<Packet>().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_failed_read_leaves_nothing() {
        let mut buffer = BytesMut::from(&b"before"[..]);
        push_data(&mut buffer, 1, 10, |_| Err::<usize, _>(())).unwrap_err();
        assert_eq!(&buffer[..], b"before");
    }

    #[tokio::test]
    async fn overlong_and_broken_messages_are_refused() {
        for (bytes, code) in [
            (&b"\x01\0\0\0\0"[..], tonic::Code::Unimplemented),
            (b"\0\xff\xff\xff\xff", tonic::Code::ResourceExhausted),
            (b"\0\0\0\0\x02x", tonic::Code::Internal),
            (b"\0\0", tonic::Code::Internal),
            (b"\0\0\0\0\x01\xff", tonic::Code::Internal),
        ] {
            let body = http_body_util::Full::new(Bytes::from_static(bytes));
            let read = Messages::new(boxed(body)).next::<Packet>().await;
            assert_eq!(read.unwrap_err().code(), code);
        }
    }

    #[tokio::test]
    async fn an_answer_ends_with_its_first_error_or_well() {
        let said = || Ok(framed(&Packet::of(Kind::Fin)));
        let (packets, status) = heard(streamed(stream::iter([said()]))).await;
        assert_eq!((packets.len(), status.code()), (1, tonic::Code::Ok));
        let failed = Err(Status::not_found("größe"));
        let (packets, status) = heard(streamed(stream::iter([said(), failed, said()]))).await;
        assert_eq!((packets.len(), status.message()), (1, "größe"));
    }

    proptest! {
        #[test]
        fn messages_arrive_however_they_are_cut(
            cuts in prop::collection::vec(1..40_usize, 1..30),
            lengths in prop::collection::vec(0..60_usize, 1..20),
        ) {
            let messages: Vec<_> = lengths.iter().map(|&length| Piece { data: vec![1; length].into() }).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let mut all = body(&messages).collect().await.unwrap().to_bytes();
                let mut cuts = cuts.iter().cycle();
                let pieces = std::iter::from_fn(move || {
                    let at = all.len().min(*cuts.next()?);
                    (at > 0).then(|| Ok::<_, BoxError>(Frame::data(all.split_to(at))))
                });
                let mut cut = Messages::new(boxed(StreamBody::new(stream::iter(pieces.collect::<Vec<_>>()))));
                let mut read = Vec::new();
                while let Some(message) = cut.next::<Piece>().await.unwrap() {
                    read.push(message);
                }
                read
            });
            prop_assert_eq!(read, messages);
        }
    }
}
