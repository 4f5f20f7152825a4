//! The same build through the farm and on one engine alone gives the same image: for Dockerfiles that are made up at random, and for the
//! shapes of builds that must work. What is compared is all that a puller gets, but for times of making: see `compare` and `tree`.
//!
//! `CROFT_SEED=<n>` builds the one random Dockerfile of that seed and prints it. `CROFT_DIFFERENTIAL=<n>` says how many there are, and
//! `CROFT_FIRST_SEED=<n>` with which they begin.

#[path = "../support/mod.rs"]
mod support;

mod adds;
mod commands;
mod compare;
mod context;
mod copies;
mod dice;
mod generate;
mod known;
mod listed;
mod material;
mod mounts;
mod outside;
mod pair;
mod random;
mod settings;
mod shapes;
mod tree;
mod workers;
