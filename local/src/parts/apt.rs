//! Debian's packages without installing them: apt checks signatures and works out what is missing, in a state folder of its own, and
//! `dpkg -x` unpacks. Works for plain users too.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::run;
use crate::error::{Doing, Error, Result};

/// Signs every Debian release.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A release of Debian.
#[derive(Debug, Clone)]
pub(crate) enum Suite {
    Named(&'static str),
    /// The one that this machine runs, from os-release.
    Installed(String),
}

impl Suite {
    pub fn of_this_machine() -> Result<Suite> {
        let path = Path::new("/etc/os-release");
        let text = fs::read_to_string(path).doing("read", path)?;
        let value = |key: &str| {
            text.lines().find_map(|line| {
                Some(
                    line.strip_prefix(key)?
                        .strip_prefix('=')?
                        .trim_matches('"')
                        .to_owned(),
                )
            })
        };
        match (value("ID").as_deref(), value("VERSION_CODENAME")) {
            (Some("debian"), Some(name)) => Ok(Suite::Installed(name)),
            _ => Err(Error::Missing {
                what: "a Debian release to fetch parts from".to_owned(),
                remedy: "install PostgreSQL, docker-registry, runc, iproute2 and qemu-user-static with your system's package manager".to_owned(),
            }),
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Suite::Named(name) => f.write_str(name),
            Suite::Installed(name) => f.write_str(name),
        }
    }
}

/// An apt of our own, with one release's lists loaded. Its folder goes when this is dropped.
pub(crate) struct Apt {
    suite: String,
    folder: tempfile::TempDir,
}

impl Apt {
    /// Loads the lists of `suite` for this machine's architecture and the `foreign` ones (as Debian calls them).
    pub fn new(suite: &Suite, foreign: &[&str]) -> Result<Apt> {
        for (file, name) in [
            (Path::new(KEYRING), "debian-archive-keyring"),
            (Path::new("/usr/bin/apt-get"), "apt"),
        ] {
            if !file.exists() {
                return Err(Error::Missing {
                    what: file.display().to_string(),
                    remedy: format!(
                        "install Debian's package {name}, or on another system the parts themselves (see docs)"
                    ),
                });
            }
        }
        let folder = tempfile::Builder::new()
            .prefix("croft-apt-")
            .tempdir()
            .doing("make", &std::env::temp_dir())?;
        let apt = Apt {
            suite: suite.to_string(),
            folder,
        };
        let root = apt.folder.path();
        for name in ["lists/partial", "archives/partial", "sources", "downloads"] {
            let path = root.join(name);
            fs::create_dir_all(&path).doing("make", &path)?;
        }
        let architectures = [&[architecture()?], foreign].concat();
        let mirror = std::env::var("CROFT_DEBIAN_MIRROR")
            .unwrap_or_else(|_| "http://deb.debian.org/debian".to_owned());
        let source = format!(
            "deb [signed-by={KEYRING} arch={}] {mirror} {suite} main\n",
            architectures.join(",")
        );
        let path = root.join("sources.list");
        fs::write(&path, source).doing("write", &path)?;
        let mut configuration = format!(
            "Dir::Etc::sourcelist \"{0}/sources.list\";\nDir::Etc::sourceparts \"{0}/sources\";\n\
             Dir::State::lists \"{0}/lists\";\nDir::Cache::archives \"{0}/archives\";\n\
             Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n\
             Debug::NoLocking \"true\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
             APT::Get::List-Cleanup \"false\";\n",
            root.display()
        );
        for name in &architectures {
            configuration.push_str(&format!("APT::Architectures:: \"{name}\";\n"));
        }
        if nix::unistd::geteuid().is_root() {
            configuration.push_str("APT::Sandbox::User \"root\";\n");
        }
        let path = root.join("apt.conf");
        fs::write(&path, configuration).doing("write", &path)?;
        run(apt.get().arg("update"))?;
        Ok(apt)
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        command
            .env("APT_CONFIG", self.folder.path().join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .current_dir(self.folder.path().join("downloads"))
            .stdin(Stdio::null())
            .args(["-q", "-y"]);
        command
    }

    /// Downloads exactly these packages (`name` or `name:architecture`).
    pub fn download(&self, packages: &[&str]) -> Result<()> {
        let named = match packages {
            [first, rest @ ..] if rest.len() > 3 => format!("{first} and {} more", rest.len()),
            few => few.join(", "),
        };
        eprintln!(
            "croft: fetching {named} from Debian {} (once, into the cache)",
            self.suite
        );
        run(self.get().arg("download").args(packages)).map(drop)
    }

    /// Downloads a package and what it needs of packages that this machine does not have.
    pub fn download_with_missing(&self, package: &str) -> Result<()> {
        eprintln!(
            "croft: fetching {package} from Debian {} (once, into the cache)",
            self.suite
        );
        run(self.get().args([
            "install",
            "--download-only",
            "--reinstall",
            "--no-install-recommends",
            package,
        ]))
        .map(drop)
    }

    /// The downloaded package files.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for folder in ["downloads", "archives"] {
            let folder = self.folder.path().join(folder);
            for entry in folder.read_dir().doing("list", &folder)? {
                let path = entry.doing("list", &folder)?.path();
                if path.extension().is_some_and(|extension| extension == "deb") {
                    files.push(path);
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// Unpacks all that was downloaded into one folder.
    pub fn unpack(&self, into: &Path) -> Result<()> {
        for file in self.files()? {
            unpack(&file, into)?;
        }
        Ok(())
    }
}

/// Unpacks one package file.
pub(crate) fn unpack(package: &Path, into: &Path) -> Result<()> {
    run(Command::new("dpkg").arg("-x").arg(package).arg(into)).map(drop)
}

/// This machine's architecture as Debian calls it.
pub(crate) fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        "powerpc64" => Ok("ppc64el"),
        "s390x" => Ok("s390x"),
        other => Err(Error::Missing {
            what: format!("an engine for {other}"),
            remedy: "croft runs on amd64, arm64, ppc64le and s390x".to_owned(),
        }),
    }
}

/// The name of the library folders of an architecture.
pub(crate) fn triplet(architecture: &str) -> &'static str {
    match architecture {
        "arm64" => "aarch64-linux-gnu",
        "ppc64el" => "powerpc64le-linux-gnu",
        "s390x" => "s390x-linux-gnu",
        _ => "x86_64-linux-gnu",
    }
}
