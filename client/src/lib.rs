//! The `croft` command as a library: what it asks a farm over croft.v1, and how it shows the answers.
//!
//! `config` reads flags, `connect` reaches the farm, `convert` turns its messages into the types of `model`, `render` turns those
//! into text, and `run` joins them. Rendering is pure: data in, text out. Nothing here can do what another client of croft.v1 couldn't.

pub mod address;
pub mod config;
pub mod connect;
mod convert;
pub mod error;
pub mod model;
pub mod render;
pub mod run;
