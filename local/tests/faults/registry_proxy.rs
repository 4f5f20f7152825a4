//! Something between the farm and a registry that does something to one kind of request: keeps it waiting, before the registry hears of it or
//! after, refuses it, or dies over it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _, copy},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::support::process::PATIENCE;

/// The first byte of a TLS connection.
const TLS: u8 = 22;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is held, and the registry has not heard of it.
    HeldBefore,
    /// It is held, and the registry has answered, but whoever asked has not heard that.
    HeldAfter,
    /// It is answered with [`REFUSAL`].
    Refused,
    /// It is cut off, and nothing is answered any more.
    Deadly,
}

/// What a registry says that refuses.
pub const REFUSAL: &str = "the quota of this project is used up";

/// Passes everything on until this is dropped, but for what it holds.
pub struct RegistryProxy {
    address: SocketAddr,
    state: Arc<State>,
    ends: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

struct State {
    registry: SocketAddr,
    fate: Fate,
    /// The beginning of the lines of these requests.
    line: String,
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What comes is held.
    Holding,
    /// Something is, or was refused or cut off.
    Reached,
    /// What was held is gone, and nothing is held any more.
    LetGo,
}

impl RegistryProxy {
    /// Does that to the request that puts a manifest of this repository under what begins like this tag.
    pub fn at_put(registry: SocketAddr, path: &str, tag: &str, fate: Fate) -> RegistryProxy {
        let line = format!("PUT /v2/{path}/manifests/{tag}");
        RegistryProxy::at(registry, line, fate)
    }

    /// Does that to requests whose line begins so.
    pub fn at(registry: SocketAddr, line: String, fate: Fate) -> RegistryProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            registry,
            fate,
            line,
            phase: Mutex::new(Phase::Holding),
            changed: Condvar::new(),
        });
        let ends = Arc::new(AtomicBool::new(false));
        let server = {
            let (state, ends) = (state.clone(), ends.clone());
            thread::spawn(move || {
                for connection in listener.incoming() {
                    if ends.load(Ordering::Acquire) {
                        return;
                    }
                    let state = state.clone();
                    // A peer that goes away is no failure of ours.
                    thread::spawn(move || connection.and_then(|one| pass(&one, &state)));
                }
            })
        };
        RegistryProxy {
            address,
            state,
            ends,
            server: Some(server),
        }
    }

    /// Where it listens: the registry's name to the farm.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the request has come.
    pub fn reached(&self) {
        let phase = self.state.phase.lock().expect("no panic");
        let (phase, _) = self
            .state
            .changed
            .wait_timeout_while(phase, PATIENCE, |phase| *phase == Phase::Holding)
            .expect("no panic");
        let seen = *phase;
        drop(phase);
        assert_eq!(seen, Phase::Reached, "the request did not come");
    }

    /// Forgets what it holds, as if the connection had broken, and holds nothing more.
    pub fn let_go(&self) {
        *self.state.phase.lock().expect("no panic") = Phase::LetGo;
        self.state.changed.notify_all();
    }
}

impl State {
    /// Whether the request has met this fate, and is to be forgotten.
    fn meets(&self, line: &str, fate: Fate) -> bool {
        let mut phase = self.phase.lock().expect("no panic");
        if fate == Fate::Deadly && self.fate == fate && *phase == Phase::Reached {
            return true;
        }
        if fate != self.fate || !line.starts_with(&self.line) || *phase == Phase::LetGo {
            return false;
        }
        *phase = Phase::Reached;
        self.changed.notify_all();
        if matches!(fate, Fate::HeldBefore | Fate::HeldAfter) {
            let let_go = self
                .changed
                .wait_while(phase, |phase| *phase != Phase::LetGo);
            drop(let_go.expect("no panic"));
        }
        true
    }
}

/// One request for each connection.
fn pass(client: &TcpStream, state: &State) -> std::io::Result<()> {
    let mut from_client = BufReader::new(client);
    if from_client.fill_buf()?.first() == Some(&TLS) {
        // Engines try that first, and go by this answer.
        return (&*client).write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
    }
    let mut line = String::new();
    from_client.read_line(&mut line)?;
    let (mut head, mut length) = (line.clone(), 0);
    loop {
        let mut header = String::new();
        from_client.read_line(&mut header)?;
        match header.trim_end() {
            "" => break,
            text if text.to_ascii_lowercase().starts_with("connection:") => {}
            text => {
                let text = text.to_ascii_lowercase();
                if let Some(bytes) = text.strip_prefix("content-length:") {
                    length = bytes.trim().parse().unwrap_or_default();
                }
                head += &header;
            }
        }
    }
    head += "Connection: close\r\n\r\n";
    if state.meets(&line, Fate::Deadly) || state.meets(&line, Fate::HeldBefore) {
        return Ok(());
    }
    if state.meets(&line, Fate::Refused) {
        // Whoever is still writing would not read the answer.
        copy(&mut from_client.take(length), &mut std::io::sink())?;
        let body = format!("{{\"errors\":[{{\"code\":\"DENIED\",\"message\":\"{REFUSAL}\"}}]}}");
        let answer = format!(
            "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        return (&*client).write_all(answer.as_bytes());
    }
    let registry = TcpStream::connect(state.registry)?;
    thread::scope(|scope| {
        let (mut to_registry, mut to_client) = (&registry, client);
        let sent = scope.spawn(move || {
            to_registry.write_all(head.as_bytes())?;
            copy(&mut from_client, &mut to_registry)
        });
        let mut answer = [0; 1];
        let answered = (&registry).read_exact(&mut answer);
        if answered.is_ok() && !state.meets(&line, Fate::HeldAfter) {
            to_client.write_all(&answer)?;
            copy(&mut &registry, &mut to_client)?;
        }
        // It may keep its half open for ever.
        client.shutdown(Shutdown::Both)?;
        let _ = sent.join();
        Ok(())
    })
}

impl Drop for RegistryProxy {
    fn drop(&mut self) {
        self.let_go();
        self.ends.store(true, Ordering::Release);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}
