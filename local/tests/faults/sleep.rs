//! A step that lasts until the test ends it, wherever and however often it runs.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{nonce, process::eventually};

/// A sleep that nobody else's is.
pub struct Sleep {
    seconds: String,
}

impl Sleep {
    pub fn new() -> Sleep {
        let nonce = nonce();
        let digits = nonce.bytes().map(|byte| char::from(b'0' + byte % 10));
        // The end of a nonce is what no other has.
        let digits: String = digits.rev().take(14).collect();
        Sleep {
            seconds: format!("9{digits}"),
        }
    }

    /// What sleeps, for a shell; it goes well however it is ended.
    pub fn step(&self) -> String {
        format!("sleep {} || true", self.seconds)
    }

    /// The processes that sleep so now, not the shells around them.
    pub fn sleepers(&self) -> Vec<Pid> {
        let end = format!("sleep {}", self.seconds);
        let processes = fs::read_dir("/proc").expect("Linux").flatten();
        let sleeper = |process: fs::DirEntry| {
            let id: i32 = process.file_name().to_str()?.parse().ok()?;
            let line = fs::read(process.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.trim_end().ends_with(&end).then(|| Pid::from_raw(id))
        };
        processes.filter_map(sleeper).collect()
    }

    /// Waits until so many sleep.
    pub fn wait_for(&self, count: usize) {
        eventually(&format!("{count} sleep"), || {
            (self.sleepers().len() == count).then_some(())
        });
    }

    /// Ends the sleep of all that sleep now: their steps go on.
    pub fn wake_all(&self) {
        for process in self.sleepers() {
            // One that has just ended by itself is as good.
            let _ = kill(process, Signal::SIGKILL);
        }
    }
}
