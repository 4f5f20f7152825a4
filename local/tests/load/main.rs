//! How much a farm holds at once: a hundred stages on agents whose engines run nothing, beside one whose engine is real.

#[path = "../herd/mod.rs"]
mod herd;
#[path = "../support/mod.rs"]
mod support;

use herd::{
    Herd,
    statements::{self, Statements},
};
use support::{
    Buildx, Context, Repository, builds, machine,
    memory::{Memory, forget_peak},
    process::eventually,
};

const AGENTS: usize = 25;
const SLOTS: usize = 4;
const STAGES: usize = AGENTS * SLOTS;
/// As many at once as one agent runs.
const FEW: usize = 10;
/// How far the coordinator may grow over a hundred builds, in bytes.
const GROWTH: u64 = 64 << 20;
/// What a stage of a build of its own takes of the database, from the build's first row to its last.
const STATEMENTS: f64 = 60.0;

/// Nothing is left of all builds: no work, no keeper, no session, nobody's.
fn nothing_left(herd: &Herd) {
    let live = "SELECT (SELECT count(*) FROM builds WHERE finished_at IS NULL)
                     + (SELECT count(*) FROM attempts WHERE finished_at IS NULL)";
    assert_eq!(herd.ask(live), "0");
    // Agents let sessions linger for a while.
    eventually("the engines hold nothing", || {
        let tally = herd.engines.tally();
        (tally.running == 0 && tally.jobs == 0 && tally.sessions == 0).then_some(())
    });
    assert_eq!(builds::running(&herd.farm), Vec::<String>::new());
}

#[test]
fn a_hundred_stages_run_at_once_beside_a_real_engine_and_each_takes_what_each_of_a_few_takes() {
    let herd = Herd::start(AGENTS, SLOTS, |options| {
        let real = croft_local::agents("arm64").expect("names");
        options.agents.extend(real);
        options.coordinator_flags = ["--build-platform", "linux/arm64"]
            .map(str::to_owned)
            .to_vec();
    });
    statements::log_all(&herd.farm);
    let coordinator = herd.farm.coordinator_process().expect("it runs");
    let each = [FEW, STAGES].map(|stages| {
        herd.engines.shut();
        let before = Memory::Now.of(coordinator).expect("it runs");
        forget_peak(coordinator).expect("it runs");
        let statements = Statements::of(&herd.farm);
        let builds = herd.begin(stages);
        herd.wait_running(stages);
        let begun = statements.counted();
        if stages == STAGES {
            real_build(&herd);
        }
        let statements = Statements::of(&herd.farm);
        herd.engines.open();
        let heard = builds.succeeded();
        let ended = statements.counted();
        assert_eq!(heard.len(), stages);
        assert!(heard.iter().all(|one| one.completed == 1), "{heard:?}");
        let peak = Memory::Peak.of(coordinator).expect("it runs");
        let growth = peak.saturating_sub(before);
        assert!(growth < GROWTH, "the coordinator grew by {growth} bytes");
        let each = (begun.total() + ended.total()) as f64 / stages as f64;
        eprintln!(
            "{stages} stages: {each:.1} statements each, the coordinator grew by {growth} bytes"
        );
        assert!(each < STATEMENTS, "{begun:#?} {ended:#?}");
        each
    });
    let [few, many] = each;
    assert!(
        many < few * 1.1 + 2.0,
        "{few} for each of a few, {many} for each of many"
    );

    let solved = herd.engines.solved();
    assert_eq!(solved.len(), FEW + STAGES);
    assert!(solved.values().all(|times| *times == 1), "{solved:?}");
    let tries =
        "SELECT state, count(*), count(DISTINCT (build, stage)) FROM attempts GROUP BY state";
    let all = FEW + STAGES + 1;
    assert_eq!(herd.ask(tries), format!("succeeded|{all}|{all}"));
    nothing_left(&herd);
}

/// A build by the real buildx on the real engine.
fn real_build(herd: &Herd) {
    let context = Context::new("FROM busybox\nRUN : $NONCE && uname -m > /machine\n");
    let image = Repository::of(herd.farm.registry(), "load/real");
    let buildx = Buildx::of(&herd.farm);
    let built = buildx
        .build(&context)
        .platforms(&["linux/arm64"])
        .push(&image.tag("1"))
        .run()
        .succeeded();
    let stages = built.plan().stages;
    let agents = stages.iter().flat_map(|stage| &stage.attempts);
    assert!(agents.into_iter().all(|one| one.agent == "arm64-1"));
    let root = image.published("1").bare_image();
    assert_eq!(root.file("/machine"), machine("linux/arm64"));
}

#[test]
fn a_hundred_stages_that_run_when_the_coordinator_is_killed_are_adopted_and_run_once() {
    let mut herd = Herd::start(AGENTS, SLOTS, |_| {});
    let builds = herd.begin(STAGES);
    herd.wait_running(STAGES);
    let adopted = herd.restart_coordinator();
    eprintln!("{STAGES} stages are adopted after {adopted:?}");
    drop(builds);
    assert_eq!(herd.engines.tally().running, STAGES);
    herd.engines.open();
    eventually("all builds are over", || {
        let live = herd.ask("SELECT count(*) FROM builds WHERE finished_at IS NULL");
        (live == "0").then_some(())
    });
    let ends = "SELECT state, count(*) FROM builds GROUP BY state";
    assert_eq!(herd.ask(ends), format!("succeeded|{STAGES}"));
    let tries = "SELECT state, count(*) FROM attempts GROUP BY state";
    assert_eq!(herd.ask(tries), format!("succeeded|{STAGES}"));
    let solved = herd.engines.solved();
    assert_eq!(solved.len(), STAGES);
    assert!(solved.values().all(|times| *times == 1), "{solved:?}");
    nothing_left(&herd);
}
