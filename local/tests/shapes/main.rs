//! The shapes of builds that must work, and buildx's commands and options, end to end: a real farm, real engines and registries, and
//! the real `docker-buildx`, unmodified.
//!
//! Every Dockerfile has a nonce, so that no old cache helps. Errors, credentials and cancellation are in the tests called `users`.

#[path = "../support/mod.rs"]
mod support;

mod ahead;
mod back_and_forth;
mod bake;
mod by_architecture;
mod by_system;
mod commands;
mod documents;
mod examples;
mod from_scratch;
mod instructions;
mod large_context;
mod missing;
mod narrowing;
mod options;
mod output;
mod outputs;
mod per_platform;
mod progress;
mod requirements;
mod shared_builder;
mod two_agents;
