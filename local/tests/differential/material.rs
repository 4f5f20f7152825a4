//! What a build is made from: files with exact modes, times and links, written to a folder and told in words.

use std::{
    fmt, fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::{Duration, SystemTime},
};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

/// One file, folder or link.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Relative, without a slash in front.
    pub path: String,
    pub what: What,
    pub mode: u32,
    /// Seconds after 1970; of a folder only in a tarball.
    pub modified: u64,
}

/// What an entry is.
#[derive(Debug, Clone)]
pub enum What {
    File(Vec<u8>),
    Folder,
    /// A symbolic link.
    Link(String),
    /// Another name of an entry above it.
    Name(String),
}

/// Writes the entries, each after the folders that it is in.
pub fn write(folder: &Path, entries: &[Entry]) {
    for entry in entries {
        let path = folder.join(&entry.path);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("writable");
        match &entry.what {
            What::File(content) => fs::write(&path, content).expect("writable"),
            What::Folder => fs::create_dir_all(&path).expect("writable"),
            What::Link(target) => symlink(target, &path).expect("writable"),
            What::Name(other) => fs::hard_link(folder.join(other), &path).expect("writable"),
        }
    }
    for entry in entries {
        let path = folder.join(&entry.path);
        match entry.what {
            What::Link(_) => continue,
            // An engine that receives a folder gives it this time and then writes into it, or the other way round, as it happens:
            // a time that says nothing is all that can be compared.
            What::Folder => {}
            What::File(_) | What::Name(_) => {
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(entry.modified);
                let file = fs::File::open(&path).expect("readable");
                file.set_modified(time).expect("writable");
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).expect("writable");
    }
}

/// A gzipped tar of entries, which are given to `owner`; files may have a capability.
pub fn tarball(entries: &[Entry], owner: u64) -> Vec<u8> {
    /// `cap_net_raw=ep`, version 2.
    const CAPABILITY: [u8; 20] = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for entry in entries {
        let mut header = Header::new_ustar();
        header.set_mode(entry.mode);
        header.set_mtime(entry.modified);
        header.set_uid(owner);
        header.set_gid(owner + 1);
        header.set_size(0);
        let written = match &entry.what {
            What::File(content) => {
                if entry.path.ends_with("capable") {
                    let extension = ("SCHILY.xattr.security.capability", CAPABILITY.as_slice());
                    builder
                        .append_pax_extensions([extension])
                        .expect("in memory");
                }
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, &entry.path, content.as_slice())
            }
            What::Folder => {
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, format!("{}/", entry.path), [].as_slice())
            }
            What::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                builder.append_link(&mut header, &entry.path, target)
            }
            What::Name(other) => {
                header.set_entry_type(EntryType::Link);
                builder.append_link(&mut header, &entry.path, other)
            }
        };
        written.expect("in memory");
    }
    let encoder = builder.into_inner().expect("in memory");
    encoder.finish().expect("in memory")
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:o} {} ", self.path, self.mode, self.modified)?;
        match &self.what {
            What::File(content) => match std::str::from_utf8(content) {
                Ok(text) => write!(f, "{text:?}"),
                Err(_) => write!(f, "{} bytes", content.len()),
            },
            What::Folder => write!(f, "folder"),
            What::Link(target) => write!(f, "-> {target}"),
            What::Name(other) => write!(f, "= {other}"),
        }
    }
}
