//! One running part: a process under a guard that ends it together with its owner, whatever happens to the owner.
//!
//! The guard is a small shell script (`guard.sh`), not this program over again, so that any test binary can own parts.
//! It holds the reading end of a pipe; the writing end lives in [`Part`]. Dropping the part closes the pipe and waits
//! for the guard, which has by then taken the part down and removed its folder. An owner that dies closes the pipe just the same.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    error::{Doing, Error, Result},
    home::Home,
};

/// How much of a log an error shows, in bytes.
const LOG_TAIL: u64 = 4096;
/// Between two looks at a part that is not ready yet.
const POLL: Duration = Duration::from_millis(20);
/// What the guard may take on top of the part's own grace: removing an engine's data is the long part of it.
const TEARDOWN: Duration = Duration::from_secs(60);

/// How a part is asked to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    /// A signal's name without SIG.
    pub signal: &'static str,
    /// Seconds until KILL.
    pub grace: u32,
}

/// What is to be run, and how it is ended.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// For messages.
    pub name: &'a str,
    pub home: Home,
    pub stop: Stop,
    /// Shell text that redefines the guard's `before`, `stop` and `after`.
    pub hooks: Option<String>,
    pub command: Command,
}

/// A part that runs until this is dropped or its owner ends.
#[derive(Debug)]
pub(crate) struct Part {
    name: String,
    /// Starts the guard, any number of times.
    command: Box<Command>,
    guard: Child,
    pipe: Option<ChildStdin>,
    grace: Duration,
    home: PathBuf,
    log: File,
}

impl Launch<'_> {
    /// Starts the part. It may not be ready yet: see [`Part::wait_ready`].
    pub fn start(self) -> Result<Part> {
        let home = self.home.path().to_owned();
        let script = home.join("guard.sh");
        fs::write(&script, include_str!("guard.sh")).doing("write", &script)?;
        let hooks = match self.hooks {
            Some(text) => {
                let path = home.join("hooks.sh");
                fs::write(&path, text).doing("write", &path)?;
                path.into_os_string()
            }
            None => OsString::new(),
        };
        let log_path = home.join("log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .doing("open", &log_path)?;
        let mut command = Command::new("sh");
        command
            .arg(&script)
            .args([self.stop.signal, &self.stop.grace.to_string()])
            .arg(&hooks)
            .arg(&home);
        command
            .arg(self.command.get_program())
            .args(self.command.get_args());
        for (key, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command
            .current_dir(self.command.get_current_dir().unwrap_or(Path::new("/")))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().doing("open", &log_path)?)
            .stderr(log)
            .process_group(0);
        let mut guard = guard_of(&mut command)?;
        let part = Part {
            name: self.name.to_owned(),
            command: Box::new(command),
            pipe: guard.stdin.take(),
            guard,
            grace: Duration::from_secs(self.stop.grace.into()),
            log: File::open(&log_path).doing("open", &log_path)?,
            home,
        };
        self.home.hand_over();
        Ok(part)
    }
}

fn guard_of(command: &mut Command) -> Result<Child> {
    command.spawn().doing("run", Path::new("sh"))
}

impl Part {
    /// Looks at the part with `probe` until that gives a value; a probe's error says what is not there yet.
    pub fn wait_ready<T>(
        &mut self,
        within: Duration,
        mut probe: impl FnMut() -> std::result::Result<T, String>,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            // Its end comes first: then whoever answers is not this part.
            if let Some(status) = self.ended()? {
                return Err(Error::Ended {
                    part: self.name.clone(),
                    status,
                    log: self.log_tail(),
                });
            }
            let last = match probe() {
                Ok(value) => return Ok(value),
                Err(last) => last,
            };
            if started.elapsed() > within {
                return Err(Error::NotReady {
                    part: self.name.clone(),
                    waited: within,
                    last,
                    log: self.log_tail(),
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// How the part ended, if it did so by itself.
    fn ended(&mut self) -> Result<Option<String>> {
        if let Ok(status) = fs::read_to_string(self.home.join("ended")) {
            return Ok(Some(format!("exit status {}", status.trim())));
        }
        let guard = self
            .guard
            .try_wait()
            .doing("wait for", Path::new(&self.name))?;
        Ok(guard.map(|status| format!("its guard: {status}")))
    }

    /// Kills the part without a chance to say goodbye, and waits until it is gone. Its folder stays, for [`Part::start_again`].
    pub fn kill(&mut self) -> Result<()> {
        self.stop(Signal::SIGKILL)
    }

    /// Sends the part a signal that ends it, and waits until it is gone. Its folder stays, for [`Part::start_again`].
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        if let Some(process) = self.process().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended by itself just now.
            let _ = kill(Pid::from_raw(process), signal);
        }
        let killed = Instant::now();
        while self.ended()?.is_none() {
            if killed.elapsed() > TEARDOWN {
                return Err(Error::NotReady {
                    part: self.name.clone(),
                    waited: TEARDOWN,
                    last: format!("it got {signal} and does not end"),
                    log: self.log_tail(),
                });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Starts a part that has ended once more, just as it was. It may not be ready yet: see [`Part::wait_ready`].
    pub fn start_again(&mut self) -> Result<()> {
        // It only waits for its owner, to remove the folder.
        let name = Path::new("the guard");
        self.guard.kill().doing("end", name)?;
        self.guard.wait().doing("wait for", name)?;
        let ended = self.home.join("ended");
        fs::remove_file(&ended).doing("remove", &ended)?;
        self.guard = guard_of(&mut self.command)?;
        self.pipe = self.guard.stdin.take();
        Ok(())
    }

    /// The part's own process, while it runs. The guard starts it before anything that lasts.
    pub fn process(&self) -> Option<u32> {
        let guard = self.guard.id();
        let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).ok()?;
        children.split(' ').next()?.parse().ok()
    }

    /// The part's own folder; its output is in `log` there.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// What it and the guard print.
    pub fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Starts the part's end without waiting for it, so that several can end at once.
    pub fn let_go(&mut self) {
        drop(self.pipe.take());
    }

    /// Ends the part and waits until nothing of it is left.
    pub fn end(&mut self) {
        self.let_go();
        let deadline = Instant::now() + self.grace + TEARDOWN;
        while let Ok(None) = self.guard.try_wait() {
            if Instant::now() > deadline {
                eprintln!(
                    "croft: {} would not end; its guard is process {}",
                    self.name,
                    self.guard.id()
                );
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    fn log_tail(&self) -> String {
        let mut log = &self.log;
        let mut tail = Vec::new();
        let length = log.metadata().map_or(0, |about| about.len());
        let read = log
            .seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))
            .and_then(|_| log.take(LOG_TAIL).read_to_end(&mut tail));
        match read {
            Ok(_) => String::from_utf8_lossy(&tail).into_owned(),
            Err(error) => format!("(unreadable: {error})"),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.end();
    }
}
