//! An image with Go's tool chain, for the bench: Debian's packages unpacked, and busybox for a shell. Of this machine's own
//! architecture only: it is what a builder on the build platform starts from.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use serde_json::json;

use crate::{
    base::{self, CREATED_SECONDS},
    cache::Cache,
    error::{Doing, Error, Result},
    oci::{self, Layout},
    options::Architecture,
    parts::{
        self,
        apt::{Apt, Suite},
    },
    registry::Registry,
};

/// Its Go is one that compiles its standard library for each program's target, as today's do.
const SUITE: Suite = Suite::Named("trixie");
/// The tool chain, the C library that its programs are linked with, and a shell.
const PACKAGES: [&str; 6] = [
    "golang-go",
    "golang-src",
    "golang-1.24-go",
    "golang-1.24-src",
    "libc6",
    "busybox-static",
];
/// What no build reads.
const NEEDLESS: [&str; 3] = ["usr/share/doc", "usr/share/man", "usr/share/lintian"];

/// Where users find it: `FROM golang` asks docker.io for this.
const GO_REPOSITORY: &str = "library/golang";

/// The image, as an OCI layout in the cache.
#[derive(Debug, Clone)]
pub struct GoImage {
    layout: Layout,
}

impl GoImage {
    /// Takes the image from the cache, or makes it there, which fetches some 50 MB.
    pub fn find_or_make() -> Result<GoImage> {
        let native = Architecture::native().ok_or_else(|| Error::Missing {
            what: "Go for this machine".to_owned(),
            remedy: "run on amd64, arm64, ppc64le or s390x".to_owned(),
        })?;
        let name = format!("{SUITE}-{native}-golang");
        let folder = Cache::open()?.entry(&name, |folder| make(folder, native))?;
        Ok(GoImage {
            layout: Layout::open(&folder),
        })
    }

    /// Puts the image into a registry as `library/golang:latest`.
    pub fn push(&self, registry: &Registry) -> Result<()> {
        oci::push(&self.layout, registry, GO_REPOSITORY, "latest")
    }
}

fn make(folder: &Path, native: Architecture) -> Result<()> {
    let apt = Apt::new(&SUITE, &[])?;
    apt.download(&PACKAGES)?;
    let unpacked = tempfile::tempdir().doing("make", &std::env::temp_dir())?;
    let root = unpacked.path();
    apt.unpack(root)?;
    complete(root)?;
    // Not our own tar: the paths of Go's own tests are longer than a plain header has room for.
    let tar = parts::run(
        Command::new("tar")
            .args(["--create", "--sort=name", "--owner=0", "--group=0"])
            .args(["--numeric-owner", "--format=pax"])
            .args(["--pax-option", "delete=atime,delete=ctime"])
            .arg(format!("--mtime=@{CREATED_SECONDS}"))
            .arg("--directory")
            .arg(root)
            .arg("."),
    )?;
    let layout = Layout::create(folder)?;
    let platform = json!({"architecture": native.to_string(), "os": "linux"});
    let image = base::add_image(&layout, platform, "golang-go of Debian", &[tar])?;
    base::set_images(&layout, &[image])
}

/// Adds to the unpacked packages what installing them would have: the merged folders, and busybox under all its names.
fn complete(root: &Path) -> Result<()> {
    for name in NEEDLESS {
        let path = root.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).doing("remove", &path)?;
        }
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        let (path, target) = (root.join(name), root.join("usr").join(name));
        fs::create_dir_all(&target).doing("make", &target)?;
        symlink(Path::new("usr").join(name), &path).doing("make", &path)?;
    }
    for (name, mode) in [("root", 0o700), ("tmp", 0o1777)] {
        let path = root.join(name);
        fs::create_dir_all(&path).doing("make", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).doing("open", &path)?;
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).doing("open", root)?;
    for applet in base::applets(&root.join("bin/busybox"))? {
        let path = root.join(&applet);
        let wanted = path.parent().is_some_and(Path::is_dir) && path.symlink_metadata().is_err();
        if wanted {
            symlink("/bin/busybox", &path).doing("make", &path)?;
        }
    }
    Ok(())
}
