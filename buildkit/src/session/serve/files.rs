//! x
use super::{Sent, response};
use crate::session::{SessionRequest, SessionResponse};
use std::{collections::HashMap, path::PathBuf, sync::Arc};
use tonic::Status;
pub(super) const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";
pub(super) fn answer(
    _folders: &HashMap<String, PathBuf>,
    _sent: &Arc<Sent>,
    _request: SessionRequest,
) -> impl Future<Output = SessionResponse> + use<> {
    async { response(Err(Status::unimplemented(""))) }
}
