//! The SSH service of a client: an agent that steps may use.

use std::{
    collections::HashMap,
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    keys::Keys,
    packet::{Messages, Piece, framed, streamed},
    response,
};
use crate::session::{
    SessionBody, SessionRequest, SessionResponse,
    grpc::{read_unary, unary_response},
};

const CHECK: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
pub(super) const METHODS: [&str; 2] = [CHECK, FORWARD];

/// Says which agent a step wants.
const ID: &str = "buildkit.ssh.id";
/// The one of those that name none.
const DEFAULT: &str = "default";
/// The longest name of one, in bytes, with what is around it.
const QUESTION_LIMIT: usize = 4 << 10;
/// The longest message of an agent or to one, in bytes, as in OpenSSH.
const MESSAGE_LIMIT: usize = 256 << 10;
/// How long an agent may take to let us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How many answers may wait for the connection.
const QUEUE: usize = 4;

/// What steps may say to an agent, by the numbers of its protocol (draft-ietf-sshm-ssh-agent).
const LIST_KEYS: u8 = 11;
const SIGN: u8 = 13;
/// What they hear when they say anything else: its length, and that it failed.
const REFUSED: [u8; 5] = [0, 0, 0, 1, 5];

/// An SSH agent that is lent to steps: they may list its keys and sign with them, and nothing else.
#[derive(Clone, Debug)]
pub struct SshAgent {
    socket: PathBuf,
    /// Of one that is ours, which ends with the last of these.
    _keys: Option<Arc<Keys>>,
}

/// Why there is no such agent.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// None is running.
    #[error("no SSH agent is running: SSH_AUTH_SOCK is not set")]
    None,
    /// It is not there.
    #[error("{} can't be read: {source}", path.display())]
    Missing {
        /// The socket or key.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// OpenSSH doesn't take the keys.
    #[error("the SSH keys can't be lent: {0}")]
    Keys(String),
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

    /// The one that listens at this socket, or one of our own with the key in this file, as [`SshAgent::of_keys`].
    ///
    /// # Errors
    /// It is not there, or is no key.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self, SshError> {
        let path = path.into();
        match std::fs::metadata(&path) {
            Ok(found) if found.file_type().is_socket() => Ok(Self {
                socket: path,
                _keys: None,
            }),
            Ok(_) => Self::of_keys(&[path]),
            Err(source) => Err(SshError::Missing { path, source }),
        }
    }

    /// One of our own, with the keys in these files. Needs OpenSSH's `ssh-agent` and `ssh-add` on this machine, which may ask for
    /// passphrases; blocks meanwhile.
    ///
    /// # Errors
    /// What is wrong with the keys.
    pub fn of_keys(files: &[PathBuf]) -> Result<Self, SshError> {
        let keys = Keys::lend(files).map_err(SshError::Keys)?;
        Ok(Self {
            socket: keys.socket(),
            _keys: Some(Arc::new(keys)),
        })
    }
}

pub(super) async fn answer(
    agents: HashMap<String, SshAgent>,
    request: SessionRequest,
) -> SessionResponse {
    response(match request.uri().path() {
        CHECK => check(&agents, request).await,
        _ => forward(&agents, request).await,
    })
}

/// A question for one agent.
#[derive(Clone, PartialEq, prost::Message)]
struct CheckAgentRequest {
    #[prost(string, tag = "1")]
    id: String,
}

async fn check(
    agents: &HashMap<String, SshAgent>,
    request: SessionRequest,
) -> Result<SessionResponse, Status> {
    let asked: CheckAgentRequest = read_unary(request.into_body(), QUESTION_LIMIT).await?;
    agent(agents, &asked.id)?;
    // The answer has nothing in it.
    Ok(unary_response(&CheckAgentRequest::default()))
}

fn agent<'a>(agents: &'a HashMap<String, SshAgent>, id: &str) -> Result<&'a SshAgent, Status> {
    let id = if id.is_empty() { DEFAULT } else { id };
    agents
        .get(id)
        .ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
}

async fn forward(
    agents: &HashMap<String, SshAgent>,
    request: SessionRequest,
) -> Result<SessionResponse, Status> {
    let id = request.headers().get(ID);
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let lent = agent(agents, id)?.clone();
    let agent = connect(&lent.socket).await?;
    let (outgoing, answers) = mpsc::channel(QUEUE);
    let body = request.into_body();
    tokio::spawn(async move {
        // One of our own must not end meanwhile.
        let _lent = lent;
        let ended = tokio::select! {
            ended = converse(agent, body, &outgoing) => ended,
            () = outgoing.closed() => return,
        };
        if let Err(status) = ended {
            let _ = outgoing.send(Err(status)).await;
        }
    });
    Ok(streamed(ReceiverStream::new(answers)))
}

async fn connect(socket: &Path) -> Result<UnixStream, Status> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await;
    let why = match connected {
        Ok(Ok(agent)) => return Ok(agent),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "it does not answer".to_owned(),
    };
    let place = socket.display();
    Err(Status::unavailable(format!(
        "the SSH agent at {place} can't be used: {why}"
    )))
}

