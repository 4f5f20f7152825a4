//! What a build costs: wall time, CPU time, and how far the farm's own processes grew.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use croft_local::Farm;
use nix::unistd::{SysconfVar, sysconf};

use crate::{
    control_groups::ControlGroups,
    support::memory::{Memory as Figure, forget_peak},
};

/// How long after a build its CPU time is still counted: engines and agents tidy up when the client has gone.
const AFTERMATH: Duration = Duration::from_millis(500);

/// What something took.
#[derive(Debug, Clone)]
pub struct Usage {
    /// Without the aftermath.
    pub wall: Duration,
    /// How long was counted, the aftermath included.
    pub counted: Duration,
    /// Of the whole machine, whoever used it.
    pub machine: Duration,
    /// Of all that the bench started, clients included, where the kernel tells it.
    pub own: Option<Duration>,
    /// The most memory that the farm's processes held meanwhile.
    pub peak: Memory,
}

/// What the farm's processes hold of the machine's memory, in bytes.
#[derive(Debug, Clone)]
pub struct Memory {
    coordinator: u64,
    agents: Vec<u64>,
}

impl Memory {
    /// How much more the coordinator holds than it did then.
    pub fn coordinator_since(&self, then: &Memory) -> u64 {
        self.coordinator.saturating_sub(then.coordinator)
    }

    /// The same for the agent that grew most.
    pub fn agent_since(&self, then: &Memory) -> u64 {
        let agents = self.agents.iter().zip(&then.agents);
        let grown = agents.map(|(now, then)| now.saturating_sub(*then));
        grown.max().unwrap_or(0)
    }
}

/// Measures one thing at a time.
#[derive(Debug)]
pub struct Meter {
    groups: Option<ControlGroups>,
    coordinator: Option<u32>,
    agents: Vec<u32>,
    ticks: f64,
}

impl Meter {
    /// To be made before anything is started.
    pub fn new() -> Result<Meter> {
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(Meter {
            groups: ControlGroups::enter(),
            coordinator: None,
            agents: Vec::new(),
            ticks: ticks as f64,
        })
    }

    /// From now on this farm's memory and its engines' CPU time are measured.
    pub fn watch(&mut self, farm: &Farm) -> Result<()> {
        self.coordinator = farm.coordinator_process();
        self.agents = farm
            .agents()
            .iter()
            .filter_map(|agent| agent.process())
            .collect();
        if let Some(groups) = &mut self.groups {
            groups.watch(farm);
        }
        Ok(())
    }

    /// Whether the kernel tells the CPU time of what the bench started.
    pub fn tells_own(&self) -> bool {
        self.groups.is_some()
    }

    /// Measures what `act` does.
    pub fn measure<T>(&self, act: impl FnOnce() -> T) -> Result<(T, Usage)> {
        for process in self.coordinator.iter().chain(&self.agents) {
            forget_peak(*process)?;
        }
        let (machine, own) = (self.machine()?, self.own()?);
        let started = Instant::now();
        let outcome = act();
        let wall = started.elapsed();
        std::thread::sleep(AFTERMATH);
        let usage = Usage {
            wall,
            counted: started.elapsed(),
            machine: self.machine()?.saturating_sub(machine),
            own: self
                .own()?
                .zip(own)
                .map(|(now, then)| now.saturating_sub(then)),
            peak: self.farms(Figure::Peak)?,
        };
        Ok((outcome, usage))
    }

    /// What the farm's processes hold now.
    pub fn memory(&self) -> Result<Memory> {
        self.farms(Figure::Now)
    }

    fn farms(&self, figure: Figure) -> Result<Memory> {
        let held = |process: u32| {
            let held = figure.of(process);
            held.with_context(|| format!("cannot look at the process {process}"))
        };
        let agents = self.agents.iter().map(|id| held(*id));
        Ok(Memory {
            coordinator: self.coordinator.map_or(Ok(0), held)?,
            agents: agents.collect::<Result<_>>()?,
        })
    }

    fn own(&self) -> Result<Option<Duration>> {
        let groups = self.groups.as_ref();
        Ok(groups.map(ControlGroups::cpu).transpose()?)
    }

    /// All CPU time that was not idle: the first line of /proc/stat, in ticks: user, nice, system, idle, iowait, irq, softirq.
    fn machine(&self) -> Result<Duration> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let first = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = first
            .split_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
        Ok(Duration::from_secs_f64(busy as f64 / self.ticks))
    }
}
