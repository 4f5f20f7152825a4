//! The real `docker-buildx`, with a configuration of its own: no test sees another's builders or credentials, or the machine's.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use croft_local::Farm;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Context,
    plan::Plan,
    process::{self, Finished, Running},
};

/// The builder's name in every home.
pub const BUILDER: &str = "farm";

/// Variables of a developer that would change what buildx does.
const FOREIGN: [&str; 12] = [
    "BUILDX_BUILDER",
    "BUILDX_BAKE_FILE",
    "BUILDX_GIT_INFO",
    "BUILDX_METADATA_PROVENANCE",
    "BUILDX_NO_DEFAULT_ATTESTATIONS",
    "BUILDKIT_COLORS",
    "BUILDKIT_HOST",
    "BUILDKIT_PROGRESS",
    "DOCKER_CONTEXT",
    "DOCKER_DEFAULT_PLATFORM",
    "DOCKER_HOST",
    "SOURCE_DATE_EPOCH",
];

/// A home of buildx; gone when this is dropped.
#[derive(Debug)]
pub struct Buildx {
    home: TempDir,
    farm: Option<FarmAccess>,
}

/// What it takes to ask a farm about builds.
#[derive(Debug, Clone)]
struct FarmAccess {
    croft: PathBuf,
    address: String,
}

impl Buildx {
    /// A home without a builder.
    pub fn empty() -> Buildx {
        let home = tempfile::tempdir().expect("a temporary folder");
        for folder in ["docker", "buildx"] {
            fs::create_dir(home.path().join(folder)).expect("writable");
        }
        Buildx { home, farm: None }
    }

    /// A home whose builder [`BUILDER`] is the farm, as a user makes it.
    pub fn of(farm: &Farm) -> Buildx {
        Buildx::by_way_of(farm.client_address(), farm)
    }

    /// The same through something that listens at another address and passes all on to the farm.
    pub fn by_way_of(address: SocketAddr, farm: &Farm) -> Buildx {
        let mut buildx = Buildx::empty();
        buildx.farm = Some(FarmAccess {
            croft: farm.binaries().croft(),
            address: farm.client_address().to_string(),
        });
        let address = format!("tcp://{address}");
        buildx
            .run(["create", "--name", BUILDER, "--driver", "remote", &address])
            .succeeded();
        buildx
    }

    /// Stores a registry's credentials as `docker login` does.
    pub fn log_in(&self, registry: &str, user: &str, password: &str) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let path = self.home.path().join("docker/config.json");
        let mut config: Value = fs::read(&path).map_or_else(
            |_| json!({"auths": {}}),
            |bytes| serde_json::from_slice(&bytes).expect("what we wrote"),
        );
        let auth = STANDARD.encode(format!("{user}:{password}"));
        config["auths"][registry] = json!({ "auth": auth });
        fs::write(path, config.to_string()).expect("writable");
    }

    /// The folder of it all, for further files.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// `docker-buildx` with these arguments.
    pub fn command(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Command {
        let mut command = croft_local::buildx().expect("buildx").command();
        for name in FOREIGN {
            command.env_remove(name);
        }
        command
            .current_dir(self.home.path())
            .env("DOCKER_CONFIG", self.home.path().join("docker"))
            .env("BUILDX_CONFIG", self.home.path().join("buildx"))
            .env("NO_COLOR", "1")
            .args(arguments);
        command
    }

    /// Runs `docker-buildx` with these arguments.
    pub fn run(&self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Finished {
        process::run(self.command(arguments))
    }

    /// A build of this context with the farm, for which more can be said.
    pub fn build<'a>(&'a self, context: &'a Context) -> Build<'a> {
        self.command_with_metadata("build").tail(context.path())
    }

    /// A build of what these words name as its context: a URL, or `-` for what it reads.
    pub fn build_from<'a>(&'a self, context: &str) -> Build<'a> {
        self.command_with_metadata("build").tail(Path::new(context))
    }

    /// A bake in this context, of its `docker-bake.hcl` or `.json`.
    pub fn bake<'a>(&'a self, context: &Context) -> Build<'a> {
        let mut bake = self.command_with_metadata("bake");
        bake.command.current_dir(context.path());
        bake
    }

    fn command_with_metadata(&self, subcommand: &str) -> Build<'_> {
        let metadata = self.home.path().join(super::nonce());
        let mut command = self.command(["--builder", BUILDER, subcommand, "--progress", "plain"]);
        command.arg("--metadata-file").arg(&metadata);
        Build {
            buildx: self,
            command,
            metadata,
            tail: None,
            input: None,
        }
    }
}

