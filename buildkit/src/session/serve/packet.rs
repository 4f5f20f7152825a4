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
