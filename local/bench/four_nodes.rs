//! Four engines as the nodes of one buildx builder: what people do today who have a machine for each platform.
//!
//! buildx reaches such nodes over BuildKit's own API, which a Docker Engine speaks only after an upgrade on its socket: a small relay
//! for each of them does that, and copies bytes from then on.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result};
use croft_local::Farm;

use crate::support::Buildx;

/// The relays; their sockets go with this, they themselves with the process.
pub struct FourNodes {
    _sockets: tempfile::TempDir,
}

impl FourNodes {
    /// Its name at buildx.
    pub const BUILDER: &str = "four";

    /// Makes the builder of the farm's engines, each for its agent's platform.
    pub fn start(farm: &Farm, buildx: &Buildx) -> Result<FourNodes> {
        let sockets = tempfile::tempdir().context("cannot make a folder for sockets")?;
        for (index, agent) in farm.agents().iter().enumerate() {
            let endpoint = match agent.engine().strip_prefix("docker+unix://") {
                None => agent.engine().to_owned(),
                Some(engine) => {
                    let path = sockets.path().join(agent.name.to_string());
                    relay(&path, PathBuf::from(engine))?;
                    format!("unix://{}", path.display())
                }
            };
            let platform = format!("linux/{}", agent.name.architecture);
            let mut arguments = vec!["create", "--name", Self::BUILDER, "--driver", "remote"];
            arguments.extend(["--platform", &platform]);
            if index > 0 {
                arguments.push("--append");
            }
            arguments.push(&endpoint);
            buildx.run(arguments).succeeded();
        }
        Ok(FourNodes { _sockets: sockets })
    }
}

/// Listens at `path` for what wants to speak to the BuildKit in the Docker Engine at `engine`.
fn relay(path: &Path, engine: PathBuf) -> Result<()> {
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
    thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            let engine = engine.clone();
            // A connection that fails is closed, which its client tells.
            thread::spawn(move || -> io::Result<()> { join(client, upgraded(&engine)?) });
        }
    });
    Ok(())
}

/// A connection to the engine that speaks BuildKit's API.
fn upgraded(engine: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(engine)?;
    stream.write_all(
        b"POST /grpc HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    )?;
    // To the end of the head and not a byte further.
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    if head.starts_with(b"HTTP/1.1 101") {
        Ok(stream)
    } else {
        Err(io::Error::other(
            String::from_utf8_lossy(&head).into_owned(),
        ))
    }
}

/// Copies both ways until both are done.
fn join(client: UnixStream, engine: UnixStream) -> io::Result<()> {
    let (mut from_client, mut to_engine) = (client.try_clone()?, engine.try_clone()?);
    let there = thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_engine);
        to_engine.shutdown(Shutdown::Write)
    });
    let (mut from_engine, mut to_client) = (engine, client);
    let _ = io::copy(&mut from_engine, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Write);
    there.join().unwrap_or(Ok(()))
}
