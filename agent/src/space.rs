//! Keeps the engine's disk from filling: below one watermark the agent takes no work and the engine's cache is pruned, oldest first, up to
//! the other. Engines collect their garbage themselves; this is for when that comes too late, and for what else fills the disk.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use croft_buildkit::{
    api::control::{DiskUsageRequest, PruneRequest},
    engine::Engine,
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tonic::Status;

use crate::{
    disk::{self, Disk},
    health::Health,
};

/// How often the disk is measured: a command can fill what is below the watermark in seconds.
const EVERY: Duration = Duration::from_secs(1);
/// Between two prunes while the disk stays low: what builds hold can't be pruned before they end.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a prune may take.
const PRUNE_TIMEOUT: Duration = Duration::from_secs(600);

/// Free space that is to be left: a part of the disk, a number of bytes, or the smaller of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    percent: Option<u8>,
    bytes: Option<u64>,
}

impl Watermark {
    /// How many bytes that is on a disk of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        let part = self
            .percent
            .map(|percent| u128::from(total) * u128::from(percent) / 100)
            .map(|part| u64::try_from(part).unwrap_or(u64::MAX));
        [part, self.bytes]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_default()
    }
}

impl FromStr for Watermark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no free space: write it like 5%, 10GB or 5%,10GB");
        let mut mark = Self {
            percent: None,
            bytes: None,
        };
        for part in text.split(',').map(str::trim) {
            let twice = match part.strip_suffix('%') {
                Some(percent) => {
                    let percent = percent.parse().ok().filter(|percent| *percent <= 100);
                    mark.percent.replace(percent.ok_or_else(wrong)?).is_some()
                }
                None => {
                    let bytes = bytes(part).ok_or_else(wrong)?;
                    mark.bytes.replace(bytes).is_some()
                }
            };
            if twice {
                return Err(wrong());
            }
        }
        Ok(mark)
    }
}

/// Reads `500MB`, `10GB`, `1TiB`, or a bare number of bytes.
fn bytes(text: &str) -> Option<u64> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The two watermarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// With less than this left the agent takes no work, and prunes.
    pub low: Watermark,
    /// How much is to be free after a prune.
    pub high: Watermark,
}

/// Whether the disk has room for more work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It has.
    Enough,
    /// Less is free than the low watermark, or it is being pruned since it was.
    Low,
}

/// The engine's disk.
pub struct Space {
    root: PathBuf,
    marks: Watermarks,
    room: watch::Sender<Room>,
    last_low: Mutex<Option<Instant>>,
}

impl Space {
    /// The disk of this folder.
    pub fn new(root: PathBuf, marks: Watermarks) -> Self {
        Self {
            root,
            marks,
            room: watch::Sender::new(Room::Enough),
            last_low: Mutex::default(),
        }
    }

    /// Measures it.
    pub fn disk(&self) -> Option<Disk> {
        disk::measure(&self.root)
    }

    /// Whether it has room for more work, and when that changes.
    pub fn room(&self) -> watch::Receiver<Room> {
        self.room.subscribe()
    }

    /// Whether less than the low watermark was free at some time since then, as far as anybody looked.
    pub fn was_low_since(&self, then: Instant) -> bool {
        let now = self.disk().is_some_and(|disk| self.is_low(disk));
        let last = *self.last_low.lock().unwrap_or_else(PoisonError::into_inner);
        now || last.is_some_and(|last| last >= then)
    }

    fn is_low(&self, disk: Disk) -> bool {
        disk.free < self.marks.low.of(disk.total)
    }

    /// How much must go so that enough is free.
    fn excess(&self, disk: Disk) -> u64 {
        let wanted = self.marks.low.of(disk.total);
        let wanted = wanted.max(self.marks.high.of(disk.total));
        wanted.saturating_sub(disk.free)
    }

    fn path(&self) -> &Path {
        &self.root
    }
}

