//! What can go wrong while a farm is found, fetched and started. Each error is one line for a person, followed by the end of the
//! failing part's own log where there is one.

use std::{io, path::Path, process::ExitStatus, time::Duration};

/// Why a part could not be had, or could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that must be on the machine is not, and cannot be fetched.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// What was looked for.
        what: String,
        /// What a person can do about it.
        remedy: String,
    },
    /// The file system or the operating system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A helper program failed.
    #[error("`{command}` failed ({status}):\n{output}")]
    Command {
        /// The command, without its secrets.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// A part ended before it was ready.
    #[error("{part} ended before it was ready ({status}); the end of its log:\n{log}")]
    Ended {
        /// The part's name.
        part: String,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// A part did not get ready in time.
    #[error("{part} was not ready after {} s ({last}); the end of its log:\n{log}", waited.as_secs())]
    NotReady {
        /// The part's name.
        part: String,
        /// How long it was waited for.
        waited: Duration,
        /// What the last look at it said.
        last: String,
        /// The end of its log.
        log: String,
    },
    /// A peer answered, but not what was needed.
    #[error("{peer}: {answer}")]
    Peer {
        /// Who was asked, and for what.
        peer: String,
        /// What it said.
        answer: String,
    },
    /// A setting that cannot be used.
    #[error("{name}={value}: {reason}")]
    Setting {
        /// The variable or option.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Gives an I/O error its context.
pub(crate) trait Doing<T> {
    /// Says what was being done, and with which path.
    fn doing(self, verb: &str, path: &Path) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, verb: &str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            doing: format!("cannot {verb} {}", path.display()),
            source,
        })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, verb: &str, path: &Path) -> Result<T> {
        self.map_err(io::Error::from).doing(verb, path)
    }
}
