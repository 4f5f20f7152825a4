//! Images that a build gives back blob by blob, into a folder of OCI's layout: the writing half of containerd's content service.
//!
//! A blob is there whole, with the content that its digest names, or not at all. The peer is not trusted: it writes blobs and nothing else,
//! none longer than it said at first, and not too many at a time.

use std::{
    collections::HashMap,
    fs,
    fs::File,
    io::{Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use sha2::{Sha256, Sha512, digest::DynDigest};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    content,
    output::{Draft, Output},
    packet::{Messages, framed, streamed, write_each},
    response,
};
use crate::session::{SessionBody, SessionRequest, SessionResponse};

pub(super) const METHOD: &str = "/containerd.services.content.v1.Content/Write";

/// What exporters call the store that they write to, whichever exporter it is.
const STORE: &str = "export";
/// How many blobs may be written at a time. Engines try again later with what is one too many.
const OPEN: usize = 16;
/// How many messages may wait to be written or sent: each is answered before the next.
const QUEUE: usize = 1;

/// What the peer wants of a blob. Its name for the transfer (2) and labels (7) mean nothing here.
#[derive(Clone, PartialEq, prost::Message)]
struct Step {
    #[prost(enumeration = "Action", tag = "1")]
    action: i32,
    /// How long the blob is; once said, nought says nothing.
    #[prost(int64, tag = "3")]
    total: i64,
    /// Its digest; once said, nothing says nothing.
    #[prost(string, tag = "4")]
    expected: String,
    /// Where the data belongs: behind what is there, or at nought to begin anew.
    #[prost(int64, tag = "5")]
    offset: i64,
    #[prost(bytes = "bytes", tag = "6")]
    data: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Action {
    /// Tell how far it is.
    Stat = 0,
    /// Write.
    Write = 1,
    /// Write, and that is all of it.
    Commit = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Written {
    #[prost(enumeration = "Action", tag = "1")]
    action: i32,
    #[prost(message, optional, tag = "2")]
    started_at: Option<Time>,
    #[prost(message, optional, tag = "3")]
    updated_at: Option<Time>,
    #[prost(int64, tag = "4")]
    offset: i64,
    #[prost(int64, tag = "5")]
    total: i64,
    /// Of the whole blob, at its end.
    #[prost(string, tag = "6")]
    digest: String,
}

/// A time of day, as protobuf has it.
#[derive(Clone, PartialEq, prost::Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The folder in which a solve's blobs go, if it has one.
pub(super) fn layout(outputs: &HashMap<u32, Output>) -> Option<&PathBuf> {
    outputs.values().find_map(Output::as_layout)
}

/// The blobs that are being written.
pub(super) struct Ingests(Arc<Semaphore>);

impl Default for Ingests {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(OPEN)))
    }
}

impl Ingests {
    pub(super) fn answer(
        &self,
        outputs: &HashMap<u32, Output>,
        request: SessionRequest,
    ) -> impl Future<Output = SessionResponse> + use<> {
        let store = request.headers().get(content::STORE);
        let store = store.and_then(|id| id.to_str().ok()).unwrap_or_default();
        let layout = layout(outputs).filter(|_| store == STORE).cloned();
        let layout = layout.ok_or_else(|| {
            Status::not_found(format!("this build writes no content store {store:?}"))
        });
        let permit = self.0.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Status::unavailable("too many blobs at a time"));
        let begun = layout.and_then(|layout| {
            let permit = permit?;
            Ok(begin(layout, request.into_body(), permit))
        });
        async { response(begun) }
    }
}

/// Takes a blob, and answers each of the peer's steps. `held` is kept as long as that lasts.
fn begin(layout: PathBuf, body: SessionBody, held: impl Send + 'static) -> SessionResponse {
    let (outgoing, answers) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut messages = Messages::new(body);
        let answers = outgoing.clone();
        let write = move |steps| {
            let _held = held;
            write(&layout, steps, &answers)
        };
        let ended = tokio::select! {
            ended = write_each(&mut messages, QUEUE, write) => ended,
            () = outgoing.closed() => return,
        };
        if let Err(status) = ended {
            let _ = outgoing.send(Err(status)).await;
        }
    });
    streamed(ReceiverStream::new(answers))
}

type Outgoing = mpsc::Sender<Result<Bytes, Status>>;

/// Writes a blob until all of it is there. What breaks off before leaves nothing. Blocks.
fn write(
    layout: &Path,
    mut steps: mpsc::Receiver<Step>,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let mut blob: Option<Blob> = None;
    while let Some(step) = steps.blocking_recv() {
        let mut open = match blob.take() {
            Some(open) => open,
            None => Blob::begin(layout, &step)?,
        };
        open.take(&step)?;
        let mut answer = open.progress(step.action);
        if step.action == i32::from(Action::Commit) {
            answer.digest = open.commit()?;
        } else {
            blob = Some(open);
        }
        if outgoing.blocking_send(Ok(framed(&answer))).is_err() || blob.is_none() {
            return Ok(());
        }
    }
    Ok(())
}

