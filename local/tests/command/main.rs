//! The `croft` command as people and scripts use it: on a terminal of its own and piped, against a real farm.

#[path = "../support/mod.rs"]
mod support;

mod agents;
mod build;
mod build_inputs;
mod build_outputs;
mod build_progress;
mod builds;
mod interrupt;
mod piped;
mod plan;
