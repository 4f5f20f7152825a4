//! The `croft` command as a library: what it asks a farm, and how it shows the answers.
//!
//! `cli` is the frame of the command line; each command is a module with its flags and its `run`: those about builds in `builds`, those
//! about agents in `agents`. They are given a `Call`: the farm that is meant, and standard output. `connect` reaches the farm, `convert`
//! turns croft.v1's messages into the types of `model`, and `render` turns those into text. Rendering is pure: data in, text out. Nothing
//! here can do what another client couldn't.

pub mod address;
pub mod agents;
pub mod build;
pub mod builds;
pub mod call;
pub mod cli;
pub mod config;
pub mod connect;
pub mod contexts;
mod convert;
pub mod error;
pub mod manual;
pub mod model;
pub mod plan;
pub mod render;
pub mod timeline;
