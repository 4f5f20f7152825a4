//! What can go wrong, as one line for a person that says what to do next, and as an exit code for a program.

use std::{io, path::PathBuf};

use crate::build::error::BuildError;

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The farm knows no such thing.
    NotFound = 3,
    /// The farm cannot be reached.
    Unreachable = 4,
    /// The user pressed Ctrl-C.
    Interrupted = 130,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// TLS flags that nothing would use.
    #[error(
        "--addr http://… is without TLS, but TLS files are given: write https://… or leave the --tls flags (CROFT_TLS_*) out"
    )]
    UnusedTls,
    /// TLS without an authority.
    #[error(
        "TLS needs the authority that signed the coordinator's certificate: name its file with --tls-ca or CROFT_TLS_CA"
    )]
    NoAuthority,
    /// A certificate without its key, or a key without its certificate.
    #[error("--tls-cert and --tls-key belong together: give both or neither")]
    HalfIdentity,
    /// A TLS file.
    #[error("cannot read {} ({source}): check the --tls flags (CROFT_TLS_*)", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// TLS files that are no certificates or keys.
    #[error("the TLS files cannot be used ({0}): they must be PEM")]
    Tls(String),
    /// The configuration file.
    #[error("{}:{line}: {reason}: mend it there, or name another file with CROFT_CONFIG", path.display())]
    Config {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A context that is not in the configuration file.
    #[error(
        "there is no context {name:?} ({known}): name one of those, or add it with `croft context add`"
    )]
    NoContext {
        /// Its name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Several coordinators, and none is active.
    #[error("no coordinator of {addresses} is active: wait a moment, or look into their logs")]
    NobodyActive {
        /// Where they are.
        addresses: String,
    },
    /// No coordinator there, or none that we can talk with.
    #[error("cannot reach the farm at {address} ({reason}): {remedy}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The farm has no such thing.
    #[error("{0}: see `croft builds ls` and `croft agents ls`")]
    NotFound(String),
    /// What was asked for is unclear.
    #[error("{0}")]
    Unclear(String),
    /// Whatever is there speaks gRPC, but not croft.v1.
    #[error("{address} does not speak croft.v1: --addr must name the client port (8372 by default) of a coordinator of croft {}", env!("CARGO_PKG_VERSION"))]
    Foreign {
        /// Where.
        address: String,
    },
    /// The farm refused us.
    #[error("the farm refused: {0}; check --tls-cert and --tls-key")]
    Refused(String),
    /// As things stand there is nothing to be done.
    #[error("{0}")]
    Declined(String),
    /// The farm answered with an error of its own.
    #[error("the farm failed: {0}; its log says more")]
    Farm(String),
    /// An answer without its main part.
    #[error("the farm's answer lacks {0}: croft and the coordinator may be of different versions")]
    Malformed(&'static str),
    /// Standard output.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
    /// A build that came to nothing.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Whoever read standard output has seen enough.
    #[error("nobody reads the answer")]
    NobodyReads,
}

impl Error {
    /// What is said about it on standard error, if anything.
    pub fn line(&self) -> Option<String> {
        (!matches!(self, Self::NobodyReads)).then(|| self.to_string())
    }

    /// The exit code that says it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config { .. }
            | Self::NoContext { .. }
            | Self::UnusedTls
            | Self::NoAuthority
            | Self::HalfIdentity
            | Self::Unclear(_) => Exit::Usage,
            Self::NobodyReads => Exit::Done,
            Self::Build(error) => error.exit(),
            Self::NotFound(_) => Exit::NotFound,
            Self::Unreachable { .. } | Self::NobodyActive { .. } => Exit::Unreachable,
            Self::File { .. }
            | Self::Tls(_)
            | Self::Foreign { .. }
            | Self::Refused(_)
            | Self::Declined(_)
            | Self::Farm(_)
            | Self::Malformed(_)
            | Self::Output(_) => Exit::Failed,
        }
    }
}
