//! Who gets a stage, and how that ends: what the real store's statements about attempts do.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use croft_scheduler::fleet::{AHEAD_FACTOR, Duty, Health, StageKey};
use croft_scheduler::lease::has_ended;
use croft_scheduler::{
    AgentId, AttemptEvent, AttemptId, AttemptState, BuildId, BuildState, FailureKind, FarmBudget,
    LeaseTerms, Retry, StageEvent, StageState, Timestamp, Token, retry,
};

use super::{
    Attempt, Books, Bound, Cancelled, Delivered, End, Guarded, NewAttempt, Origin, Output, Stale,
};

/// How long a stage is left alone that failed over an input that it went ahead of.
const YIELD: Duration = Duration::from_secs(1);

impl Books {
    pub fn offer(
        &mut self,
        new: &NewAttempt,
        bound: &BTreeMap<usize, Bound>,
        terms: &LeaseTerms,
        now: Timestamp,
    ) -> Guarded<Token> {
        let NewAttempt {
            id,
            key,
            agent,
            epoch,
        } = *new;
        let on_it = self.live.iter().map(|id| &self.attempts[id]);
        let on_it: Vec<&Attempt> = on_it.filter(|a| a.agent == agent).collect();
        let all = on_it.len();
        let complete = on_it.iter().filter(|a| !self.is_ahead(a)).count();
        let making: BTreeSet<usize> = on_it
            .iter()
            .filter(|attempt| attempt.key.build == key.build)
            .map(|attempt| attempt.key.stage.index())
            .collect();
        let view = self.connected(agent, epoch)?;
        let takes = view.health == Health::Healthy && view.duty == Duty::Active;
        let slots = view.slots as usize;
        let build = self.running(key.build)?;
        let stage = &build.stages[key.stage.index()];
        // What is coming and what is held look the same in the database.
        let comes = |output: &Output| !output.is_there() && making.contains(&output.stage);
        let is_bound = |(edge, bound): (&usize, &Bound)| {
            let output = &build.outputs[*edge];
            match bound {
                Bound::Held(_) | Bound::Coming => {
                    comes(output) || matches!(&output.held, Some((on, _)) if *on == agent)
                }
                Bound::Image(origin) => {
                    matches!(&output.image, Some(now) if Rc::ptr_eq(now, origin))
                }
            }
        };
        let is_image = |edge: &usize| matches!(bound[edge], Bound::Image(_));
        let ahead = bound
            .keys()
            .any(|edge| !is_image(edge) && comes(&build.outputs[*edge]));
        let (state, event, room) = match ahead {
            true => (
                StageState::Waiting,
                StageEvent::PlacedAhead,
                all - complete < slots && all < slots * AHEAD_FACTOR as usize,
            ),
            false => (StageState::Ready, StageEvent::Placed, complete < slots),
        };
        if !takes
            || !room
            || stage.state != state
            || stage.not_before > now
            || !bound.iter().all(is_bound)
            || bound.len() != stage.inputs.len()
        {
            return Err(Stale);
        }
        self.move_stage(key, event, now);
        self.token += 1;
        let token = Token(self.token);
        let attempt = Attempt {
            key,
            agent,
            token,
            state: AttemptState::Offered,
            lease_until: terms.until(now),
            since: now,
            failure: None,
            bound: bound.keys().copied().collect(),
            went_ahead: ahead,
        };
        let other = self.at_work.insert(key, id);
        assert_eq!(other, None, "two attempts at {key} would live");
        self.attempts.insert(id, attempt);
        self.live.insert(id);
        Ok(token)
    }

    pub fn accept(&mut self, agent: AgentId, id: AttemptId, token: Token) -> Guarded<()> {
        let attempt = self.attempts.get(&id).ok_or(Stale)?;
        if (attempt.agent, attempt.token, attempt.state) != (agent, token, AttemptState::Offered) {
            return Err(Stale);
        }
        self.move_attempt(id, AttemptEvent::Accepted);
        Ok(())
    }

    pub fn renew(
        &mut self,
        agent: AgentId,
        held: &[(AttemptId, Token)],
        terms: &LeaseTerms,
        now: Timestamp,
    ) -> BTreeSet<AttemptId> {
        let mut renewed = BTreeSet::new();
        for (id, token) in held {
            if self.lives(agent, *id, *token).is_ok() {
                self.version += 1;
                self.attempts.get_mut(id).expect("it lives").lease_until = terms.until(now);
                renewed.insert(*id);
            }
        }
        renewed
    }

    fn lives(&self, agent: AgentId, id: AttemptId, token: Token) -> Guarded<StageKey> {
        let attempt = self.attempts.get(&id).ok_or(Stale)?;
        let same = (attempt.agent, attempt.token) == (agent, token);
        if !same || attempt.state.is_final() {
            return Err(Stale);
        }
        match self.builds[&attempt.key.build].state {
            BuildState::Running => Ok(attempt.key),
            _ => Err(Stale),
        }
    }

    pub fn deliver(
        &mut self,
        agent: AgentId,
        id: AttemptId,
        token: Token,
        delivered: &Delivered,
        now: Timestamp,
    ) -> Guarded<()> {
        let key = self.lives(agent, id, token)?;
        let build = self.running(key.build)?;
        let output = &mut build.outputs[delivered.output];
        output.held = Some((agent, Rc::clone(&delivered.origin)));
        output.image = delivered.exported.then(|| Rc::clone(&delivered.origin));
        self.version += 1;
        self.settle(key.build, now);
        Ok(())
    }

