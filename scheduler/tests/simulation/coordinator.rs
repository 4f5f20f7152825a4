//! The coordinator in the simulation: its loops, and what it makes of what it hears.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use croft_scheduler::fleet::{Presence, StageKey};
use croft_scheduler::place::{Decision, Refusal, place};
use croft_scheduler::{AgentId, AttemptEvent, AttemptId, BuildId, BuildState, FailureKind, Token};
use uuid::Uuid;

use super::agent::{Finish, Handover, Offer, Order, Report};
use super::books::{Books, Bound, Build, Cancelled, Delivered, End, NewAttempt};
use super::farm::{AGENT_WAIT, Coordinator, Event, Farm};
use super::support::build_id;
use super::{builds, judge};

impl Farm {
    pub(super) fn build_comes(&mut self) {
        self.builds += 1;
        let id = build_id(u128::from(self.builds));
        let build = builds::any_build(&mut self.rng, u128::from(self.builds), self.now);
        self.books.builds.insert(id, build);
        self.books.settle(id, self.now);
        if self.rng.u32(..15) == 0 {
            let wait = self.within(Duration::from_secs(40));
            self.after(wait, Event::Cancel(id));
        }
        self.wake();
    }

    pub(super) fn end(&mut self, build: BuildId, why: End) {
        if let Ok(cancelled) = self.books.end(build, why, self.now) {
            self.cancel(cancelled);
            self.close_keepers(build);
        }
        self.wake();
    }

    pub(super) fn published(&mut self, build: BuildId) {
        // A coordinator that is down publishes nothing: the next one takes it up.
        if self.coordinator.up && self.books.published(build).is_ok() {
            judge::published(&self.books, build);
            self.close_keepers(build);
        }
    }

    pub(super) fn close_keepers(&mut self, build: BuildId) {
        for agent in self.linked() {
            self.order(agent, Order::CloseKeeper(build));
        }
    }

    pub(super) fn cancel(&mut self, cancelled: Cancelled) {
        for (agent, attempt) in cancelled {
            self.order(agent, Order::Cancel(attempt));
        }
    }

    pub(super) fn start(&mut self) {
        self.coordinator = Coordinator {
            number: self.coordinator.number + 1,
            up: true,
            links: BTreeMap::new(),
            exporting: BTreeMap::new(),
            woken: false,
        };
        self.books.all_away();
        let publishing: Vec<BuildId> = self
            .books
            .builds
            .iter()
            .filter(|(_, build)| build.state == BuildState::Publishing)
            .map(|(id, _)| *id)
            .collect();
        for build in publishing {
            let wait = self.millis(500);
            self.after(wait, Event::Published(build));
        }
        // What an earlier one had stored as done, but not acted upon.
        let all: Vec<BuildId> = self.books.builds.keys().copied().collect();
        for build in all {
            self.publish(build);
        }
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        if self.coordinator.up && !self.coordinator.woken {
            self.coordinator.woken = true;
            // In a large farm much happens at a time.
            let wait = self.millis(if self.size.judged { 30 } else { 1000 });
            self.after(wait, Event::Pass);
        }
    }

    pub(super) fn pass(&mut self) {
        self.coordinator.woken = false;
        if !self.coordinator.up {
            return;
        }
        let (fleet, ready) = (self.books.fleet(), self.books.ready());
        if ready.is_empty() {
            return;
        }
        let decisions = place(&fleet, &ready, &self.policy, self.now);
        if self.size.judged {
            judge::decisions(&fleet, &ready, &decisions);
        }
        let wait = self.millis(30);
        self.after(wait, Event::Commit(self.coordinator.number, decisions));
    }

    pub(super) fn commit(&mut self, coordinator: u64, decisions: Vec<Decision>) {
        let mine = self.coordinator.up && self.coordinator.number == coordinator;
        // One that is gone may have had statements under way, but sends nothing any more.
        if !mine && self.rng.bool() {
            return;
        }
        for decision in decisions {
            let key = decision.key();
            if self.books.builds[&key.build].state != BuildState::Running {
                continue;
            }
            match decision {
                Decision::Placed { exports, .. } if !exports.is_empty() => {
                    for edge in exports.into_iter().filter(|_| mine) {
                        self.export(key.build, edge.index());
                    }
                }
                Decision::Placed { agent, .. } => self.offer(key, agent, mine),
                Decision::Held { why, .. } => self.held(key, &why),
            }
        }
    }

