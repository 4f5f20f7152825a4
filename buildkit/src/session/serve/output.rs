//! What a build gives back: a client's FileSend service, in which exporters write folders and files. Folders are [`super::receive`]'s, images
//! blob by blob [`super::ingest`]'s.

use std::{
    collections::HashMap,
    fmt, fs,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tonic::Status;

use super::{
    packet::{Messages, Piece, streamed, write_each},
    receive::{self, Others},
    response,
};
use crate::session::{SessionBody, SessionId, SessionRequest, SessionResponse};

pub(super) const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// Says which exporter it is, where a solve has several; older engines say nothing.
const EXPORTER: &str = "buildkit-attachable-exporter-id";
/// Said by engines that send all platforms of a folder in one call.
const WHOLE: &str = "buildkit-exporter-multi-platform";
/// How many messages may wait to be written.
const QUEUE: usize = 16;

/// Where an exporter's output goes.
#[derive(Clone)]
pub struct Output(Target);

#[derive(Clone)]
enum Target {
    Folder(PathBuf, Others),
    Layout(PathBuf),
    File(PathBuf),
    Stream(Arc<Mutex<Option<Writer>>>),
}

type Writer = Box<dyn Write + Send>;

impl Output {
    /// Into this folder, which is made if it isn't there; what is in it stays, but for what has the same name. For exporter `local`.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self(Target::Folder(path.into(), Others::Stay))
    }

    /// Into this folder, in which nothing else is left when all of it is there. For exporter `local` with `mode=delete`; engines that don't
    /// know this are refused, as one of theirs that sends several platforms one by one would have each delete the others.
    pub fn mirror(path: impl Into<PathBuf>) -> Self {
        Self(Target::Folder(path.into(), Others::Go))
    }

    /// Into this folder of OCI's layout, blob by blob. For exporters `oci` and `docker` with `tar=false`; BuildKit has one store for all
    /// exporters of a solve, so one of them at most may have such an output. The layout's index is the caller's to write: which image it
    /// is, and what it is called, the solve answers at its end.
    pub fn layout(path: impl Into<PathBuf>) -> Self {
        Self(Target::Layout(path.into()))
    }

    /// Into this file, which is there whole or as it was before. For exporters `tar`, `oci` and `docker`.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Target::File(path.into()))
    }

    /// To whatever this is, once; it is flushed and dropped at the end. For exporters `tar`, `oci` and `docker`.
    pub fn stream(writer: impl Write + Send + 'static) -> Self {
        Self(Target::Stream(Arc::new(Mutex::new(Some(Box::new(writer))))))
    }

    /// The folder, if it takes blobs.
    pub(super) fn as_layout(&self) -> Option<&PathBuf> {
        match &self.0 {
            Target::Layout(path) => Some(path),
            Target::Folder(..) | Target::File(_) | Target::Stream(_) => None,
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Folder(path, others) => {
                f.debug_tuple("Folder").field(path).field(others).finish()
            }
            Target::Layout(path) => f.debug_tuple("Layout").field(path).finish(),
            Target::File(path) => f.debug_tuple("File").field(path).finish(),
            Target::Stream(_) => f.write_str("Stream"),
        }
    }
}

pub(super) fn answer(
    outputs: &HashMap<u32, Output>,
    request: SessionRequest,
) -> impl Future<Output = SessionResponse> + use<> {
    let (head, body) = request.into_parts();
    let exporter = head
        .headers
        .get(EXPORTER)
        .and_then(|id| id.to_str().ok()?.parse().ok())
        .unwrap_or_default();
    let output = outputs.get(&exporter).cloned();
    let whole = head.headers.get(WHOLE).is_some_and(|said| said == "1");
    async move {
        response(match output.map(|output| output.0) {
            Some(Target::Folder(_, Others::Go)) if !whole => Err(Status::failed_precondition(
                "this engine can't delete what is not in the result: leave mode=delete out, or update it to BuildKit 0.31 or newer",
            )),
            Some(Target::Folder(path, others)) => Ok(receive::begin(path, others, body)),
            Some(Target::File(path)) => write(body, move || Sink::file(path)).await,
            Some(Target::Stream(writer)) => write(body, move || Sink::stream(&writer)).await,
            Some(Target::Layout(_)) | None => Err(Status::not_found(format!(
                "exporter {exporter} has no output here"
            ))),
        })
    }
}

/// Writes all messages of a call, and answers when they are where they belong.
async fn write(
    body: SessionBody,
    open: impl FnOnce() -> Result<Sink, WriteError> + Send + 'static,
) -> Result<SessionResponse, Status> {
    let mut messages = Messages::new(body);
    let sink = write_each(&mut messages, QUEUE, move |mut pieces| {
        let mut sink = open()?;
        while let Some(Piece { data }) = pieces.blocking_recv() {
            sink.write(&data)?;
        }
        Ok::<_, WriteError>(sink)
    });
    let sink = sink.await?;
    // Only what came to its end is whole; what didn't is thrown away.
    tokio::task::spawn_blocking(move || sink.finish())
        .await
        .map_err(|e| Status::internal(e.to_string()))??;
    Ok(streamed(futures::stream::empty()))
}

/// Why an output can't be written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("{} can't be written: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the output can't be written: {0}")]
    Stream(#[from] io::Error),
    #[error("the output was written already")]
    Again,
}

