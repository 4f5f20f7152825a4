//! Shape 9: two agents of one platform share the work, and each keeps what its cache is good for.

use crate::support::{
    Buildx, Built, Context, Repository, Running, engine::runs, farm_of, registry::requests,
};
use croft_local::Farm;

/// Runs until it is cancelled.
const BLOCKER: &str = "FROM busybox\nRUN : block-$NONCE && sleep 600\n";

const CACHED: &str = "\
FROM busybox
RUN : slow-$NONCE && sleep 2 && head -c 32 /dev/urandom | sha256sum > /random
COPY version /version
RUN : quick-$NONCE && cp /version /copy
";

/// Fills the only slot of an agent until this is dropped.
struct Blocker {
    agent: String,
    running: Option<Running>,
}

impl Blocker {
    fn start(buildx: &Buildx) -> Blocker {
        let context = Context::new(BLOCKER);
        let mut running = buildx.build(&context).start();
        let started = running.wait_for(|line| {
            line.starts_with('#') && line.contains("] RUN") && line.contains(&context.nonce)
        });
        let (_, rest) = started.split_once('[').unwrap();
        Blocker {
            agent: rest.split(' ').next().unwrap().to_owned(),
            running: Some(running),
        }
    }

    /// Fills this agent and no other.
    fn start_on(buildx: &Buildx, agent: &str) -> Blocker {
        // Each agent has one slot, so that two of them fill both.
        let both = [Blocker::start(buildx), Blocker::start(buildx)];
        let (there, elsewhere): (Vec<_>, Vec<_>) =
            both.into_iter().partition(|one| one.agent == agent);
        drop(elsewhere);
        there.into_iter().next().unwrap()
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.interrupt();
            // Until then its slot is taken.
            running.finish();
        }
    }
}

fn build(buildx: &Buildx, context: &Context, version: &str) -> Built {
    context.write("version", version.as_bytes());
    buildx.build(context).run().succeeded()
}

fn agent_of(built: &Built) -> String {
    let plan = built.plan();
    let agents: Vec<_> = plan.agents().into_iter().collect();
    assert_eq!(agents.len(), 1, "{plan:#?}");
    agents[0].to_owned()
}

#[test]
fn an_edited_rebuild_goes_back_to_its_cache_and_spills_when_that_agent_is_busy() {
    let farm = farm_of("amd64,amd64", &["--slots", "1"]);
    let buildx = Buildx::of(&farm);
    // Wherever builds go when all is equal, this one must go elsewhere: so that going back to it is no accident.
    let blocker = Blocker::start(&buildx);
    let context = Context::new(CACHED);
    let home = agent_of(&build(&buildx, &context, "1"));
    assert_ne!(home, blocker.agent);
    let other = blocker.agent.clone();
    drop(blocker);

    let again = build(&buildx, &context, "2");
    assert_eq!(agent_of(&again), home);
    let reason = again.plan().stages[0].reason().to_owned();
    assert!(reason.contains("holds the cache"), "{reason}");
    let slow = format!("slow-{}", context.nonce);
    let quick = format!("quick-{}", context.nonce);
    assert_eq!(runs(&farm, &slow), [(home.clone(), 1)]);
    assert_eq!(runs(&farm, &quick), [(home.clone(), 2)]);

    let blocker = Blocker::start_on(&buildx, &home);
    let spilled = build(&buildx, &context, "3");
    assert_eq!(agent_of(&spilled), other);
    let reason = spilled.plan().stages[0].reason().to_owned();
    assert!(
        reason.contains(&format!("free, while {home} is busy")),
        "{reason}"
    );
    drop(blocker);
    assert_eq!(runs(&farm, &slow).len(), 2);
}

const CROSS: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN : slow-$NONCE && head -c 100000 /dev/urandom > /random
ARG TARGETARCH
RUN : cross-$NONCE && sleep 1 && echo $TARGETARCH > /target
FROM scratch
COPY --from=builder /random /target /
";

#[test]
fn cross_stages_use_both_agents_and_what_they_share_travels_once() {
    let farm = farm_of("amd64,amd64", &["--slots", "2"]);
    let buildx = Buildx::of(&farm);
    let context = Context::new(CROSS);
    let repository = Repository::of(farm.registry(), "shapes/cross");

    let built = buildx
        .build(&context)
        .platforms(&crate::support::PLATFORMS)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();

    let plan = built.plan();
    let shared = plan.of_kind("shared")[0];
    let there = shared.agent();
    let cross = runs(&farm, &format!("cross-{}", context.nonce));
    assert_eq!(cross.len(), 2, "{plan:#?}");
    assert_eq!(cross.iter().map(|(_, count)| count).sum::<usize>(), 4);
    assert_eq!(
        runs(&farm, &format!("slow-{}", context.nonce)),
        [(there.to_owned(), 1)]
    );

    assert_eq!(plan.transfers.len(), 1, "{plan:#?}");
    let transfer = &plan.transfers[0];
    assert_eq!(transfer.from_stage, shared.number);
    let stage = stage_repository(&farm);
    let exported = stage.published(&transfer.digest);
    assert_eq!(requests(farm.stage(), "PUT", &transfer.digest), 1);
    for layer in exported.document["layers"].as_array().unwrap() {
        let layer = layer["digest"].as_str().unwrap();
        assert_eq!(requests(farm.stage(), "GET", layer), 1, "{layer}");
    }
}

const ONTO_A_BASE: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN : slow-$NONCE && sleep 1
ARG TARGETARCH
RUN : cross-$NONCE && echo $TARGETARCH > /target
FROM busybox
RUN : final-$NONCE && uname -m > /machine
COPY --from=builder /target /
";

#[test]
fn a_builders_root_and_the_base_that_its_files_go_onto_are_made_on_one_agent() {
    let farm = farm_of("amd64,amd64,arm64", &["--slots", "2"]);
    let buildx = Buildx::of(&farm);
    let context = Context::new(ONTO_A_BASE);
    let platforms = ["linux/amd64", "linux/arm64"];
    let built = buildx.build(&context).platforms(&platforms).run();
    let plan = built.succeeded().plan();
    let there = plan.of_kind("shared")[0].agent().to_owned();
    for step in ["cross", "final"] {
        let runs = runs(&farm, &format!("{step}-{}", context.nonce));
        let elsewhere = runs.iter().filter(|(agent, _)| agent.starts_with("amd64-"));
        let elsewhere: Vec<_> = elsewhere.filter(|(agent, _)| *agent != there).collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}: {plan:#?}");
    }
    let kind = |number| plan.numbered(number).kind.as_str();
    let travelled = plan.transfers.iter().map(|one| kind(one.from_stage));
    let travelled: Vec<_> = travelled.collect();
    assert_eq!(travelled, ["cross"], "the copied file: {plan:#?}");
}

/// Where the farm's results are.
fn stage_repository(farm: &Farm) -> Repository {
    let names = crate::support::registry::repositories(farm.stage());
    assert_eq!(names.len(), 1, "{names:?}");
    Repository::of(farm.stage(), &names[0])
}
