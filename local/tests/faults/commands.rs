//! A command of the build's own fails while others of it run.

use crate::aftermath::settled;
use crate::farm_of;
use crate::gate::Gate;
use crate::sleep::Sleep;
use crate::support::{Buildx, Context, Repository};

#[test]
fn a_command_that_fails_is_not_tried_again_and_what_runs_beside_it_is_stopped() {
    // There is another agent that it could be tried on.
    let farm = farm_of("amd64,amd64,arm64", &[]);
    let (gate, sleep) = (Gate::new(), Sleep::new());
    let context = Context::new(&format!(
        "FROM busybox AS amd64-$NONCE\nRUN : $NONCE; {} && exit 7\n\
         FROM busybox AS arm64-$NONCE\nRUN : $NONCE; {}\n\
         FROM ${{TARGETARCH}}-$NONCE\nRUN : after-$NONCE\n",
        gate.step(),
        sleep.step()
    ));
    let image = Repository::of(farm.registry(), &context.nonce);
    let buildx = Buildx::of(&farm);
    let build = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/arm64"]);
    let (built, ()) = build.push(&image.tag("1")).start_with(|_| {
        gate.reached();
        sleep.wait_for(1);
        gate.open();
    });
    let built = built.failed();
    let said = built.progress();
    assert!(
        said.contains("exit code: 7") && !said.contains("is tried again"),
        "{said}"
    );
    sleep.wait_for(0);
    let plan = settled(&farm, &context);
    assert_eq!(plan.state, "failed");
    for (platform, ended) in [("linux/amd64", "failed"), ("linux/arm64", "cancelled")] {
        let of_it = plan.stages.iter().filter(|one| one.users == [platform]);
        let states: Vec<&str> = of_it
            .flat_map(|stage| stage.attempts.iter().map(|attempt| attempt.state.as_str()))
            .collect();
        assert_eq!(states, [ended], "{plan:#?}");
    }
    assert_eq!(image.tags(), [""; 0]);
}
