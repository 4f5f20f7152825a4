//! An engine whose disk fills up: real, but small.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use croft_local::{Farm, FarmOptions, Place, Special};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::aftermath::settled;
use crate::agents::{attempts, back, named};
use crate::sleep::Sleep;
use crate::support::{Buildx, Context, agent, engine::records_of, process, process::eventually};

/// All of it, in MB.
const SIZE: u64 = 1700;
/// The watermarks, in MB: above what placement wants anyway.
const LOW: u64 = 1150;
const HIGH: u64 = 1250;

/// A file system of its own; gone when this is dropped.
struct SmallDisk {
    mounted: PathBuf,
    _folder: TempDir,
}

impl SmallDisk {
    fn new() -> SmallDisk {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (image, mounted) = (folder.path().join("image"), folder.path().join("disk"));
        fs::create_dir(&mounted).expect("writable");
        let file = fs::File::create(&image).expect("writable");
        file.set_len(SIZE << 20).expect("a sparse file");
        let mut make = Command::new("mkfs.ext4");
        process::run({
            make.args(["-q", "-m", "0"]).arg(&image);
            make
        })
        .succeeded();
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(&mounted);
        process::run(mount).succeeded();
        SmallDisk {
            mounted,
            _folder: folder,
        }
    }

    /// What is free, in MB.
    fn free(&self) -> u64 {
        let about = nix::sys::statvfs::statvfs(&self.mounted).expect("a file system");
        (about.blocks_available() * about.fragment_size()) / 1_000_000
    }

    /// Takes room until only so much is left, in MB.
    fn leave(&self, left: u64) -> Ballast {
        let path = self.mounted.join("ballast");
        let take = self.free().checked_sub(left).expect("there is more");
        let file = fs::File::create(&path).expect("writable");
        let mode = nix::fcntl::FallocateFlags::empty();
        let bytes = i64::try_from(take * 1_000_000).expect("not that much");
        nix::fcntl::fallocate(&file, mode, 0, bytes).expect("there is room");
        Ballast(path)
    }

    /// A farm whose first agent has its engine on this disk.
    fn farm(&self) -> Farm {
        let mut options = FarmOptions::from_env().expect("options");
        options.agents = croft_local::agents("amd64,amd64").expect("names");
        options.engines.clear();
        let marks = [("--disk-low", LOW), ("--disk-high", HIGH)];
        let flags = marks.map(|(flag, mark)| [flag.to_owned(), format!("{mark}MB")]);
        options.agent_flags = flags.into_iter().flatten().collect();
        let special = Special {
            engine_place: Some(Place::Within(self.mounted.join("farm"))),
            ..Special::default()
        };
        options.special.insert(options.agents[0], special);
        Farm::start(options).unwrap_or_else(|error| panic!("no farm: {error}"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg(&self.mounted);
        let unmounted = unmount.status().is_ok_and(|status| status.success());
        assert!(unmounted || std::thread::panicking(), "still in use");
    }
}

/// Room that is taken as long as this lives.
struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn condition(farm: &Farm) -> String {
    agent::text(farm, "amd64-1", "condition")
}

fn log(path: &Path) -> String {
    fs::read_to_string(path).expect("a log")
}

#[test]
fn a_step_that_fails_for_want_of_room_is_tried_elsewhere_and_the_agent_comes_back() {
    let disk = SmallDisk::new();
    let farm = disk.farm();
    let other = agent::stop(&farm, "amd64-2", Signal::SIGTERM);
    let sleep = Sleep::new();
    let context = Context::new(&format!(
        "FROM busybox\nRUN : $NONCE; ({}); dd if=/dev/zero of=/big bs=1M count={SIZE} && rm /big\n",
        sleep.step()
    ));
    let buildx = Buildx::of(&farm);
    let (built, _other) = buildx.build(&context).start_with(|running| {
        sleep.wait_for(1);
        let other = other.start(&farm);
        sleep.wake_all();
        running.wait_for(|line| line.contains("while the engine's disk was nearly full"));
        sleep.wait_for(1);
        sleep.wake_all();
        other
    });
    let plan = built.succeeded().plan();
    let twice = [("amd64-1", "failed"), ("amd64-2", "succeeded")];
    let twice = twice.map(|(agent, state)| (agent.to_owned(), state.to_owned()));
    assert_eq!(attempts(&plan, &context.nonce), twice, "{plan:#?}");
    back(&farm, "amd64-1");
    settled(&farm, &context);
}

#[test]
fn an_agent_whose_disk_fills_takes_no_work_prunes_its_engine_and_comes_back() {
    let disk = SmallDisk::new();
    let farm = disk.farm();
    let _other = agent::stop(&farm, "amd64-2", Signal::SIGTERM);
    let buildx = Buildx::of(&farm);
    let old = Context::new("FROM busybox\nRUN : $NONCE; head -c 200000000 /dev/urandom > /junk\n");
    buildx.build(&old).run().succeeded();
    let agent = named(&farm, "amd64-1");
    eventually("its results are nobody's", || {
        let records = records_of(agent, &old.nonce);
        (!records.is_empty() && records.iter().all(|one| one.reclaimable)).then_some(())
    });

    // What nobody uses is enough: it is gone, and there is room again.
    let taken = disk.leave(LOW - 50);
    eventually("it was pruned", || {
        records_of(agent, &old.nonce).is_empty().then_some(())
    });
    eventually("it is back", || (condition(&farm) == "ready").then_some(()));
    assert!(log(&agent.log()).contains("the engine's disk is nearly full"));
    assert!(disk.free() > LOW, "{}", disk.free());

    // There is nothing left to prune: builds wait, and say for what, until there is room.
    drop(taken);
    let taken = disk.leave(LOW - 20);
    eventually("it says so", || {
        (condition(&farm) == "disk-full").then_some(())
    });
    let next = Context::new("FROM busybox\nRUN : $NONCE\n");
    let (built, ()) = buildx.build(&next).start_with(|running| {
        running.wait_for(|line| line.contains("waiting for an agent"));
        drop(taken);
    });
    let plan = built.succeeded().plan();
    assert_eq!(plan.stage(&next.nonce).agent(), "amd64-1");
    settled(&farm, &next);
}