    pub(super) fn held(&mut self, key: StageKey, why: &Refusal) {
        let build = self.books.builds.get_mut(&key.build).expect("a build");
        let stage = &mut build.stages[key.stage.index()];
        if !why.is_for_want_of_an_agent() {
            stage.unserved_since = None;
            return;
        }
        let since = *stage.unserved_since.get_or_insert(self.now);
        let in_vain = self.now.since(since) >= AGENT_WAIT;
        if (why.is_for_ever() || in_vain) && self.books.give_up(key, self.now).is_ok() {
            self.end(key.build, End::NoAgent);
        }
    }

    pub(super) fn offer(&mut self, key: StageKey, agent: AgentId, mine: bool) {
        let Some((_, epoch)) = self.coordinator.links.get(&agent).copied() else {
            return;
        };
        let build = &self.books.builds[&key.build];
        let stage = &build.stages[key.stage.index()];
        let mut bound = BTreeMap::new();
        let mut producers = BTreeMap::new();
        for edge in &stage.inputs {
            let output = &build.outputs[*edge];
            let binding = match (&output.held, &output.image) {
                (Some((on, origin)), _) if *on == agent => Bound::Held(Rc::clone(origin)),
                (_, Some(origin)) => Bound::Image(Rc::clone(origin)),
                (None, None) if self.books.maker(key.build, build, stage) == Some(agent) => {
                    Bound::Coming
                }
                _ => return self.wake(),
            };
            bound.insert(*edge, binding);
            producers.insert(*edge, output.stage);
        }
        let (work, fails, made) = (stage.work, stage.fails, stage.outputs.clone());
        let id = u128::from(self.sequence) << 64 | u128::from(self.rng.u64(..));
        let new = NewAttempt {
            id: AttemptId(Uuid::from_u128(id)),
            key,
            agent,
            epoch,
        };
        let before = self.books.version;
        match self.books.offer(&new, &bound, &self.terms, self.now) {
            Err(_) => {
                assert_eq!(
                    self.books.version, before,
                    "a stale offer changed something"
                );
                self.wake();
            }
            Ok(token) => {
                let outputs = made.iter().map(|o| (*o, self.rng.bool())).collect();
                let offer = Offer {
                    attempt: new.id,
                    token,
                    key,
                    bound,
                    producers,
                    work,
                    fails,
                    outputs,
                };
                if mine {
                    self.order(agent, Order::Run(offer));
                    // What takes the results may go to the agent at once.
                    self.wake();
                }
            }
        }
    }

    pub(super) fn export(&mut self, build: BuildId, edge: usize) {
        let output = &self.books.builds[&build].outputs[edge];
        let Some((agent, origin)) = output.held.clone() else {
            return;
        };
        if self.coordinator.exporting.contains_key(&(build, edge)) {
            return;
        }
        if self.coordinator.links.contains_key(&agent) {
            self.coordinator.exporting.insert((build, edge), agent);
            let order = Order::Export {
                build,
                edge,
                origin,
            };
            self.order(agent, order);
        }
    }

    pub(super) fn reap(&mut self) {
        self.after(Duration::from_secs(1), Event::Reap);
        if !self.coordinator.up {
            return;
        }
        for (agent, id, token) in self.books.expired(self.now) {
            judge::let_go(&self.agents[&agent], id, self.terms.lease, self.now);
            self.failed(agent, id, token, AttemptEvent::LeaseEnded);
            self.order(agent, Order::Cancel(id));
        }
        // Who was not heard of for a whole lease is away, and what only it holds is lost: after what it runs, whose lease may be younger.
        let silent: Vec<AgentId> = self
            .books
            .last_seen
            .iter()
            .filter(|(_, seen)| self.now > self.terms.until(**seen))
            .map(|(agent, _)| *agent)
            .collect();
        for agent in silent {
            if let Some((connection, _)) = self.coordinator.links.get(&agent).copied() {
                self.leaves(agent, connection);
            }
            let away = self.books.agents[&agent].presence == Presence::Away;
            if away && !self.books.runs(agent) {
                self.lose_held(agent, &BTreeSet::new());
            }
        }
        self.wake();
    }

