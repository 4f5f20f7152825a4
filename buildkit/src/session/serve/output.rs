//! What a build gives back: a client's FileSend service, in which exporters write folders and files.

use std::{
    collections::HashMap,
    fmt,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tonic::Status;

use super::response;
use crate::session::{SessionRequest, SessionResponse};

pub(super) const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";

/// Where an exporter's output goes.
#[derive(Clone)]
pub struct Output(Target);

#[derive(Clone)]
enum Target {
    Folder(PathBuf),
    File(PathBuf),
    Stream(Arc<Mutex<Option<Box<dyn Write + Send>>>>),
}

impl Output {
    /// Into this folder, which is made if it isn't there; what is in it stays, but for what has the same name. For exporter `local`.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self(Target::Folder(path.into()))
    }

    /// Into this file, which is there whole or as it was before. For exporters `tar`, `oci` and `docker`.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Target::File(path.into()))
    }

    /// To whatever this is, once. For exporters `tar`, `oci` and `docker`.
    pub fn stream(writer: impl Write + Send + 'static) -> Self {
        Self(Target::Stream(Arc::new(Mutex::new(Some(Box::new(writer))))))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Folder(path) => f.debug_tuple("Folder").field(path).finish(),
            Target::File(path) => f.debug_tuple("File").field(path).finish(),
            Target::Stream(_) => f.write_str("Stream"),
        }
    }
}

pub(super) fn answer(
    _outputs: &HashMap<u32, Output>,
    _request: SessionRequest,
) -> impl Future<Output = SessionResponse> + use<> {
    async { response(Err(Status::unimplemented(""))) }
}
