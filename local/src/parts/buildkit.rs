//! BuildKit's own command line client, and its Dockerfile frontend as a program of its own. Debian packages none of them, but it does
//! package their source and all that they need, with a Go tool chain: so they are built from these, once, and only the programs are kept.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Program,
    apt::{self, Apt, Suite},
    find, run,
};
use crate::{
    cache::Cache,
    error::{Doing, Result},
};

/// A stable release, so that the list below stays right.
const SUITE: Suite = Suite::Named("trixie");
/// Its Go tool chain.
const TOOL_CHAIN: [&str; 2] = ["golang-1.24-go", "golang-1.24-src"];
/// Where it lives below `usr/lib`.
const GO: &str = "go-1.24";

/// The programs.
const PROGRAMS: [&str; 2] = [
    "github.com/moby/buildkit/cmd/buildctl",
    "github.com/moby/buildkit/frontend/dockerfile/cmd/dockerfile-frontend",
];
/// What makes the frontend the one that users know as `docker/dockerfile:labs`.
const LABS: &str = "dfrunsecurity dfparents dfexcludepatterns";

/// The packages that they are made of: what `go list -deps` names, and no more. Each package's own dependencies would be 470.
const SOURCES: [&str; 71] = [
    "golang-github-agext-levenshtein-dev",
    "golang-github-beorn7-perks-dev",
    "golang-github-cenkalti-backoff-dev",
    "golang-github-cespare-xxhash-dev",
    "golang-github-containerd-console-dev",
    "golang-github-containerd-containerd-dev",
    "golang-github-containerd-continuity-dev",
    "golang-github-containerd-errdefs-dev",
    "golang-github-containerd-log-dev",
    "golang-github-containerd-platforms-dev",
    "golang-github-containerd-stargz-snapshotter-dev",
    "golang-github-containerd-ttrpc-dev",
    "golang-github-containerd-typeurl-dev",
    "golang-github-coreos-bbolt-dev",
    "golang-github-cpuguy83-go-md2man-v2-dev",
    "golang-github-distribution-reference-dev",
    "golang-github-docker-docker-credential-helpers-dev",
    "golang-github-docker-docker-dev",
    "golang-github-docker-go-connections-dev",
    "golang-github-docker-go-units-dev",
    "golang-github-felixge-httpsnoop-dev",
    "golang-github-go-logr-logr-dev",
    "golang-github-go-logr-stdr-dev",
    "golang-github-gofrs-flock-dev",
    "golang-github-gogo-googleapis-dev",
    "golang-github-gogo-protobuf-dev",
    "golang-github-golang-protobuf-1-5-dev",
    "golang-github-google-go-cmp-dev",
    "golang-github-google-shlex-dev",
    "golang-github-google-uuid-dev",
    "golang-github-grpc-ecosystem-grpc-gateway-dev",
    "golang-github-hashicorp-errwrap-dev",
    "golang-github-hashicorp-go-cleanhttp-dev",
    "golang-github-hashicorp-go-multierror-dev",
    "golang-github-in-toto-in-toto-golang-dev",
    "golang-github-klauspost-compress-dev",
    "golang-github-moby-docker-image-spec-dev",
    "golang-github-moby-locker-dev",
    "golang-github-moby-patternmatcher-dev",
    "golang-github-moby-sys-dev",
    "golang-github-morikuni-aec-dev",
    "golang-github-munnerz-goautoneg-dev",
    "golang-github-opencontainers-go-digest-dev",
    "golang-github-opencontainers-image-spec-dev",
    "golang-github-pkg-errors-dev",
    "golang-github-pkg-profile-dev",
    "golang-github-prometheus-client-golang-dev",
    "golang-github-prometheus-client-model-dev",
    "golang-github-prometheus-common-dev",
    "golang-github-prometheus-procfs-dev",
    "golang-github-russross-blackfriday-v2-dev",
    "golang-github-secure-systems-lab-go-securesystemslib-dev",
    "golang-github-shibumi-go-pathspec-dev",
    "golang-github-sirupsen-logrus-dev",
    "golang-github-tonistiigi-fsutil-dev",
    "golang-github-tonistiigi-units-dev",
    "golang-github-tonistiigi-vt100-dev",
    "golang-github-urfave-cli-dev",
    "golang-github-vbatts-tar-split-dev",
    "golang-golang-x-crypto-dev",
    "golang-golang-x-net-dev",
    "golang-golang-x-sync-dev",
    "golang-golang-x-sys-dev",
    "golang-golang-x-text-dev",
    "golang-golang-x-time-dev",
    "golang-google-genproto-dev",
    "golang-google-grpc-dev",
    "golang-google-protobuf-dev",
    "golang-opentelemetry-contrib-dev",
    "golang-opentelemetry-otel-dev",
    "golang-opentelemetry-proto-dev",
];

/// `buildctl`: CROFT_BUILDCTL, the one of this machine, or one that is built from Debian's packages, which takes a minute or two.
pub fn buildctl() -> Result<Program> {
    if let Some(path) = std::env::var_os("CROFT_BUILDCTL") {
        return Ok(Program::found(path.into()));
    }
    if let Some(program) = find("buildctl") {
        return Ok(program);
    }
    Ok(Program::found(folder()?.join("buildctl")))
}

/// The Dockerfile frontend of a `# syntax=` line's image, with all that only the labs have. It is linked statically.
pub fn dockerfile_frontend() -> Result<PathBuf> {
    Ok(folder()?.join("dockerfile-frontend"))
}

/// Where the programs are.
fn folder() -> Result<PathBuf> {
    let architecture = apt::architecture()?;
    Cache::open()?.entry(&format!("{SUITE}-{architecture}-buildkit"), build)
}

fn build(into: &Path) -> Result<()> {
    let temporary = std::env::temp_dir();
    let scratch = tempfile::tempdir_in(&temporary).doing("make", &temporary)?;
    let root = scratch.path().join("root");
    let apt = Apt::new(&SUITE, &[])?;
    apt.download(&[&TOOL_CHAIN[..], &SOURCES[..]].concat())?;
    apt.unpack(&root)?;
    eprintln!("croft: building buildctl and a Dockerfile frontend (once, into the cache)");
    let go_root = root.join("usr/lib").join(GO);
    let mut go = Command::new(go_root.join("bin/go"));
    // Nothing but what was unpacked: no modules, no other tool chain, no settings of this machine's user.
    go.env("GO111MODULE", "off")
        .env("GOENV", "off")
        .env("GOFLAGS", "")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .env("GOROOT", &go_root)
        .env("GOPATH", root.join("usr/share/gocode"))
        .env("GOCACHE", scratch.path().join("cache"))
        .current_dir(scratch.path())
        .args(["build", "-trimpath", "-tags", LABS, "-o"])
        .arg(into)
        .args(PROGRAMS);
    run(&mut go).map(drop)
}
