//! The FileSync service of a client: its folders, of which an engine asks for what it lacks.
//!
//! The folder is walked and described while the engine already asks for content, and content is sent while it is read. What waits for the
//! connection is bounded, and so is what is open: a file for each of a few readers.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use rustix::{fs::OFlags, io::Errno};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    Sent,
    packet::{Kind, Messages, PIECE, Packet, framed, push, push_data, streamed},
    response,
    walk::{WalkError, Wanted, mode, walk},
};
use crate::session::{SessionBody, SessionRequest, SessionResponse};

pub(super) const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// How many pieces of about [`PIECE`] bytes may wait for the connection.
const QUEUE: usize = 16;
/// How much is looked for after what should be a file's end.
const PROBE: usize = 4 << 10;
/// How many files are read at a time.
const READERS: usize = 4;
/// Descriptions of files wait this long for more at most, where a folder is slow to read.
const LINGER: Duration = Duration::from_millis(20);

/// What goes out: pieces with whole messages in them.
type Outgoing = mpsc::Sender<Result<Bytes, Status>>;

pub(super) fn answer(
    folders: &HashMap<String, PathBuf>,
    sent: &Arc<Sent>,
    request: SessionRequest,
) -> impl Future<Output = SessionResponse> + use<> {
    let (head, body) = request.into_parts();
    let name = values(&head.headers, "dir-name").pop().unwrap_or_default();
    let wanted = Wanted {
        include: values(&head.headers, "include-patterns"),
        exclude: values(&head.headers, "exclude-patterns"),
        follow: values(&head.headers, "followpaths"),
    };
    let folder = folders.get(&name).cloned();
    let sent = sent.clone();
    async move {
        response(match folder {
            Some(folder) => Ok(begin(folder, wanted, body, sent)),
            None => Err(Status::not_found(format!(
                "this build has no folder {name:?}"
            ))),
        })
    }
}

/// An option of the call. Clients' metadata is ASCII, so other text is escaped, as another entry says.
fn values(headers: &HeaderMap, key: &str) -> Vec<String> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let escaped = headers.get(format!("{key}-encoded"));
    let escaped = escaped.is_some_and(|v| matches!(v.as_bytes(), b"1" | b"t" | b"T" | b"true"));
    let values = headers.get_all(key).iter().map(text);
    match escaped {
        true => values.map(|value| unescaped(&value)).collect(),
        false => values.collect(),
    }
}

