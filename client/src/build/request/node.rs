//! This machine's id in shared keys, so that engines bring the copy of the folder that came from here up to date, and not that of a folder
//! of the same name elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Surroundings;

/// The id: made once for each user, and kept. Where nothing can be kept, the host's name.
pub(super) fn id(around: &Surroundings) -> String {
    let Some(file) = file(around) else {
        return host();
    };
    kept(&file).unwrap_or_else(|| make(&file).unwrap_or_else(host))
}

fn file(around: &Surroundings) -> Option<PathBuf> {
    let named = |name| around.variable(name).filter(|path| !path.is_empty());
    let state = match named("XDG_STATE_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(named("HOME")?).join(".local/state"),
    };
    Some(state.join("croft/node"))
}

fn kept(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let id = text.trim();
    let fits = (8..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| id.to_owned())
}

/// Another process that makes one at the same time wins or loses; whoever loses takes the winner's.
fn make(file: &Path) -> Option<String> {
    let id = uuid::Uuid::new_v4().simple().to_string()[..16].to_owned();
    let folder = file.parent()?;
    fs::create_dir_all(folder).ok()?;
    let new = tempfile::NamedTempFile::new_in(folder).ok()?;
    fs::write(new.path(), &id).ok()?;
    match new.persist_noclobber(file) {
        Ok(_) => Some(id),
        Err(_) => kept(file),
    }
}

fn host() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "host".to_owned())
}
