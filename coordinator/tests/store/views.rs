//! Snapshots: the scheduler sees what was written, and decides on it what the store then commits.

use std::collections::BTreeSet;
use std::time::Duration;

use croft_coordinator::store::{AttemptDone, Disk, Heartbeat};
use croft_planner::{CacheIdentity, EdgeId, StageId};
use croft_scheduler::fleet::{Duty, Health, Presence};
use croft_scheduler::place::{Decision, ExportedInput, Input, Policy};
use croft_scheduler::{AgentId, FailureKind, Project, place};

use crate::support::*;

#[tokio::test]
async fn an_agent_is_seen_as_it_said_it_is() {
    let db = Db::new().await;
    let link = db.agent("amd64-1", "linux/amd64").await;
    let beat = Heartbeat {
        health: Health::Healthy,
        disk: Some(Disk {
            total: 100 << 30,
            free: 50 << 30,
        }),
        memory: None,
    };
    let beaten = db.store.agent_heartbeat(link.id, link.epoch, &beat);
    beaten.await.unwrap();
    let (_, fleet, _) = db.store.prospect(&[]).await.unwrap();
    let [agent] = &fleet.agents[..] else {
        panic!("{fleet:?}")
    };
    assert_eq!(
        (agent.id, &*agent.name, agent.slots),
        (link.id, "amd64-1", 2)
    );
    assert_eq!(
        (agent.presence, agent.health, agent.duty),
        (Presence::Connected, Health::Healthy, Duty::Active)
    );
    assert_eq!(agent.native, "linux/amd64".parse().unwrap());
    assert_eq!(
        agent.platforms,
        BTreeSet::from(["linux/amd64".parse().unwrap()])
    );
    assert_eq!(
        agent.emulated,
        BTreeSet::from(["linux/riscv64".parse().unwrap()])
    );
    assert_eq!(*agent.caps, BTreeSet::from(["source.image".to_owned()]));
    assert_eq!(
        agent.entitlements,
        BTreeSet::from(["network.host".to_owned()])
    );
    assert_eq!(
        agent.devices,
        BTreeSet::from(["vendor.example/gpu=0".to_owned()])
    );
    assert_eq!(agent.disk_free, Some(50 << 30));
}

#[tokio::test]
async fn a_ready_stage_is_seen_with_its_inputs_and_where_they_are() {
    let db = Db::new().await;
    let (amd64, arm64) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("arm64-1", "linux/arm64").await,
    );
    let plan = fan().with(1, |stage| {
        stage.cache_mounts.insert("go".to_owned());
        stage.requirements.caps.insert("exec.meta".to_owned());
        stage.together = Some(StageId(1));
    });
    let build = db.planned(&plan).await;
    db.run(build, 0, &amd64, &[], &[held_edge(0)]).await;

    let snapshot = db.store.snapshot(10).await.unwrap();
    assert_eq!(
        snapshot
            .ready
            .iter()
            .map(|stage| stage.key)
            .collect::<Vec<_>>(),
        [1, 2, 3].map(|n| key(build, n))
    );
    let stage = &snapshot.ready[0];
    assert_eq!(
        stage.inputs,
        [Input {
            edge: EdgeId(0),
            held_on: Some(amd64.id),
            whole: true,
            supply: croft_scheduler::place::Supply::There,
            exported: None
        }]
    );
    assert_eq!(stage.project, Project("p".to_owned()));
    assert_eq!(
        stage.platforms,
        BTreeSet::from(["linux/amd64".parse().unwrap()])
    );
    assert_eq!(stage.cache_mounts, BTreeSet::from(["go".to_owned()]));
    assert_eq!(
        stage.requirements.caps,
        BTreeSet::from(["exec.meta".to_owned()])
    );
    assert_eq!((stage.together, stage.pinned), (Some(StageId(1)), None));
    assert!(stage.build_created <= stage.ready_since && stage.ready_since <= snapshot.now);

    db.store
        .output_export(build, EdgeId(0), amd64.id, &exported("sha256:zero"))
        .await
        .unwrap();
    db.run(build, 2, &arm64, &[image(0, "sha256:zero")], &[target(1)])
        .await;
    let snapshot = db.store.snapshot(10).await.unwrap();
    let exported = ExportedInput {
        bytes: 1234,
        pulled_by: BTreeSet::from([arm64.id]),
    };
    assert_eq!(
        snapshot.ready[1].inputs,
        [Input {
            edge: EdgeId(0),
            held_on: Some(amd64.id),
            whole: true,
            supply: croft_scheduler::place::Supply::There,
            exported: Some(exported)
        }]
    );
    assert_eq!(db.store.snapshot(1).await.unwrap().ready.len(), 1);
}

