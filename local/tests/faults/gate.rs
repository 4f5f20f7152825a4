//! A step of a Dockerfile that waits until the test lets it go on: no clock says how long something runs.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use nix::libc;

use crate::support::{nonce, process::eventually};

/// Stands in a Dockerfile as [`Gate::step`]. Each place may be passed once only.
pub struct Gate {
    name: String,
}

impl Gate {
    /// A gate that no other build has.
    pub fn new() -> Gate {
        Gate {
            name: format!("gate-{}", nonce()),
        }
    }

    /// The words of a shell that wait.
    pub fn step(&self) -> String {
        let name = &self.name;
        format!("mkfifo /{name} && cat /{name} && rm /{name}")
    }

    /// Waits until somebody waits at it.
    pub fn reached(&self) {
        eventually("the gate is reached", || self.pipe());
    }

    /// Lets the one go on that waits at it.
    pub fn open(&self) {
        let pipe = eventually("the gate is reached", || self.pipe());
        let pipe = fs::File::options().write(true).open(pipe);
        pipe.and_then(|mut pipe| pipe.write_all(b"go on\n"))
            .expect("somebody waits at it");
    }

    /// The same, if somebody waits at it now.
    pub fn open_if_reached(&self) {
        let mut there = fs::File::options();
        there.write(true).custom_flags(libc::O_NONBLOCK);
        // One that has just gone on is as good.
        let pipe = self.pipe().and_then(|pipe| there.open(pipe).ok());
        if let Some(mut pipe) = pipe {
            let _ = pipe.write_all(b"go on\n");
        }
    }

    /// The pipe, as it is seen through the process that waits at it.
    fn pipe(&self) -> Option<PathBuf> {
        let processes = fs::read_dir("/proc").expect("Linux").flatten();
        processes
            .filter(|entry| {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(&self.name)
            })
            .map(|entry| entry.path().join("root").join(&self.name))
            .find(|pipe| pipe.exists())
    }
}
