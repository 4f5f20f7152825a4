//! What the end-to-end tests share: a real farm, the real `docker-buildx` with a home of its own for each test, and eyes that look
//! past croft: into the registries over plain HTTP, and into each engine's own records.
//!
//! What a test expects is in the tests. Everything here panics with what it saw when a part does not answer, and nothing waits longer
//! than [`process::PATIENCE`] says.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

pub mod agent;
pub mod builds;
pub mod buildx;
pub mod context;
pub mod croft;
pub mod engine;
pub mod frontend;
pub mod git;
pub mod image;
pub mod layout;
pub mod llb;
pub mod memory;
pub mod meter;
pub mod plan;
pub mod process;
pub mod registry;
pub mod ssh;
pub mod terminal;
pub mod web;
pub mod words;

pub use buildx::{BUILDER, Build, Buildx, Built};
pub use context::{Context, nonce};
pub use croft::Croft;
pub use engine::{Record, records};
pub use image::{Image, Published};
pub use meter::Meter;
pub use plan::{Plan, Stage, Transfer};
pub use process::{Finished, Running};
pub use registry::Repository;
pub use terminal::{Seen, Terminal};

use croft_local::{Farm, FarmOptions};

/// The four platforms of the farm.
pub const PLATFORMS: [&str; 4] = ["linux/amd64", "linux/arm64", "linux/ppc64le", "linux/s390x"];

/// The farm of all tests that don't mind each other: two agents for amd64, and one each for arm64, ppc64le and s390x.
pub fn farm() -> &'static Farm {
    Farm::shared().unwrap_or_else(|error| panic!("no farm: {error}"))
}

/// A farm of a test's own: its agents, as in CROFT_AGENTS, and further flags for each of them.
pub fn farm_of(agents: &str, agent_flags: &[&str]) -> Farm {
    let mut options = FarmOptions::from_env().unwrap();
    options.agents = croft_local::agents(agents).unwrap();
    // Running engines, if there are any, are the shared farm's.
    options.engines.clear();
    options.agent_flags = agent_flags.iter().map(|&flag| flag.to_owned()).collect();
    Farm::start(options).unwrap_or_else(|error| panic!("no farm of {agents}: {error}"))
}

/// What `uname -m` prints on a platform.
pub fn machine(platform: &str) -> &'static str {
    match platform {
        "linux/amd64" => "x86_64",
        "linux/arm64" => "aarch64",
        "linux/arm/v7" => "armv7l",
        "linux/ppc64le" => "ppc64le",
        "linux/s390x" => "s390x",
        other => panic!("no machine for {other}"),
    }
}
