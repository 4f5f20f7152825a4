//! One BuildKit engine: a Docker Engine with the containerd image store that only builds, in a PID and a mount namespace of its own.
//!
//! The namespaces are what makes its end certain: when their first process dies, so does everything that the engine ever
//! started, and no mount of it is left. Only the bridge and the cgroups are the system's; the guard takes them away.
//! An engine shares the network with the machine, so that it reaches registries on loopback.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;

use crate::{
    error::{Doing, Error, Result},
    guard::{Launch, Part, Stop},
    home::{Home, Place, random_hex},
    http::{self, Peer, Request},
    parts::{self, EngineParts, Program, binfmt},
};

/// Two seconds on an idle machine; five of them at once on a busy one take long.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How an engine is started.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// For messages, and for its folder.
    pub name: String,
    /// Where its folder is.
    pub place: Place,
    /// The registry that answers for docker.io, over plain HTTP.
    pub mirror: Option<SocketAddr>,
    /// Where a Docker Engine keeps images.
    pub images: ImageStore,
    /// What builds may be granted beyond what the engine allows anyway, in BuildKit's words.
    pub entitlements: Vec<String>,
    /// CDI devices, as `vendor.example/kind=name`, that put the variable `DEVICE` into the environment of what is given them.
    pub devices: Vec<String>,
}

/// Where a Docker Engine keeps images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageStore {
    /// In containerd's store, as a farm needs it.
    #[default]
    Containerd,
    /// In its own store of old, which can neither push by digest nor keep several platforms: to see what is said of such an engine.
    Graph,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            name: "engine".to_owned(),
            place: Place::default(),
            mirror: None,
            images: ImageStore::default(),
            entitlements: Vec::new(),
            devices: Vec::new(),
        }
    }
}

/// A running engine; ends when this is dropped or this process ends in whatever way.
#[derive(Debug)]
pub struct Engine {
    part: Part,
    address: String,
    cgroup: String,
}

impl Engine {
    /// Starts an engine and waits until it answers. A `buildkitd` on the PATH is preferred to fetching a Docker Engine. Needs root.
    pub fn start(options: EngineOptions) -> Result<Engine> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Missing {
                what: format!("root, to start the engine {}", options.name),
                remedy: "run as root, or name running engines in CROFT_USE_ENGINES=unix:///…,docker+unix:///…".to_owned(),
            });
        }
        binfmt::enable()?;
        match parts::find("buildkitd") {
            Some(program) => Self::start_buildkitd(&program, options),
            None => Self::start_docker(options),
        }
    }

    /// `unix://…` for buildkitd, `docker+unix://…` for Docker Engine.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        Path::new(self.address.split_once("://").map_or("", |(_, path)| path))
    }

    /// The control group of what it runs, below the root of each hierarchy; there only once it has run something. A `buildkitd` has
    /// its own ways.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.part.log()
    }

    /// A command of `ctr` on the containerd beneath a Docker Engine, to break what the engine relies on. `None` if it is a `buildkitd`.
    pub fn containerd(&self, words: &[&str]) -> Result<Option<Command>> {
        if !self.is_docker() {
            return Ok(None);
        }
        let mut command = Command::new("ctr");
        EngineParts::find_or_fetch()?.environment(&mut command);
        let socket = self.socket().with_file_name("exec");
        command
            .arg("--address")
            .arg(socket.join("containerd/containerd.sock"))
            .args(["--namespace", "moby"])
            .args(words);
        Ok(Some(command))
    }

    /// Kills it as `kill -9` does, and with it all that it runs. What it has on its disk stays, for [`Engine::start_again`].
    pub fn kill(&mut self) -> Result<()> {
        self.part.kill()
    }

    /// Starts it again with what it had, and waits until it answers. It must have ended.
    pub fn start_again(&mut self) -> Result<()> {
        // Process ids of a namespace that is gone would be taken for those of the new one.
        let run = self.socket().with_file_name("");
        for left in [run.join("pid"), run.join("exec")] {
            let removed = match left.is_dir() {
                true => fs::remove_dir_all(&left),
                false => fs::remove_file(&left),
            };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).doing("remove", &left);
                }
                _ => {}
            }
        }
        self.part.start_again()?;
        self.wait_ready()
    }

    /// Starts the engine's end without waiting for it, so that several can end at once.
    pub(crate) fn let_go(&mut self) {
        self.part.let_go();
    }

    /// Its own folder.
    pub fn home(&self) -> &Path {
        self.part.home()
    }

    fn start_docker(options: EngineOptions) -> Result<Engine> {
        let parts = EngineParts::find_or_fetch()?;
        let home = Home::make(&options.place, &options.name)?;
        let sockets = home.sockets()?;
        let socket = sockets.join("docker.sock");
        let names = Names::draw()?;
        let mut settings = json!({
            "features": {"containerd-snapshotter": options.images == ImageStore::Containerd},
            "bridge": names.bridge(),
            "iptables": false, "ip6tables": false, "ip-forward": false, "ip-masq": false,
            "insecure-registries": ["127.0.0.0/8"],
            "cgroup-parent": format!("/{}", names.cgroup()),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cdi-spec-dirs": [devices(&home, &options.devices)?],
            // Nothing here lives long. While an engine counts what it could remove, builds that come for their cache mounts get others.
            "builder": {"gc": {"enabled": false}},
        });
        for entitlement in &options.entitlements {
            settings["builder"]["entitlements"][entitlement.replace('.', "-")] = json!(true);
        }
        if let Some(mirror) = options.mirror {
            settings["registry-mirrors"] = json!([format!("http://{mirror}")]);
        }
        let path = home.path().join("daemon.json");
        fs::write(&path, settings.to_string()).doing("write", &path)?;
        let mut command = in_namespaces();
        command
            .arg(parts.dockerd())
            .arg("--config-file")
            .arg(&path)
            .arg("--data-root")
            .arg(home.path().join("data"))
            .arg("--exec-root")
            .arg(sockets.join("exec"))
            .arg("--pidfile")
            .arg(sockets.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()));
        parts.environment(&mut command);
        let address = format!("docker+unix://{}", socket.display());
        Engine::launch(&options.name, home, &names, command, address)
    }

    fn start_buildkitd(program: &Program, options: EngineOptions) -> Result<Engine> {
        let home = Home::make(&options.place, &options.name)?;
        let sockets = home.sockets()?;
        let socket = sockets.join("buildkitd.sock");
        let names = Names::draw()?;
        let mut settings = format!(
            "insecure-entitlements = {:?}\n[cdi]\n  specDirs = [{:?}]\n",
            options.entitlements,
            devices(&home, &options.devices)?
        );
        if let Some(mirror) = options.mirror {
            settings += &format!(
                "[registry.\"docker.io\"]\n  mirrors = [\"{mirror}\"]\n[registry.\"{mirror}\"]\n  http = true\n"
            );
        }
        let path = home.path().join("buildkitd.toml");
        fs::write(&path, settings).doing("write", &path)?;
        let mut command = in_namespaces();
        command
            .arg(program.path())
            .arg("--config")
            .arg(&path)
            .arg("--root")
            .arg(home.path().join("data"))
            .arg("--addr")
            .arg(format!("unix://{}", socket.display()))
            .args(["--oci-worker", "true", "--containerd-worker", "false"]);
        let address = format!("unix://{}", socket.display());
        Engine::launch(&options.name, home, &names, command, address)
    }

    fn launch(
        name: &str,
        home: Home,
        names: &Names,
        command: Command,
        address: String,
    ) -> Result<Engine> {
        let part = Launch {
            name,
            home,
            stop: STOP,
            hooks: Some(names.hooks()),
            command,
        }
        .start()?;
        let cgroup = names.cgroup();
        let mut engine = Engine {
            part,
            address,
            cgroup,
        };
        engine.wait_ready()?;
        Ok(engine)
    }

    fn is_docker(&self) -> bool {
        self.address.starts_with("docker+")
    }

    fn wait_ready(&mut self) -> Result<()> {
        let socket = self.socket().to_owned();
        let docker = self.is_docker();
        self.part.wait_ready(READY_WITHIN, || {
            if !docker {
                let stream = UnixStream::connect(&socket);
                return http::speaks_http2(stream).map_err(|error| error.to_string());
            }
            let answer = Request::new("GET", "/_ping")
                .send(&Peer::Unix(socket.clone()))
                .map_err(|error| error.to_string())?;
            match answer.status {
                200 => Ok(()),
                _ => Err(answer.summary()),
            }
        })
    }
}

