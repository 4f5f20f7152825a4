//! The content service of a client (containerd's): OCI layout folders, of which a build reads blobs. Those that it writes are
//! [`super::ingest`]'s.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    packet::{framed, streamed},
    response,
};
use crate::session::{
    SessionRequest, SessionResponse,
    grpc::{read_unary, unary_response},
};

const INFO: &str = "/containerd.services.content.v1.Content/Info";
const READ: &str = "/containerd.services.content.v1.Content/Read";
pub(super) const METHODS: [&str; 2] = [INFO, READ];

/// Says which store is meant.
pub(super) const STORE: &str = "buildkit-attachable-store-id";
/// The longest question, in bytes.
const QUESTION_LIMIT: usize = 64 << 10;
/// How much of a blob goes into one message, in bytes, and how many messages may wait for the connection.
const PIECE: u64 = 256 << 10;
const QUEUE: usize = 4;

/// A question for a blob, or for a part of it.
#[derive(Clone, PartialEq, prost::Message)]
struct Question {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    offset: i64,
    /// Nought is all that is left.
    #[prost(int64, tag = "3")]
    size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    info: Option<Info>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Info {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Part {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
}

pub(super) async fn answer(
    layouts: HashMap<String, PathBuf>,
    request: SessionRequest,
) -> SessionResponse {
    response(answered(&layouts, request).await)
}

async fn answered(
    layouts: &HashMap<String, PathBuf>,
    request: SessionRequest,
) -> Result<SessionResponse, Status> {
    let store = request.headers().get(STORE);
    let store = store.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let layout = layouts
        .get(store)
        .cloned()
        .ok_or_else(|| Status::not_found(format!("this build has no content store {store:?}")))?;
    let is_info = request.uri().path() == INFO;
    let asked: Question = read_unary(request.into_body(), QUESTION_LIMIT).await?;
    let digest = asked.digest.clone();
    let opened = tokio::task::spawn_blocking(move || open(&layout, &digest));
    let (blob, size) = opened
        .await
        .map_err(|e| Status::internal(e.to_string()))??;
    if is_info {
        let info = Info {
            digest: asked.digest,
            size,
        };
        return Ok(unary_response(&InfoResponse { info: Some(info) }));
    }
    let left = Some(size.saturating_sub(asked.offset)).filter(|left| (0..=size).contains(left));
    let wanted = match (left, asked.size) {
        (Some(left), 0) => left,
        (Some(left), wanted @ 1..) if wanted <= left => wanted,
        _ => {
            return Err(Status::out_of_range(format!(
                "blob {} has {size} bytes",
                asked.digest
            )));
        }
    };
    let (outgoing, parts) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send(blob, asked.offset, wanted, &outgoing) {
            let why = format!("blob {} can't be read: {error}", asked.digest);
            // Whoever has gone needs no answer.
            let _ = outgoing.blocking_send(Err(Status::unknown(why)));
        }
    });
    Ok(streamed(ReceiverStream::new(parts)))
}

/// Where a layout has a blob.
pub(super) fn place(layout: &Path, digest: &str) -> Result<PathBuf, Status> {
    let hex = digest.split_once(':').filter(|(algorithm, hex)| {
        let length = match *algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return false,
        };
        hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    });
    let (algorithm, hex) =
        hex.ok_or_else(|| Status::invalid_argument(format!("{digest:?} is no digest")))?;
    Ok(layout.join("blobs").join(algorithm).join(hex))
}

/// Opens a blob by its digest, and tells its length. Blocks.
fn open(layout: &Path, digest: &str) -> Result<(File, i64), Status> {
    let path = place(layout, digest)?;
    let opened = File::open(&path).and_then(|blob| Ok((blob.metadata()?, blob)));
    match opened {
        Ok((found, blob)) if found.is_file() => {
            let size = i64::try_from(found.len()).map_err(|e| Status::internal(e.to_string()))?;
            Ok((blob, size))
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Status::unknown(format!(
            "{} can't be read: {e}",
            path.display()
        ))),
        _ => Err(Status::not_found(format!(
            "{} has no blob {digest}",
            layout.display()
        ))),
    }
}

