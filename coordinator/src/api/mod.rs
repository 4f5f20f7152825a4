//! croft.v1: what agents and croft's own clients speak.
//!
//! Requests are read and answered here, wire types stop here; what they mean is decided in `control`.

mod convert;
mod farm;
mod fleet;
mod log;
mod plan;
mod protocol;
mod tunnel;

use std::sync::Arc;

use croft_proto::v1::farm_server::FarmServer;
use croft_proto::v1::fleet_server::FleetServer;
use tonic::service::Routes;

use crate::control::Control;

/// What clients ask, to be served on the client port.
pub fn farm_routes(control: &Arc<Control>) -> FarmServer<farm::Farm> {
    FarmServer::new(farm::Farm::new(Arc::clone(control)))
}

/// The link and the tunnel, to be served on the agent port.
pub fn agent_router(control: Arc<Control>) -> axum::Router {
    let link = FleetServer::new(fleet::Link::new(Arc::clone(&control)))
        .max_decoding_message_size(croft_proto::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(croft_proto::MAX_MESSAGE_BYTES);
    Routes::new(link)
        .into_axum_router()
        .reset_fallback()
        .fallback(move |request: axum::extract::Request| {
            let control = Arc::clone(&control);
            async move { tunnel::call(control, request).await }
        })
}