#[tokio::test]
async fn what_an_agent_ran_and_runs_attracts_the_same_again() {
    let db = Db::new().await;
    let (first, second) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("amd64-2", "linux/amd64").await,
    );
    let plan = || {
        single().with(0, |stage| {
            stage.cache_mounts.insert("go".to_owned());
        })
    };
    let choice = async || {
        let snapshot = db.store.snapshot(10).await.unwrap();
        let decision = place(
            &snapshot.fleet,
            &snapshot.ready,
            &Policy::default(),
            snapshot.now,
        )
        .remove(0);
        let Decision::Placed { agent, reason, .. } = decision else {
            panic!("{decision:?}")
        };
        (agent, reason.to_string())
    };

    let build = db.planned(&plan()).await;
    assert_eq!(choice().await, (first.id, "first of equals".to_owned()));
    // It runs on the second: while it does, the same stage of another build would join it there.
    let held = db.offer(build, 0, &second, &[]).await;
    let again = db.planned(&plan()).await;
    assert_eq!(choice().await.0, second.id);
    let costs = vec![(
        CacheIdentity::new("sha256:command-0"),
        Duration::from_secs(42),
    )];
    let finished = AttemptDone {
        costs,
        ..done(&[target(0)])
    };
    db.store
        .attempt_succeed(second.id, held, &finished)
        .await
        .unwrap();
    let (agent, reason) = choice().await;
    assert_eq!(
        (agent, &*reason),
        (
            second.id,
            "holds the cache of 1 of 1 commands (saves about 47 s)"
        )
    );

    let snapshot = db.store.snapshot(10).await.unwrap();
    assert_eq!(
        snapshot.ready[0].commands[0].cost,
        Some(Duration::from_secs(42))
    );
    let view = snapshot
        .fleet
        .agents
        .iter()
        .find(|agent| agent.id == second.id)
        .unwrap();
    assert_eq!(
        view.mounts,
        BTreeSet::from([(Project("p".to_owned()), "go".to_owned())])
    );
    assert!(view.alike.contains_key(&snapshot.ready[0].alike));
    assert!(view.projects.contains_key(&Project("p".to_owned())));

    // An engine that was pruned holds nothing any more.
    db.store.agent_cache_forget(second.id).await.unwrap();
    assert_eq!(choice().await, (first.id, "first of equals".to_owned()));
    db.offer(again, 0, &first, &[]).await;
    let load = &db.store.prospect(&[]).await.unwrap().1.agents[0].load;
    assert_eq!(load[0].key, key(again, 0));
}

#[tokio::test]
async fn what_a_command_took_is_estimated_from_its_attempt_where_nobody_measured_it() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&single()).await;
    let held = db.offer(build, 0, &agent, &[]).await;
    db.store.attempt_accept(agent.id, held).await.unwrap();
    db.execute("UPDATE attempts SET started_at = now() - interval '30 seconds'")
        .await;
    db.store
        .attempt_succeed(agent.id, held, &done(&[target(0)]))
        .await
        .unwrap();
    // A second run that took everything from the cache doesn't make it look cheap.
    let cached = db.planned(&single()).await;
    let held = db.offer(cached, 0, &agent, &[]).await;
    let from_cache = AttemptDone {
        vertices_cached: 3,
        vertices_run: 0,
        ..done(&[target(0)])
    };
    db.store
        .attempt_succeed(agent.id, held, &from_cache)
        .await
        .unwrap();
    db.planned(&single()).await;
    let cost = db.store.snapshot(1).await.unwrap().ready[0].commands[0]
        .cost
        .unwrap();
    assert!(
        cost >= Duration::from_secs(30) && cost < Duration::from_secs(40),
        "{cost:?}"
    );
}