/// Keeps the disk from filling, for ever.
pub async fn guard(space: Arc<Space>, engine: Engine, health: watch::Receiver<Health>) {
    let mut looks = tokio::time::interval(EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pruning: Option<JoinHandle<()>> = None;
    let mut pruned: Option<Instant> = None;
    loop {
        looks.tick().await;
        let Some(disk) = space.disk() else { continue };
        if pruning.as_ref().is_some_and(JoinHandle::is_finished) {
            pruning = None;
            pruned = Some(Instant::now());
        }
        let before = *space.room.borrow();
        if space.is_low(disk) {
            *space
                .last_low
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            if before == Room::Enough {
                tracing::warn!(folder = %space.path().display(), free = disk.free, total = disk.total,
                    "the engine's disk is nearly full: no new work until there is room");
                space.room.send_replace(Room::Low);
                pruned = None;
            }
            let rested = pruned.is_none_or(|at| at.elapsed() >= PAUSE);
            if pruning.is_none() && rested && health.borrow().is_good() {
                let (engine, excess) = (engine.clone(), space.excess(disk));
                pruning = Some(tokio::spawn(async move {
                    match tokio::time::timeout(PRUNE_TIMEOUT, prune(&engine, excess)).await {
                        Ok(Ok(freed)) => {
                            tracing::info!(excess, freed, "the engine's cache was pruned");
                        }
                        Ok(Err(status)) => tracing::warn!(
                            error = status.message(),
                            "the engine's cache can't be pruned"
                        ),
                        Err(_) => tracing::warn!("pruning the engine's cache takes too long"),
                    }
                }));
            }
        } else if before == Room::Low && (space.excess(disk) == 0 || pruning.is_none()) {
            tracing::info!(free = disk.free, "the engine's disk has room again");
            space.room.send_replace(Room::Enough);
        }
    }
}

/// Has the engine give up so many bytes of what nothing uses, the oldest first. Returns how many it says that it did.
async fn prune(engine: &Engine, excess: u64) -> Result<u64, Status> {
    let mut control = engine.control();
    let usage = control.disk_usage(DiskUsageRequest::default()).await?;
    let records = usage.into_inner().record;
    let total: i64 = records.iter().filter(|r| !r.shared).map(|r| r.size).sum();
    let keep = total.saturating_sub(i64::try_from(excess).unwrap_or(i64::MAX));
    let request = PruneRequest {
        all: true,
        // What to keep, for engines of all ages. Nothing at all would mean no limit, and no order.
        reserved_space: keep.max(1),
        ..PruneRequest::default()
    };
    let mut pruned = control.prune(request).await?.into_inner();
    let mut freed = 0;
    while let Some(record) = pruned.message().await? {
        freed += u64::try_from(record.size).unwrap_or_default();
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(text: &str) -> Watermark {
        text.parse().expect("a watermark")
    }

    #[test]
    fn of_a_part_and_a_number_the_smaller_counts() {
        let both = mark("5%,10GB");
        assert_eq!(both.of(100_000_000_000), 5_000_000_000);
        assert_eq!(both.of(1_000_000_000_000), 10_000_000_000);
        assert_eq!(mark("10%").of(u64::MAX), u64::MAX / 10);
        assert_eq!(mark("2GiB, 1%").of(u64::MAX), 2 << 30);
        assert_eq!(mark("0").of(1000), 0);
    }

    #[test]
    fn what_is_no_free_space_is_refused() {
        for bad in [
            "",
            "%",
            "101%",
            "-1%",
            "5%,6%",
            "10 GB",
            "1PB",
            "GB",
            "99999999999TB",
        ] {
            assert!(Watermark::from_str(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_must_go_is_counted_up_to_the_higher_of_the_marks() {
        let space = |low, high| {
            let marks = Watermarks {
                low: mark(low),
                high: mark(high),
            };
            Space::new(PathBuf::from("/"), marks)
        };
        let disk = Disk {
            total: 1000,
            free: 40,
        };
        assert!(space("5%", "10%").is_low(disk));
        assert_eq!(space("5%", "10%").excess(disk), 60);
        assert_eq!(space("5%", "1%").excess(disk), 10);
        assert!(!space("4%", "10%").is_low(disk));
        assert_eq!(space("1%", "2%").excess(disk), 0);
    }
}
