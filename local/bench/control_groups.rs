//! The CPU time of everything that the bench started, however far down: the kernel counts it for each control group, also for
//! processes that have ended. Other loads of the machine are not in it, nor is what the kernel does in its own threads.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use croft_local::Farm;

/// How the groups of benches are named.
const PREFIX: &str = "croft-bench-";

/// Where the kernel counts CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// `cpuacct.usage`, in nanoseconds.
    One,
    /// `usage_usec` in `cpu.stat`.
    Two,
}

/// The bench's own group, which all its children are in, and those that engines make for what they run.
#[derive(Debug)]
pub struct ControlGroups {
    version: Version,
    root: PathBuf,
    own: PathBuf,
    engines: Vec<PathBuf>,
}

impl ControlGroups {
    /// Moves this process into a group of its own. None where that can't be done.
    pub fn enter() -> Option<ControlGroups> {
        let (version, root) = [
            (Version::Two, "/sys/fs/cgroup"),
            (Version::One, "/sys/fs/cgroup/cpuacct"),
        ]
        .into_iter()
        .find(|(version, root)| version.file(Path::new(root)).exists())?;
        let root = PathBuf::from(root);
        // Those of benches that were killed; one that is in use can't be removed.
        for entry in root.read_dir().ok()?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                let _ = fs::remove_dir(entry.path());
            }
        }
        let own = root.join(format!("{PREFIX}{}", process::id()));
        fs::create_dir(&own).ok()?;
        let groups = ControlGroups {
            version,
            root,
            own,
            engines: Vec::new(),
        };
        enter(&groups.own).ok()?;
        Some(groups)
    }

    /// Counts what the farm's engines run, too.
    pub fn watch(&mut self, farm: &Farm) {
        let names = farm.agents().iter().filter_map(|agent| agent.cgroup());
        self.engines = names.map(|name| self.root.join(name)).collect();
    }

    /// All of it so far. An engine that has run nothing yet has no group.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut cpu = self.version.read(&self.own)?;
        for engine in self.engines.iter().filter(|path| path.exists()) {
            cpu += self.version.read(engine)?;
        }
        Ok(cpu)
    }
}

impl Drop for ControlGroups {
    fn drop(&mut self) {
        // The last one out: what was started here has ended. If not, the empty folder is all that stays.
        let _ = enter(&self.root);
        let _ = fs::remove_dir(&self.own);
    }
}

impl Version {
    fn file(self, group: &Path) -> PathBuf {
        group.join(match self {
            Version::One => "cpuacct.usage",
            Version::Two => "cpu.stat",
        })
    }

    fn read(self, group: &Path) -> io::Result<Duration> {
        let text = fs::read_to_string(self.file(group))?;
        let time = match self {
            Version::One => text.trim().parse().ok().map(Duration::from_nanos),
            Version::Two => text
                .lines()
                .find_map(|line| line.strip_prefix("usage_usec "))
                .and_then(|value| value.parse().ok())
                .map(Duration::from_micros),
        };
        time.ok_or_else(|| io::Error::other(format!("no CPU time in {text:?}")))
    }
}

fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), process::id().to_string())
}
