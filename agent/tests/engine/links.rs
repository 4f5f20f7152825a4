//! Links: they break, fall silent and are left, and no work is lost or done twice for that.

use std::time::Duration;

use croft_proto::v1::{self, coordinator_message::Message as FromCoordinator};
use tonic::Status;

use crate::{
    Farm, Gate,
    coordinator::{Coordinator, Manners, build, held, offer, pushed},
    llb::Llb,
    repository,
};

#[tokio::test]
async fn work_goes_on_while_the_link_is_broken_and_its_result_is_told_until_it_is_confirmed() {
    let (mut farm, link) = Farm::start(Manners::default()).await;
    let gate = Gate::new().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &gate.wait());
    let context = build();
    let offer = offer(
        &context,
        vec![pushed("o", llb.definition(&run), &repository().await)],
    );
    let attempt = offer.attempt.clone();
    let held = v1::Held {
        attempt: attempt.clone(),
        token: offer.token,
    };
    link.offer(offer).await;
    let waiting = gate.arrived().await;
    link.cut();

    let mut link = farm.coordinator.link().await;
    assert_eq!(link.hello.running, std::slice::from_ref(&held));
    assert_eq!(link.hello.keepers, std::slice::from_ref(&context.build));
    waiting.open();
    let first = link.end_of(&attempt).await;
    first.done();
    link.cut();

    let mut link = farm.coordinator.link().await;
    assert_eq!(link.hello.running, [held]);
    let again = link.end_of(&attempt).await;
    assert_eq!(
        (&again.finished, &again.outputs),
        (&first.finished, &first.outputs)
    );
    link.confirm(&attempt);
    // The heartbeat after the one whose answer leaves it out names it no more.
    link.next("a heartbeat without it", |message| match message {
        v1::agent_message::Message::Heartbeat(heartbeat) => {
            heartbeat.running.is_empty().then_some(())
        }
        _ => None,
    })
    .await;
    link.cut();
    let link = farm.coordinator.link().await;
    assert!(link.hello.running.is_empty());
    assert_eq!(gate.others(), 0, "the command ran once");
}

#[tokio::test]
async fn an_attempt_whose_lease_is_not_renewed_stops_by_itself() {
    let manners = Manners {
        lease: Duration::from_millis(1500),
        ..Manners::default()
    };
    let (_farm, link) = Farm::start(manners).await;
    let gate = Gate::new().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &gate.wait());
    link.fall_silent();
    link.offer(offer(&build(), vec![held("o", llb.definition(&run))]))
        .await;
    gate.arrived().await.killed().await;
}

#[tokio::test]
async fn an_attempt_that_the_coordinator_does_not_know_is_stopped() {
    let (_farm, link) = Farm::start(Manners::default()).await;
    let gate = Gate::new().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &gate.wait());
    let offer = offer(&build(), vec![held("o", llb.definition(&run))]);
    let attempt = offer.attempt.clone();
    link.offer(offer).await;
    let waiting = gate.arrived().await;
    link.confirm(&attempt);
    waiting.killed().await;
}

#[tokio::test]
async fn the_end_of_a_build_ends_what_runs_of_it() {
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let gate = Gate::new().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &gate.wait());
    let context = build();
    let offer = offer(&context, vec![held("o", llb.definition(&run))]);
    let attempt = offer.attempt.clone();
    link.offer(offer).await;
    let waiting = gate.arrived().await;
    link.say(FromCoordinator::CloseKeeper(v1::CloseKeeper {
        build: context.build,
    }))
    .await;
    assert_eq!(
        link.end_of(&attempt).await.failure().kind(),
        v1::failure::Kind::Cancelled
    );
    waiting.killed().await;
}

#[tokio::test]
async fn an_agent_that_ends_gives_its_work_back_and_leaves() {
    let (farm, mut link) = Farm::start(Manners::default()).await;
    let gate = Gate::new().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &gate.wait());
    let offer = offer(&build(), vec![held("o", llb.definition(&run))]);
    let attempt = offer.attempt.clone();
    link.offer(offer).await;
    let waiting = gate.arrived().await;
    farm.agent.end().await;
    waiting.killed().await;
    drop(farm._stop);
    assert_eq!(
        link.end_of(&attempt).await.failure().kind(),
        v1::failure::Kind::HandedBack
    );
    link.left().await;
}

#[tokio::test]
async fn a_coordinator_that_refuses_the_agent_is_not_asked_again() {
    let (farm, _link) = Farm::start(Manners::default()).await;
    let refuses = Some(Status::failed_precondition("this farm speaks protocol 2"));
    let other = Coordinator::start(Manners {
        refuses,
        ..Manners::default()
    })
    .await;
    let endpoint = tonic::transport::Endpoint::from_shared(other.url()).expect("a URL");
    let error = croft_agent::link::serve(&farm.agent, &[endpoint], &Default::default())
        .await
        .expect_err("refused");
    let line = error.to_string();
    assert!(
        line.contains("this farm speaks protocol 2") && line.contains("matching versions"),
        "{line}"
    );
}
