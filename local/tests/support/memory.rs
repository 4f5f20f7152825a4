//! What a process holds of the machine's memory, as the kernel tells it (proc(5)).

use std::{fs, io};

/// Which figure.
#[derive(Debug, Clone, Copy)]
pub enum Memory {
    /// What it holds now.
    Now,
    /// The most that it has held since its peak was last forgotten.
    Peak,
}

impl Memory {
    /// Of this process, in bytes.
    pub fn of(self, process: u32) -> io::Result<u64> {
        let key = match self {
            Memory::Now => "VmRSS:",
            Memory::Peak => "VmHWM:",
        };
        let text = fs::read_to_string(format!("/proc/{process}/status"))?;
        let kilobytes: Option<u64> = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|value| value.trim().strip_suffix("kB")?.trim().parse().ok());
        let kilobytes = kilobytes
            .ok_or_else(|| io::Error::other(format!("no {key} of the process {process}")))?;
        Ok(kilobytes * 1024)
    }
}

/// Sets the peak of a process back to what it holds now.
pub fn forget_peak(process: u32) -> io::Result<()> {
    fs::write(format!("/proc/{process}/clear_refs"), "5")
}
