//! The binary against a farm that speaks croft.v1 in this process: what it asks, what it prints, how it ends.

mod addresses;
mod answers;
mod failures;
mod peer;
mod texts;
mod tls;