#[tokio::test]
async fn caches_of_another_project_count_for_commands_but_not_for_mounts() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let plan = single().with(0, |stage| {
        stage.cache_mounts.insert("go".to_owned());
    });
    let build = db.planned(&plan).await;
    db.run(build, 0, &agent, &[], &[target(0)]).await;
    let other = croft_coordinator::store::NewBuild {
        project: Project("q".to_owned()),
        ..new_build()
    };
    db.store.build_insert(&other).await.unwrap();
    db.store.build_plan(other.id, &plan.rows()).await.unwrap();
    let view = db.store.snapshot(10).await.unwrap().fleet.agents.remove(0);
    assert_eq!(
        view.cache,
        BTreeSet::from([CacheIdentity::new("sha256:command-0")])
    );
    assert_eq!(
        (view.mounts.len(), view.alike.len(), view.projects.len()),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_stage_is_pinned_to_the_agent_of_its_group_or_of_its_feeder() {
    let db = Db::new().await;
    let (first, second) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("amd64-2", "linux/amd64").await,
    );
    let group = |stage: &mut croft_planner::Stage| stage.together = Some(StageId(0));
    let together = db
        .planned(
            &shape(&[("linux/amd64", &[]), ("linux/amd64", &[])])
                .with(0, group)
                .with(1, group),
        )
        .await;
    db.offer(together, 0, &second, &[]).await;
    let fed = db
        .planned(&chain().with(1, |stage| stage.placed_with = Some(StageId(0))))
        .await;
    db.run(fed, 0, &first, &[], &[exported_edge(0, "sha256:zero")])
        .await;
    let ready = db.store.snapshot(10).await.unwrap().ready;
    let pins: Vec<_> = ready
        .iter()
        .map(|stage| (stage.key, stage.pinned))
        .collect();
    assert_eq!(
        pins,
        [
            (key(together, 1), Some(second.id)),
            (key(fed, 1), Some(first.id))
        ]
    );
}

#[tokio::test]
async fn a_stage_knows_where_those_are_whose_roots_meet_its_own() {
    let db = Db::new().await;
    let (first, second) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("amd64-2", "linux/amd64").await,
    );
    let alone: [(&str, &[u32]); 3] = [("linux/amd64", &[]); 3];
    let meets = |stage: &mut croft_planner::Stage| stage.meets = [StageId(1), StageId(2)].into();
    let build = db.planned(&shape(&alone).with(0, meets)).await;
    let met = async || {
        let ready = db.store.snapshot(10).await.unwrap().ready;
        let own = ready.into_iter().find(|one| one.key == key(build, 0));
        own.unwrap().meets.into_values().collect::<Vec<_>>()
    };
    assert_eq!(met().await, [None, None]);
    let failed = db.offer(build, 1, &first, &[]).await;
    assert_eq!(met().await, [Some(first.id), None]);
    let farm = failure(FailureKind::Farm);
    db.store
        .attempt_fail(first.id, failed, &farm, &at_once())
        .await
        .unwrap();
    assert_eq!(met().await, [None, None]);
    db.run(build, 1, &second, &[], &[target(1)]).await;
    db.offer(build, 2, &first, &[]).await;
    assert_eq!(met().await, [Some(second.id), Some(first.id)]);
}

