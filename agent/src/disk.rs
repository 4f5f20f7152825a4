//! How full the engine's disk is.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use croft_buildkit::engine::Address;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;

/// Where buildkitd keeps its data unless told otherwise.
const BUILDKITD_ROOT: &str = "/var/lib/buildkit";
/// How long Docker Engine may take to say where it keeps its own, and how much it may say.
const INFO_TIMEOUT: Duration = Duration::from_secs(5);
const INFO_LIMIT: usize = 4 << 20;

/// Size and free space, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// All of it.
    pub total: u64,
    /// What programs may still use.
    pub free: u64,
}

/// Measures the file system of `path`, or of the nearest folder above it that exists. `None` if there is no answer.
pub fn measure(path: &Path) -> Option<Disk> {
    let there = path.ancestors().find(|path| path.exists())?;
    let about = nix::sys::statvfs::statvfs(there).ok()?;
    let block = about.fragment_size();
    Some(Disk {
        total: about.blocks().saturating_mul(block),
        free: about.blocks_available().saturating_mul(block),
    })
}

/// Where the engine keeps its data, as far as this machine can know; else `fallback`.
pub async fn engine_root(address: &Address, fallback: &Path) -> PathBuf {
    let root = match address {
        Address::Unix(_) => Some(PathBuf::from(BUILDKITD_ROOT)),
        Address::DockerUnix(socket) => docker_root(socket).await,
        Address::Tcp { .. } => None,
    };
    root.filter(|root| root.is_dir())
        .unwrap_or_else(|| fallback.to_owned())
}

async fn docker_root(socket: &Path) -> Option<PathBuf> {
    let asked = async {
        let stream = tokio::net::UnixStream::connect(socket).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .ok()?;
        let connection = tokio::spawn(connection);
        let request = http::Request::get("/info")
            .header(http::header::HOST, "docker")
            .body(Empty::<Bytes>::new())
            .ok()?;
        let response = sender.send_request(request).await.ok()?;
        let body = Limited::new(response.into_body(), INFO_LIMIT)
            .collect()
            .await
            .ok()?
            .to_bytes();
        connection.abort();
        let info: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(PathBuf::from(info.get("DockerRootDir")?.as_str()?))
    };
    tokio::time::timeout(INFO_TIMEOUT, asked)
        .await
        .ok()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_measured_where_it_will_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = measure(folder.path()).expect("a disk");
        let there = measure(&folder.path().join("not/yet")).expect("a disk");
        assert_eq!(here.total, there.total);
        assert!(here.total >= here.free && here.total > 0);
    }
}
