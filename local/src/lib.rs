//! A whole farm on one machine, as a library: finds or fetches the parts, starts them on free ports under one folder, and ends exactly
//! what it started. For the demo, `dev/farm` and the tests; a production farm needs nothing of this.
//!
//! Every part is owned: it ends when its value is dropped, and also when the owning process ends, SIGKILL included (see `guard`).
//! So a part in a `static` is fine, and so is a test that panics.

mod base;
mod cache;
mod engine;
mod error;
mod guard;
mod home;
mod http;
mod oci;
mod parts;
mod ports;
mod postgres;
mod registry;
mod tar;
mod workbench;

pub use base::{BASE_REPOSITORY, BaseImage};
pub use engine::{Engine, EngineOptions};
pub use error::{Error, Result};
pub use home::Place;
pub use parts::{Program, buildx, skopeo};
pub use ports::Ports;
pub use postgres::{Durability, Postgres, PostgresOptions};
pub use registry::{Access, Credentials, Registry, RegistryOptions};
pub use workbench::Workbench;