    /// The results of running builds that only this agent holds are lost, but for those of the keepers that it still has.
    pub(super) fn lose_held(&mut self, agent: AgentId, kept: &BTreeSet<BuildId>) {
        let holds = |build: &Build| {
            build.state == BuildState::Running
                && build
                    .outputs
                    .iter()
                    .any(|output| matches!(&output.held, Some((on, _)) if *on == agent))
        };
        let builds: Vec<BuildId> = self
            .books
            .builds
            .iter()
            .filter(|(id, build)| !kept.contains(id) && holds(build))
            .map(|(id, _)| *id)
            .collect();
        for build in builds {
            let cancelled = self.books.lose_held(build, agent, self.now);
            self.cancel(cancelled);
        }
    }

    pub(super) fn failed(
        &mut self,
        agent: AgentId,
        id: AttemptId,
        token: Token,
        event: AttemptEvent,
    ) {
        let before = self.books.version;
        match self
            .books
            .fail(agent, id, token, event, &self.budget, self.now)
        {
            Err(_) => assert_eq!(
                self.books.version, before,
                "a late report changed something"
            ),
            Ok(after) => self.after_failure(self.books.attempts[&id].key.build, after),
        }
        self.wake();
    }

    fn after_failure(&mut self, build: BuildId, (cancelled, end): (Cancelled, Option<End>)) {
        self.cancel(cancelled);
        if let Some(why) = end {
            self.end(build, why);
        }
    }

    pub(super) fn publish(&mut self, build: BuildId) {
        if self.books.publish(build).is_ok() {
            let wait = self.millis(2000);
            self.after(wait, Event::Published(build));
        }
    }

    pub(super) fn told(&mut self, agent: AgentId, connection: u64, report: Report) {
        if !self.coordinator.up {
            return;
        }
        let known = self.coordinator.links.get(&agent).copied();
        if let Report::Hello { running, keepers } = report {
            if self.agents[&agent].linked && self.agents[&agent].connection == connection {
                self.joins(agent, connection, &running, &keepers);
            }
            return;
        }
        let current = known.is_some_and(|(now, _)| now == connection);
        let about_an_attempt = matches!(
            report,
            Report::Accepted(..) | Report::Output(..) | Report::Finished(..)
        );
        // Of an earlier connection some reports still wait to be stored; and some are stored twice.
        let still_read = about_an_attempt && self.rng.bool();
        if !current && !still_read {
            return;
        }
        if about_an_attempt && self.rng.u32(..20) == 0 {
            self.report(agent, report.clone());
        }
        self.report(agent, report);
    }

    pub(super) fn joins(
        &mut self,
        agent: AgentId,
        connection: u64,
        running: &[(AttemptId, Token)],
        keepers: &BTreeSet<BuildId>,
    ) {
        let epoch = self.books.hello(&self.agents[&agent].view, self.now);
        let runs: BTreeSet<AttemptId> = running.iter().map(|(id, _)| *id).collect();
        let unknown: Vec<(AttemptId, Token)> = self
            .books
            .live
            .iter()
            .map(|id| (id, &self.books.attempts[id]))
            .filter(|(id, attempt)| attempt.agent == agent && !runs.contains(id))
            .map(|(id, attempt)| (*id, attempt.token))
            .collect();
        for (id, token) in unknown {
            let event = AttemptEvent::Failed(FailureKind::Farm);
            self.failed(agent, id, token, event);
        }
        self.coordinator.links.insert(agent, (connection, epoch));
        self.coordinator.exporting.retain(|_, of| *of != agent);
        for build in keepers {
            if self.books.builds[build].state.is_final() {
                self.order(agent, Order::CloseKeeper(*build));
            }
        }
        self.lose_held(agent, keepers);
        self.wake();
    }

