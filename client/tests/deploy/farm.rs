//! What the deployed programs need around them, for real: PostgreSQL, a stage registry with a password, an engine, certificates;
//! and the programs themselves, which end with the test.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

use croft_local::{Access, Binaries, Ports, Postgres, Registry, RegistryOptions, Workbench};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::files::{self, Launch};

/// Starting takes a second; a machine that also compiles takes its time.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Everything but the programs. Addresses are this test's own.
pub struct Around {
    pub folder: tempfile::TempDir,
    pub database: String,
    pub registry: &'static Registry,
    pub engine: &'static str,
    pub clients: SocketAddr,
    pub agents: SocketAddr,
    pub binaries: Binaries,
}

impl Around {
    pub fn new() -> Self {
        let bench = Workbench::shared().expect("an engine and its registry");
        let around = Self {
            folder: tempfile::tempdir().expect("a folder"),
            database: Postgres::shared()
                .and_then(Postgres::create_database)
                .expect("a database"),
            registry: stage_registry(),
            engine: bench.engine.address(),
            clients: Ports::Free.draw().expect("a port"),
            agents: Ports::Free.draw().expect("a port"),
            binaries: Binaries::find().expect("the programs"),
        };
        around.certificates(&["server", "coordinator", "localhost", "127.0.0.1"]);
        around.certificates(&["server", "registry", "localhost"]);
        around.certificates(&["client", "alice"]);
        around.certificates(&["agent", "agent"]);
        around.certificates(&["roots"]);
        let password = &around.registry.credentials().expect("a password").password;
        fs::write(
            around.tls("stage-registry-password"),
            format!("{password}\n"),
        )
        .expect("written");
        around
    }

    fn certificates(&self, args: &[&str]) {
        let folder = self.folder.path().join("tls");
        let output = Command::new(files::path("certificates.sh"))
            .arg(folder)
            .args(args)
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A file that `certificates.sh` made.
    pub fn tls(&self, name: &str) -> PathBuf {
        self.folder.path().join("tls").join(name)
    }

    pub fn host(address: SocketAddr) -> String {
        format!("localhost:{}", address.port())
    }

    /// A new folder of this test.
    pub fn new_folder(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).expect("a folder");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// `croft` as somebody with the certificate `who`, or with none.
    pub fn croft(&self, who: Option<&str>, address: SocketAddr, args: &[&str]) -> Output {
        let mut command = Command::new(self.binaries.croft());
        command
            .env_clear()
            .args(["--addr", &Self::host(address)])
            .arg("--tls-ca")
            .arg(self.tls("ca.pem"));
        if let Some(who) = who {
            command
                .arg("--tls-cert")
                .arg(self.tls(&format!("{who}.pem")));
            command
                .arg("--tls-key")
                .arg(self.tls(&format!("{who}.key")));
        }
        command.args(args).output().expect("it runs")
    }
}

/// One for all tests: it only has to know its password.
fn stage_registry() -> &'static Registry {
    static SHARED: OnceLock<Registry> = OnceLock::new();
    SHARED.get_or_init(|| {
        let access = Access::Password("croft".to_owned());
        Registry::start(RegistryOptions {
            access,
            ..RegistryOptions::default()
        })
        .expect("a registry")
    })
}

/// A running program of the farm; killed when this is dropped, and when this test's thread ends.
pub struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
    said: mpsc::Receiver<String>,
}

impl Running {
    /// Starts the program with the launch's flags and variables, and nothing else.
    pub fn start(around: &Around, name: &'static str, launch: Launch) -> Self {
        let program = match launch.program.as_str() {
            "/usr/bin/croft-coordinator" => around.binaries.coordinator(),
            "/usr/bin/croft-agent" => around.binaries.agent(),
            other => panic!("no program of the farm: {other}"),
        };
        let log = around.folder.path().join(format!("{name}.log"));
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(&launch.args)
            .env_clear()
            .envs(&launch.env)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| say.send(line))
        });
        Self {
            name,
            child,
            log,
            said,
        }
    }

    /// Waits for the line that says that both ports take connections.
    pub fn wait_announced(&mut self) {
        match self.said.recv_timeout(READY_WITHIN) {
            Ok(line) if line.starts_with("croft-coordinator ready ") => {}
            other => panic!("{} is not ready ({other:?}): {}", self.name, self.log()),
        }
    }

    /// Looks again and again until `there` is, while the program runs.
    pub fn wait_until(&mut self, what: &str, mut there: impl FnMut() -> bool) {
        let started = Instant::now();
        while !there() {
            if let Some(status) = self.child.try_wait().expect("our child") {
                panic!("{} ended ({status}): {}", self.name, self.log());
            }
            assert!(
                started.elapsed() < READY_WITHIN,
                "not in time: {what}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as a service manager does.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("our child");
        let started = Instant::now();
        loop {
            match self.child.try_wait().expect("our child") {
                Some(status) => return status,
                None => assert!(
                    started.elapsed() < READY_WITHIN,
                    "{} does not end: {}",
                    self.name,
                    self.log()
                ),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file's text without white space at its ends.
pub fn secret(path: &Path) -> String {
    fs::read_to_string(path)
        .expect("a secret")
        .trim()
        .to_owned()
}
