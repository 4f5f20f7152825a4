//! OCI layouts with images for all platforms, for builds that are given one as a named context.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::{Buildx, PLATFORMS, engine::alone, process};

/// The layout of what this context builds. One engine makes it by itself, so that there should be no command of a foreign platform in it.
pub fn of(buildx: &Buildx, engine: &str, context: &Path) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tar = folder.path().join("layout.tar");
    let layout = tempfile::tempdir().expect("a temporary folder");
    let output = format!("--output=type=oci,dest={}", tar.display());
    let platforms = format!("--platform={}", PLATFORMS.join(","));
    let arguments = ["build", "--provenance=false", &platforms, &output];
    let mut build = alone(buildx, engine, arguments);
    build.arg(context);
    process::run(build).succeeded();
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(&tar).arg("-C").arg(layout.path());
    process::run(unpack).succeeded();
    assert!(fs::exists(layout.path().join("oci-layout")).expect("readable"));
    layout
}
