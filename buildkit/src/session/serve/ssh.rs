//! The SSH service of a client: an agent that steps may use.

use std::{collections::HashMap, path::PathBuf};

use tonic::Status;

use super::response;
use crate::session::{SessionRequest, SessionResponse};

pub(super) const METHODS: [&str; 2] = [
    "/moby.sshforward.v1.SSH/CheckAgent",
    "/moby.sshforward.v1.SSH/ForwardAgent",
];

/// An SSH agent that is lent to steps: they may list its keys and sign with them, and nothing else.
#[derive(Clone, Debug)]
pub struct SshAgent {
    socket: PathBuf,
}

/// Why there is no such agent.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// None is running.
    #[error("no SSH agent is running: SSH_AUTH_SOCK is not set")]
    None,
    /// It is no agent's socket.
    #[error(
        "{} is no SSH agent's socket: keys are lent through an agent, so add it to one with ssh-add", .0.display()
    )]
    NoSocket(PathBuf),
}

impl SshAgent {
    /// The user's own, which `SSH_AUTH_SOCK` names.
    ///
    /// # Errors
    /// There is none.
    pub fn of_user() -> Result<Self, SshError> {
        match std::env::var_os("SSH_AUTH_SOCK") {
            Some(path) if !path.is_empty() => Self::at(path),
            _ => Err(SshError::None),
        }
    }

    /// The one that listens at this socket.
    ///
    /// # Errors
    /// It is not there, or is no socket.
    pub fn at(socket: impl Into<PathBuf>) -> Result<Self, SshError> {
        use std::os::unix::fs::FileTypeExt;
        let socket = socket.into();
        match std::fs::metadata(&socket) {
            Ok(found) if found.file_type().is_socket() => Ok(Self { socket }),
            _ => Err(SshError::NoSocket(socket)),
        }
    }
}

pub(super) async fn answer(
    _agents: HashMap<String, SshAgent>,
    _request: SessionRequest,
) -> SessionResponse {
    response(Err(Status::unimplemented("")))
}
