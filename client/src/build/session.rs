//! The client's session of a build: what a request shares, served to the farm.

use std::{
    io::{self, Read},
    sync::Arc,
    thread,
};

use bytes::Bytes;
use croft_buildkit::session::{
    EngineSession, SessionId,
    serve::{Output, Secret, Services, SshAgent},
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tonic::transport::Channel;

use super::{
    credentials::Registries,
    error::BuildError,
    request::{Request, SecretPlace},
};

/// How much of standard input is read at once, and how often before somebody takes it.
const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 8;

/// An open session. Dropping it ends it.
#[derive(Debug)]
pub struct Session {
    inner: EngineSession,
    id: SessionId,
    _kept: Vec<TempDir>,
}

impl Session {
    /// Opens the session that a request needs. `outputs` are where its exporters write, by their places in the request; `registries`
    /// knows the user's credentials. What comes on standard input can be shared once: its name goes into the request.
    ///
    /// # Errors
    /// A secret or an SSH agent that isn't there, and what the farm says.
    pub async fn open(
        channel: Channel,
        request: &mut Request,
        outputs: Vec<(usize, Output)>,
        registries: Arc<Registries>,
    ) -> Result<Self, BuildError> {
        let shares = std::mem::take(&mut request.shares);
        let mut services = Services::new().credentials(registries);
        for (name, folder) in shares.folders {
            services = services.folder(name, folder);
        }
        for (id, place) in shares.secrets {
            let secret = match place {
                SecretPlace::File(path) => Secret::file(path),
                SecretPlace::Variable(name) => Secret::variable(&name),
            };
            let secret = secret.map_err(|error| {
                BuildError::usage(format!(
                    "--secret id={id}: {error}: say where it is with src=… or env=…"
                ))
            })?;
            services = services.secret(id, secret);
        }
        for (id, socket) in shares.ssh {
            let agent = match socket {
                Some(socket) => SshAgent::at(socket),
                None => SshAgent::of_user(),
            };
            let agent = agent.map_err(|error| {
                BuildError::usage(format!(
                    "--ssh {id}: {error}: start one with `eval $(ssh-agent)`, or give its socket"
                ))
            })?;
            services = services.ssh(id, agent);
        }
        for (store, folder) in shares.layouts {
            services = services.layout(store, folder);
        }
        for (place, output) in outputs {
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            services = services.output(place, output);
        }
        if let Some(archive) = shares.archive {
            let url = services.upload(stream(archive));
            request.attrs.insert("context".to_owned(), url);
        }
        let id = shares.session.unwrap_or_else(SessionId::unique);
        let inner = services
            .open(channel, id.clone(), shares.shared_key)
            .await
            .map_err(|status| match std::error::Error::source(&status) {
                Some(_) => BuildError::Gone(status.message().to_owned()),
                None => {
                    BuildError::Failed(format!("the farm takes no session: {}", status.message()))
                }
            })?;
        Ok(Self {
            inner,
            id,
            _kept: shares.kept,
        })
    }

    /// The id by which solves name it.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Ends it in good order.
    pub async fn close(self) {
        self.inner.close().await;
    }
}

/// Something that is read by a thread of its own, as nobody can tell when it has more. The thread ends with the process if need be: no
/// runtime waits for it.
fn stream(mut from: Box<dyn Read + Send>) -> impl tokio::io::AsyncRead + Send + 'static {
    let (tell, chunks) = mpsc::channel::<io::Result<Bytes>>(CHUNKS);
    thread::spawn(move || {
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = match from.read(&mut chunk) {
                Ok(0) => return,
                Ok(length) => {
                    chunk.truncate(length);
                    Ok(Bytes::from(chunk))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if tell.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    StreamReader::new(ReceiverStream::new(chunks))
}
