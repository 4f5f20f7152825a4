//! Between a store and its database: passes on what they say and breaks off at a statement of the test's choice.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What is broken off at the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Everything, before the database hears the statement: as when the coordinator's process ends there.
    Crash,
    /// The one connection, after the database has carried it out and before the answer is heard.
    Answer,
}

/// Passes on until it is armed; gone with this.
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    ends: CancellationToken,
}

struct State {
    server: SocketAddr,
    phase: Mutex<Phase>,
}

/// What is to be done next.
struct Phase {
    cut: Cut,
    /// Statements until the one in question; 0: there is none any more.
    left: u32,
    was_cut: bool,
    /// Ends all connections of now.
    crashed: CancellationToken,
}

impl Relay {
    pub async fn new(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let phase = Phase {
            cut: Cut::Crash,
            left: 0,
            was_cut: false,
            crashed: CancellationToken::new(),
        };
        let state = Arc::new(State {
            server,
            phase: Mutex::new(phase),
        });
        let ends = CancellationToken::new();
        let (serving, ended) = (Arc::clone(&state), ends.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = ended.cancelled() => return,
                };
                let (client, _) = accepted.unwrap();
                let (state, ended) = (Arc::clone(&serving), ended.clone());
                let crashed = state.phase().crashed.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        // Either side may go whenever it likes.
                        _ = pass(client, &state) => {}
                        () = crashed.cancelled() => {}
                        () = ended.cancelled() => {}
                    }
                });
            }
        });
        Relay {
            address,
            state,
            ends,
        }
    }

    /// The database's URL by way of this.
    pub fn url(&self, url: &str) -> String {
        let server = self.state.server.to_string();
        assert!(url.contains(&server), "{url}");
        let url = url.replace(&server, &self.address.to_string());
        format!("{url}?sslmode=disable")
    }

    /// From now on it breaks off, once, at the statement of this number, counted from 1. Who crashed before may connect again.
    pub fn arm(&self, cut: Cut, statement: u32) {
        let mut phase = self.state.phase();
        (phase.cut, phase.left, phase.was_cut) = (cut, statement, false);
        if phase.crashed.is_cancelled() {
            phase.crashed = CancellationToken::new();
        }
    }

    /// Resolves when everything was broken off.
    pub async fn crashed(&self) {
        let crashed = self.state.phase().crashed.clone();
        crashed.cancelled().await;
    }

    /// Whether it came to the statement.
    pub fn was_cut(&self) -> bool {
        self.state.phase().was_cut
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.cancel();
    }
}

impl State {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap()
    }

    /// What to do at this statement.
    fn at_statement(&self) -> Option<Cut> {
        let mut phase = self.phase();
        let last = phase.left == 1;
        phase.left = phase.left.saturating_sub(1);
        phase.was_cut |= last;
        last.then_some(phase.cut)
    }
}

async fn pass(client: TcpStream, state: &State) -> std::io::Result<()> {
    let server = TcpStream::connect(state.server).await?;
    for one in [&client, &server] {
        one.set_nodelay(true)?;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let deaf = AtomicBool::new(false);
    tokio::select! {
        ended = up(from_client, to_server, state, &deaf) => ended,
        ended = down(from_server, to_client, &deaf) => ended,
    }
}

async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    deaf: &AtomicBool,
) -> std::io::Result<()> {
    // The first message has no kind.
    let mut message = Vec::new();
    body(&mut from, &mut message).await?;
    to.write_all(&message).await?;
    loop {
        let kind = read(&mut from, &mut message).await?;
        // A query of the simple protocol, and what ends one of the other.
        if [b'Q', b'S'].contains(&kind) {
            match state.at_statement() {
                Some(Cut::Crash) => {
                    state.phase().crashed.cancel();
                    return Ok(());
                }
                Some(Cut::Answer) => deaf.store(true, Ordering::Release),
                None => {}
            }
        }
        to.write_all(&message).await?;
    }
}

async fn down(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    deaf: &AtomicBool,
) -> std::io::Result<()> {
    let mut message = Vec::new();
    loop {
        let kind = read(&mut from, &mut message).await?;
        match (deaf.load(Ordering::Acquire), kind) {
            (false, _) => to.write_all(&message).await?,
            // The server is ready for what comes next.
            (true, b'Z') => return Ok(()),
            (true, _) => {}
        }
    }
}

/// Reads a message and gives its kind.
async fn read(from: &mut OwnedReadHalf, message: &mut Vec<u8>) -> std::io::Result<u8> {
    let kind = from.read_u8().await?;
    message.clear();
    message.push(kind);
    body(from, message).await?;
    Ok(kind)
}

async fn body(from: &mut OwnedReadHalf, message: &mut Vec<u8>) -> std::io::Result<()> {
    let length = from.read_u32().await?;
    message.extend(length.to_be_bytes());
    let start = message.len();
    message.resize(start + length as usize - 4, 0);
    from.read_exact(&mut message[start..]).await.map(drop)
}
