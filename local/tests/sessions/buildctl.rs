//! The real `buildctl`, towards the farm and towards one of its engines alone.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use croft_local::Farm;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Plan, nonce,
    process::{self, Finished},
};

/// A `buildctl` with a home of its own.
#[derive(Debug)]
pub struct Buildctl {
    home: TempDir,
    address: String,
}

impl Buildctl {
    /// One that talks to the farm.
    pub fn of(farm: &Farm) -> Buildctl {
        Buildctl::at(format!("tcp://{}", farm.client_address()))
    }

    /// One that talks to the engine of the farm's first agent, past the farm.
    pub fn alone(farm: &Farm) -> Buildctl {
        let engine = farm.agents()[0].engine();
        match engine.strip_prefix("docker+unix://") {
            Some(socket) => Buildctl::at(format!("tcp://{}", upgraded(Path::new(socket)))),
            None => Buildctl::at(engine.to_owned()),
        }
    }

    /// One that talks to whoever listens there.
    pub fn at(address: String) -> Buildctl {
        let home = tempfile::tempdir().expect("a temporary folder");
        Buildctl { home, address }
    }

    /// `buildctl` with these arguments.
    pub fn command(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Command {
        let mut command = croft_local::buildctl().expect("buildctl").command();
        for name in ["BUILDKIT_COLORS", "BUILDKIT_HOST", "SOURCE_DATE_EPOCH"] {
            command.env_remove(name);
        }
        command
            .current_dir(self.home.path())
            .env("DOCKER_CONFIG", self.home.path())
            .env("NO_COLOR", "1")
            .args(["--addr", &self.address])
            .args(arguments);
        command
    }

    /// Runs `buildctl` with these arguments.
    pub fn run(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Finished {
        process::run(self.command(arguments))
    }

    /// Runs `buildctl build` with these arguments; it reads `input`.
    pub fn build(
        &self,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
        input: impl Into<Stdio>,
    ) -> Built {
        let [metadata, reference] = ["metadata", "ref"].map(|name| {
            let file = format!("{name}-{}", nonce());
            self.home.path().join(file)
        });
        let mut command = self.command(["build", "--progress", "plain"]);
        command
            .arg("--metadata-file")
            .arg(&metadata)
            .arg("--ref-file")
            .arg(&reference)
            .args(arguments);
        let finished = process::start_reading(command, input).finish();
        let written = |path| fs::read_to_string(path).unwrap_or_default();
        Built {
            metadata: written(metadata),
            reference: written(reference),
            finished,
        }
    }
}

/// What came of a build.
#[derive(Debug)]
pub struct Built {
    /// Exit code and outputs.
    pub finished: Finished,
    metadata: String,
    reference: String,
}

impl Built {
    /// It must have succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Built {
        assert!(self.finished.status.success(), "{}", self.finished.report());
        self
    }

    /// The `--metadata-file`.
    #[track_caller]
    pub fn metadata(&self) -> Value {
        serde_json::from_str(&self.metadata).unwrap_or_else(|error| {
            panic!("{error}: {}\n{}", self.metadata, self.finished.report())
        })
    }

    /// What `croft builds show` says of it.
    #[track_caller]
    pub fn plan(&self, farm: &Farm) -> Plan {
        let croft = farm.binaries().croft();
        Plan::of(&croft, &farm.client_address().to_string(), &self.reference)
    }
}

/// A port behind which a Docker Engine speaks gRPC at once, as long as this process lives: it has to be asked for that on each connection.
fn upgraded(socket: &Path) -> std::net::SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let socket = socket.to_owned();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let socket = socket.clone();
            // A client that goes away is no failure of the engine.
            thread::spawn(move || connection.and_then(|client| upgrade(client, &socket)));
        }
    });
    address
}

fn upgrade(client: TcpStream, socket: &Path) -> std::io::Result<()> {
    let mut engine = UnixStream::connect(socket)?;
    engine.write_all(
        b"POST /grpc HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    )?;
    let mut answers = BufReader::new(engine.try_clone()?);
    let mut line = String::new();
    while answers.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (mut from_client, mut to_client) = (client.try_clone()?, client);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = pass(&mut from_client, &mut engine);
            let _ = engine.shutdown(Shutdown::Write);
        });
        let _ = pass(&mut answers, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn pass(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<u64> {
    std::io::copy(from, to)
}
