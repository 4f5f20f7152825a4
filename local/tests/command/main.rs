//! The `croft` command as people and scripts use it: on a terminal of its own and piped, against a real farm.

#[path = "../support/mod.rs"]
mod support;

mod piped;
mod plan;
