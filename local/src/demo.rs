//! The demo: a farm, one build of four platforms by the real buildx, and what became of it. Shows nothing that a user could not see with
//! the same commands, and leaves nothing running.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use croft_local::Farm;

/// All that a farm of the default agents serves natively.
const PLATFORMS: &str = "linux/amd64,linux/arm64,linux/ppc64le,linux/s390x";

/// Builds `sample`, a folder with a Dockerfile, across the farm and prints to `out` what happened. Fails with the first command that does.
pub fn demo(farm: &Farm, sample: &Path, out: &mut impl Write) -> Result<()> {
    let own = tempfile::tempdir().context("cannot make a folder for buildx's settings")?;
    let program = croft_local::buildx()?;
    let address = farm.client_address();
    let image = format!("{}/demo:latest", farm.registry().address());
    let buildx = |arguments: &[&str]| {
        let mut command = program.command();
        command
            .args(arguments)
            .env("BUILDX_CONFIG", own.path().join("buildx"))
            .env("DOCKER_CONFIG", own.path().join("docker"));
        command
    };
    let croft = |arguments: &[&str]| {
        let mut command = Command::new(farm.binaries().croft());
        command
            .args(arguments)
            .env("CROFT_ADDR", address.to_string());
        command
    };

    title(out, "The farm")?;
    show(out, croft(&["agents", "ls"]))?;
    let endpoint = format!("tcp://{address}");
    show(
        out,
        buildx(&["create", "--name", "farm", "--driver", "remote", &endpoint]),
    )?;

    title(out, "One build, four platforms, by an unmodified buildx")?;
    let sample = sample.to_string_lossy();
    show(
        out,
        buildx(&[
            "--builder",
            "farm",
            "build",
            "--progress=plain",
            "--platform",
            PLATFORMS,
            "--push",
            "-t",
            &image,
            &sample,
        ]),
    )?;

    title(
        out,
        "Where each stage ran, why, what was shared, what travelled",
    )?;
    show(out, croft(&["builds", "show", "latest"]))?;

    title(out, "The manifest list, as it stands in the registry")?;
    show(out, buildx(&["imagetools", "inspect", &image]))?;

    title(out, "Your own buildx at such a farm")?;
    say(
        out,
        "docker buildx create --name farm --driver remote tcp://HOST:8372\n\
         docker buildx --builder farm build --platform linux/amd64,linux/arm64 --push -t REGISTRY/IMAGE .\n\
         \n\
         `dev/farm up` starts a farm like this one and leaves it running; docs/start.md goes on from here.\n",
    )
}

/// Runs a command as a user would, its name in front.
fn show(out: &mut impl Write, mut command: Command) -> Result<()> {
    let name = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    let line = format!("{name} {}", arguments.join(" "));
    say(out, &format!("$ {line}\n"))?;
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    say(out, "\n")
}

fn title(out: &mut impl Write, text: &str) -> Result<()> {
    say(out, &format!("=== {text}\n\n"))
}

fn say(out: &mut impl Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
