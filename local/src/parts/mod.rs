//! The programs that a farm runs: found on the machine, or fetched from Debian into the cache. Nothing of the system changes.

pub(crate) mod apt;
pub(crate) mod binfmt;
mod buildkit;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::Cache,
    error::{Doing, Error, Result},
};
use apt::{Apt, Suite};
pub use buildkit::{buildctl, dockerfile_frontend};

/// Where programs are besides the PATH: a plain user's PATH often lacks the system's own.
const SYSTEM_PATHS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// The release that has an engine with every exporter; it runs on Debian 12 as it is (needs glibc 2.34).
const ENGINE_SUITE: Suite = Suite::Named("forky");

/// A program, and the folders of the libraries that were fetched with it.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    libraries: Vec<PathBuf>,
    /// Where its package was unpacked, if it was fetched.
    root: Option<PathBuf>,
}

impl Program {
    fn found(path: PathBuf) -> Self {
        Self {
            path,
            libraries: Vec::new(),
            root: None,
        }
    }

    /// The program's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The program beside this one, from the same package or of the same set.
    pub(crate) fn sibling(&self, name: &str) -> Program {
        Program {
            path: self.path.with_file_name(name),
            ..self.clone()
        }
    }

    /// Where its package was unpacked, if it was fetched.
    pub(crate) fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// The same program, seen through another way to its package's root.
    pub(crate) fn through(&self, root: &Path) -> Program {
        let moved = |path: &PathBuf| match self.root().and_then(|old| path.strip_prefix(old).ok()) {
            Some(inner) => root.join(inner),
            None => path.clone(),
        };
        Program {
            path: moved(&self.path),
            libraries: self.libraries.iter().map(moved).collect(),
            root: Some(root.to_owned()),
        }
    }

    /// A command that runs it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        library_path(&mut command, &self.libraries);
        command
    }
}

/// Lets `command`, and what it starts, find fetched libraries.
fn library_path(command: &mut Command, libraries: &[PathBuf]) {
    if !libraries.is_empty() {
        command.env(
            "LD_LIBRARY_PATH",
            join_paths(libraries.iter().map(|folder| folder.as_os_str())),
        );
    }
}

fn join_paths<'a>(paths: impl Iterator<Item = &'a OsStr>) -> OsString {
    paths.fold(OsString::new(), |mut all, path| {
        if !all.is_empty() {
            all.push(":");
        }
        all.push(path);
        all
    })
}

/// A program on this machine, by its name.
pub(crate) fn find(name: &str) -> Option<Program> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_PATHS.iter().map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .map(Program::found)
}

/// A program of this machine, or else from `package` of this machine's Debian release, with the libraries that are missing.
fn find_or_fetch(name: &str, package: &str, file: &str) -> Result<Program> {
    match find(name) {
        Some(program) => Ok(program),
        None => Ok(fetch(package)?.program(file)),
    }
}

/// A package that was unpacked in the cache.
struct Fetched {
    root: PathBuf,
    libraries: Vec<PathBuf>,
}

impl Fetched {
    fn program(&self, file: &str) -> Program {
        Program {
            path: self.root.join(file),
            libraries: self.libraries.clone(),
            root: Some(self.root.clone()),
        }
    }
}

fn fetch(package: &str) -> Result<Fetched> {
    let architecture = apt::architecture()?;
    let suite = Suite::of_this_machine()?;
    let root = Cache::open()?.entry(&format!("{suite}-{architecture}-{package}"), |folder| {
        let apt = Apt::new(&suite, &[])?;
        apt.download_with_missing(package)?;
        apt.unpack(folder)
    })?;
    let triplet = Path::new("usr/lib").join(apt::triplet(architecture));
    let libraries = [
        root.join(&triplet),
        root.join("lib").join(apt::triplet(architecture)),
    ];
    let libraries = libraries
        .into_iter()
        .filter(|folder| folder.is_dir())
        .collect();
    Ok(Fetched { root, libraries })
}

/// The programs of one Docker Engine and its containerd, and `docker-buildx`.
#[derive(Debug, Clone)]
pub(crate) struct EngineParts {
    root: PathBuf,
    runc: Program,
    ip: Program,
}

impl EngineParts {
    pub fn find_or_fetch() -> Result<Self> {
        Ok(Self {
            root: engine_root()?,
            runc: find_or_fetch("runc", "runc", "usr/sbin/runc")?,
            ip: find_or_fetch("ip", "iproute2", "bin/ip")?,
        })
    }

    pub fn dockerd(&self) -> PathBuf {
        self.root.join("usr/sbin/dockerd")
    }

