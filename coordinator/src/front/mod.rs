//! The BuildKit face: what an unmodified buildx or buildctl sees. To them the farm is one BuildKit that is native on every platform.
//!
//! Speaks BuildKit's Control and LLBBridge services and nothing of croft's own. What a build does is decided in `control`; here requests
//! are read, put together (a solve, its status and its gateway calls come as separate calls) and answered.

mod bridge;
mod control;
mod convert;
mod foresee;
mod jobs;
mod maps;

use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::control_server::ControlServer;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridgeServer;
use croft_buildkit::session::ClientSession;
use tonic::service::Routes;

use crate::control::Control;

pub use foresee::foresee;

/// BuildKit's own limit on a message, each way, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// BuildKit's services, to be served on the client port.
pub fn routes(control: Arc<Control>) -> Routes {
    let jobs = Arc::<jobs::Jobs>::default();
    let face = control::Face::new(Arc::clone(&control), Arc::clone(&jobs));
    let bridge = bridge::Bridge::new(control, jobs);
    let sessions = face.clone();
    let mut routes = Routes::builder();
    routes
        .add_service(
            ControlServer::new(face)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            LlbBridgeServer::new(bridge)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        );
    let enter = axum::routing::post(move |call| sessions.enter(call));
    let routes = routes.routes().into_axum_router();
    routes.route(ClientSession::PATH, enter).into()
}
