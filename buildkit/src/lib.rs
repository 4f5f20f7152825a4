//! BuildKit's API from both sides.
//!
//! Towards an engine: [`engine`] reaches a `buildkitd` or a Docker Engine, [`gateway`] holds a build open on it,
//! [`session::EngineSession`] lends it a client's session. Towards a client: [`session::ClientSession`] is the daemon's
//! end of a session; the servers that a client calls are the generated traits in [`api`]. As a client: [`session::serve`] is
//! what a build may ask for.
//!
//! What a build means to the farm, where it runs and who may do what is none of this crate's business.

pub mod api;
pub mod engine;
pub mod errors;
pub mod gateway;
pub mod platform;
pub mod progress;
pub mod session;
pub mod trace;

/// The largest gRPC message that BuildKit sends or takes, in bytes. Servers and clients of this API set it both ways.
pub const MESSAGE_LIMIT: usize = 16 << 20;

/// The largest set of headers or trailers that we take, in bytes. Typed errors ride in trailers and carry whole
/// Dockerfiles, so HTTP libraries' defaults (16 KiB) lose them; grpc-go takes 16 MiB.
pub const HEADER_LIMIT: u32 = 8 << 20;