/// What Go's `url.QueryEscape` was given. What it can't have made is taken as it is.
fn unescaped(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = |digit: u8| char::from(digit).to_digit(16);
        let code = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        let (byte, left) = match code {
            Some((high, low)) => ((high << 4 | low) as u8, &after[2..]),
            None if first == b'+' => (b' ', after),
            None => (first, after),
        };
        bytes.push(byte);
        rest = left;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn begin(root: PathBuf, wanted: Wanted, body: SessionBody, sent: Arc<Sent>) -> SessionResponse {
    let (outgoing, pieces) = mpsc::channel(QUEUE);
    let transfer = Arc::new(Transfer {
        root,
        sent,
        outgoing,
        state: Mutex::default(),
    });
    tokio::spawn(async move {
        let outgoing = transfer.outgoing.clone();
        // Nobody takes the pieces any more once the engine has gone: then nothing here goes on.
        let ended = tokio::select! {
            ended = transfer.run(wanted, body) => ended,
            () = outgoing.closed() => return,
        };
        // Without an error the end is that of the stream.
        if let Err(status) = ended {
            let _ = outgoing
                .send(Ok(framed(&Packet::error(status.message()))))
                .await;
            let _ = outgoing.send(Err(status)).await;
        }
    });
    streamed(ReceiverStream::new(pieces))
}

/// One call.
struct Transfer {
    root: PathBuf,
    sent: Arc<Sent>,
    outgoing: Outgoing,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What may be asked for: files that were described and have content.
    offered: HashMap<u32, String>,
    /// What was, and is not being read yet.
    wanted: VecDeque<(u32, String)>,
    readers: usize,
}

impl Transfer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Describes the folder and answers requests until the engine has all that it wants.
    async fn run(self: Arc<Self>, wanted: Wanted, body: SessionBody) -> Result<(), Status> {
        let walking = {
            let transfer = self.clone();
            tokio::task::spawn_blocking(move || transfer.describe(&wanted))
        };
        let (failed, mut failures) = mpsc::channel(1);
        let walked = async {
            match walking.await {
                Ok(Ok(())) => std::future::pending::<Status>().await,
                Ok(Err(error)) => Status::unknown(error.to_string()),
                Err(error) => Status::internal(error.to_string()),
            }
        };
        tokio::select! {
            ended = self.clone().listen(body, failed) => ended,
            Some(error) = failures.recv() => Err(Status::unknown(WalkError::to_string(&error))),
            status = walked => Err(status),
        }
    }

    async fn listen(
        self: Arc<Self>,
        body: SessionBody,
        failed: mpsc::Sender<WalkError>,
    ) -> Result<(), Status> {
        let mut messages = Messages::new(body);
        while let Some(packet) = messages.next::<Packet>().await? {
            match Kind::try_from(packet.kind) {
                Ok(Kind::Request) => self.request(packet.id, &failed)?,
                Ok(Kind::Fin) => {
                    let answer = framed(&Packet::of(Kind::Fin));
                    // The engine may have gone on hearing nothing more.
                    let _ = self.outgoing.send(Ok(answer)).await;
                    return Ok(());
                }
                Ok(Kind::Error) => {
                    let reason = String::from_utf8_lossy(&packet.data).into_owned();
                    return Err(Status::unknown(format!("error from receiver: {reason}")));
                }
                // Newer peers may say what is not known yet.
                _ => {}
            }
        }
        Err(Status::cancelled("the engine broke the transfer off"))
    }

    /// Has a file read, by a reader that runs or by another one.
    fn request(self: &Arc<Self>, id: u32, failed: &mpsc::Sender<WalkError>) -> Result<(), Status> {
        let mut state = self.state();
        let path = state
            .offered
            .remove(&id)
            .ok_or_else(|| Status::invalid_argument(format!("invalid file id {id}")))?;
        state.wanted.push_back((id, path));
        if state.readers < READERS {
            state.readers += 1;
            let (transfer, failed) = (self.clone(), failed.clone());
            tokio::task::spawn_blocking(move || {
                if let Err(error) = transfer.read_wanted() {
                    // One error is enough.
                    let _ = failed.try_send(error);
                }
            });
        }
        Ok(())
    }

    /// The next file to read; `None` ends the reader.
    fn next_wanted(&self) -> Option<(u32, String)> {
        let mut state = self.state();
        let next = state.wanted.pop_front();
        if next.is_none() {
            state.readers -= 1;
        }
        next
    }

    /// Sends what was asked for, small files together, until nothing is left. Blocks.
    fn read_wanted(&self) -> Result<(), WalkError> {
        let mut piece = BytesMut::new();
        let (mut files, mut bytes) = (0, 0);
        while let Some((id, path)) = self.next_wanted() {
            bytes += self.read(id, &path, &mut piece)?;
            files += 1;
        }
        self.send(&mut piece)?;
        self.sent.count(files, bytes);
        Ok(())
    }

    /// Sends one file, and returns how long it was.
    fn read(&self, id: u32, path: &str, piece: &mut BytesMut) -> Result<u64, WalkError> {
        let real = self.root.join(path);
        let failed = |e: io::Error| WalkError::read(&real, e);
        let Some((mut file, length)) = open(&real).map_err(failed)? else {
            push_data(piece, id, 0, |_| Ok::<_, WalkError>(0))?;
            return Ok(0);
        };
        let mut sent = 0;
        loop {
            // The length is only a guess: the file may be written to just now.
            let left = usize::try_from(length.saturating_sub(sent)).unwrap_or(PIECE);
            let expected = if left == 0 { PROBE } else { left };
            let read = push_data(piece, id, expected, |space| fill(&mut file, space));
            let read = read.map_err(failed)?;
            sent += read as u64;
            if piece.len() >= PIECE {
                self.send(piece)?;
            }
            // A piece with nothing in it is what ends a file.
            if read == 0 {
                return Ok(sent);
            }
        }
    }

    /// Describes the folder's files as the walk comes by. Blocks.
    fn describe(&self, wanted: &Wanted) -> Result<(), WalkError> {
        let root = fs::canonicalize(&self.root).map_err(|e| WalkError::read(&self.root, e))?;
        let mut piece = BytesMut::new();
        let mut last = Instant::now();
        let mut id = 0;
        let stopped = || self.outgoing.is_closed();
        walk(&root, wanted, &stopped, &mut |stat| {
            if mode::is_file(stat.mode) {
                self.state().offered.insert(id, stat.path.clone());
            }
            id += 1;
            let described = Packet {
                stat: Some(stat),
                ..Packet::of(Kind::Stat)
            };
            push(&mut piece, &described);
            if piece.len() >= PIECE || last.elapsed() >= LINGER {
                self.send(&mut piece)?;
                last = Instant::now();
            }
            Ok(())
        })?;
        push(&mut piece, &Packet::of(Kind::Stat));
        self.send(&mut piece)
    }

    /// Hands over what is together. Blocks while others wait.
    fn send(&self, piece: &mut BytesMut) -> Result<(), WalkError> {
        if piece.is_empty() {
            return Ok(());
        }
        self.outgoing
            .blocking_send(Ok(piece.split().freeze()))
            .map_err(|_| WalkError::Stopped)
    }
}

/// Opens a file that was described, and tells its length; `None` if it is none any more. Nothing is waited for, and no link is followed.
fn open(path: &Path) -> io::Result<Option<(fs::File, u64)>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        // A socket can't be opened, and is sent as an empty file, as is one that was deleted meanwhile.
        Err(e) if e.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let found = file.metadata()?;
    Ok(found.is_file().then_some((file, found.len())))
}