impl From<WriteError> for Status {
    fn from(error: WriteError) -> Self {
        Status::unknown(error.to_string())
    }
}

/// What is written to.
enum Sink {
    Stream(Writer),
    File {
        file: File,
        /// What people call it.
        path: PathBuf,
        /// What takes its place at the end, unless it is written in place.
        draft: Option<Draft>,
    },
}

/// A file that is deleted unless it takes another one's place.
pub(super) struct Draft {
    path: PathBuf,
    place: PathBuf,
}

impl Draft {
    /// A new file in a folder, for a place on the same file system.
    pub(super) fn begin(folder: &Path, place: PathBuf) -> io::Result<(File, Self)> {
        let path = folder.join(format!(".croft-{}", SessionId::unique()));
        let draft = Self { path, place };
        File::create_new(&draft.path).map(|file| (file, draft))
    }

    /// Takes the place.
    pub(super) fn settle(self) -> io::Result<()> {
        fs::rename(&self.path, &self.place)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It may have taken its place.
        let _ = fs::remove_file(&self.path);
    }
}

impl Sink {
    fn stream(writer: &Mutex<Option<Writer>>) -> Result<Self, WriteError> {
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.take().map(Self::Stream).ok_or(WriteError::Again)
    }

    fn file(path: PathBuf) -> Result<Self, WriteError> {
        match create(&path) {
            Ok((file, draft)) => Ok(Self::File { file, path, draft }),
            Err(source) => Err(WriteError::File { path, source }),
        }
    }

    fn write(&mut self, data: &[u8]) -> Result<(), WriteError> {
        match self {
            Self::Stream(writer) => Ok(writer.write_all(data)?),
            Self::File { file, path, .. } => {
                file.write_all(data).map_err(|source| WriteError::File {
                    path: path.clone(),
                    source,
                })
            }
        }
    }

    fn finish(self) -> Result<(), WriteError> {
        match self {
            Self::Stream(mut writer) => Ok(writer.flush()?),
            Self::File { path, draft, .. } => match draft {
                Some(draft) => draft
                    .settle()
                    .map_err(|source| WriteError::File { path, source }),
                None => Ok(()),
            },
        }
    }
}

/// Opens a file to be written: a draft beside it, or itself where it is no plain file (a pipe, a terminal) or nothing may be put beside it.
fn create(path: &Path) -> io::Result<(File, Option<Draft>)> {
    // Behind a link it is what that leads to.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let found = fs::metadata(&place).ok();
    if found.as_ref().is_none_or(fs::Metadata::is_file) {
        let folder = place.parent().unwrap_or(Path::new(""));
        match Draft::begin(folder, place.clone()) {
            Ok((file, draft)) => {
                if let Some(found) = &found {
                    file.set_permissions(found.permissions())?;
                }
                return Ok((file, Some(draft)));
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && found.is_some() => {}
            Err(e) => return Err(e),
        }
    }
    let file = File::options().write(true).truncate(true).open(&place)?;
    Ok((file, None))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use http_body_util::Full;
    use tonic::Code;

    use super::*;
    use crate::session::{
        grpc::boxed,
        serve::packet::{
            framed,
            testing::{body, heard},
        },
    };

    fn pieces() -> SessionBody {
        body(&["one ", "", "two"].map(|text| Piece { data: text.into() }))
    }

    /// As if the connection had ended within a message.
    fn broken() -> SessionBody {
        let whole = framed(&Piece {
            data: "one two".into(),
        });
        boxed(Full::new(whole.slice(..whole.len() - 1)))
    }

    async fn give(output: &Output, exporter: Option<&str>, body: SessionBody) -> Status {
        let mut request = SessionRequest::new(body);
        if let Some(exporter) = exporter {
            let headers = request.headers_mut();
            headers.insert(EXPORTER, exporter.parse().unwrap());
        }
        heard(answer(&HashMap::from([(0, output.clone())]), request).await)
            .await
            .1
    }

    #[tokio::test]
    async fn a_file_is_written_whole_or_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "before").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        let output = Output::file(&link);
        assert_eq!(
            give(&output, Some("0"), broken()).await.code(),
            Code::Internal
        );
        assert_eq!(fs::read(&file).unwrap(), b"before");
        assert_eq!(give(&output, None, pieces()).await.code(), Code::Ok);
        assert_eq!(fs::read(&file).unwrap(), b"one two");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert!(link.is_symlink() && fs::read_dir(folder.path()).unwrap().count() == 2);
        let lost = Output::file(folder.path().join("none/file"));
        let status = give(&lost, None, pieces()).await;
        assert!(status.message().contains("none/file"), "{status}");
    }

    #[tokio::test]
    async fn a_stream_is_written_once_and_exporters_get_their_own_outputs_only() {
        let (mut reader, writer) = io::pipe().unwrap();
        let output = Output::stream(writer);
        assert_eq!(
            give(&output, Some("1"), pieces()).await.code(),
            Code::NotFound
        );
        assert_eq!(give(&output, Some("0"), pieces()).await.code(), Code::Ok);
        let mut read = String::new();
        io::Read::read_to_string(&mut reader, &mut read).unwrap();
        assert_eq!(read, "one two");
        let status = give(&output, Some("0"), pieces()).await;
        assert!(status.message().contains("already"), "{status}");
    }
}
