//! Clients that do what `buildctl build < definition` does, without a session: a solve, and what is said of it meanwhile.

use std::{net::SocketAddr, time::Duration};

use bollard_buildkit_proto::{
    moby::buildkit::v1::{SolveRequest, StatusRequest, control_client::ControlClient},
    pb::Definition,
};
use tokio::{runtime::Handle, task::JoinHandle};
use tonic::{Status, transport::Endpoint};

use crate::support::{
    llb::{For, Llb},
    nonce,
};

/// No build takes longer once the engines let it end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Builds under way; their clients go when this is dropped.
pub struct Builds {
    runtime: Handle,
    clients: Vec<JoinHandle<Result<Heard, Status>>>,
}

/// What a client was told of its build.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    /// Vertices that were completed.
    pub completed: usize,
    /// What its command said, in bytes.
    pub said: usize,
}

impl Drop for Builds {
    fn drop(&mut self) {
        for client in &self.clients {
            client.abort();
        }
    }
}

impl Builds {
    /// Starts so many builds, of a command each that no other has.
    pub fn begin(runtime: &Handle, farm: SocketAddr, builds: usize, platform: For) -> Builds {
        let clients = (0..builds).map(|_| {
            let mut llb = Llb::default();
            let last = llb.run_in_nothing(&format!(": {}", nonce()), platform);
            runtime.spawn(build(farm, nonce(), llb.definition(&last)))
        });
        Builds {
            clients: clients.collect(),
            runtime: runtime.clone(),
        }
    }

    /// Waits until all have ended well.
    #[track_caller]
    pub fn succeeded(mut self) -> Vec<Heard> {
        let clients = std::mem::take(&mut self.clients);
        let ended = async {
            let mut heard = Vec::new();
            for client in clients {
                heard.push(client.await.expect("no panic")?);
            }
            Ok::<_, Status>(heard)
        };
        let ended = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, ended).await });
        let ended = ended.unwrap_or_else(|_| panic!("builds did not end within {PATIENCE:?}"));
        ended.unwrap_or_else(|status| panic!("a build failed: {status}"))
    }
}

async fn build(farm: SocketAddr, id: String, definition: Definition) -> Result<Heard, Status> {
    let channel = Endpoint::from_shared(format!("http://{farm}"))
        .map_err(|error| Status::internal(error.to_string()))?
        .connect()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let mut control = ControlClient::new(channel.clone());
    let solve = control.solve(SolveRequest {
        r#ref: id.clone(),
        definition: Some(definition),
        ..SolveRequest::default()
    });
    let mut control = ControlClient::new(channel);
    let listen = async {
        let mut heard = Heard::default();
        let mut status = control
            .status(StatusRequest { r#ref: id })
            .await?
            .into_inner();
        while let Some(status) = status.message().await? {
            let vertices = status.vertexes.iter();
            heard.completed += vertices.filter(|one| one.completed.is_some()).count();
            heard.said += status.logs.iter().map(|log| log.msg.len()).sum::<usize>();
        }
        Ok(heard)
    };
    let (_, heard) = tokio::try_join!(solve, listen)?;
    Ok(heard)
}