    /// True if the build has nothing more to run.
    pub fn succeed(
        &mut self,
        agent: AgentId,
        id: AttemptId,
        token: Token,
        now: Timestamp,
    ) -> Guarded<bool> {
        let key = self.lives(agent, id, token)?;
        let build = &self.builds[&key.build];
        let stage = &build.stages[key.stage.index()];
        if !stage.outputs.iter().all(|o| build.outputs[*o].is_there()) {
            return Err(Stale);
        }
        self.move_attempt(id, AttemptEvent::Succeeded);
        self.move_stage(key, StageEvent::Succeeded, now);
        self.settle(key.build, now);
        let stages = &self.builds[&key.build].stages;
        Ok(stages.iter().all(|stage| stage.state == StageState::Done))
    }

    /// Also which live attempts it ended, and whether the build is to fail.
    pub fn fail(
        &mut self,
        agent: AgentId,
        id: AttemptId,
        token: Token,
        event: AttemptEvent,
        budget: &FarmBudget,
        now: Timestamp,
    ) -> Guarded<(Cancelled, Option<End>)> {
        self.lives(agent, id, token)?;
        if event == AttemptEvent::LeaseEnded && !has_ended(self.attempts[&id].lease_until, now) {
            return Err(Stale);
        }
        self.move_attempt(id, event);
        let kind = match event {
            AttemptEvent::Failed(kind) => kind,
            _ => FailureKind::Farm,
        };
        Ok(self.after_failure(id, kind, budget, now))
    }

    /// A result can't be got out of the engine that holds it. As [`Books::fail`].
    pub fn refute(
        &mut self,
        build: BuildId,
        edge: usize,
        holder: AgentId,
        origin: &Origin,
        budget: &FarmBudget,
        now: Timestamp,
    ) -> Guarded<(Cancelled, Option<End>)> {
        let output = &self.running(build)?.outputs[edge];
        let is_held = output.image.is_none()
            && matches!(&output.held, Some((on, now)) if *on == holder && Rc::ptr_eq(now, origin));
        if !is_held {
            return Err(Stale);
        }
        let token = origin[&output.stage];
        let made_it = |attempt: &Attempt| attempt.key.build == build && attempt.token == token;
        let made = self.attempts.iter().find(|(_, attempt)| made_it(attempt));
        let (id, lived) = made
            .map(|(id, a)| (*id, !a.state.is_final()))
            .ok_or(Stale)?;
        self.move_attempt(id, AttemptEvent::Refuted);
        let (mut cancelled, end) = self.after_failure(id, FailureKind::Farm, budget, now);
        cancelled.extend(lived.then_some((holder, id)));
        Ok((cancelled, end))
    }

    fn after_failure(
        &mut self,
        id: AttemptId,
        kind: FailureKind,
        budget: &FarmBudget,
        now: Timestamp,
    ) -> (Cancelled, Option<End>) {
        let attempt = self.attempts.get_mut(&id).expect("it failed");
        attempt.failure = Some(kind);
        let key = attempt.key;
        let stage = self.stage(key);
        let (budget, before) = match kind {
            FailureKind::Registry => (&FarmBudget::REGISTRY, stage.registry_failures),
            FailureKind::Farm | FailureKind::Build | FailureKind::HandedBack => {
                (budget, stage.farm_failures)
            }
        };
        match retry(budget, before, kind) {
            Retry::No => {
                self.move_stage(key, StageEvent::Failed, now);
                let why = match kind {
                    FailureKind::Build => End::OwnFault,
                    FailureKind::Farm | FailureKind::Registry => End::Budget,
                    FailureKind::HandedBack => unreachable!("it costs nothing"),
                };
                (Cancelled::new(), Some(why))
            }
            Retry::After(pause) => {
                // One that was done by then goes back with what came of it.
                if self.stage(key).state == StageState::Running {
                    self.move_stage(key, StageEvent::FarmFailed, now);
                }
                let stage = self.stage_mut(key);
                match kind {
                    FailureKind::Registry => stage.registry_failures += 1,
                    FailureKind::Farm => stage.farm_failures += 1,
                    FailureKind::HandedBack | FailureKind::Build => {}
                }
                stage.not_before = now + pause;
                // What it had delivered may be in others by now, though it be lost meanwhile, and the next attempt makes it anew.
                let cancelled =
                    self.invalidate(key.build, BTreeSet::from([key.stage.index()]), now);
                (cancelled, None)
            }
        }
    }

    /// An attempt failed over an input that it went ahead of.
    pub fn give_way(
        &mut self,
        agent: AgentId,
        id: AttemptId,
        token: Token,
        now: Timestamp,
    ) -> Guarded<Cancelled> {
        let key = self.lives(agent, id, token)?;
        if !self.is_ahead(&self.attempts[&id]) {
            return Err(Stale);
        }
        self.move_attempt(id, AttemptEvent::Cancelled);
        self.stage_mut(key).not_before = now + YIELD;
        Ok(self.invalidate(key.build, BTreeSet::from([key.stage.index()]), now))
    }

    pub fn expired(&self, now: Timestamp) -> Vec<(AgentId, AttemptId, Token)> {
        self.live
            .iter()
            .map(|id| (id, &self.attempts[id]))
            .filter(|(_, attempt)| has_ended(attempt.lease_until, now))
            .map(|(id, attempt)| (attempt.agent, *id, attempt.token))
            .collect()
    }

    /// Whether an agent said that it runs something, and that lives.
    pub fn runs(&self, agent: AgentId) -> bool {
        let mut live = self.live.iter().map(|id| &self.attempts[id]);
        live.any(|attempt| attempt.agent == agent && attempt.state == AttemptState::Running)
    }
}
