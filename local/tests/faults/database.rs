//! PostgreSQL is stopped, and its connections are cut, in the middle of builds.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::aftermath::unharmed;
use crate::farm_of;
use crate::gate::Gate;
use crate::support::{Buildx, Context, Plan, Repository, engine::runs, process::eventually};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// A Dockerfile with a shared stage that does this first.
fn shared(first: &str) -> Context {
    Context::new(&format!(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN : $NONCE; {first} && cat /proc/sys/kernel/random/uuid > /x\n\
         FROM busybox\nCOPY --from=builder /x /x\nRUN echo $NONCE > /nonce && uname -m > /machine\n"
    ))
}

/// Nothing of it was tried, or run, twice.
fn once(farm: &croft_local::Farm, nonce: &str, plan: &Plan) {
    assert!(
        plan.stages.iter().all(|stage| stage.attempts.len() == 1),
        "{plan:#?}"
    );
    let ran = runs(farm, nonce);
    assert_eq!(ran, [("amd64-1".to_owned(), 2), ("arm64-1".to_owned(), 1)]);
}

#[test]
fn while_the_database_is_away_builds_wait_and_nothing_is_lost_or_run_twice() {
    // A short lease: that agents hear nothing of theirs must not end them.
    let lease = Duration::from_secs(3);
    let mut farm = farm_of(
        "amd64,arm64",
        &["--build-platform", "linux/amd64", "--lease", "3s"],
    );
    let buildx = Buildx::of(&farm);
    let (held, gate) = (Gate::new(), Gate::new());
    // One stage ends while the database is away, one runs on.
    let (ends, runs_on) = (shared(&gate.step()), shared(&held.step()));
    let images = [&ends, &runs_on].map(|one| Repository::of(farm.registry(), &one.nonce));
    let log = farm.coordinator_log();
    let first = buildx
        .build(&ends)
        .platforms(&TWO)
        .push(&images[0].tag("1"));
    let second = buildx
        .build(&runs_on)
        .platforms(&TWO)
        .push(&images[1].tag("1"));
    let late = Context::new("FROM busybox\nRUN : $NONCE\n");
    let (first, (second, third)) = first.start_with(|_| {
        second.start_with(|_| {
            gate.reached();
            held.reached();
            farm.postgres_mut().stop().expect("it runs");
            let away = Instant::now();
            gate.open();
            eventually("the coordinator says that the database is away", || {
                let said = std::fs::read_to_string(&log).expect("a log");
                said.contains("the database is away: nothing is decided")
                    .then_some(())
            });
            let third = buildx.build(&late).platforms(&TWO[..1]);
            let (third, ()) = third.start_with(|_| {
                eventually("leases would have ended", || {
                    (away.elapsed() > lease * 3).then_some(())
                });
                farm.postgres_mut().start_again().expect("it starts");
                held.open();
            });
            third
        })
    });
    third.succeeded();
    for (built, context, image) in [(first, &ends, &images[0]), (second, &runs_on, &images[1])] {
        let built = built.succeeded();
        once(&farm, &context.nonce, &built.plan());
        unharmed(&farm, context, image, &[&gate, &held]);
    }
    let said = std::fs::read_to_string(&log).expect("a log");
    let times = said
        .matches("the database is away: nothing is decided")
        .count();
    assert_eq!(times, 1, "{said}");
}

#[test]
fn a_build_gets_over_it_that_connections_to_the_database_break_again_and_again() {
    let farm = farm_of("amd64,arm64", &["--build-platform", "linux/amd64"]);
    let buildx = Buildx::of(&farm);
    let (over, mut done) = (AtomicBool::new(false), Vec::new());
    let cut = || {
        farm.postgres()
            .query(
                farm.database_url(),
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .expect("it answers")
            .parse::<usize>()
            .expect("a number")
    };
    let broken = thread::scope(|scope| {
        let cutting = scope.spawn(|| {
            let mut broken = 0;
            while !over.load(Ordering::Relaxed) {
                broken += cut();
            }
            broken
        });
        for _ in 0..3 {
            let context = shared(":");
            let image = Repository::of(farm.registry(), &context.nonce);
            let build = buildx.build(&context).platforms(&TWO);
            let built = build.push(&image.tag("1")).run();
            // However it went, the other thread is to end.
            if !built.finished.status.success() {
                over.store(true, Ordering::Relaxed);
            }
            let built = built.succeeded();
            assert_eq!(runs(&farm, &context.nonce).len(), 2);
            assert_eq!(image.published("1").platforms(), TWO);
            assert_eq!(built.plan().state, "succeeded");
            done.push((context, image));
        }
        over.store(true, Ordering::Relaxed);
        cutting.join().expect("it cuts")
    });
    eprintln!("{broken} connections were cut");
    for (context, image) in &done {
        unharmed(&farm, context, image, &[]);
    }
    assert!(broken > 10, "{broken}");
}
