//! Two coordinators on one database: the active one goes in every way there is, and the other one takes over.

use std::time::{Duration, Instant};

use croft_local::{Coordinators, Farm, FarmOptions};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::aftermath::unharmed;
use crate::gate::Gate;
use crate::support::{
    Buildx, Context, Finished, Plan, Repository, agent, builds, engine::runs, process::eventually,
};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// A farm with a coordinator that stands by, and further flags of both.
fn farm_of_two(flags: &[&str]) -> Farm {
    let mut options = FarmOptions::from_env().expect("options");
    options.agents = croft_local::agents("amd64,arm64").expect("names");
    options.engines.clear();
    options.coordinators = Coordinators::Two;
    let flags = [&["--build-platform", "linux/amd64"], flags].concat();
    options.coordinator_flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    Farm::start(options).unwrap_or_else(|error| panic!("no farm: {error}"))
}

/// A build of two platforms with a shared stage that waits.
struct Waiting {
    gate: Gate,
    context: Context,
    image: Repository,
}

impl Waiting {
    fn new(farm: &Farm) -> Waiting {
        let gate = Gate::new();
        let context = Context::new(&format!(
            "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN : $NONCE; {} && cat /proc/sys/kernel/random/uuid > /x\n\
             FROM busybox\nCOPY --from=builder /x /x\nRUN echo $NONCE > /nonce && uname -m > /machine\n",
            gate.step()
        ));
        let image = Repository::of(farm.registry(), &context.nonce);
        Waiting {
            gate,
            context,
            image,
        }
    }

    /// Starts it, has something done to the farm when it waits, and gives what its client says at its end.
    fn broken(&self, farm: &mut Farm, breaking: impl FnOnce(&mut Farm)) -> Finished {
        let buildx = Buildx::of(farm);
        let build = buildx.build(&self.context).platforms(&TWO);
        let (built, ()) = build.push(&self.image.tag("1")).start_with(|_| {
            self.gate.reached();
            breaking(farm);
        });
        built.failed().finished
    }

    /// Lets it go on: it must come to its end with what was run already, and nothing twice.
    fn goes_on(&self, farm: &Farm) -> Plan {
        // What would ask the client something while nobody passes it on is tried again.
        found(farm);
        self.gate.open();
        let plan = eventually("the build is over", || {
            builds::find(farm, &self.context.nonce)
                .filter(|plan| plan.state != "running" && plan.state != "publishing")
        });
        assert_eq!(plan.state, "succeeded", "{plan:#?}");
        assert!(
            plan.stages.iter().all(|stage| stage.attempts.len() == 1),
            "{plan:#?}"
        );
        let ran = runs(farm, &self.context.nonce);
        assert_eq!(
            ran,
            [("amd64-1".to_owned(), 2), ("arm64-1".to_owned(), 1)],
            "the builder's command, and one of each platform"
        );
        unharmed(farm, &self.context, &self.image, &[&self.gate]);
        plan
    }
}

/// Waits until the agents have found the active coordinator.
fn found(farm: &Farm) {
    for name in ["amd64-1", "arm64-1"] {
        eventually("the agents have found the active coordinator", || {
            (agent::state(farm, name) == "connected").then_some(())
        });
    }
}

/// A new build at whichever coordinator is active.
fn builds_again(farm: &Farm) {
    let context = Context::new("FROM busybox\nRUN : $NONCE\n");
    let buildx = Buildx::of(farm);
    buildx.build(&context).platforms(&TWO).run().succeeded();
}

fn signal(farm: &mut Farm, coordinator: usize, signal: Signal) {
    let process = farm.coordinators()[coordinator].process().expect("it runs");
    kill(Pid::from_raw(process.try_into().expect("an id")), signal).expect("it runs");
}

fn log(farm: &mut Farm, coordinator: usize) -> String {
    std::fs::read_to_string(farm.coordinators()[coordinator].log()).expect("a log")
}

