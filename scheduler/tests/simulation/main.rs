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

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use farm::Size;

/// Runs the farms of all these seeds, on all processors.
fn all(seeds: u64, size: Size) {
    if let Ok(seed) = std::env::var("CROFT_SEED") {
        one(seed.parse().expect("CROFT_SEED is a number"), size);
        return;
    }
    let (next, over_registry) = (AtomicU64::new(0), AtomicUsize::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            over_registry.fetch_add(one(seed, size), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    let over_registry = over_registry.into_inner();
    assert!(over_registry > 100, "it hardly breaks: {over_registry}");
}

fn one(seed: u64, size: Size) -> usize {
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
        judged: true,
    };
    all(1000, size);
}

#[test]
fn large_farms_keep_every_promise_whatever_breaks() {
    let size = Size {
        agents: 1000,
        builds: 300,
        faults: 1000,
        judged: false,
    };
    all(10, size);
}
