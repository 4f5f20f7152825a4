//! The stage registry goes away, answers nothing but errors, or loses an image in the middle of a build.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use croft_local::Farm;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::aftermath::unharmed;
use crate::farm_of;
use crate::gate::Gate;
use crate::support::{Buildx, Context, Plan, Repository, builds, process::eventually, registry};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];
const FLAGS: [&str; 2] = ["--build-platform", "linux/amd64"];

/// Something that answers 503 to all that comes to an address, until it is dropped.
struct Failing {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Failing {
    fn at(address: SocketAddr) -> Failing {
        let listener = TcpListener::bind(address).expect("nobody listens there");
        let ends = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ends);
        let server = thread::spawn(move || {
            for connection in listener.incoming() {
                if end.load(Ordering::Acquire) {
                    return;
                }
                // Whoever goes away meanwhile has had its answer.
                let _ = connection.and_then(|mut peer| {
                    let _ = peer.read(&mut [0; 4096])?;
                    peer.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                });
            }
        });
        Failing {
            address,
            ends,
            server: Some(server),
        }
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// The build of this context as the farm knows it by now.
fn plan(farm: &Farm, context: &Context) -> Option<Plan> {
    builds::find(farm, &context.nonce)
}

/// Waits until the builder's result is in the stage registry, and gives its digest.
fn handed_over(farm: &Farm, context: &Context) -> String {
    eventually("the builder's result is handed over", || {
        let plan = plan(farm, context)?;
        if plan.stage("builder").state != "done" {
            return None;
        }
        match &registry::pushed(farm.stage())[..] {
            [only] => Some(only.clone()),
            all => panic!("one image, not {all:?}"),
        }
    })
}

/// The repository of the farm's results.
fn results(farm: &Farm) -> Repository {
    let all = registry::repositories(farm.stage());
    let [only] = &all[..] else {
        panic!("one repository of results, not {all:?}")
    };
    Repository::of(farm.stage(), only)
}

/// A build whose builder, after this command, makes what every platform copies.
fn handing_over(first: &str) -> Context {
    Context::new(&format!(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN : $NONCE; {first} && cat /proc/sys/kernel/random/uuid > /x\n\
         FROM busybox\nCOPY --from=builder /x /x\nRUN : $NONCE; uname -m > /machine\n"
    ))
}

/// What a random number at the builder came to on each platform: the same on all, or two results were mixed.
fn one_artifact(image: &Repository) {
    let published = image.published("1");
    assert_eq!(published.platforms(), TWO);
    let [amd64, arm64] = TWO.map(|platform| published.image(platform).file("/x"));
    assert_eq!(amd64, arm64, "both have the one artifact");
}

#[test]
fn a_result_is_pushed_when_the_stage_registry_is_back_whether_it_was_gone_or_failing() {
    let mut farm = farm_of("amd64,arm64", &FLAGS);
    let buildx = Buildx::of(&farm);
    for (failing, said) in [(false, "connection refused"), (true, "503")] {
        let gate = Gate::new();
        let context = handing_over(&gate.step());
        let image = Repository::of(farm.registry(), &context.nonce);
        let build = buildx.build(&context).platforms(&TWO);
        let (built, ()) = build.push(&image.tag("1")).start_with(|running| {
            gate.reached();
            farm.stage_mut().kill().expect("it runs");
            let failing = failing.then(|| Failing::at(farm.stage().address()));
            gate.open();
            running.wait_for(|line| line.contains("is tried again"));
            running.wait_for(|line| line.contains(said));
            drop(failing);
            farm.stage_mut().start_again().expect("it starts again");
        });
        let plan = built.succeeded().plan();
        let builder = plan.stage("builder");
        let states: Vec<&str> = builder.attempts.iter().map(|a| a.state.as_str()).collect();
        let (last, before) = states.split_last().expect("attempts");
        assert_eq!(*last, "succeeded", "{plan:#?}");
        assert!(before.iter().all(|state| *state == "failed"), "{plan:#?}");
        // The builder's command was run once: the gate lets nobody through a second time.
        one_artifact(&image);
        unharmed(&farm, &context, &image, &[&gate]);
    }
}

#[test]
fn a_coordinator_that_starts_while_the_stage_registry_is_away_adopts_what_runs() {
    let mut farm = farm_of("amd64,arm64", &FLAGS);
    let buildx = Buildx::of(&farm);
    let gate = Gate::new();
    let context = handing_over(&gate.step());
    let image = Repository::of(farm.registry(), &context.nonce);
    let build = buildx.build(&context).platforms(&TWO);
    let (built, ()) = build.push(&image.tag("1")).start_with(|_| {
        gate.reached();
        farm.stage_mut().kill().expect("it runs");
        farm.kill_coordinator().expect("it runs");
    });
    built.failed();
    farm.start_coordinator().expect("it starts without it");
    let said = std::fs::read_to_string(farm.coordinator_log()).expect("a log");
    assert!(said.contains("the stage registry is away"), "{said}");
    gate.open();
    farm.stage_mut().start_again().expect("it starts again");
    let plan = eventually("the build is over", || {
        plan(&farm, &context).filter(|plan| plan.state != "running" && plan.state != "publishing")
    });
    assert_eq!(plan.state, "succeeded", "{plan:#?}");
    // The builder's command was run once: the gate lets nobody through a second time.
    one_artifact(&image);
    unharmed(&farm, &context, &image, &[&gate]);
}

/// A build whose arm64 part, before it takes the builder's result, waits for one that is made at a gate on an agent of a third platform:
/// it can't go ahead of that.
fn waiting(gate: &Gate) -> Context {
    Context::new(&format!(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN : $NONCE; cat /proc/sys/kernel/random/uuid > /x\n\
         FROM --platform=linux/ppc64le busybox AS slow\nRUN {} && touch /y\n\
         FROM busybox AS for-amd64\n\
         FROM busybox AS for-arm64\nCOPY --from=slow /y /y\n\
         FROM for-$TARGETARCH\nCOPY --from=builder /x /x\nRUN : $NONCE; uname -m > /machine\n",
        gate.step()
    ))
}

#[test]
fn an_image_that_the_stage_registry_has_lost_is_pushed_again_by_whoever_holds_the_result() {
    let farm = farm_of("amd64,arm64,ppc64le", &FLAGS);
    let buildx = Buildx::of(&farm);
    let gate = Gate::new();
    let context = waiting(&gate);
    let image = Repository::of(farm.registry(), &context.nonce);
    let build = buildx.build(&context).platforms(&TWO);
    let (built, ()) = build.push(&image.tag("1")).start_with(|_| {
        gate.reached();
        let lost = handed_over(&farm, &context);
        results(&farm).delete(&lost);
        gate.open();
    });
    let plan = built.succeeded().plan();
    // Nothing was run once more.
    assert_eq!(plan.stage("builder").attempts.len(), 1, "{plan:#?}");
    one_artifact(&image);
    unharmed(&farm, &context, &image, &[&gate]);
}

#[test]
fn a_result_that_nobody_has_any_more_is_made_again_and_all_that_came_from_it() {
    let mut flags = FLAGS.to_vec();
    flags.extend(["--lease", "2s"]);
    let farm = farm_of("amd64,amd64,arm64,ppc64le", &flags);
    let buildx = Buildx::of(&farm);
    let gate = Gate::new();
    let context = waiting(&gate);
    let image = Repository::of(farm.registry(), &context.nonce);
    let build = buildx.build(&context).platforms(&TWO);
    let (built, maker) = build.push(&image.tag("1")).start_with(|running| {
        gate.reached();
        let lost = handed_over(&farm, &context);
        let amd64_is_done = || {
            let plan = plan(&farm, &context)?;
            let done = |stage: &&crate::support::Stage| {
                stage.kind == "target" && stage.users == ["linux/amd64"] && stage.state == "done"
            };
            plan.stages.iter().find(done).map(|_| ())
        };
        eventually("amd64 is done", amd64_is_done);
        let plan = plan(&farm, &context).expect("it runs");
        let maker = plan.stage("builder").agent().to_owned();
        let agent = farm
            .agents()
            .iter()
            .find(|one| one.name.to_string() == maker);
        let process = agent.and_then(|agent| agent.process()).expect("it runs");
        kill(Pid::from_raw(process.cast_signed()), Signal::SIGKILL).expect("our process");
        results(&farm).delete(&lost);
        gate.open();
        running.wait_for(|line| line.contains("had made is lost"));
        maker
    });
    let plan = built.succeeded().plan();
    let builder = plan.stage("builder");
    assert_eq!(builder.attempts.len(), 2, "{plan:#?}");
    assert_ne!(builder.attempts[1].agent, maker, "{plan:#?}");
    one_artifact(&image);
    unharmed(&farm, &context, &image, &[&gate]);
}

/// A build that hands its builder's result over, and the digest of that.
fn handed(farm: &Farm, buildx: &Buildx) -> String {
    let context = handing_over("true");
    let image = Repository::of(farm.registry(), &context.nonce);
    let build = buildx.build(&context).platforms(&["linux/arm64"]);
    let built = build.push(&image.tag("1")).run().succeeded();
    match &built.plan().transfers[..] {
        [one] => one.digest.clone(),
        all => panic!("one result travels, not {all:?}"),
    }
}

#[test]
fn what_nobody_has_used_for_long_is_deleted_in_the_stage_registry_and_nothing_else() {
    let mut farm = farm_of("amd64,arm64", &FLAGS);
    let buildx = Buildx::of(&farm);
    let old = handed(&farm, &buildx);
    let long_ago = "UPDATE stage_images SET last_used = last_used - interval '90 days'; \
                    UPDATE builds SET finished_at = finished_at - interval '90 days'";
    let url = farm.database_url().to_owned();
    farm.postgres().query(&url, long_ago).expect("a database");
    let young = handed(&farm, &buildx);
    let results = results(&farm);
    assert!(results.has(&old) && results.has(&young));

    // A coordinator looks when it starts.
    farm.kill_coordinator().expect("it runs");
    farm.start_coordinator().expect("it starts again");
    let freed = "SELECT data->>'images', (data->>'bytes')::bigint > 0, data->>'refused' FROM events WHERE kind = 'stage images retired'";
    let said = eventually("it says what it deleted", || {
        let rows = farm.postgres().query(&url, freed).expect("a database");
        (!rows.is_empty()).then_some(rows)
    });
    assert_eq!(said, "1|t|0");
    assert!(!results.has(&old) && results.has(&young));
    let left = farm
        .postgres()
        .query(&url, "SELECT digest FROM stage_images");
    assert_eq!(left.expect("a database"), young);
}
