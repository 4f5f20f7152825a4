//! The base image of a farm where nothing can be pulled: Debian's static busybox for the farm's four architectures and for the 32-bit ones
//! that run beside two of them, with a shell and all applets, as an OCI image index. The same packages give the same digests.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    cache::Cache,
    error::{Doing, Error, Result},
    oci::{self, Descriptor, Layout},
    parts::{
        self,
        apt::{self, Apt, Suite},
    },
    registry::Registry,
    tar::Tar,
};

/// Fixed, so that digests do not depend on the machine's release.
const SUITE: Suite = Suite::Named("bookworm");
/// What the image and its files say about when they were made: 2024-01-01.
const CREATED: &str = "2024-01-01T00:00:00Z";
pub(crate) const CREATED_SECONDS: u64 = 1_704_067_200;

/// Where users find it: `FROM busybox` asks docker.io for this.
pub const BASE_REPOSITORY: &str = "library/busybox";

/// An architecture as Debian and as OCI call it.
struct Architecture {
    debian: &'static str,
    oci: &'static str,
    variant: Option<&'static str>,
}

const ARCHITECTURES: [Architecture; 6] = [
    Architecture {
        debian: "amd64",
        oci: "amd64",
        variant: None,
    },
    Architecture {
        debian: "arm64",
        oci: "arm64",
        variant: Some("v8"),
    },
    Architecture {
        debian: "ppc64el",
        oci: "ppc64le",
        variant: None,
    },
    Architecture {
        debian: "s390x",
        oci: "s390x",
        variant: None,
    },
    Architecture {
        debian: "i386",
        oci: "386",
        variant: None,
    },
    Architecture {
        debian: "armhf",
        oci: "arm",
        variant: Some("v7"),
    },
];

/// The base image, as an OCI layout in the cache.
#[derive(Debug, Clone)]
pub struct BaseImage {
    layout: Layout,
}

impl BaseImage {
    /// Takes the image from the cache, or makes it there.
    pub fn find_or_make() -> Result<BaseImage> {
        let entry = format!("{SUITE}-busybox-{}", ARCHITECTURES.len());
        let folder = Cache::open()?.entry(&entry, make)?;
        Ok(BaseImage {
            layout: Layout::open(&folder),
        })
    }

    /// Puts the image into a registry as `library/busybox:latest`.
    pub fn push(&self, registry: &Registry) -> Result<()> {
        oci::push(&self.layout, registry, BASE_REPOSITORY, "latest")
    }
}

fn make(folder: &Path) -> Result<()> {
    let native = apt::architecture()?;
    let foreign: Vec<_> = ARCHITECTURES
        .iter()
        .map(|one| one.debian)
        .filter(|name| *name != native)
        .collect();
    let apt = Apt::new(&SUITE, &foreign)?;
    let packages: Vec<_> = ARCHITECTURES
        .iter()
        .map(|one| format!("busybox-static:{}", one.debian))
        .collect();
    apt.download(&packages.iter().map(String::as_str).collect::<Vec<_>>())?;
    let files = apt.files()?;
    let unpacked = tempfile::tempdir().doing("make", &std::env::temp_dir())?;
    let mut binaries = Vec::new();
    for one in &ARCHITECTURES {
        let ending = format!("_{}.deb", one.debian);
        let file = files
            .iter()
            .find(|file| file.to_string_lossy().ends_with(&ending))
            .ok_or_else(|| Error::Missing {
                what: format!("busybox-static for {}", one.debian),
                remedy: format!("apt downloaded none from Debian {SUITE}; try again"),
            })?;
        let root = unpacked.path().join(one.debian);
        apt::unpack(file, &root)?;
        binaries.push((one, root.join("bin/busybox")));
    }
    let applets = match binaries.iter().find(|(one, _)| one.debian == native) {
        Some((_, binary)) => applets(binary)?,
        None => BTreeSet::new(),
    };
    let layout = Layout::create(folder)?;
    let mut manifests = Vec::new();
    for (one, binary) in &binaries {
        manifests.push(image(&layout, one, binary, &applets)?);
    }
    set_images(&layout, &manifests)
}

