//! A stage starts on the agent that is still making what it takes: the engine runs what it can, and has the rest wait.
//!
//! No clock proves that: the commands of two stages must meet in a pipe in a cache mount, which they can only if they run at once.

use crate::support::{Buildx, Context, Plan, builds, engine::runs, farm};

/// `slow` waits for a step of `both`, which takes the result of `slow` after that. Only one of the two platforms comes to the meeting.
const MEETING: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS quick
RUN echo $NONCE > /quick

FROM --platform=$BUILDPLATFORM busybox AS slow
RUN --mount=type=cache,id=$NONCE,target=/meet : slow-$NONCE; mkfifo /meet/pipe; timeout 60 cat /meet/pipe > /slow && END

FROM --platform=$BUILDPLATFORM busybox AS both
ARG TARGETARCH
COPY --from=quick /quick /quick
RUN --mount=type=cache,id=$NONCE,target=/meet mkfifo /meet/pipe; [ $TARGETARCH != arm64 ] || timeout 60 sh -c 'echo met > /meet/pipe'
COPY --from=slow /slow /slow
RUN cat /slow > /out

FROM scratch
COPY --from=both /out /out
";

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

#[test]
fn a_step_that_needs_nothing_of_a_slow_stage_runs_beside_it_though_its_stage_takes_from_it() {
    let farm = farm();
    let context = Context::new(&MEETING.replace("END", "true"));
    let buildx = Buildx::of(farm);
    let built = buildx
        .build(&context)
        .platforms(&TWO)
        .args(["--output", "type=cacheonly"])
        .run()
        .succeeded();
    let plan = built.plan();
    let slow = plan.stage("slow 2/2");
    let waiting: Vec<_> = of_both(&plan);
    assert_eq!(waiting.len(), 2, "{plan:#?}");
    for stage in &waiting {
        assert_eq!(stage.agent(), slow.agent());
        assert_eq!(stage.reason(), "is making its inputs");
    }
    let ran = runs(farm, &format!("slow-{}", context.nonce));
    assert_eq!(ran.len(), 1, "two jobs wanted it: {ran:?}");
}

#[test]
fn what_fails_under_a_stage_that_went_ahead_of_it_is_told_once_and_as_its_own() {
    let farm = farm();
    let context = Context::new(&MEETING.replace("END", "exit 7"));
    let buildx = Buildx::of(farm);
    let built = buildx
        .build(&context)
        .platforms(&TWO)
        .args(["--output", "type=cacheonly"])
        .run()
        .failed();
    let said = built.progress();
    assert!(
        said.contains("Dockerfile:5") && said.contains("exit code: 7"),
        "{said}"
    );
    let errors = said
        .lines()
        .filter(|line| line.starts_with('#') && line.contains(" ERROR: "));
    assert_eq!(errors.count(), 1, "{said}");
    let plan = builds::find(farm, &context.nonce).expect("the farm knows it");
    assert_eq!(plan.stage("slow 2/2").state, "failed", "{plan:#?}");
    for stage in of_both(&plan) {
        assert_eq!(stage.state, "cancelled", "{plan:#?}");
    }
}

/// The stages that were at the meeting and take from the slow one.
fn of_both(plan: &Plan) -> Vec<&crate::support::Stage> {
    let slow = plan.stage("slow 2/2").number;
    let stages = plan.stages.iter();
    stages
        .filter(|stage| stage.inputs.contains(&slow))
        .collect()
}