/// Writes a CDI specification for each of the devices; gives the folder that has them.
fn devices(home: &Home, devices: &[String]) -> Result<PathBuf> {
    let folder = home.path().join("cdi");
    fs::create_dir(&folder).doing("make", &folder)?;
    for (number, device) in devices.iter().enumerate() {
        let (kind, name) = device.split_once('=').unwrap_or((device, ""));
        let edits = json!({"env": [format!("DEVICE={device}")]});
        let specification = json!({
            "cdiVersion": "0.6.0",
            "kind": kind,
            // Docker Engine only learned lately to be told that builds may be granted devices.
            "annotations": {"org.mobyproject.buildkit.device.autoallow": "true"},
            "devices": [{"name": name, "containerEdits": edits}],
        });
        let path = folder.join(format!("{number}.json"));
        fs::write(&path, specification.to_string()).doing("write", &path)?;
    }
    Ok(folder)
}

/// An engine's data is thrown away with it, so there is nothing to wait for.
const STOP: Stop = Stop {
    signal: "KILL",
    grace: 10,
};

/// The start of a command that runs under a first process of its own, which reaps what others leave behind.
fn in_namespaces() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", "\"$@\" & wait \"$!\"", "engine"]);
    command
}

/// What an engine has of the system's: all named after the same random number.
struct Names {
    id: String,
    address: Ipv4Addr,
}

impl Names {
    fn draw() -> Result<Names> {
        let id = random_hex(4)?;
        // 198.18.0.0/15 is for tests between networks; one /26 of it for each engine, and so 61
        // commands at once.
        let random = u32::from_str_radix(&id, 16).unwrap_or_default() % (1 << 11);
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + random * 64);
        Ok(Names { id, address })
    }

    /// An interface's name has at most 15 characters.
    fn bridge(&self) -> String {
        format!("croft{}", self.id)
    }

    fn cgroup(&self) -> String {
        format!("croft-{}", self.id)
    }

    fn hooks(&self) -> String {
        let (bridge, cgroup) = (self.bridge(), self.cgroup());
        format!(
            "bridge={bridge}\naddress={}\ncgroup={cgroup}\n{}",
            self.address,
            include_str!("engine.sh")
        )
    }
}
