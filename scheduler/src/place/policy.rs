//! The numbers behind the score. The order of what counts is in [`super::Score`].

use std::time::Duration;

/// What things are taken to cost where nobody measured them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What a command takes that never ran.
    pub unknown_command: Duration,
    /// What filling a cache mount takes again where it is empty.
    pub empty_mount: Duration,
    /// Bytes per second from the stage registry to an agent.
    pub bytes_per_second: u64,
    /// What exporting and taking one result takes at least.
    pub transfer: Duration,
    /// What a whole root is taken to hold, in compressed bytes.
    pub whole_root: u64,
    /// An agent with fewer bytes free than that takes no work.
    pub least_disk: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            unknown_command: Duration::from_secs(5),
            empty_mount: Duration::from_secs(5),
            bytes_per_second: 64 << 20,
            transfer: Duration::from_millis(200),
            whole_root: 256 << 20,
            least_disk: 1 << 30,
        }
    }
}