/// Sends a part of a blob, until nobody takes it any more. Blocks.
fn send(
    mut blob: File,
    offset: i64,
    wanted: i64,
    outgoing: &mpsc::Sender<Result<Bytes, Status>>,
) -> io::Result<()> {
    let mut at = u64::try_from(offset).map_err(io::Error::other)?;
    let mut left = u64::try_from(wanted).map_err(io::Error::other)?;
    blob.seek(SeekFrom::Start(at))?;
    while left > 0 {
        let length = left.min(PIECE);
        let mut data = BytesMut::zeroed(usize::try_from(length).map_err(io::Error::other)?);
        blob.read_exact(&mut data)?;
        let part = Part {
            offset: i64::try_from(at).map_err(io::Error::other)?,
            data: data.freeze(),
        };
        if outgoing.blocking_send(Ok(framed(&part))).is_err() {
            return Ok(());
        }
        at += length;
        left -= length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tonic::Code;

    use super::*;
    use crate::session::{
        grpc::{boxed, unary_request},
        serve::packet::{Messages, testing::heard},
    };

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn blob() -> Vec<u8> {
        (0..2 * PIECE + 5).map(|at| (at % 251) as u8).collect()
    }

    fn layout() -> tempfile::TempDir {
        let layout = tempfile::tempdir().unwrap();
        let blobs = layout.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(&DIGEST[7..]), blob()).unwrap();
        layout
    }

    async fn ask(layout: &Path, method: &str, digest: &str, part: (i64, i64)) -> SessionResponse {
        let asked = Question {
            digest: digest.into(),
            offset: part.0,
            size: part.1,
        };
        let mut request = unary_request(method, &asked).unwrap();
        request.headers_mut().insert(STORE, "it".parse().unwrap());
        answer(
            HashMap::from([("it".to_owned(), layout.to_owned())]),
            request,
        )
        .await
    }

    #[tokio::test]
    async fn a_blob_is_read_whole_or_in_part() {
        let layout = layout();
        let blob = blob();
        let info = ask(layout.path(), INFO, DIGEST, (0, 0)).await.into_body();
        let info: InfoResponse = read_unary(info, 1000).await.unwrap();
        assert_eq!(info.info.unwrap().size, blob.len() as i64);
        for (offset, size) in [
            (0, 0),
            (3, 0),
            (7, 100),
            (blob.len(), 0),
            (1, 2 * PIECE as usize),
        ] {
            let response = ask(layout.path(), READ, DIGEST, (offset as i64, size as i64)).await;
            let mut parts = Messages::new(boxed(response.into_body()));
            let mut read = Vec::new();
            while let Some(part) = parts.next::<Part>().await.unwrap() {
                assert_eq!(part.offset as usize, offset + read.len());
                read.extend_from_slice(&part.data);
            }
            let end = if size == 0 { blob.len() } else { offset + size };
            assert!(read == blob[offset..end], "{offset} {size}");
        }
    }

    #[tokio::test]
    async fn nothing_but_blobs_is_read() {
        let layout = layout();
        fs::write(layout.path().join("secret"), "x").unwrap();
        let other = DIGEST.replace("aa", "bb");
        for (digest, part, code) in [
            (other.as_str(), (0, 0), Code::NotFound),
            ("sha256:../../secret", (0, 0), Code::InvalidArgument),
            ("..:secret", (0, 0), Code::InvalidArgument),
            ("", (0, 0), Code::InvalidArgument),
            (DIGEST, (-1, 0), Code::OutOfRange),
            (DIGEST, (0, 1 << 40), Code::OutOfRange),
            (DIGEST, (1 << 40, 0), Code::OutOfRange),
            (DIGEST, (0, -1), Code::OutOfRange),
        ] {
            let (_, status) = heard(ask(layout.path(), READ, digest, part).await).await;
            assert_eq!(status.code(), code, "{digest} {part:?}");
        }
    }
}
