//! `--load`: an image into the Docker or Podman of this machine, by its own command's `load`.

use std::{
    io::{self, Read as _, Write},
    process::{Child, ChildStdin, Command, Stdio},
};

use croft_buildkit::session::serve::Output;

use super::{
    error::BuildError,
    progress,
    request::{Destination, Exporter},
};

/// What a loader may say, in bytes.
const SAID_LIMIT: u64 = 64 << 10;

/// What takes images here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loader {
    /// A Docker Engine with the containerd image store, which takes whole indexes.
    DockerWithContainerd,
    /// One without.
    Docker,
    /// Podman.
    Podman,
}

/// An image being loaded.
#[derive(Debug)]
pub(super) struct Loading {
    loader: Loader,
    child: Child,
}

impl Loader {
    /// The one of this machine: Docker before Podman.
    ///
    /// # Errors
    /// There is none that works.
    pub(super) fn find() -> Result<Self, BuildError> {
        let docker = answer("docker", &["info", "--format", "{{json .DriverStatus}}"]);
        match docker {
            Some(status) if status.contains("io.containerd.snapshotter") => {
                return Ok(Self::DockerWithContainerd);
            }
            Some(_) => return Ok(Self::Docker),
            None => {}
        }
        match answer("podman", &["info", "--format", "{{.Version.Version}}"]) {
            Some(_) => Ok(Self::Podman),
            None => Err(BuildError::Local(
                "--load needs Docker or Podman on this machine, and neither `docker info` nor `podman info` works: start one, or write the image into a file with --output type=oci,dest=image.tar"
                    .to_owned(),
            )),
        }
    }

    /// Makes an exporter send what this loader takes.
    ///
    /// # Errors
    /// It takes no image of several platforms.
    pub(super) fn fit(self, exporter: &mut Exporter, platforms: usize) -> Result<(), BuildError> {
        match self {
            Self::DockerWithContainerd => exporter.kind = "oci".to_owned(),
            Self::Docker | Self::Podman if platforms > 1 => {
                return Err(BuildError::usage(format!(
                    "--load: this {} takes images of one platform: give one --platform, or push the image",
                    self.name()
                )));
            }
            Self::Docker | Self::Podman => {}
        }
        Ok(())
    }

    /// Begins to load: what is written into the output is loaded.
    ///
    /// # Errors
    /// It can't be started.
    pub(super) fn begin(self) -> Result<(Loading, Output), BuildError> {
        let mut child = Command::new(self.name())
            .arg("load")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(BuildError::file("start", self.name()))?;
        let pipe = child.stdin.take();
        let output = Output::stream(Pipe(pipe));
        let loader = self;
        Ok((Loading { loader, child }, output))
    }

    fn name(self) -> &'static str {
        match self {
            Self::DockerWithContainerd | Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

impl Loading {
    /// Waits until it is loaded; gives what the loader says of it.
    ///
    /// # Errors
    /// It isn't, with what the loader says.
    pub(super) fn finish(mut self) -> Result<String, BuildError> {
        let said = |from: Option<&mut dyn io::Read>| {
            let mut text = Vec::new();
            let read = from.map(|from| from.take(SAID_LIMIT).read_to_end(&mut text));
            match read {
                Some(Err(error)) => error.to_string(),
                _ => String::from_utf8_lossy(&text).trim().to_owned(),
            }
        };
        let out = said(
            self.child
                .stdout
                .as_mut()
                .map(|out| out as &mut dyn io::Read),
        );
        let wrong = said(
            self.child
                .stderr
                .as_mut()
                .map(|out| out as &mut dyn io::Read),
        );
        let name = self.loader.name();
        let status = self
            .child
            .wait()
            .map_err(BuildError::file("wait for", name))?;
        match status.success() {
            true => Ok(out),
            false => Err(BuildError::Local(format!(
                "`{name} load` failed ({status}): {}",
                progress::shown(&wrong.replace('\n', " "))
            ))),
        }
    }
}

/// A loader whose build failed is to load nothing.
impl Drop for Loading {
    fn drop(&mut self) {
        // One that is over can't be ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its end tells the loader that the archive is whole.
struct Pipe(Option<ChildStdin>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some(pipe) => pipe.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// What a command prints, if it succeeds.
fn answer(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether an exporter's output is to be loaded here.
pub(super) fn is_load(exporter: &Exporter) -> bool {
    exporter.destination == Destination::Load
}
