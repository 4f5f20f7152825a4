//! Connections that delay and break, and what agents do at their ends.

use std::rc::Rc;
use std::time::Duration;

use croft_scheduler::{AgentId, AttemptId, BuildId, FailureKind, Timestamp};

use super::agent::{Finish, Handover, Offer, Order, Report, Wait};
use super::books::{Bound, Origin};
use super::farm::{Breaks, Event, Farm, Step};

impl Farm {
    pub(super) fn linked(&self) -> Vec<AgentId> {
        self.coordinator.links.keys().copied().collect()
    }

    pub(super) fn order(&mut self, agent: AgentId, order: Order) {
        if let Some((connection, _)) = self.coordinator.links.get(&agent).copied() {
            let at = self.arrival(agent, false);
            self.at(at, Event::ToAgent(agent, connection, order));
        }
    }

    pub(super) fn say(&mut self, agent: AgentId, report: Report) {
        let one = &self.agents[&agent];
        if one.linked {
            let connection = one.connection;
            let at = self.arrival(agent, true);
            self.at(at, Event::FromAgent(agent, connection, report));
        }
    }

    /// Messages of one connection keep their order.
    pub(super) fn arrival(&mut self, agent: AgentId, to_coordinator: bool) -> Timestamp {
        let wait = match self.rng.u32(..20) {
            0 => self.millis(3000),
            _ => self.millis(50),
        };
        let last = self.arrivals.entry((agent, to_coordinator)).or_default();
        *last = (*last).max(self.now + wait);
        *last
    }

    /// The agent sees that its connection is gone, and tries again.
    pub(super) fn cut(&mut self, agent: AgentId) {
        let one = self.agents.get_mut(&agent).expect("an agent of ours");
        if !std::mem::take(&mut one.linked) {
            return;
        }
        let connection = one.connection;
        self.arrivals.retain(|(of, _), _| *of != agent);
        // The coordinator may learn of it sooner or later than the agent comes back.
        let (noticed, back) = (self.millis(8000), self.millis(6000));
        self.after(noticed, Event::Noticed(agent, connection));
        self.after(back, Event::Connect(agent));
    }

    pub(super) fn connect(&mut self, agent: AgentId) {
        let one = self.agents.get_mut(&agent).expect("an agent of ours");
        if one.linked {
            return;
        }
        if !self.coordinator.up {
            return self.after(Duration::from_millis(700), Event::Connect(agent));
        }
        (one.connection, one.linked) = (one.connection + 1, true);
        // The hello tells by what it leaves out, before anything else can be told.
        one.lost.clear();
        one.heard = self.now;
        let hello = Report::Hello {
            running: one.held(),
            keepers: one.keepers.keys().copied().collect(),
        };
        let again: Vec<Report> = one.runs.values().flat_map(|run| run.said.clone()).collect();
        let connection = one.connection;
        self.say(agent, hello);
        again.into_iter().for_each(|report| self.say(agent, report));
        self.after(Duration::from_millis(1), Event::Beat(agent, connection));
    }

    pub(super) fn beat(&mut self, agent: AgentId, connection: u64) {
        if self.beats(agent, connection) {
            self.after(self.terms.heartbeat, Event::Beat(agent, connection));
        }
    }

    /// Says how it is, if it has this connection still.
    pub(super) fn beats(&mut self, agent: AgentId, connection: u64) -> bool {
        let lease = self.terms.lease;
        let one = self.agents.get_mut(&agent).expect("an agent of ours");
        one.expire(lease, self.now);
        self.settle(agent);
        let one = &self.agents[&agent];
        if !one.linked || one.connection != connection {
            return false;
        }
        let heartbeat = Report::Heartbeat {
            running: one.held(),
            health: one.says(),
            sent: self.now,
        };
        self.say(agent, heartbeat);
        true
    }

    pub(super) fn hears(&mut self, agent: AgentId, connection: u64, order: Order) {
        self.takes_in(agent, connection, order);
        // What it let go others may have waited for.
        self.settle(agent);
    }

    fn takes_in(&mut self, agent: AgentId, connection: u64, order: Order) {
        let one = self.agents.get_mut(&agent).expect("an agent of ours");
        if !one.linked || one.connection != connection {
            return;
        }
        match order {
            Order::Run(offer) => self.runs(agent, offer),
            Order::Renewed {
                named,
                renewed,
                sent,
            } => one.renew(&named, &renewed, sent),
            Order::Cancel(id) => {
                let cancelled = one.finish(id, Finish::Failed(FailureKind::Farm));
                cancelled
                    .into_iter()
                    .for_each(|report| self.say(agent, report));
            }
            Order::CloseKeeper(build) => {
                one.keepers.remove(&build);
                one.lost.remove(&build);
                let of_it: Vec<AttemptId> = one
                    .runs
                    .iter()
                    .filter(|(_, run)| run.key.build == build)
                    .map(|(id, _)| *id)
                    .collect();
                for id in of_it {
                    let failed = Finish::Failed(FailureKind::Farm);
                    let report = self
                        .agents
                        .get_mut(&agent)
                        .and_then(|a| a.finish(id, failed));
                    report
                        .into_iter()
                        .for_each(|report| self.say(agent, report));
                }
            }
            Order::Export {
                build,
                edge,
                origin,
            } => {
                let held = one.keepers.get(&build).and_then(|keeper| keeper.get(&edge));
                let there = held.is_some_and(|held| Rc::ptr_eq(held, &origin))
                    && self.now >= self.registry_away;
                let breaks = there && matches!(self.size.breaks, Breaks::Anything);
                let handover = match there {
                    true if breaks && self.rng.u32(..20) == 0 => Handover::Broken,
                    true => Handover::There,
                    false => Handover::Failed,
                };
                if handover == Handover::There {
                    self.push(build, edge, &origin);
                }
                let report = Report::Exported {
                    build,
                    edge,
                    origin,
                    handover,
                };
                self.say(agent, report);
            }
        }
    }

