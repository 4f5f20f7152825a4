//! What is compared: a farm, one engine of it, and four of its engines as the nodes of one builder; and the turns that they take.

use std::{collections::BTreeMap, ffi::OsStr, fmt, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use croft_local::{Durability, Farm, FarmOptions, GoImage};
use serde::Serialize;

use crate::{
    four_nodes::FourNodes,
    measure::{Meter, Usage},
    support::{BUILDER, Buildx, Repository, Running, engine, process},
};

/// One agent for each platform.
const AGENTS: &str = "amd64,arm64,ppc64le,s390x";
/// How long nothing is done, to see what the machine does by itself.
const IDLE: Duration = Duration::from_secs(5);

/// For one build. A slow machine is measured, too.
const PATIENCE: Duration = Duration::from_secs(600);

/// Who builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// buildx, with the farm as its builder.
    Farm,
    /// The same buildx, with the engine of the farm's first agent, which emulates the other platforms.
    Engine,
    /// The same buildx, with four engines as the nodes of one builder, one for each platform.
    FourNodes,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Farm => "farm",
            Side::Engine => "engine",
            Side::FourNodes => "four-nodes",
        })
    }
}

/// All that cases need.
pub struct Bench {
    // Ends first: what is in the meter's control group must be gone before the group can go.
    /// What is measured.
    pub farm: Farm,
    buildx: Buildx,
    meter: Meter,
    rounds: u32,
    idle: Usage,
    _nodes: FourNodes,
}

impl Bench {
    /// Starts the farm, and looks at what it costs while nothing is built.
    pub fn start(rounds: u32) -> Result<Bench> {
        // First: what is started from here on is in its control group.
        let mut meter = Meter::new()?;
        let go = GoImage::find_or_make()?;
        let mut options = FarmOptions::from_env()?;
        options.agents = croft_local::agents(AGENTS)?;
        options.engines.clear();
        // As it runs for real.
        options.durability = Durability::Full;
        let farm = Farm::start(options)?;
        go.push(farm.registry())?;
        meter.watch(&farm)?;
        let buildx = Buildx::of(&farm);
        let nodes = FourNodes::start(&farm, &buildx)?;
        let ((), idle) = meter.measure(|| std::thread::sleep(IDLE))?;
        Ok(Bench {
            buildx,
            meter,
            rounds,
            idle,
            _nodes: nodes,
            farm,
        })
    }

    /// What the farm and the machine cost while nothing is built.
    pub fn idle(&self) -> &Usage {
        &self.idle
    }

    /// What measures.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// `docker-buildx` with these arguments, for a side.
    pub fn command(
        &self,
        side: Side,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    ) -> Result<Command> {
        let builder = match side {
            Side::Farm => BUILDER,
            Side::FourNodes => FourNodes::BUILDER,
            Side::Engine => {
                let agent = self
                    .farm
                    .agents()
                    .first()
                    .context("a farm without agents")?;
                return Ok(engine::alone(&self.buildx, agent.engine(), arguments));
            }
        };
        let mut command = self.buildx.command(["--builder", builder]);
        command.args(arguments);
        Ok(command)
    }

    /// A build. No side attaches provenance: a farm does not, and so no side pays for it.
    pub fn build(
        &self,
        side: Side,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    ) -> Result<Command> {
        let mut command =
            self.command(side, ["build", "--progress=plain", "--provenance=false"])?;
        command.args(arguments);
        Ok(command)
    }

    /// Starts a build.
    pub fn start_build(
        &self,
        side: Side,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    ) -> Result<Running> {
        Ok(process::start(self.build(side, arguments)?).patience(PATIENCE))
    }

    /// A build to its successful end, measured.
    pub fn measured_build(
        &self,
        side: Side,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    ) -> Result<Usage> {
        self.measured(self.build(side, arguments)?)
    }

    /// A program to its successful end, measured.
    pub fn measured(&self, command: Command) -> Result<Usage> {
        let run = || end(process::start(command).patience(PATIENCE));
        let (ended, usage) = self.meter.measure(run)?;
        ended.map(|()| usage)
    }

    /// A repository of the users' registry that no other side pushes to.
    pub fn repository(&self, side: Side, name: &str) -> Repository {
        Repository::of(self.farm.registry(), &format!("bench/{name}-{side}"))
    }

    /// Lets the sides take turns: each once to warm up, which doesn't count, and then each once a round.
    pub fn turns<S: Copy + Ord + fmt::Display, T>(
        &self,
        sides: &[S],
        mut turn: impl FnMut(S) -> Result<T>,
    ) -> Result<BTreeMap<S, Vec<T>>> {
        for side in sides {
            eprintln!("bench:   {side}, to warm up");
            turn(*side)?;
        }
        let mut all: BTreeMap<_, Vec<T>> = BTreeMap::new();
        for round in 1..=self.rounds {
            for side in sides {
                eprintln!("bench:   {side}, round {round} of {}", self.rounds);
                all.entry(*side).or_default().push(turn(*side)?);
            }
        }
        Ok(all)
    }

    /// What something that has no other side takes: once to warm up, which doesn't count, and then once a round.
    pub fn rounds_of<T>(&self, whose: &str, mut turn: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
        eprintln!("bench:   {whose}, to warm up");
        turn()?;
        (1..=self.rounds)
            .map(|round| {
                eprintln!("bench:   {whose}, round {round} of {}", self.rounds);
                turn()
            })
            .collect()
    }

    /// Makes every engine forget all that it has built.
    pub fn prune(&self) -> Result<()> {
        for agent in self.farm.agents() {
            let prune = ["prune", "--all", "--force"];
            process::run(engine::alone(&self.buildx, agent.engine(), prune)).succeeded();
        }
        Ok(())
    }
}

/// Waits for a build's end, which must be a good one.
pub fn end(build: Running) -> Result<()> {
    let finished = build.finish();
    ensure!(finished.status.success(), "{}", finished.report());
    Ok(())
}