/// Reads as much as there is, up to all of the space.
fn fill(file: &mut fs::File, space: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < space.len() {
        match file.read(&mut space[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::session::{
        grpc::boxed,
        serve::packet::testing::{body, heard},
    };

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    /// An engine that says what it likes when it likes.
    struct Engine {
        say: mpsc::Sender<Result<http_body::Frame<Bytes>, crate::session::BoxError>>,
        hear: Messages,
    }

    impl Engine {
        fn asks(root: &Path, sent: &Arc<Sent>) -> Self {
            let (say, said) = mpsc::channel(8);
            let body = boxed(http_body_util::StreamBody::new(ReceiverStream::new(said)));
            let response = begin(root.to_owned(), Wanted::default(), body, sent.clone());
            Self {
                say,
                hear: Messages::new(response.into_body()),
            }
        }

        async fn say(&self, kind: Kind, id: u32) {
            let packet = Packet {
                id,
                ..Packet::of(kind)
            };
            let frame = http_body::Frame::data(framed(&packet));
            self.say.send(Ok(frame)).await.unwrap();
        }

        async fn hear(&mut self) -> Packet {
            self.hear.next().await.unwrap().unwrap()
        }
    }

    #[tokio::test]
    async fn files_are_described_first_and_sent_when_they_are_asked_for() {
        let long = "x".repeat(3 * PIECE + 1);
        let folder = folder(&[("a", "first"), ("b", &long), ("c", ""), ("d", "unwanted")]);
        let sent = Arc::default();
        let mut engine = Engine::asks(folder.path(), &sent);
        let mut described = Vec::new();
        while let Some(stat) = engine.hear().await.stat {
            described.push((stat.path, stat.size));
        }
        let wanted = [("a", 5), ("b", long.len() as i64), ("c", 0), ("d", 8)];
        assert_eq!(
            described,
            wanted.map(|(path, size)| (path.to_owned(), size))
        );
        let mut content = HashMap::<u32, String>::new();
        for id in [2, 0, 1] {
            engine.say(Kind::Request, id).await;
        }
        let mut open = 3;
        while open > 0 {
            let Packet { id, data, .. } = engine.hear().await;
            let file = content.entry(id).or_default();
            file.push_str(std::str::from_utf8(&data).unwrap());
            open -= usize::from(data.is_empty());
        }
        assert_eq!(
            content,
            HashMap::from([(0, "first".to_owned()), (1, long), (2, String::new())])
        );
        engine.say(Kind::Fin, 0).await;
        assert_eq!(engine.hear().await.kind, i32::from(Kind::Fin));
        assert!(engine.hear.next::<Packet>().await.unwrap().is_none());
        assert_eq!(sent.files(), 3);
    }

    #[tokio::test]
    async fn a_file_is_sent_once_and_only_if_it_was_described() {
        let folder = folder(&[("a", "")]);
        let mut engine = Engine::asks(folder.path(), &Arc::default());
        while engine.hear().await.stat.is_some() {}
        for _ in 0..2 {
            engine.say(Kind::Request, 0).await;
        }
        loop {
            let packet = engine.hear().await;
            if packet.kind == i32::from(Kind::Error) {
                assert_eq!(packet.data, "invalid file id 0");
                break;
            }
        }
    }

    #[tokio::test]
    async fn an_engine_is_told_what_it_may_not_have() {
        let sent = Arc::default();
        let mut request = SessionRequest::new(body(&[] as &[Packet; 0]));
        request
            .headers_mut()
            .insert("dir-name", "other".parse().unwrap());
        let folders = HashMap::from([("context".to_owned(), PathBuf::from("/"))]);
        let (_, status) = heard(answer(&folders, &sent, request).await).await;
        assert_eq!(status.code(), tonic::Code::NotFound);
        // A folder that is gone is an error, not an empty one.
        let gone = tempfile::tempdir().unwrap().path().to_owned();
        let mut engine = Engine::asks(&gone, &sent);
        let packet = engine.hear().await;
        assert_eq!(packet.kind, i32::from(Kind::Error));
        assert!(String::from_utf8_lossy(&packet.data).contains("can't be read"));
    }

    #[test]
    fn options_are_read_as_they_were_before_they_were_escaped() {
        let mut headers = HeaderMap::new();
        for value in ["a b+c", "%zz", "100%"] {
            headers.append("plain", value.parse().unwrap());
        }
        for value in ["gr%C3%B6%C3%9Fe", "a+b%2Bc", "%zz", "100%", "%2"] {
            headers.append("odd", value.parse().unwrap());
        }
        headers.insert("odd-encoded", "1".parse().unwrap());
        assert_eq!(values(&headers, "plain"), ["a b+c", "%zz", "100%"]);
        assert_eq!(
            values(&headers, "odd"),
            ["größe", "a b+c", "%zz", "100%", "%2"]
        );
        assert_eq!(values(&headers, "none"), Vec::<String>::new());
    }
}
