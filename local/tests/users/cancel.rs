//! A client that goes away, politely or not: its build ends everywhere and at once.

use std::time::{Duration, Instant};

use crate::builds;
use crate::eyes::commands;
use crate::support::{Buildx, Context, Plan, Running, engine, farm, process::eventually};

/// How long engines may go on after the client is gone.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A number that no other build sleeps for.
fn long() -> String {
    let digits = crate::support::nonce();
    let digits = digits.bytes().map(|byte| char::from(b'0' + byte % 10));
    format!("9{}", digits.take(14).collect::<String>())
}

/// The processes that sleep for so long. Not the shells around them, nor buildx, which has it in no argument.
fn sleepers(long: &str) -> Vec<String> {
    commands(|command| command.contains(&format!("sleep {long}")))
}

fn check(go_away: impl FnOnce(&mut Running)) {
    let farm = farm();
    let long = long();
    let context = Context::new(&format!(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN echo $NONCE > /x\n\
         FROM busybox\nCOPY --from=builder /x /x\nRUN sleep {long}\n"
    ));
    let buildx = Buildx::of(farm);
    let mut build = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/arm64"])
        .start();
    eventually("both platforms sleep", || {
        (sleepers(&long).len() >= 2).then_some(())
    });

    let gone = Instant::now();
    go_away(&mut build);
    eventually("nobody sleeps", || sleepers(&long).is_empty().then_some(()));
    assert!(gone.elapsed() < AT_ONCE, "after {:?}", gone.elapsed());

    let state = |plan: &Plan| plan.state.clone();
    let plan = eventually("the build is over", || {
        builds::find(farm, &long).filter(|plan| state(plan) != "running")
    });
    assert!(gone.elapsed() < AT_ONCE, "after {:?}", gone.elapsed());
    assert_eq!(plan.state, "cancelled");
    for stage in plan
        .stages
        .iter()
        .filter(|stage| stage.name.contains(&long))
    {
        assert_eq!(
            (stage.state.as_str(), stage.attempts[0].state.as_str()),
            ("cancelled", "cancelled")
        );
    }
    let finished = build.finish();
    assert!(!finished.status.success(), "{}", finished.report());

    // What the engines hold for a build they hold through its keepers.
    for agent in farm.agents() {
        eventually("no engine holds anything of it", || {
            let records = engine::records_of(agent, &context.nonce);
            let idle = records.iter().all(|record| record.reclaimable);
            idle.then_some(())
        });
    }
}

#[test]
fn ctrl_c_ends_the_build_everywhere() {
    check(|build| build.interrupt());
}

#[test]
fn a_killed_client_ends_the_build_everywhere() {
    check(Running::kill);
}

#[test]
fn a_build_holds_its_results_while_it_runs() {
    // What the two above rest on: results in use are shown as such.
    let farm = farm();
    let long = long();
    let context = Context::new(&format!(
        "FROM busybox\nRUN echo $NONCE > /x\nRUN sleep {long}\n"
    ));
    let buildx = Buildx::of(farm);
    let build = buildx.build(&context).platforms(&["linux/arm64"]).start();
    eventually("it sleeps", || (!sleepers(&long).is_empty()).then_some(()));
    let agent = farm
        .agents()
        .iter()
        .find(|agent| agent.name.to_string() == "arm64-1");
    let records = engine::records_of(agent.expect("an agent"), &context.nonce);
    let held = |record: &engine::Record| !record.reclaimable;
    assert!(records.iter().any(held), "{records:?}");
    drop(build);
}
