//! A whole farm on one machine, as a library: finds or fetches the parts, starts them on free ports under one folder, and ends exactly
//! what it started. For the demo, `dev/farm` and the tests; a production farm needs nothing of this.
//!
//! Every part is owned: it ends when its value is dropped, and also when the owning process ends, SIGKILL included (see `guard`).
//! So a part in a `static` is fine, and so is a test that panics.

mod background;
mod base;
mod cache;
mod engine;
mod error;
mod farm;
mod golang;
mod guard;
mod home;
mod http;
mod oci;
mod options;
mod parts;
mod ports;
mod postgres;
mod registry;
mod tar;
mod workbench;

pub use background::{Background, Hold, Up, export_lines};
pub use base::{BASE_REPOSITORY, BaseImage};
pub use engine::{Engine, EngineOptions, ImageStore};
pub use error::{Error, Result};
pub use farm::{Farm, FarmAgent, FarmCoordinator};
pub use golang::GoImage;
pub use home::Place;
pub use options::{
    AgentName, Architecture, Binaries, Coordinators, DEFAULT_AGENTS, EngineAddress, FarmOptions,
    Special, agents,
};
pub use parts::{Program, buildctl, buildx, dockerfile_frontend, psql, skopeo};
pub use ports::Ports;
pub use postgres::{Durability, Postgres, PostgresOptions};
pub use registry::{Access, Credentials, Registry, RegistryOptions};
pub use workbench::Workbench;

/// Finds or fetches everything that a farm needs, and starts nothing: what takes long on a new machine is then done.
///
/// # Errors
/// When something is neither on the machine nor to be had from Debian's packages.
pub fn fetch_all() -> Result<()> {
    parts::fetch_all()?;
    BaseImage::find_or_make().map(drop)
}
