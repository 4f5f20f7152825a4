//! The machine that the figures come from: figures without it say little.

use std::{fmt, fs, process::Command};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use crate::{
    sides::{Bench, Side},
    support::process,
};

/// What matters of a machine for a build.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// As the kernel names it.
    pub processor: String,
    /// Hardware threads.
    pub processors: usize,
    /// In bytes.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The system's name and version.
    pub system: String,
    /// buildx's version.
    pub buildx: String,
    /// The engine's kind and version, as its agent tells it.
    pub engine: String,
}

impl Machine {
    /// Looks at this one.
    pub fn look(bench: &Bench) -> Result<Machine> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str, joint: char| {
            let found = text.lines().find_map(|line| {
                let (name, value) = line.split_once(joint)?;
                (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
            });
            found.unwrap_or_else(|| "unknown".to_owned())
        };
        let kilobytes = value(&read("/proc/meminfo"), "MemTotal", ':');
        let kilobytes: u64 = kilobytes.trim_end_matches(" kB").parse().unwrap_or(0);
        let buildx = process::run(bench.command(Side::Engine, ["version"])?).succeeded();
        let mut agents = Command::new(bench.farm.binaries().croft());
        agents.args(["agents", "ls", "--format", "json", "--addr"]);
        agents.arg(bench.farm.client_address().to_string());
        let agents = process::run(agents).succeeded().stdout;
        let agents: Value = serde_json::from_str(&agents).context("the list of agents")?;
        Ok(Machine {
            processor: value(&read("/proc/cpuinfo"), "model name", ':'),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            memory: kilobytes * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: value(&read("/etc/os-release"), "PRETTY_NAME", '='),
            buildx: buildx
                .stdout
                .split(' ')
                .nth(1)
                .unwrap_or("unknown")
                .to_owned(),
            engine: agents[0]["engine"].as_str().unwrap_or("unknown").to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} with {} hardware threads and {:.0} GiB, {}, Linux {}, buildx {}, {}",
            self.processor,
            self.processors,
            self.memory as f64 / f64::from(1 << 30),
            self.system,
            self.kernel,
            self.buildx,
            self.engine
        )
    }
}
