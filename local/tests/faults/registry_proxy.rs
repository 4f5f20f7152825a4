//! Something between the farm and a registry that keeps one kind of request waiting, before the registry hears of it or after.

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

/// Where a request is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The registry has not heard of it.
    Before,
    /// The registry has answered, and whoever asked has not heard that.
    After,
}

/// Passes everything on until this is dropped, but for what it holds.
pub struct RegistryProxy {
    address: SocketAddr,
    state: Arc<State>,
    ends: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

struct State {
    registry: SocketAddr,
    held: Held,
    /// The beginning of the request lines that are held.
    line: String,
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What comes is held.
    Holding,
    /// Something is.
    Reached,
    /// What was held is gone, and nothing is held any more.
    LetGo,
}

impl RegistryProxy {
    /// Holds the request that puts a manifest under this tag.
    pub fn holding(registry: SocketAddr, path: &str, tag: &str, held: Held) -> RegistryProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            registry,
            held,
            line: format!("PUT /v2/{path}/manifests/{tag} "),
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

    /// Waits until the request is held.
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
    /// False if the request is to be forgotten.
    fn may_pass(&self, line: &str, at: Held) -> bool {
        let mut phase = self.phase.lock().expect("no panic");
        if at != self.held || !line.starts_with(&self.line) || *phase == Phase::LetGo {
            return true;
        }
        *phase = Phase::Reached;
        self.changed.notify_all();
        let let_go = self
            .changed
            .wait_while(phase, |phase| *phase != Phase::LetGo);
        drop(let_go.expect("no panic"));
        false
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
    let mut head = line.clone();
    loop {
        let mut header = String::new();
        from_client.read_line(&mut header)?;
        match header.trim_end() {
            "" => break,
            text if text.to_ascii_lowercase().starts_with("connection:") => {}
            _ => head += &header,
        }
    }
    head += "Connection: close\r\n\r\n";
    if !state.may_pass(&line, Held::Before) {
        return Ok(());
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
        if answered.is_ok() && state.may_pass(&line, Held::After) {
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
