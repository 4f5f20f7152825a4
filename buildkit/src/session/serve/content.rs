//! x
use super::response;
use crate::session::{SessionRequest, SessionResponse};
use std::{collections::HashMap, path::PathBuf};
use tonic::Status;
pub(super) const METHODS: [&str; 2] = [
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/Read",
];
pub(super) async fn answer(
    _layouts: HashMap<String, PathBuf>,
    _request: SessionRequest,
) -> SessionResponse {
    response(Err(Status::unimplemented("")))
}
