//! The cache of fetched parts, shared by all farms of this user: `$CROFT_CACHE`, `$XDG_CACHE_HOME/croft` or `~/.cache/croft`.
//!
//! An entry is a folder that is there whole or not at all: it is filled under another name, behind a file lock, and renamed at the end.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use crate::error::{Doing, Error, Result};

/// The cache's folder.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Finds the cache's place from the environment and makes the folder.
    pub fn open() -> Result<Cache> {
        let variable = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let folder = variable("CROFT_CACHE")
            .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("croft")))
            .or_else(|| Some(variable("HOME")?.join(".cache/croft")))
            .ok_or_else(|| Error::Missing {
                what: "a folder for fetched parts".to_owned(),
                remedy: "set CROFT_CACHE (or HOME)".to_owned(),
            })?;
        Cache::at(&folder)
    }

    fn at(folder: &Path) -> Result<Cache> {
        fs::create_dir_all(folder).doing("make", folder)?;
        Ok(Cache {
            folder: folder.canonicalize().doing("find", folder)?,
        })
    }

    /// The entry `name`. If it is not there yet, `fill` is given an empty folder to fill; only one process at a time does so, the
    /// others wait for it. What a fetch that was cut short left behind is thrown away.
    pub fn entry(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let whole = self.folder.join(name);
        if whole.is_dir() {
            return Ok(whole);
        }
        let lock_path = self.folder.join(format!("{name}.lock"));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path);
        let lock = lock.doing("open", &lock_path)?;
        lock.lock().doing("lock", &lock_path)?;
        if whole.is_dir() {
            return Ok(whole);
        }
        let partial = self.folder.join(format!("{name}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).doing("remove", &partial)?;
        }
        fs::create_dir(&partial).doing("make", &partial)?;
        fill(&partial)?;
        fs::rename(&partial, &whole).doing("rename", &partial)?;
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_entry_is_filled_once_however_many_ask_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        let fills = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let entry = cache.entry("part", |partial| {
                        fills.fetch_add(1, Ordering::Relaxed);
                        fs::write(partial.join("file"), "whole").doing("write", partial)
                    });
                    assert_eq!(
                        fs::read_to_string(entry.unwrap().join("file")).unwrap(),
                        "whole"
                    );
                });
            }
        });
        assert_eq!(fills.into_inner(), 1);
    }

    #[test]
    fn a_fetch_that_was_cut_short_is_done_again_from_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        let cut = cache.entry("part", |partial| {
            fs::write(partial.join("half"), "").doing("write", partial)?;
            Err(Error::Missing {
                what: "network".to_owned(),
                remedy: "wait".to_owned(),
            })
        });
        assert!(cut.is_err());
        let entry = cache
            .entry("part", |partial| {
                fs::write(partial.join("whole"), "").doing("write", partial)
            })
            .unwrap();
        assert!(entry.join("whole").exists() && !entry.join("half").exists());
    }
}
