//! The folder of a part: where it is, who may enter it, and who removes it.
//!
//! A part's folder is `<place>/<part>`. Until its guard runs, it is removed by the [`Home`] itself; from then on by the guard.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use crate::error::{Doing, Result};

/// Longest path of a folder in which Docker Engine's deepest socket still fits into the 108 bytes of a socket's address.
const LONGEST_FOR_SOCKETS: usize = 60;

/// Where parts keep their folders.
#[derive(Debug, Clone, Default)]
pub enum Place {
    /// A new folder of its own under the system's temporary files, for each part; removed with the part.
    #[default]
    Temporary,
    /// Below this folder, which is shared by the parts of one farm; what is in it is removed with the parts.
    Within(PathBuf),
}

/// The folder of one part.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    /// False once a guard has taken over the folder's end.
    ours: bool,
}

impl Home {
    /// Makes an empty folder for `part`; what an earlier farm left there is removed.
    pub fn make(place: &Place, part: &str) -> Result<Home> {
        let above = match place {
            Place::Temporary => temporary()?,
            Place::Within(folder) => folder.clone(),
        };
        let path = above.join(part);
        if path.exists() {
            fs::remove_dir_all(&path).doing("remove", &path)?;
        }
        fs::create_dir_all(&path).doing("make", &path)?;
        Ok(Home { path, ours: true })
    }

    /// As [`Home::make`], for a part that runs as another user: falls back to a temporary folder where that user could not get in.
    pub fn make_enterable(place: &Place, part: &str) -> Result<Home> {
        match place {
            Place::Within(folder) if !enterable(folder)? => Home::make(&Place::Temporary, part),
            place => Home::make(place, part),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder for sockets: below the part's own if the path is short enough, else a temporary one that `run` there links to.
    pub fn sockets(&self) -> Result<PathBuf> {
        let run = self.path.join("run");
        if self.path.as_os_str().len() <= LONGEST_FOR_SOCKETS {
            fs::create_dir(&run).doing("make", &run)?;
            return Ok(run);
        }
        let elsewhere = temporary()?;
        symlink(&elsewhere, &run).doing("link", &run)?;
        Ok(elsewhere)
    }

    /// From now on the guard removes the folder.
    pub fn hand_over(mut self) {
        self.ours = false;
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        if let Ok(elsewhere) = fs::read_link(self.path.join("run")) {
            let _ = fs::remove_dir_all(elsewhere);
        }
        let _ = fs::remove_dir_all(&self.path);
        if let Some(above) = self.path.parent() {
            let _ = fs::remove_dir(above);
        }
    }
}

/// A new folder with a short path that every user may enter and only we may list.
///
/// `/var/tmp` rather than `/tmp`: engines keep gigabytes, and `/tmp` is often kept in memory.
pub(crate) fn temporary() -> Result<PathBuf> {
    let above = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let path = above.join(format!("croft-{}", random_hex(4)?));
    fs::DirBuilder::new()
        .mode(0o711)
        .create(&path)
        .doing("make", &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).doing("open up", &path)?;
    Ok(path)
}

/// `bytes` random bytes as hexadecimal digits, good enough for passwords.
pub(crate) fn random_hex(bytes: usize) -> Result<String> {
    let source = Path::new("/dev/urandom");
    let mut random = vec![0; bytes];
    fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut random))
        .doing("read", source)?;
    Ok(hex::encode(random))
}

/// Writes what only we may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .doing("write", path)
}

/// Whether every user may pass through `folder` and all folders above it.
pub(crate) fn enterable(folder: &Path) -> Result<bool> {
    fs::create_dir_all(folder).doing("make", folder)?;
    let folder = folder.canonicalize().doing("find", folder)?;
    for step in folder.ancestors() {
        let about = step.metadata().doing("look at", step)?;
        if about.permissions().mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