    pub(super) fn leaves(&mut self, agent: AgentId, connection: u64) {
        let Some((now, epoch)) = self.coordinator.links.get(&agent).copied() else {
            return;
        };
        if now == connection {
            self.coordinator.links.remove(&agent);
            self.coordinator.exporting.retain(|_, of| *of != agent);
            let _ = self.books.away(agent, epoch);
            // Its end of the connection is closed too.
            if self.agents[&agent].connection == connection {
                self.cut(agent);
            }
            self.wake();
        }
    }

    pub(super) fn report(&mut self, agent: AgentId, report: Report) {
        let before = self.books.version;
        let now = self.now;
        let unchanged = |books: &Books| {
            assert_eq!(books.version, before, "a late report changed something");
        };
        match report {
            Report::Hello { .. } => {}
            Report::Heartbeat {
                running,
                health,
                sent,
            } => {
                let Some((connection, epoch)) = self.coordinator.links.get(&agent).copied() else {
                    return;
                };
                if self.books.heard(agent, epoch, health, now).is_err() {
                    return self.leaves(agent, connection);
                }
                let renewed = self.books.renew(agent, &running, &self.terms, now);
                let named = running.iter().map(|(id, _)| *id).collect();
                let order = Order::Renewed {
                    named,
                    renewed,
                    sent,
                };
                self.order(agent, order);
            }
            Report::Accepted(id, token) => {
                if self.books.accept(agent, id, token).is_err() {
                    unchanged(&self.books);
                }
            }
            Report::Output(id, token, output, origin, exported) => {
                let delivered = Delivered {
                    output,
                    origin,
                    exported,
                };
                match self.books.deliver(agent, id, token, &delivered, now) {
                    Ok(()) => self.wake(),
                    Err(_) => unchanged(&self.books),
                }
            }
            Report::Finished(id, token, Finish::Done) => {
                match self.books.succeed(agent, id, token, now) {
                    Ok(true) => {
                        let build = self.books.attempts[&id].key.build;
                        self.publish(build);
                    }
                    Ok(false) => self.wake(),
                    Err(_) => unchanged(&self.books),
                }
            }
            Report::Finished(id, token, Finish::Upstream) => {
                match self.books.give_way(agent, id, token, now) {
                    Ok(cancelled) => {
                        self.cancel(cancelled);
                        self.wake();
                    }
                    Err(_) => {
                        unchanged(&self.books);
                        let own = AttemptEvent::Failed(FailureKind::Build);
                        self.failed(agent, id, token, own);
                    }
                }
            }
            Report::Finished(id, token, Finish::Failed(kind)) => {
                self.failed(agent, id, token, AttemptEvent::Failed(kind));
            }
            Report::Finished(id, token, Finish::LostImage(edge, origin)) => {
                let build = self.books.attempts.get(&id).map(|a| a.key.build);
                self.failed(agent, id, token, AttemptEvent::Failed(FailureKind::Farm));
                if let Some(build) = build {
                    let cancelled = self.books.lose_image(build, edge, &origin, now);
                    self.cancel(cancelled);
                }
            }
            Report::KeeperClosed(build) => {
                let cancelled = self.books.lose_held(build, agent, now);
                self.cancel(cancelled);
                self.order(agent, Order::CloseKeeper(build));
                self.wake();
            }
            Report::Exported {
                build,
                edge,
                origin,
                handover,
            } => {
                self.coordinator.exporting.remove(&(build, edge));
                match handover {
                    Handover::There => drop(self.books.export(build, edge, agent, &origin)),
                    Handover::Failed => {}
                    Handover::Broken => {
                        let refuted =
                            self.books
                                .refute(build, edge, agent, &origin, &self.budget, now);
                        match refuted {
                            Ok(after) => self.after_failure(build, after),
                            Err(_) => unchanged(&self.books),
                        }
                    }
                }
                self.wake();
            }
        }
    }
}
