//! What of a folder is sent: its files in the order in which BuildKit takes them, filtered as BuildKit filters them.
//!
//! Everything here blocks. A folder is read while it is walked; nothing but the names of the folders on the way is held.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{
    follow,
    patterns::{BadPatterns, Matched, Pattern, Patterns},
};
use crate::api::fsutil::Stat;

/// Go's bits of a file's mode, which BuildKit sends; the lowest nine are Unix's.
pub(super) mod mode {
    pub(in super::super) const DIR: u32 = 1 << 31;
    pub(in super::super) const SYMLINK: u32 = 1 << 27;
    pub(in super::super) const DEVICE: u32 = 1 << 26;
    pub(in super::super) const PIPE: u32 = 1 << 25;
    pub(in super::super) const SOCKET: u32 = 1 << 24;
    pub(in super::super) const SETUID: u32 = 1 << 23;
    pub(in super::super) const SETGID: u32 = 1 << 22;
    pub(in super::super) const CHAR: u32 = 1 << 21;
    pub(in super::super) const STICKY: u32 = 1 << 20;
    pub(in super::super) const IRREGULAR: u32 = 1 << 19;
    pub(in super::super) const PERMISSIONS: u32 = 0o777;

    /// Whether it is a file with content.
    pub(in super::super) fn is_file(mode: u32) -> bool {
        mode & (DIR | SYMLINK | DEVICE | PIPE | SOCKET | CHAR | IRREGULAR) == 0
    }
}

/// Extended attributes that mean something to macOS alone.
const APPLE: &str = "com.apple.";

/// What a build wants of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Only what these mean, if there are any.
    pub include: Vec<String>,
    /// Nothing of what these mean.
    pub exclude: Vec<String>,
    /// Paths to include with all that links on the way to them lead to.
    pub follow: Vec<String>,
}

/// Why a folder can't be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalkError {
    #[error(transparent)]
    Patterns(#[from] BadPatterns),
    #[error("{} can't be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the name of {} is not UTF-8, and BuildKit takes no other names", .0.display())]
    Name(PathBuf),
    /// Nobody wants the rest.
    #[error("the transfer was broken off")]
    Stopped,
}

impl WalkError {
    pub(super) fn read(path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Read {
            path: path.into(),
            source: source.into(),
        }
    }
}

/// A list of patterns, and whether a folder that it doesn't mean can be passed over by looking at the patterns' texts.
struct Filter {
    patterns: Patterns,
    plain: bool,
}

/// A folder on the way to what is walked now.
struct Level {
    /// What is in it and was not yet walked, in order.
    entries: std::vec::IntoIter<(OsString, fs::FileType)>,
    real: PathBuf,
    /// As BuildKit knows it; empty for the root.
    path: String,
    included: Matched,
    excluded: Matched,
    /// Whether it was given out: one that is itself filtered out is, once something in it is.
    given: bool,
}

