//! The agent: beside one engine, it runs what the coordinator offers, under leases.
//!
//! [`agent`] is what the link calls and what knows everybody; [`link`] talks to the coordinator; [`ledger`] holds the attempts and what is
//! to be said about them; [`keeper`] and [`stage`] work on the engine; [`tunnel`] and [`sessions`] lend the engine the client's sessions.
//!
//! Where a stage runs and whether it is tried again is decided by the coordinator, never here.

pub mod config;
mod convert;
pub mod failure;
pub mod ids;
pub mod ledger;
pub mod platform;
pub mod progress;
pub mod vertices;
pub mod work;