#[test]
fn when_the_active_coordinator_is_killed_the_other_one_goes_on_with_what_runs_within_seconds() {
    let mut farm = farm_of_two(&[]);
    let waiting = Waiting::new(&farm);
    let mut took = Duration::ZERO;
    waiting.broken(&mut farm, |farm| {
        farm.kill_coordinator().expect("it runs");
        let begun = Instant::now();
        farm.wait_taken_over().expect("the other one takes over");
        took = begun.elapsed();
    });
    eprintln!("taken over within {took:?}");
    assert!(
        took < Duration::from_secs(6),
        "a whole lease was waited for: {took:?}"
    );
    waiting.goes_on(&farm);
    builds_again(&farm);

    // The one that was killed is the one that stands by now, and is there when it is needed.
    farm.coordinators()[0].start_again().expect("it starts");
    farm.coordinators()[0]
        .wait_standing_by()
        .expect("another one is active");
    farm.kill_coordinator().expect("it runs");
    farm.wait_taken_over()
        .expect("the first one takes over again");
    builds_again(&farm);
}

#[test]
fn a_coordinator_that_froze_while_another_took_over_changes_nothing_when_it_wakes_and_ends() {
    let mut farm = farm_of_two(&["--coordinator-lease", "2s"]);
    let waiting = Waiting::new(&farm);
    let mut after = None;
    let client = waiting.broken(&mut farm, |farm| {
        signal(farm, 0, Signal::SIGSTOP);
        farm.wait_taken_over().expect("the other one takes over");
        after = Some(waiting.goes_on(farm));
        builds_again(farm);
        let before = dump(farm);
        signal(farm, 0, Signal::SIGCONT);
        eventually("the one that was frozen has ended", || {
            farm.coordinators()[0].process().is_none().then_some(())
        });
        assert_eq!(dump(farm), before, "it changed something");
    });
    let said = log(&mut farm, 0);
    assert!(said.contains("has taken over (term 2"), "{said}");
    assert!(
        client.stderr.contains("has lost the lead"),
        "{}",
        client.report()
    );
    assert_eq!(
        builds::find(&farm, &waiting.context.nonce).map(|plan| plan.state),
        after.map(|plan| plan.state)
    );
    builds_again(&farm);
}

#[test]
fn a_coordinator_that_is_told_to_stop_leaves_what_runs_to_the_other_one_at_once_and_says_so() {
    let mut farm = farm_of_two(&["--coordinator-lease", "5m"]);
    let waiting = Waiting::new(&farm);
    let client = waiting.broken(&mut farm, |farm| {
        // Who isn't told would wait for minutes.
        signal(farm, 0, Signal::SIGTERM);
        farm.wait_taken_over().expect("the other one takes over");
    });
    assert!(
        client.stderr.contains("was told to stop"),
        "{}",
        client.report()
    );
    waiting.goes_on(&farm);
    builds_again(&farm);
    farm.coordinators()[0].stop().expect("it ends");
    let said = log(&mut farm, 0);
    let bad = said
        .lines()
        .find(|line| line.contains("ERROR") || line.contains("panicked"));
    assert_eq!(bad, None, "{said}");
}

/// What builds and agents are in the database, but for when agents were heard.
fn dump(farm: &Farm) -> String {
    let ask = |statement: &str| {
        farm.postgres()
            .query(farm.database_url(), statement)
            .expect("it answers")
    };
    [
        "SELECT jsonb_agg(t ORDER BY id) FROM builds AS t",
        "SELECT jsonb_agg(t ORDER BY build, number) FROM stages AS t",
        "SELECT jsonb_agg(t ORDER BY build, kind, number) FROM outputs AS t",
        "SELECT jsonb_agg(t ORDER BY id) FROM attempts AS t",
        "SELECT jsonb_agg(jsonb_build_array(name, state, epoch) ORDER BY name) FROM agents",
        "SELECT term FROM coordinator_lease",
    ]
    .map(ask)
    .join("\n")
}