/// Walks a folder and gives out what is wanted of it, until it is `stopped`. The folder itself isn't given out.
pub(super) fn walk(
    root: &Path,
    wanted: &Wanted,
    stopped: &dyn Fn() -> bool,
    give: &mut dyn FnMut(Stat) -> Result<(), WalkError>,
) -> Result<(), WalkError> {
    let mut includes = wanted.include.clone();
    if !wanted.follow.is_empty()
        && let Some(followed) = follow::resolved(root, &wanted.follow)?
    {
        includes.extend(followed);
        includes = without_nested(includes);
    }
    let include = Filter::include(&includes)?;
    let exclude = Filter::exclude(&wanted.exclude)?;
    let mut stats = Stats::default();
    let (mut included, mut excluded) = (Matched::new(), Matched::new());
    let top = Level {
        entries: entries(root).map_err(|e| WalkError::read(root, e))?,
        real: root.to_owned(),
        path: String::new(),
        included: Matched::new(),
        excluded: Matched::new(),
        given: true,
    };
    let mut levels = vec![top];
    while let Some(level) = levels.last_mut() {
        let Some((name, kind)) = level.entries.next() else {
            levels.pop();
            continue;
        };
        let real = level.real.join(&name);
        let path = match level.path.as_str() {
            "" => name.to_string_lossy().into_owned(),
            folder => format!("{folder}/{}", name.to_string_lossy()),
        };
        let mut skip = false;
        if let Some(include) = &include
            && !include
                .patterns
                .matches(&path, &level.included, &mut included)
        {
            skip = true;
            let leads = || include.patterns.naming().any(|p| p.leads_into(&path));
            if kind.is_dir() && include.plain && !leads() {
                continue;
            }
        }
        if let Some(exclude) = &exclude
            && exclude
                .patterns
                .matches(&path, &level.excluded, &mut excluded)
        {
            skip = true;
            let leads = || exclude.patterns.taking_back().any(|p| p.leads_into(&path));
            if kind.is_dir() && exclude.plain && !leads() {
                continue;
            }
        }
        if !skip {
            give_out(&mut levels, &mut stats, &real, &path, give)?;
        }
        if kind.is_dir() {
            if stopped() {
                return Err(WalkError::Stopped);
            }
            let entries = match entries(&real) {
                Ok(entries) => entries,
                Err(e) if gone(&e) => continue,
                Err(e) if skip && e.kind() == io::ErrorKind::PermissionDenied => continue,
                Err(e) => return Err(WalkError::read(real, e)),
            };
            levels.push(Level {
                entries,
                real,
                path,
                included: std::mem::take(&mut included),
                excluded: std::mem::take(&mut excluded),
                given: !skip,
            });
        }
    }
    Ok(())
}

/// Gives out a file, and before it those folders that it is in that were filtered out.
fn give_out(
    levels: &mut [Level],
    stats: &mut Stats,
    real: &Path,
    path: &str,
    give: &mut dyn FnMut(Stat) -> Result<(), WalkError>,
) -> Result<(), WalkError> {
    // First the file: if it is gone by now, nothing is in those folders either.
    let Some(stat) = stats.of(real, path)? else {
        return Ok(());
    };
    for level in levels.iter_mut().filter(|level| !level.given) {
        level.given = true;
        if let Some(stat) = stats.of(&level.real, &level.path)? {
            give(stat)?;
        }
    }
    give(stat)
}

impl Filter {
    /// Of patterns that name what to include; without any, everything is.
    fn include(patterns: &[String]) -> Result<Option<Self>, BadPatterns> {
        Self::parse(patterns, |patterns| {
            patterns.naming().all(Pattern::is_plain)
        })
    }

    /// Of patterns that name what to leave out.
    fn exclude(patterns: &[String]) -> Result<Option<Self>, BadPatterns> {
        Self::parse(patterns, |patterns| {
            patterns.taking_back().all(Pattern::is_plain)
        })
    }

    fn parse(
        patterns: &[String],
        plain: impl FnOnce(&Patterns) -> bool,
    ) -> Result<Option<Self>, BadPatterns> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let patterns = Patterns::parse(patterns.iter().map(String::as_str))?;
        let plain = plain(&patterns);
        Ok(Some(Self { patterns, plain }))
    }
}

/// What is in a folder, in order.
fn entries(folder: &Path) -> io::Result<std::vec::IntoIter<(OsString, fs::FileType)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(e) if gone(&e) => continue,
            Err(e) => return Err(e),
        };
        entries.push((entry.file_name(), kind));
    }
    entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries.into_iter())
}

/// Whether it was there a moment ago.
fn gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Without paths that are under others. If the root is among them, everything is wanted, and no paths are named.
fn without_nested(mut paths: Vec<String>) -> Vec<String> {
    let mut last: Option<String> = None;
    if paths.iter().any(|path| path == ".") {
        return Vec::new();
    }
    paths.retain(|path| {
        let nested = last.as_ref().is_some_and(|last| {
            path.strip_prefix(last.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        });
        if !nested {
            last = Some(path.clone());
        }
        !nested
    });
    paths
}

/// Describes files.
struct Stats {
    /// Where files with several names were seen first.
    linked: HashMap<(u64, u64), String>,
    /// The names of a file's attributes.
    names: Vec<u8>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            linked: HashMap::new(),
            names: vec![0; 256],
        }
    }
}