    /// An image of this result is in the registry.
    pub(super) fn push(&mut self, build: BuildId, edge: usize, origin: &Origin) {
        let stage = self.books.builds[&build].outputs[edge].stage;
        self.images.insert((build, edge, origin[&stage]));
    }

    pub(super) fn runs(&mut self, agent: AgentId, offer: Offer) {
        let build = offer.key.build;
        let lost = offer.bound.iter().find_map(|(edge, bound)| match bound {
            Bound::Image(origin) => {
                let made = origin[&offer.producers[edge]];
                let gone = !self.images.contains(&(build, *edge, made));
                gone.then(|| (*edge, Rc::clone(origin)))
            }
            Bound::Held(_) | Bound::Coming => None,
        });
        let one = self.agents.get_mut(&agent).expect("an agent of ours");
        let incarnation = one.incarnation;
        let said = one.take(&offer);
        let refused = matches!(said.first(), None | Some(Report::Finished(..)));
        said.into_iter().for_each(|report| self.say(agent, report));
        if refused {
            return;
        }
        let pulls = |bound: &Bound| matches!(bound, Bound::Image(_));
        if self.now < self.registry_away && offer.bound.values().any(pulls) {
            let wait = self.millis(300);
            let finish = Step::Finish(Finish::Failed(FailureKind::Registry));
            return self.after(wait, Event::Step(agent, incarnation, offer.attempt, finish));
        }
        if let Some((edge, origin)) = lost {
            let wait = self.millis(300);
            let finish = Step::Finish(Finish::LostImage(edge, origin));
            return self.after(wait, Event::Step(agent, incarnation, offer.attempt, finish));
        }
        match offer
            .bound
            .values()
            .any(|bound| matches!(bound, Bound::Coming))
        {
            true => self.settle(agent),
            false => self.works(agent, &offer),
        }
    }

    /// Has the runs go on that waited for what others on their agent made, or fail with those.
    pub(super) fn settle(&mut self, agent: AgentId) {
        let one = self.agents.get_mut(&agent).expect("an agent of ours");
        for (id, wait) in one.settle() {
            let one = &self.agents[&agent];
            let incarnation = one.incarnation;
            match wait {
                Wait::Over => {
                    let offer = one.runs[&id].offer.clone();
                    self.works(agent, &offer);
                }
                Wait::Failed => {
                    let wait = self.millis(40);
                    let failed = Step::Finish(Finish::Upstream);
                    self.after(wait, Event::Step(agent, incarnation, id, failed));
                }
            }
        }
    }

    /// An attempt has all that it takes: from here on it takes its time.
    fn works(&mut self, agent: AgentId, offer: &Offer) {
        let incarnation = self.agents[&agent].incarnation;
        let step = |step| Event::Step(agent, incarnation, offer.attempt, step);
        let finish = match offer.fails {
            true => Finish::Failed(FailureKind::Build),
            // Now and then an engine just fails.
            false if self.engines_fail() && self.rng.u32(..30) == 0 => {
                Finish::Failed(FailureKind::Farm)
            }
            false => Finish::Done,
        };
        for (output, exported) in offer.outputs.iter().copied() {
            let all = matches!(finish, Finish::Done);
            if all || self.rng.bool() {
                let early = match all && self.rng.bool() {
                    true => self.within(offer.work),
                    false => offer.work,
                };
                self.after(early, step(Step::Make(output, exported)));
            }
        }
        self.after(
            offer.work + Duration::from_millis(1),
            step(Step::Finish(finish)),
        );
    }

    fn engines_fail(&self) -> bool {
        self.stormy && self.size.breaks == Breaks::Anything
    }

    pub(super) fn step(
        &mut self,
        agent: AgentId,
        incarnation: u64,
        attempt: AttemptId,
        step: Step,
    ) {
        let lease = self.terms.lease;
        let one = self.agents.get_mut(&agent).expect("an agent of ours");
        if one.incarnation != incarnation {
            return;
        }
        one.expire(lease, self.now);
        let report = match step {
            // An engine that can't push fails the attempt.
            Step::Make(_, true) if self.now < self.registry_away => {
                one.finish(attempt, Finish::Failed(FailureKind::Registry))
            }
            Step::Make(output, exported) => {
                let key = one.runs.get(&attempt).map(|run| run.key);
                let report = one.make(attempt, output, exported);
                if let (Some(key), Some(Report::Output(.., origin, true))) = (key, &report) {
                    let origin = Rc::clone(origin);
                    self.push(key.build, output, &origin);
                }
                report
            }
            Step::Finish(finish) => one.finish(attempt, finish),
        };
        report
            .into_iter()
            .for_each(|report| self.say(agent, report));
        self.settle(agent);
    }
}
