//! What can keep a build from being asked for, or make it fail, in words that say what to do next.

use std::{io, path::PathBuf};

use crate::error::Exit;

/// Why a build came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The flags are wrong, or ask for what there is not.
    #[error("{0}")]
    Usage(String),
    /// A file of this machine.
    #[error("cannot {what} {} ({source})", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// With which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something else of this machine.
    #[error("{0}")]
    Local(String),
    /// The build failed, and why it did.
    #[error("the build failed: {0}")]
    Failed(String),
    /// Nobody answers any more.
    #[error(
        "the farm went away ({0}): see `croft builds show latest` for what became of the build, and try again"
    )]
    Gone(String),
    /// The user wanted it no more.
    #[error("the build is cancelled")]
    Interrupted,
    /// A frontend's answer that found something wrong, and has been printed.
    #[error("the check found something")]
    Found,
}

impl BuildError {
    /// The exit code that says it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::File { .. } | Self::Local(_) | Self::Failed(_) | Self::Found => Exit::Failed,
            Self::Gone(_) => Exit::Unreachable,
            Self::Interrupted => Exit::Interrupted,
        }
    }

    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub(super) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