impl Stats {
    /// As BuildKit describes the file, as if root owned it; `None` if it is gone.
    fn of(&mut self, real: &Path, path: &str) -> Result<Option<Stat>, WalkError> {
        match self.read(real, path) {
            Err(WalkError::Read { source, .. }) if gone(&source) => Ok(None),
            stat => stat.map(Some),
        }
    }

    fn read(&mut self, real: &Path, path: &str) -> Result<Stat, WalkError> {
        let failed = |e| WalkError::read(real, e);
        if !real
            .as_os_str()
            .as_encoded_bytes()
            .ends_with(path.as_bytes())
        {
            return Err(WalkError::Name(real.to_owned()));
        }
        let found = fs::symlink_metadata(real).map_err(failed)?;
        let kind = found.file_type();
        let mut stat = Stat {
            path: path.to_owned(),
            mode: go_mode(&found),
            mod_time: found
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(found.mtime_nsec()),
            ..Stat::default()
        };
        if !kind.is_dir() {
            stat.size = i64::try_from(found.len()).unwrap_or(i64::MAX);
            if kind.is_block_device() || kind.is_char_device() {
                let device = found.rdev();
                stat.devmajor = (device >> 8 & 0xfff) as i64;
                stat.devminor = (device & 0xff | device >> 12 & 0xfff00) as i64;
            }
            if found.nlink() > 1 {
                let inode = (found.dev(), found.ino());
                match self.linked.get(&inode) {
                    Some(first) => stat.linkname = first.clone(),
                    None => drop(self.linked.insert(inode, path.to_owned())),
                }
            }
            if kind.is_symlink() {
                let to = fs::read_link(real).map_err(failed)?;
                stat.linkname = to
                    .into_os_string()
                    .into_string()
                    .map_err(|_| WalkError::Name(real.to_owned()))?;
            }
        }
        self.attributes(real, &mut stat)?;
        Ok(stat)
    }

    fn attributes(&mut self, real: &Path, stat: &mut Stat) -> Result<(), WalkError> {
        loop {
            let length = match rustix::fs::llistxattr(real, &mut self.names[..]) {
                Ok(length) => length,
                Err(Errno::RANGE) => {
                    self.names.resize(self.names.len() * 2, 0);
                    continue;
                }
                Err(Errno::NOTSUP) => return Ok(()),
                Err(e) => return Err(WalkError::read(real, e)),
            };
            if length == 0 {
                return Ok(());
            }
            let names = self.names[..length].split(|&b| b == 0);
            let names = names.filter_map(|name| std::str::from_utf8(name).ok());
            for name in names.filter(|name| !name.is_empty() && !name.starts_with(APPLE)) {
                if let Some(value) = attribute(real, name) {
                    stat.xattrs.insert(name.to_owned(), value);
                }
            }
            return Ok(());
        }
    }
}

/// An attribute's value; `None` if it can't be read, which BuildKit lets pass.
fn attribute(real: &Path, name: &str) -> Option<Vec<u8>> {
    // The most that Linux lets one have.
    const MOST: usize = 64 << 10;
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::lgetxattr(real, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Some(value);
            }
            Err(Errno::RANGE) if value.len() < MOST => value.resize(MOST, 0),
            Err(_) => return None,
        }
    }
}

/// The mode in Go's bits. Sockets are sent as empty files, which is what BuildKit makes of them.
fn go_mode(found: &fs::Metadata) -> u32 {
    let (kind, unix) = (found.file_type(), found.mode());
    let mut bits = unix & mode::PERMISSIONS;
    for (is, bit) in [
        (kind.is_dir(), mode::DIR),
        (kind.is_symlink(), mode::SYMLINK),
        (kind.is_fifo(), mode::PIPE),
        (kind.is_block_device(), mode::DEVICE),
        (kind.is_char_device(), mode::DEVICE | mode::CHAR),
        (unix & 0o4000 != 0, mode::SETUID),
        (unix & 0o2000 != 0, mode::SETGID),
        (unix & 0o1000 != 0, mode::STICKY),
    ] {
        if is {
            bits |= bit;
        }
    }
    bits
}

#[cfg(test)]
mod tests;
