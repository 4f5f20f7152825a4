//! Whole farms, simulated from a seed: agents join, die, freeze and drain, messages come late, twice or not at all, one coordinator follows
//! another, and every promise is checked all along. `CROFT_SEED=<number>` replays one farm of each size.

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod books;
mod builds;
mod coordinator;
mod farm;
mod faults;
mod judge;
mod network;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use croft_scheduler::FarmBudget;
use farm::{Again, Breaks, Size};

/// Runs the farms of all these seeds, on all processors.
fn all(seeds: u64, size: Size) -> Again {
    if let Ok(seed) = std::env::var("CROFT_SEED") {
        return one(seed.parse().expect("CROFT_SEED is a number"), size);
    }
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Again::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            let again = one(seed, size);
            *sum.lock().expect("no farm broke a promise") += again;
        }
    };
    std::thread::scope(|scope| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    sum.into_inner().expect("no farm broke a promise")
}

/// That everything broke in so many farms, more often than this.
fn broke(again: Again, often: usize) {
    if std::env::var("CROFT_SEED").is_err() {
        let Again {
            by_farm,
            over_registry,
            handed_back,
            ahead,
            ..
        } = again;
        for count in [by_farm, over_registry, handed_back, ahead] {
            assert!(count > often, "it hardly breaks: {again:?}");
        }
    }
}

fn one(seed: u64, size: Size) -> Again {
    /// Says which farm it was.
    struct Name(u64);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("to see it again: CROFT_SEED={}", self.0);
            }
        }
    }
    let _name = Name(seed);
    farm::run(seed, size)
}

#[test]
fn small_farms_keep_every_promise_whatever_breaks() {
    let size = Size {
        agents: 20,
        builds: 50,
        faults: 60,
        breaks: Breaks::Anything,
        judged: true,
    };
    broke(all(1000, size), 100);
}

#[test]
fn large_farms_keep_every_promise_whatever_breaks() {
    let size = Size {
        agents: 1000,
        builds: 300,
        faults: 1000,
        breaks: Breaks::Anything,
        judged: false,
    };
    broke(all(10, size), 0);
}

#[test]
fn agents_that_are_restarted_all_the_time_cost_no_build_anything_but_time() {
    let size = Size {
        agents: 8,
        builds: 20,
        faults: 300,
        breaks: Breaks::NothingAgentsRestart,
        judged: true,
    };
    let again = all(200, size);
    let often = FarmBudget::default().failures as usize;
    assert!(again.of_one_stage > often, "they hardly are: {again:?}");
}