/// The applets' paths, as busybox itself would install them.
pub(crate) fn applets(busybox: &Path) -> Result<BTreeSet<PathBuf>> {
    let list = parts::run(Command::new(busybox).arg("--list-full"))?;
    Ok(String::from_utf8_lossy(&list)
        .lines()
        .map(PathBuf::from)
        .filter(|path| path.is_relative())
        .collect())
}

/// Adds the image of one architecture; gives its entry in the index.
fn image(
    layout: &Layout,
    one: &Architecture,
    busybox: &Path,
    applets: &BTreeSet<PathBuf>,
) -> Result<Value> {
    let mut platform = json!({"architecture": one.oci, "os": "linux"});
    if let Some(variant) = one.variant {
        platform["variant"] = json!(variant);
    }
    let tar = files(busybox, applets)?;
    add_image(layout, platform, "busybox-static of Debian", &[tar])
}

/// Adds the image of a platform, made of these uncompressed tars; gives its entry in an index.
pub(crate) fn add_image(
    layout: &Layout,
    platform: Value,
    origin: &str,
    tars: &[Vec<u8>],
) -> Result<Value> {
    let diff_ids: Vec<_> = tars.iter().map(|tar| oci::digest(tar)).collect();
    let layers = tars
        .iter()
        .map(|tar| layout.add(oci::LAYER, &gzip(tar)?))
        .collect::<Result<Vec<_>>>()?;
    let mut config = platform.clone();
    config["created"] = json!(CREATED);
    config["config"] = json!({"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]});
    config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    let history = json!({"created": CREATED, "created_by": origin});
    config["history"] = json!(vec![history; tars.len()]);
    let config = layout.add(oci::CONFIG, config.to_string().as_bytes())?;
    let manifest =
        json!({"schemaVersion": 2, "mediaType": oci::MANIFEST, "config": config, "layers": layers})
            .to_string();
    let Descriptor {
        media_type,
        digest,
        size,
    } = layout.add(oci::MANIFEST, manifest.as_bytes())?;
    Ok(json!({"mediaType": media_type, "digest": digest, "size": size, "platform": platform}))
}

/// Makes these images the layout's, under the tag that all are pushed with.
pub(crate) fn set_images(layout: &Layout, manifests: &[Value]) -> Result<()> {
    let index = json!({"schemaVersion": 2, "mediaType": oci::INDEX, "manifests": manifests});
    let index = layout.add(oci::INDEX, index.to_string().as_bytes())?;
    layout.set_root(&index, "latest")
}

/// The layer's files, as an uncompressed tar.
fn files(busybox: &Path, applets: &BTreeSet<PathBuf>) -> Result<Vec<u8>> {
    let mut tar = Tar::new(CREATED_SECONDS);
    let folders = [
        "bin", "etc", "home", "root", "sbin", "tmp", "usr", "usr/bin", "usr/sbin", "var", "var/tmp",
    ];
    for folder in folders {
        let mode = match folder {
            "tmp" | "var/tmp" => 0o1777,
            "root" => 0o700,
            _ => 0o755,
        };
        tar.folder(folder, mode);
    }
    let mode = busybox
        .metadata()
        .doing("look at", busybox)?
        .permissions()
        .mode();
    tar.file(
        "bin/busybox",
        mode & 0o755,
        &fs::read(busybox).doing("read", busybox)?,
    );
    let known = |path: &&PathBuf| {
        path.parent()
            .is_some_and(|above| folders.iter().any(|folder| Path::new(folder) == above))
            && path.as_path() != Path::new("bin/busybox")
    };
    for applet in applets.iter().filter(known) {
        tar.link(&applet.to_string_lossy(), "/bin/busybox");
    }
    tar.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    );
    tar.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
    Ok(tar.finish())
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().doing("make", &std::env::temp_dir())?;
    let path = folder.path().join("layer.tar");
    fs::write(&path, bytes).doing("write", &path)?;
    parts::run(
        Command::new("gzip")
            .args(["--no-name", "--best", "--stdout"])
            .arg(&path),
    )
}