#[tokio::test]
async fn a_stage_follows_a_command_of_it_that_a_build_of_the_same_connection_ran() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let plan = single();
    let of_connection = async |connection| {
        let build = croft_coordinator::store::NewBuild {
            connection,
            ..new_build()
        };
        db.store.build_insert(&build).await.unwrap();
        build.id
    };
    let pin_of = async |build| {
        let ready = db.store.snapshot(10).await.unwrap().ready;
        let stage = ready.iter().find(|stage| stage.key == key(build, 0));
        stage.unwrap().pinned
    };
    let one = new_build().connection;
    let first = of_connection(one).await;
    db.store.build_plan(first, &plan.rows()).await.unwrap();
    let beside = of_connection(one).await;
    db.store.build_plan(beside, &plan.rows()).await.unwrap();
    let elsewhere = db.planned(&plan).await;
    assert_eq!(pin_of(beside).await, None);

    let held = db.offer(first, 0, &agent, &[]).await;
    assert_eq!(pin_of(beside).await, Some(agent.id));
    assert_eq!(pin_of(elsewhere).await, None);

    // When the other build is over what it ran is still the same, for one that begins then, too: it may stand on the other's image.
    let done = done(&[target(0)]);
    db.store.attempt_accept(agent.id, held).await.unwrap();
    db.store
        .attempt_succeed(agent.id, held, &done)
        .await
        .unwrap();
    db.store.build_publish(first).await.unwrap();
    let response = serde_json::json!({});
    let end = croft_coordinator::store::BuildEnd::Succeeded {
        response: &response,
        digest: None,
    };
    db.store.build_end(first, end).await.unwrap();
    assert_eq!(pin_of(beside).await, Some(agent.id));
    let later = of_connection(one).await;
    db.store.build_plan(later, &plan.rows()).await.unwrap();
    assert_eq!(pin_of(later).await, Some(agent.id));

    db.execute("UPDATE builds SET finished_at = finished_at - interval '61 minutes'")
        .await;
    assert_eq!(pin_of(later).await, None);
}

#[tokio::test]
async fn stages_are_taken_by_priority_and_age_of_their_builds() {
    let db = Db::new().await;
    let (old, young) = (db.planned(&single()).await, db.planned(&single()).await);
    let urgent = croft_coordinator::store::NewBuild {
        priority: 1,
        ..new_build()
    };
    db.store.build_insert(&urgent).await.unwrap();
    db.store
        .build_plan(urgent.id, &single().rows())
        .await
        .unwrap();
    let first = async |limit| {
        let ready = db.store.snapshot(limit).await.unwrap().ready;
        ready
            .into_iter()
            .map(|stage| stage.key.build)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(first(1).await, BTreeSet::from([urgent.id]));
    assert_eq!(first(2).await, BTreeSet::from([urgent.id, old]));
    assert_eq!(first(9).await, BTreeSet::from([urgent.id, old, young]));
}

#[tokio::test]
async fn a_round_of_placements_is_committed_as_it_was_decided() {
    let db = Db::new().await;
    let mut links = std::collections::BTreeMap::<AgentId, _>::new();
    for (name, native) in [
        ("amd64-1", "linux/amd64"),
        ("amd64-2", "linux/amd64"),
        ("arm64-1", "linux/arm64"),
        ("s390x-1", "linux/s390x"),
    ] {
        let link = db.agent(name, native).await;
        links.insert(link.id, link);
    }
    for _ in 0..3 {
        db.planned(&shape(&[
            ("linux/amd64", &[]),
            ("linux/amd64", &[]),
            ("linux/arm64", &[]),
            ("linux/s390x", &[]),
        ]))
        .await;
    }
    let snapshot = db.store.snapshot(100).await.unwrap();
    let decisions = place(
        &snapshot.fleet,
        &snapshot.ready,
        &Policy::default(),
        snapshot.now,
    );
    let mut placed = 0;
    for decision in decisions {
        if let Decision::Placed { key, agent, .. } = decision {
            db.offer(key.build, key.stage.0, &links[&agent], &[]).await;
            placed += 1;
        }
    }
    assert_eq!(
        placed, 8,
        "two slots on each of four agents, and nothing was stale"
    );
    let (_, fleet, _) = db.store.prospect(&[]).await.unwrap();
    assert!(
        fleet
            .agents
            .iter()
            .all(|agent| agent.load.len() == 2 && agent.free_slots() == 0)
    );
    let rows = db.store.agent_list().await.unwrap();
    assert!(rows.iter().all(|row| row.running == 2));
}