/// A blob that is being written.
struct Blob {
    digest: String,
    total: i64,
    offset: i64,
    hash: Box<dyn DynDigest + Send>,
    file: File,
    draft: Draft,
    place: PathBuf,
    started: SystemTime,
    updated: SystemTime,
}

impl Blob {
    fn begin(layout: &Path, first: &Step) -> Result<Self, Status> {
        let digest = first.expected.clone();
        let place = content::place(layout, &digest)?;
        let hash: Box<dyn DynDigest + Send> = match digest.starts_with("sha512:") {
            true => Box::<Sha512>::default(),
            false => Box::<Sha256>::default(),
        };
        if first.total < 0 {
            return Err(Status::invalid_argument("a blob has no less than 0 bytes"));
        }
        let there = fs::metadata(&place)
            .is_ok_and(|found| found.is_file() && i64::try_from(found.len()) == Ok(first.total));
        if there {
            return Err(Status::already_exists(format!("{digest} is there")));
        }
        let folder = place.parent().unwrap_or(layout);
        // Among blobs nothing else is ever seen.
        let begun = fs::create_dir_all(folder).and_then(|()| Draft::begin(layout, place.clone()));
        let (file, draft) = begun.map_err(|error| unwritten(&place, &error))?;
        let now = SystemTime::now();
        Ok(Self {
            digest,
            total: first.total,
            offset: 0,
            hash,
            file,
            draft,
            place,
            started: now,
            updated: now,
        })
    }

    /// Writes what a step brings.
    fn take(&mut self, step: &Step) -> Result<(), Status> {
        let other = |said: &str| {
            Status::invalid_argument(format!("{} is called {said} all at once", self.digest))
        };
        if !step.expected.is_empty() && step.expected != self.digest {
            return Err(other(&step.expected));
        }
        if step.total != 0 && step.total != self.total {
            return Err(other(&format!("{} bytes long", step.total)));
        }
        if step.action == i32::from(Action::Stat) {
            return Ok(());
        }
        if step.offset == 0 && self.offset > 0 {
            self.restart().map_err(|e| unwritten(&self.place, &e))?;
        }
        if step.offset != self.offset {
            let (digest, at) = (&self.digest, self.offset);
            let why = format!("{digest} goes on at {at}, not at {}", step.offset);
            return Err(Status::out_of_range(why));
        }
        let end = i64::try_from(step.data.len()).ok();
        let end = end.and_then(|length| self.offset.checked_add(length));
        let end = end.filter(|end| *end <= self.total).ok_or_else(|| {
            let why = format!("{} has {} bytes, and more came", self.digest, self.total);
            Status::out_of_range(why)
        })?;
        self.file
            .write_all(&step.data)
            .map_err(|e| unwritten(&self.place, &e))?;
        self.hash.update(&step.data);
        self.offset = end;
        self.updated = SystemTime::now();
        Ok(())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hash.reset();
        self.offset = 0;
        Ok(())
    }

    fn progress(&self, action: i32) -> Written {
        Written {
            action,
            started_at: time(self.started),
            updated_at: time(self.updated),
            offset: self.offset,
            total: self.total,
            digest: String::new(),
        }
    }

    /// Puts it where it belongs, if it is what it was said to be.
    fn commit(self) -> Result<String, Status> {
        let Self { digest, place, .. } = self;
        if self.offset != self.total {
            let (at, total) = (self.offset, self.total);
            let why = format!("{digest} has {total} bytes, and only {at} came");
            return Err(Status::failed_precondition(why));
        }
        let found = hex::encode(self.hash.finalize());
        if digest.split_once(':').is_none_or(|(_, hex)| hex != found) {
            let why = format!("what came as {digest} is {found}");
            return Err(Status::failed_precondition(why));
        }
        // Nobody is to change what a digest names; the user's mask has its say about who reads it.
        let settled = self.file.metadata().and_then(|made| {
            let mode = made.permissions().mode() & 0o444;
            self.file
                .set_permissions(fs::Permissions::from_mode(mode))?;
            self.draft.settle()
        });
        settled.map_err(|error| unwritten(&place, &error))?;
        Ok(digest)
    }
}

fn unwritten(place: &Path, error: &std::io::Error) -> Status {
    Status::unknown(format!("{} can't be written: {error}", place.display()))
}

fn time(of: SystemTime) -> Option<Time> {
    let since = of.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Time {
        seconds: i64::try_from(since.as_secs()).ok()?,
        nanos: i32::try_from(since.subsec_nanos()).ok()?,
    })
}

#[cfg(test)]
mod tests;
