//! The agent on a real engine, with a coordinator that does what the test tells it.

#![allow(missing_docs)]

mod coordinator;
mod faults;
mod files;
mod links;
mod llb;
mod program;
mod pushes;
mod questions;
mod sessions;
mod stages;

use std::{sync::Arc, time::Duration};

use croft_agent::{
    agent::{Agent, Emulation, Options},
    link,
    space::Watermarks,
};
use croft_local::Workbench;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Endpoint;

use self::coordinator::{Coordinator, Link, Manners, within};

/// Something that no other test and no earlier run has.
pub fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The engine and the registry that all tests share.
pub async fn bench() -> &'static Workbench {
    tokio::task::spawn_blocking(|| Workbench::shared().expect("a workbench"))
        .await
        .expect("a workbench")
}

/// A repository of its own in the registry.
pub async fn repository() -> String {
    format!("{}/{}", bench().await.registry.address(), nonce())
}

/// An agent, and the coordinator that it serves.
pub struct Farm {
    pub coordinator: Coordinator,
    pub agent: Arc<Agent>,
    pub _stop: DropGuard,
}

impl Farm {
    /// Starts both; the link is the first.
    pub async fn start(manners: Manners) -> (Self, Link) {
        Self::with_slots(manners, 8).await
    }

    pub async fn with_slots(manners: Manners, slots: u32) -> (Self, Link) {
        Self::on_engine(manners, slots, bench().await.engine.address()).await
    }

    pub async fn on_engine(manners: Manners, slots: u32, engine: &str) -> (Self, Link) {
        let mut coordinator = Coordinator::start(manners).await;
        let endpoint = Endpoint::from_shared(coordinator.url()).expect("a URL");
        let options = Options {
            name: format!("agent-{}", nonce()),
            slots,
            labels: [("disk".to_owned(), "ssd".to_owned())].into(),
            emulate: Emulation::Refused,
            pretended: Vec::new(),
            engine_root: None,
            state_dir: "/nowhere".into(),
            engine_patience: Duration::from_secs(30),
            watermarks: Watermarks {
                low: "0".parse().expect("a watermark"),
                high: "0".parse().expect("a watermark"),
            },
        };
        let agent = Agent::new(options, &engine.parse().expect("an address"))
            .await
            .expect("an agent");
        let leaving = CancellationToken::new();
        let (serving, left) = (agent.clone(), leaving.clone());
        tokio::spawn(async move { link::serve(&serving, &[endpoint], &left).await });
        let link = coordinator.link().await;
        (
            Self {
                coordinator,
                agent,
                _stop: leaving.drop_guard(),
            },
            link,
        )
    }
}

/// Where a command of a stage waits: `gate.wait()` in it lasts until the test opens the gate, and ends if the command is killed.
pub struct Gate {
    listener: TcpListener,
}

/// A command that waits.
pub struct Waiting(TcpStream);

impl Gate {
    pub async fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        }
    }

    /// What a command is to run.
    pub fn wait(&self) -> String {
        format!(
            "nc 127.0.0.1 {} < /dev/zero > /dev/null || true",
            self.listener.local_addr().expect("bound").port()
        )
    }

    /// The next command that comes.
    pub async fn arrived(&self) -> Waiting {
        Waiting(
            within("a command at the gate", self.listener.accept())
                .await
                .expect("a connection")
                .0,
        )
    }

    /// How many more have come by now.
    pub fn others(&self) -> usize {
        use futures::FutureExt;
        std::iter::from_fn(|| self.listener.accept().now_or_never()).count()
    }
}

impl Waiting {
    /// Lets it go on.
    pub fn open(self) {}

    /// Waits until the command is dead.
    pub async fn killed(mut self) {
        let mut read = [0; 4096];
        within("the command's end", async {
            while self.0.read(&mut read).await.is_ok_and(|count| count > 0) {}
        })
        .await;
    }
}