/// A build to be.
#[derive(Debug)]
pub struct Build<'a> {
    buildx: &'a Buildx,
    command: Command,
    metadata: PathBuf,
    tail: Option<PathBuf>,
    input: Option<Stdio>,
}

impl<'a> Build<'a> {
    fn tail(mut self, path: &Path) -> Self {
        self.tail = Some(path.to_owned());
        self
    }

    /// The folder of its buildx, for further files.
    pub fn home(&self) -> &'a Path {
        self.buildx.home()
    }

    /// Further arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// One variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// With this as its standard input.
    pub fn reading(mut self, input: impl Into<Stdio>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// For these platforms.
    pub fn platforms(self, platforms: &[&str]) -> Self {
        let list = platforms.join(",");
        self.args(["--platform", &list])
    }

    /// Pushed under this tag.
    pub fn push(self, tag: &str) -> Self {
        self.args(["--push", "--tag", tag])
    }

    /// Runs it to its end.
    pub fn run(self) -> Built {
        let metadata = self.metadata.clone();
        let farm = self.buildx.farm.clone();
        Built {
            finished: self.start().finish(),
            metadata,
            farm,
        }
    }

    /// Starts it, for tests that act while it runs.
    pub fn start(mut self) -> Running {
        if let Some(tail) = &self.tail {
            self.command.arg(tail);
        }
        process::start_reading(self.command, self.input.unwrap_or_else(Stdio::null))
    }

    /// Starts it for tests that act while it runs and then look at what was built.
    pub fn start_with<T>(self, act: impl FnOnce(&mut Running) -> T) -> (Built, T) {
        let metadata = self.metadata.clone();
        let farm = self.buildx.farm.clone();
        let mut running = self.start();
        let acted = act(&mut running);
        let built = Built {
            finished: running.finish(),
            metadata,
            farm,
        };
        (built, acted)
    }
}

/// What came of a build.
#[derive(Debug)]
pub struct Built {
    /// Exit code and outputs.
    pub finished: Finished,
    metadata: PathBuf,
    farm: Option<FarmAccess>,
}

impl Built {
    /// It must have succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Built {
        assert!(self.finished.status.success(), "{}", self.finished.report());
        self
    }

    /// It must have failed.
    #[track_caller]
    pub fn failed(self) -> Built {
        assert!(
            !self.finished.status.success(),
            "{}",
            self.finished.report()
        );
        self
    }

    /// Its progress, plain.
    pub fn progress(&self) -> &str {
        &self.finished.stderr
    }

    /// The `--metadata-file`.
    #[track_caller]
    pub fn metadata(&self) -> Value {
        let bytes = fs::read(&self.metadata).unwrap_or_else(|error| {
            panic!("no metadata file: {error}\n{}", self.finished.report())
        });
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// `containerimage.digest`.
    #[track_caller]
    pub fn digest(&self) -> String {
        text(&self.metadata(), "containerimage.digest")
    }

    /// What `croft builds show` says of it.
    #[track_caller]
    pub fn plan(&self) -> Plan {
        self.plan_of(&self.metadata())
    }

    /// The same for one target of a bake.
    #[track_caller]
    pub fn plan_of_target(&self, target: &str) -> Plan {
        self.plan_of(&self.metadata()[target])
    }

    #[track_caller]
    fn plan_of(&self, metadata: &Value) -> Plan {
        let reference = text(metadata, "buildx.build.ref");
        let (_, id) = reference.rsplit_once('/').expect("builder/node/id");
        let farm = self.farm.as_ref().expect("a build of a farm");
        Plan::of(&farm.croft, &farm.address, id)
    }
}

#[track_caller]
fn text(metadata: &Value, key: &str) -> String {
    metadata[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {metadata}"))
        .to_owned()
}
