//! Agents, and whether they take work.

use croft_coordinator::store::{Heartbeat, Hold, Wants};
use croft_scheduler::AgentId;
use croft_scheduler::fleet::{Duty, Health, Presence};

use super::{ROUNDS, over};
use crate::support::*;

const SICK: Heartbeat = Heartbeat {
    health: Health::Unhealthy,
    disk: None,
    memory: None,
};

#[tokio::test]
async fn of_two_connections_of_one_agent_that_come_at_once_one_counts() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    for _ in 0..ROUNDS {
        let hello = hello("amd64-1", "linux/amd64");
        let (first, second) = tokio::join!(
            db.store.agent_hello(AgentId(id()), &hello),
            rival.agent_hello(AgentId(id()), &hello)
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.id, second.id);
        let (older, newer) = match first.epoch < second.epoch {
            true => (first, second),
            false => (second, first),
        };
        assert!(is_stale(db.store.agent_away(older.id, older.epoch).await));
        db.store.agent_away(newer.id, newer.epoch).await.unwrap();
    }
}

#[tokio::test]
async fn an_agent_leaves_once_and_what_it_says_at_that_moment_does_not_bring_it_back() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    for round in 0..ROUNDS {
        let agent = db.agent("amd64-1", "linux/amd64").await;
        match round % 4 {
            0 => drop(race!(
                db.store.agent_away(agent.id, agent.epoch),
                rival.agent_away(agent.id, agent.epoch)
            )),
            1 => {
                let (away, _) = meet!(
                    db.store.agent_away(agent.id, agent.epoch),
                    rival.agent_heartbeat(agent.id, agent.epoch, &SICK)
                );
                assert!(away);
            }
            2 => {
                let (_, all) = meet!(
                    db.store.agent_away(agent.id, agent.epoch),
                    rival.agent_all_away()
                );
                assert!(all);
            }
            _ => {
                let both = meet!(db.store.agent_all_away(), rival.agent_all_away());
                assert_eq!(both, (true, true));
            }
        }
        let row = db.store.agent_list().await.unwrap().remove(0);
        assert_eq!(row.presence, Presence::Away);
        let late = db.store.agent_heartbeat(agent.id, agent.epoch, &SICK);
        assert!(is_stale(late.await));
    }
}

#[tokio::test]
async fn an_agent_that_comes_back_while_it_is_forgotten_is_there() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    for _ in 0..ROUNDS {
        let agent = db.agent("amd64-1", "linux/amd64").await;
        db.store.agent_away(agent.id, agent.epoch).await.unwrap();
        let hello = hello("amd64-1", "linux/amd64");
        let (_, came) = meet!(
            db.store.agent_forget(agent.id),
            rival.agent_hello(AgentId(id()), &hello)
        );
        assert!(came);
        let row = db.store.agent_list().await.unwrap().remove(0);
        assert_eq!(row.presence, Presence::Connected);
        assert!(
            is_stale(db.store.agent_forget(agent.id).await),
            "it is there"
        );
        db.store.agent_away(agent.id, row.epoch).await.unwrap();
        race!(
            db.store.agent_forget(agent.id),
            rival.agent_forget(agent.id)
        );
        assert_eq!(db.store.agent_list().await.unwrap(), []);
    }
}

#[tokio::test]
async fn what_an_older_connection_says_changes_nothing_of_a_newer_one() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let mut older = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let hello = hello("amd64-1", "linux/amd64");
        let (newer, _) = tokio::join!(
            db.store.agent_hello(AgentId(id()), &hello),
            rival.agent_heartbeat(older.id, older.epoch, &SICK)
        );
        older = newer.unwrap();
        let row = db.store.agent_list().await.unwrap().remove(0);
        assert_eq!((row.epoch, row.health), (older.epoch, Health::Healthy));
    }
}

#[tokio::test]
async fn once_an_agent_drains_it_is_given_nothing_whoever_was_first() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db
            .planned(&shape(&[("linux/amd64", &[]), ("linux/amd64", &[])]))
            .await;
        let (drained, offered) = meet!(
            db.store.agent_duty(agent.id, Duty::Draining),
            try_offer(&rival, build, 0, &agent, &[])
        );
        assert!(drained);
        assert_eq!(db.view(build).await.attempts.len(), usize::from(offered));
        assert!(is_stale(db.try_offer(build, 1, &agent, &[]).await));
        let both = meet!(
            db.store.agent_duty(agent.id, Duty::Active),
            rival.agent_duty(agent.id, Duty::Active)
        );
        assert_eq!(both, (true, true));
        over(&db, build).await;
    }
}

#[tokio::test]
async fn why_a_stage_waits_is_news_and_never_undoes_a_placement() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let hold = |build, why: &str, wants| Hold {
        key: key(build, 0),
        why: why.to_owned(),
        wants,
    };
    for _ in 0..ROUNDS {
        let build = db.planned(&single()).await;
        let one = [hold(build, "no slot", Wants::Slot)];
        let other = [hold(build, "no agent", Wants::Agent)];
        let both = meet!(db.store.stage_hold(&one), rival.stage_hold(&other));
        assert_eq!(both, (true, true));
        let stage = db.view(build).await.stages.remove(0);
        let told = (stage.waiting_for.as_deref(), stage.unserved_since.is_some());
        assert!(
            [(Some("no slot"), false), (Some("no agent"), true)].contains(&told),
            "one of them as a whole: {told:?}"
        );
        let both = meet!(
            db.store.stage_hold(&one),
            try_offer(&rival, build, 0, &agent, &[])
        );
        assert_eq!(both, (true, true));
        let stage = db.view(build).await.stages.remove(0);
        assert_eq!((stage.waiting_for, stage.unserved_since), (None, None));
        over(&db, build).await;
    }
}
