//! The coordinator of a croft build farm, as a library so that tests can drive its parts.
//!
//! `front` is what BuildKit's clients see and `api` what croft's own programs see; both hand on to `control`, which decides with
//! `croft_planner` and `croft_scheduler` and commits in `store`. `registry` is how the coordinator itself talks to registries.
//! `serve` wires all that together on the two `ports`, while this coordinator is the active one.

pub mod api;
pub mod config;
pub mod control;
pub mod front;
pub mod ports;
pub mod registry;
pub mod serve;
pub mod store;
pub mod telemetry;
pub mod tls;
