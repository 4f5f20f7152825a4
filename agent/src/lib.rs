//! The agent: beside one engine, it runs what the coordinator offers, under leases.
//!
//! [`agent`] is what the link hands over to and what knows everybody; [`link`] talks to the coordinator; `ledger` holds the attempts and what
//! is to be said about them; `keeper` and `stage` work on the engine; `tunnel` and `sessions` lend the engine the clients' sessions; `health`
//! and `space` watch the engine and its disk.
//!
//! Where a stage runs and whether it is tried again is decided by the coordinator, never here.

pub mod agent;
mod clock;
mod condition;
pub mod config;
mod convert;
mod deliver;
mod disk;
mod failure;
mod health;
mod ids;
mod keeper;
mod ledger;
pub mod link;
mod memory;
mod platform;
mod progress;
mod questions;
mod sessions;
pub mod space;
mod stage;
mod stop;
pub mod telemetry;
mod trial;
mod tunnel;
mod vertices;
mod work;

/// What is at the bottom of an error: the layers above only say that a connection failed.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