/// Passes on what steps may say, one message and its answer after the other, as the protocol has it.
async fn converse(
    mut agent: UnixStream,
    body: SessionBody,
    outgoing: &mpsc::Sender<Result<Bytes, Status>>,
) -> Result<(), Status> {
    let broke = |e: io::Error| Status::unavailable(format!("the SSH agent broke off: {e}"));
    let mut pieces = Messages::new(body);
    let mut unread = BytesMut::new();
    while let Some(Piece { data }) = pieces.next().await? {
        unread.extend_from_slice(&data);
        while let Some(message) = message(&mut unread)? {
            let answer = match message.first() {
                Some(&(LIST_KEYS | SIGN)) => asked(&mut agent, &message).await.map_err(broke)?,
                _ => Bytes::from_static(&REFUSED),
            };
            if outgoing
                .send(Ok(framed(&Piece { data: answer })))
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A whole message without its length, if there is one.
fn message(unread: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((length, rest)) = unread.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MESSAGE_LIMIT {
        return Err(Status::resource_exhausted(format!(
            "a message to an SSH agent may have {MESSAGE_LIMIT} bytes"
        )));
    }
    if rest.len() < length {
        return Ok(None);
    }
    unread.advance(size_of::<u32>());
    Ok(Some(unread.split_to(length).freeze()))
}

/// What the agent answers, with its length.
async fn asked(agent: &mut UnixStream, message: &[u8]) -> io::Result<Bytes> {
    let mut question = BytesMut::with_capacity(size_of::<u32>() + message.len());
    question.put_u32(message.len() as u32);
    question.put_slice(message);
    agent.write_all(&question).await?;
    let length = agent.read_u32().await?;
    if length as usize > MESSAGE_LIMIT {
        return Err(io::Error::other("its answer is too long"));
    }
    let mut answer = BytesMut::with_capacity(size_of::<u32>() + length as usize);
    answer.put_u32(length);
    answer.resize(size_of::<u32>() + length as usize, 0);
    agent.read_exact(&mut answer[size_of::<u32>()..]).await?;
    Ok(answer.freeze())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::session::{
        grpc::unary_request,
        serve::packet::testing::{body, heard},
    };

    fn message(kind: u8, rest: &[u8]) -> Vec<u8> {
        let length = 1 + rest.len() as u32;
        [&length.to_be_bytes(), &[kind][..], rest].concat()
    }

    #[tokio::test]
    async fn steps_may_list_keys_and_sign_and_do_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent");
        let listener = UnixListener::bind(&socket).unwrap();
        let agent = SshAgent::at(&socket).unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while let Ok(length) = stream.read_u32().await {
                let mut question = vec![0; length as usize];
                stream.read_exact(&mut question).await.unwrap();
                stream.write_all(&message(99, &question)).await.unwrap();
                asked.push(question[0]);
            }
            asked
        });
        let (add, remove_all, extension) = (17, 19, 27);
        let said: Vec<u8> = [
            message(LIST_KEYS, &[]),
            message(add, b"key"),
            message(SIGN, b"data"),
            message(remove_all, &[]),
            message(extension, b"x"),
        ]
        .concat();
        // Cut where nobody would.
        let pieces: Vec<_> = said
            .chunks(3)
            .map(|data| Piece {
                data: Bytes::copy_from_slice(data),
            })
            .collect();
        let mut request = SessionRequest::new(body(&pieces));
        *request.uri_mut() = FORWARD.parse().unwrap();
        let response = answer(HashMap::from([(DEFAULT.to_owned(), agent)]), request).await;
        let mut answers = Messages::new(response.into_body());
        let mut heard = Vec::new();
        while let Some(Piece { data }) = answers.next().await.unwrap() {
            heard.push(data.to_vec());
        }
        let refused = REFUSED.to_vec();
        assert_eq!(
            heard,
            [
                message(99, &[LIST_KEYS]),
                refused.clone(),
                message(99, &[&[SIGN], &b"data"[..]].concat()),
                refused.clone(),
                refused
            ]
        );
        assert_eq!(asked.await.unwrap(), [LIST_KEYS, SIGN]);
    }

    #[tokio::test]
    async fn an_agent_that_was_not_lent_is_not_there() {
        let asked = CheckAgentRequest { id: "other".into() };
        let request = unary_request(CHECK, &asked).unwrap();
        let (_, status) = heard(answer(HashMap::new(), request).await).await;
        assert_eq!(status.code(), tonic::Code::NotFound);
        assert!(matches!(
            SshAgent::at("/none"),
            Err(SshError::Missing { .. })
        ));
    }

    #[tokio::test]
    async fn a_key_in_a_file_is_lent_through_an_agent_that_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("a key");
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "of a test", "-f"])
            .arg(&key)
            .status();
        assert!(made.unwrap().success());
        let agent = SshAgent::at(&key).unwrap();
        let socket = agent.socket.clone();
        let body = body(&[Piece {
            data: message(LIST_KEYS, &[]).into(),
        }]);
        let mut request = SessionRequest::new(body);
        *request.uri_mut() = FORWARD.parse().unwrap();
        let response = answer(HashMap::from([(DEFAULT.to_owned(), agent)]), request).await;
        let mut answers = Messages::new(response.into_body());
        let answer: Piece = answers.next().await.unwrap().unwrap();
        assert!(answer.data.ends_with(b"of a test"), "{answer:?}");
        assert!(answers.next::<Piece>().await.unwrap().is_none());
        assert!(!socket.exists());
        let no_key = folder.path().join("no key");
        std::fs::write(&no_key, "nothing").unwrap();
        let refused = SshAgent::at(no_key).unwrap_err().to_string();
        assert!(refused.contains("no key"), "{refused}");
    }
}
