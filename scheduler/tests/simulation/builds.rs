//! Random farms and builds: shapes as the planner makes them, and some that it doesn't.

use std::collections::BTreeSet;
use std::time::Duration;

use croft_planner::StageId;
use croft_scheduler::fleet::AgentView;
use croft_scheduler::place::ReadyStage;
use croft_scheduler::{BuildState, StageState, Timestamp};
use fastrand::Rng;

use super::books::{Build, Output, Stage};
use super::support::{agent, command, platform, project, stage};

const PLATFORMS: [&str; 4] = ["linux/amd64", "linux/arm64", "linux/ppc64le", "linux/s390x"];

/// An agent of some platform, now and then with an emulator.
pub fn any_agent(rng: &mut Rng, number: u128) -> AgentView {
    let native = PLATFORMS[rng.usize(..PLATFORMS.len())];
    let mut view = agent(number, &format!("agent-{number}"), native);
    view.slots = rng.u32(1..4);
    if rng.u32(..8) == 0 {
        let other = PLATFORMS[rng.usize(..PLATFORMS.len())];
        if other != native {
            view.emulated.insert(platform(other));
        }
    }
    view
}

/// A build: shared stages, cross stages on other homes, targets. Most of its edges go to the stage before; some come from anywhere before.
pub fn any_build(rng: &mut Rng, number: u128, now: Timestamp) -> Build {
    let count = rng.usize(1..9);
    let mut stages: Vec<Stage> = Vec::with_capacity(count);
    let mut outputs: Vec<Output> = Vec::new();
    let of = project(["p", "q", "r"][rng.usize(..3)]);
    for place in 0..count {
        let on = match rng.u32(..40) {
            // Nobody runs it.
            0 => "linux/riscv64",
            _ => PLATFORMS[rng.usize(..PLATFORMS.len())],
        };
        let mut ready: ReadyStage = stage(number, place as u32, on);
        if rng.u32(..8) == 0 {
            ready.platforms = BTreeSet::new();
        }
        ready.project = of.clone();
        ready.build_created = now;
        ready.priority = i32::from(rng.u32(..10) == 0);
        let cached = format!("op {}", rng.u32(..30));
        ready.commands = vec![command(&cached, rng.bool().then(|| Duration::from_secs(3)))];
        if rng.u32(..6) == 0 {
            let first = stages
                .iter()
                .position(|stage| stage.ready.platforms == ready.platforms);
            if let Some(first) = first {
                let group = StageId(first as u32);
                stages[first].ready.together = Some(group);
                ready.together = Some(group);
            }
        }
        let mut inputs = BTreeSet::new();
        for _ in 0..rng.usize(..3) {
            if !outputs.is_empty() {
                inputs.insert(rng.usize(..outputs.len()));
            }
        }
        if let Some(last) = outputs.len().checked_sub(1).filter(|_| rng.u32(..3) > 0) {
            inputs.insert(last);
        }
        for input in &inputs {
            outputs[*input].consumers.push(place);
        }
        let first = outputs.len();
        let of_it = rng.usize(1..3);
        outputs.extend((0..of_it).map(|_| Output {
            stage: place,
            consumers: Vec::new(),
            held: None,
            image: None,
        }));
        stages.push(Stage {
            ready,
            inputs: inputs.into_iter().collect(),
            outputs: (first..first + of_it).collect(),
            work: Duration::from_millis(rng.u64(50..20_000)),
            fails: rng.u32(..80) == 0,
            state: StageState::Waiting,
            since: now,
            not_before: Timestamp(0),
            farm_failures: 0,
            registry_failures: 0,
            unserved_since: None,
        });
    }
    meet(&mut stages, &outputs);
    Build {
        state: BuildState::Running,
        stages,
        outputs,
        why: None,
    }
}

/// Says of each stage which others it meets, as the planner does: those whose whole roots a stage of their own platform takes as well.
fn meet(stages: &mut [Stage], outputs: &[Output]) {
    for taker in 0..stages.len() {
        let inputs = stages[taker].inputs.iter();
        let whole = inputs.filter(|edge| is_whole(**edge));
        let producers = whole.map(|edge| outputs[*edge].stage);
        let at_home = |at: &usize| stages[*at].ready.platforms == stages[taker].ready.platforms;
        let roots: BTreeSet<usize> = producers.filter(at_home).collect();
        for one in &roots {
            let others = roots.iter().filter(|other| *other != one);
            let others = others.map(|other| (StageId(*other as u32), None));
            stages[*one].ready.meets.extend(others);
        }
    }
}

/// Whether an edge carries a whole root: some do, which are dear to move, and some don't.
pub fn is_whole(edge: usize) -> bool {
    edge.is_multiple_of(2)
}
