//! A farm that goes on in the background under a folder: `up`, `down`, `env`, `logs`.
//!
//! The farm is owned by a runner process. That holds the folder's `lock` (with its process id in it) as long as it lives, and writes
//! `env` once the farm is ready. So everything can be told from the folder, also after a crash.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    error::{Doing, Error, Result},
    home::write_secret,
};

const POLL: Duration = Duration::from_millis(50);
/// A farm ends in a few seconds; removing its engines' data takes most of them.
const DOWN_WITHIN: Duration = Duration::from_secs(120);

/// The folder of a farm in the background.
#[derive(Debug, Clone)]
pub struct Background {
    folder: PathBuf,
}

/// What a runner holds while it lives.
#[derive(Debug)]
pub struct Hold {
    background: Background,
    lock: File,
}

/// What `up` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    /// It started a farm.
    Started,
    /// One was there.
    Already,
}

impl Background {
    /// The folder need not exist yet.
    pub fn at(folder: &Path) -> Result<Background> {
        Ok(Background {
            folder: std::path::absolute(folder).doing("find", folder)?,
        })
    }

    /// Starts a farm with `runner`, which must call [`Background::hold`] and [`Hold::ready`], and waits until that is ready. What it prints
    /// to standard error meanwhile is passed on.
    pub fn up(&self, mut runner: Command) -> Result<Up> {
        if self.runner()?.is_some() {
            self.wait_for_env()?;
            return Ok(Up::Already);
        }
        self.clear()?;
        fs::create_dir_all(&self.folder).doing("make", &self.folder)?;
        let log_path = self.folder.join("log");
        let log = File::create(&log_path).doing("make", &log_path)?;
        let mut detached = Command::new("setsid");
        detached.arg(runner.get_program()).args(runner.get_args());
        detached.envs(
            runner
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        runner = detached;
        runner
            .stdin(Stdio::null())
            .stdout(log.try_clone().doing("open", &log_path)?)
            .stderr(log);
        let mut child = runner.spawn().doing("run", Path::new("setsid"))?;
        let mut shown = 0;
        loop {
            shown = pass_on(&log_path, shown).doing("read", &log_path)?;
            if self.env_path().exists() {
                return Ok(Up::Started);
            }
            if let Some(status) = child.try_wait().doing("wait for", &log_path)? {
                pass_on(&log_path, shown).doing("read", &log_path)?;
                return Err(Error::Ended {
                    part: "the farm".to_owned(),
                    status: status.to_string(),
                    log: format!("(see above, or {})", log_path.display()),
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends the farm, waits until nothing of it is left, and removes the folder. Says whether there was one.
    pub fn down(&self) -> Result<bool> {
        let runner = self.runner()?;
        if let Some(runner) = runner {
            // It may have ended since: that is what we want.
            let _ = kill(runner, Signal::SIGTERM);
        }
        let existed = self.folder.exists();
        self.clear()?;
        if existed {
            fs::remove_dir_all(&self.folder).doing("remove", &self.folder)?;
        }
        Ok(runner.is_some())
    }

    /// The `export` lines of the farm that is up.
    pub fn env(&self) -> Result<String> {
        if self.runner()?.is_none() {
            return Err(self.no_farm());
        }
        let path = self.env_path();
        fs::read_to_string(&path).doing("read", &path)
    }

    /// The logs of the farm's parts, by the names of their folders.
    pub fn logs(&self) -> Result<Vec<(String, PathBuf)>> {
        let entries = self.folder.read_dir().map_err(|_| self.no_farm())?;
        let mut logs: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let log = entry.path().join("log");
                log.is_file()
                    .then(|| (entry.file_name().to_string_lossy().into_owned(), log))
            })
            .collect();
        logs.sort();
        Ok(logs)
    }

    /// For the runner: takes the folder, and removes what an earlier farm left there.
    pub fn hold(&self) -> Result<Hold> {
        fs::create_dir_all(&self.folder).doing("make", &self.folder)?;
        let path = self.lock_path();
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .doing("open", &path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Peer {
                    peer: self.folder.display().to_string(),
                    answer: "another farm is up here; end it with `down`, or use another folder"
                        .to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(error).doing("lock", &path),
        }
        let number = std::process::id().to_string();
        lock.set_len(0)
            .and_then(|()| lock.write_all(number.as_bytes()))
            .doing("write", &path)?;
        Ok(Hold {
            background: self.clone(),
            lock,
        })
    }

    /// The process that holds the lock.
    fn runner(&self) -> Result<Option<Pid>> {
        let path = self.lock_path();
        let Ok(mut lock) = File::open(&path) else {
            return Ok(None);
        };
        match lock.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).doing("lock", &path),
            Err(TryLockError::WouldBlock) => {
                let mut number = String::new();
                lock.read_to_string(&mut number).doing("read", &path)?;
                Ok(number.trim().parse().ok().map(Pid::from_raw))
            }
        }
    }

    fn wait_for_env(&self) -> Result<()> {
        while !self.env_path().exists() {
            if self.runner()?.is_none() {
                return Err(self.no_farm());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits until the runner and its guards are gone, then removes what is left of their parts.
    fn clear(&self) -> Result<()> {
        let deadline = Instant::now() + DOWN_WITHIN;
        loop {
            let left = match self.runner()? {
                Some(runner) => vec![runner],
                None => self.guards()?,
            };
            if left.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::Peer {
                    peer: self.folder.display().to_string(),
                    answer: format!("these processes of the farm do not end: {left:?}"),
                });
            }
            std::thread::sleep(POLL);
        }
        let Ok(entries) = self.folder.read_dir() else {
            return Ok(());
        };
        for entry in entries {
            let path = entry.doing("list", &self.folder)?.path();
            if path == self.lock_path() {
                continue;
            }
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.doing("remove", &path)?;
        }
        Ok(())
    }

    /// The guards whose parts are below the folder: they outlive their owner for a moment.
    fn guards(&self) -> Result<Vec<Pid>> {
        let processes = Path::new("/proc");
        let mut guards = Vec::new();
        let Ok(folder) = self.folder.canonicalize() else {
            return Ok(guards);
        };
        for entry in processes.read_dir().doing("list", processes)? {
            let entry = entry.doing("list", processes)?;
            let Some(number) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A process may end while we look.
            let Ok(line) = fs::read(entry.path().join("cmdline")) else {
                continue;
            };
            let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            let script = words.nth(1).unwrap_or_default();
            if script.ends_with("/guard.sh") && Path::new(script.as_ref()).starts_with(&folder) {
                guards.push(Pid::from_raw(number));
            }
        }
        Ok(guards)
    }

    fn lock_path(&self) -> PathBuf {
        self.folder.join("lock")
    }

    fn env_path(&self) -> PathBuf {
        self.folder.join("env")
    }

    fn no_farm(&self) -> Error {
        Error::Missing {
            what: format!("a farm in {}", self.folder.display()),
            remedy: "start it with `dev/farm up`".to_owned(),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // A child of another thread that is just being started has a copy of the file: closing ours would not unlock it.
        let _ = self.lock.unlock();
    }
}

impl Hold {
    /// Where the farm's parts go.
    pub fn folder(&self) -> &Path {
        &self.background.folder
    }

    /// Says that the farm is ready, and what its users need to know.
    pub fn ready(&self, env: &[(String, String)]) -> Result<()> {
        let path = self.background.env_path();
        let partial = path.with_extension("partial");
        write_secret(&partial, &export_lines(env))?;
        fs::rename(&partial, &path).doing("rename", &partial)
    }
}

/// Variables as lines for a shell.
pub fn export_lines(env: &[(String, String)]) -> String {
    let line = |(name, value): &(String, String)| {
        format!("export {name}='{}'\n", value.replace('\'', r"'\''"))
    };
    env.iter().map(line).collect()
}

/// Copies what a file has beyond `from` to standard error; gives its new end.
fn pass_on(path: &Path, from: u64) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let copied = std::io::copy(&mut file, &mut std::io::stderr())?;
    Ok(from + copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_exported() {
        let env = [("A".to_owned(), "it's $HOME".to_owned())];
        let script = format!("{}printf %s \"$A\"", export_lines(&env));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.stdout, b"it's $HOME");
    }

    #[test]
    fn a_folder_is_held_by_one_runner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let background = Background::at(folder.path()).unwrap();
        assert!(background.env().is_err());
        let hold = background.hold().unwrap();
        assert!(
            background
                .hold()
                .unwrap_err()
                .to_string()
                .contains("another farm is up here")
        );
        assert_eq!(background.runner().unwrap(), Some(Pid::this()));
        hold.ready(&[("A".to_owned(), "b".to_owned())]).unwrap();
        assert_eq!(background.env().unwrap(), "export A='b'\n");
        drop(hold);
        assert_eq!(background.runner().unwrap(), None);
        assert!(!background.down().unwrap());
        assert!(!folder.path().exists());
    }
}