    /// Lets `command` find the parts before anything of the same name in the system.
    pub fn environment(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = [self.root.join("usr/bin"), self.root.join("usr/sbin")];
        let folders = own
            .iter()
            .map(PathBuf::as_path)
            .chain(
                [&self.runc, &self.ip]
                    .into_iter()
                    .filter_map(|program| program.path.parent()),
            )
            .chain(SYSTEM_PATHS.iter().map(Path::new))
            .map(Path::as_os_str);
        command.env("PATH", join_paths(folders.chain([path.as_os_str()])));
        let libraries: Vec<_> = self
            .runc
            .libraries
            .iter()
            .chain(&self.ip.libraries)
            .cloned()
            .collect();
        library_path(command, &libraries);
    }
}

fn engine_root() -> Result<PathBuf> {
    let architecture = apt::architecture()?;
    Cache::open()?.entry(&format!("{ENGINE_SUITE}-{architecture}-engine"), |folder| {
        let apt = Apt::new(&ENGINE_SUITE, &[])?;
        apt.download(&["docker.io", "containerd", "docker-buildx"])?;
        apt.unpack(folder)
    })
}

/// `docker-buildx`, which works without a Docker CLI: CROFT_BUILDX, or the one that is fetched with the engine.
pub fn buildx() -> Result<Program> {
    if let Some(path) = std::env::var_os("CROFT_BUILDX") {
        return Ok(Program::found(path.into()));
    }
    Ok(Program::found(
        engine_root()?.join("usr/libexec/docker/cli-plugins/docker-buildx"),
    ))
}

/// `skopeo`, with which tests look into registries.
pub fn skopeo() -> Result<Program> {
    find_or_fetch("skopeo", "skopeo", "usr/bin/skopeo")
}

/// `docker-registry` (CNCF distribution 2.8 or later).
pub(crate) fn registry() -> Result<Program> {
    find_or_fetch(
        "docker-registry",
        "docker-registry",
        "usr/bin/docker-registry",
    )
}

/// PostgreSQL's `postgres`, with `initdb`, `createdb` and `psql` beside it: from the PATH, from Debian's folders, or fetched.
pub(crate) fn postgres() -> Result<Program> {
    let whole = |folder: PathBuf| {
        ["postgres", "initdb", "psql"]
            .iter()
            .all(|name| folder.join(name).is_file())
            .then(|| folder.join("postgres"))
    };
    if let Some(on_path) = find("postgres") {
        // A link on the PATH leads to the folder that has all of it.
        let file = on_path.path.canonicalize().doing("find", &on_path.path)?;
        if let Some(path) = file.parent().and_then(|folder| whole(folder.to_owned())) {
            return Ok(Program::found(path));
        }
    }
    if let Some(path) = versions(Path::new("/usr/lib/postgresql"))
        .into_iter()
        .find_map(whole)
    {
        return Ok(Program::found(path));
    }
    let fetched = fetch("postgresql")?;
    let folder = versions(&fetched.root.join("usr/lib/postgresql")).into_iter().next().ok_or_else(|| Error::Missing {
        what: "PostgreSQL".to_owned(),
        remedy: "Debian's package postgresql has no server for this release; install PostgreSQL 15 or later".to_owned(),
    })?;
    Ok(Program {
        path: folder.join("postgres"),
        libraries: fetched.libraries,
        root: Some(fetched.root),
    })
}

/// All programs of a farm, and those with which tests look into it.
pub(crate) fn fetch_all() -> Result<()> {
    postgres()?;
    registry()?;
    skopeo()?;
    if find("buildkitd").is_none() {
        EngineParts::find_or_fetch()?;
    }
    buildx()?;
    buildctl()?;
    dockerfile_frontend()?;
    if nix::unistd::geteuid().is_root() {
        binfmt::enable()
    } else {
        Ok(())
    }
}

/// `psql`, with which tests look into databases.
pub fn psql() -> Result<Program> {
    Ok(postgres()?.sibling("psql"))
}

/// The `bin` folders of the versions below Debian's folder of PostgreSQLs, newest first.
fn versions(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    let mut versions: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions
        .into_iter()
        .map(|version| folder.join(version.to_string()).join("bin"))
        .collect()
}

/// Runs a helper to its end; its output is shown only if it fails.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let program = Path::new(command.get_program()).to_owned();
    let output = command.output().doing("run", &program)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let arguments = command
        .get_args()
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ");
    let printed = [output.stdout, output.stderr].concat();
    let tail = printed
        .get(printed.len().saturating_sub(4096)..)
        .unwrap_or_default();
    Err(Error::Command {
        command: format!("{} {arguments}", program.display()),
        status: output.status,
        output: String::from_utf8_lossy(tail).into_owned(),
    })
}
