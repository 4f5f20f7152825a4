//! The attempts that this agent holds, the leases they run under, and what is to be said about them.
//!
//! A result stays here until the coordinator shows that it has it, so a broken link loses none. Running the attempts and talking to
//! the coordinator are others' work; time comes in as an argument.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    failure::Failure,
    ids::{AttemptId, BuildId, OutputId, Token},
    stop::{Stop, StopReason},
    work::Offer,
};

/// How many attempts are taken for each slot. The coordinator counts the slots: it may give more stages than there are, ahead of what they
/// take from others that run here, but no more than that.
const AHEAD_FACTOR: usize = 2;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Everything that was asked for is there.
    Done(Tally),
    /// It isn't.
    Failed(Failure),
}

/// How many vertices the engine took from its cache and how many it ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// From the cache.
    pub cached: u32,
    /// Run.
    pub run: u32,
}

/// Something to tell the coordinator, in the order in which it happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The attempt has begun.
    Accepted(AttemptId, Token),
    /// One output is there, and this is what its exporter answered.
    OutputReady(AttemptId, Token, OutputId, HashMap<String, String>),
    /// The attempt is over.
    Finished(AttemptId, Token, Outcome),
    /// A keeper ended by itself, for this reason.
    KeeperClosed(BuildId, String),
}

/// Why an offer isn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It was taken before: nothing is to be done.
    Known,
    /// All slots are in use.
    NoSlot,
}

/// All attempts of the agent.
#[derive(Debug)]
pub struct Ledger {
    slots: usize,
    inner: Mutex<Inner>,
    reported: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    lease: Duration,
    /// When the last word went out that the coordinator is known to have heard: what it sends from then on was sent later.
    heard: Option<Instant>,
    attempts: BTreeMap<AttemptId, Entry>,
    /// What this connection has not carried yet.
    reports: VecDeque<Report>,
}

#[derive(Debug)]
struct Entry {
    token: Token,
    build: BuildId,
    renewed: Instant,
    stop: Stop,
    /// What must be said again after a reconnect.
    said: Vec<Report>,
    finished: bool,
}

impl Ledger {
    /// An empty ledger for so many attempts at once.
    pub fn new(slots: u32) -> Self {
        Self {
            slots: usize::try_from(slots).unwrap_or(usize::MAX),
            inner: Mutex::default(),
            reported: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a lease runs from each renewal.
    pub fn set_lease(&self, lease: Duration) {
        self.lock().lease = lease;
    }

    /// Takes an offer. It may have been on its way for long, so its lease begins with the last word that was answered before it came, or `now`
    /// if there was none.
    pub fn accept(&self, offer: &Offer, now: Instant) -> Result<Stop, Refusal> {
        let mut inner = self.lock();
        if inner.attempts.contains_key(&offer.attempt) {
            return Err(Refusal::Known);
        }
        // The coordinator doesn't count what it has told to stop.
        let runs = |entry: &&Entry| !entry.finished && !entry.stop.is_requested();
        if inner.attempts.values().filter(runs).count() >= self.slots.saturating_mul(AHEAD_FACTOR) {
            return Err(Refusal::NoSlot);
        }
        let renewed = inner.heard.unwrap_or(now);
        let stop = Stop::default();
        inner.attempts.insert(
            offer.attempt.clone(),
            Entry {
                token: offer.token,
                build: offer.context.build.clone(),
                renewed,
                stop: stop.clone(),
                said: Vec::new(),
                finished: false,
            },
        );
        inner
            .reports
            .push_back(Report::Accepted(offer.attempt.clone(), offer.token));
        drop(inner);
        self.reported.notify_one();
        Ok(stop)
    }

    /// Says that an output is there. Nothing, if the attempt is lost.
    pub fn output_ready(
        &self,
        attempt: &AttemptId,
        output: OutputId,
        response: HashMap<String, String>,
    ) {
        self.say(attempt, |token| {
            Report::OutputReady(attempt.clone(), token, output, response)
        });
    }

    /// Says that the attempt is over, which frees its slot. Nothing, if the attempt is lost.
    pub fn finish(&self, attempt: &AttemptId, outcome: Outcome) {
        self.say(attempt, |token| {
            Report::Finished(attempt.clone(), token, outcome)
        });
    }

    fn say(&self, attempt: &AttemptId, report: impl FnOnce(Token) -> Report) {
        let mut inner = self.lock();
        let Some(entry) = inner
            .attempts
            .get_mut(attempt)
            .filter(|entry| !entry.finished)
        else {
            return;
        };
        let report = report(entry.token);
        entry.finished = matches!(report, Report::Finished(..));
        entry.said.push(report.clone());
        inner.reports.push_back(report);
        drop(inner);
        self.reported.notify_one();
    }

    /// Says something that isn't said again after a reconnect: a refusal, a keeper's end. `Hello` shows both by what it leaves out.
    pub fn say_once(&self, report: Report) {
        self.lock().reports.push_back(report);
        self.reported.notify_one();
    }

    /// Whether any attempt runs.
    pub fn runs(&self) -> bool {
        self.lock().attempts.values().any(|entry| !entry.finished)
    }

    /// All attempts that run or whose result may not have arrived.
    pub fn held(&self) -> Vec<(AttemptId, Token)> {
        self.lock()
            .attempts
            .iter()
            .map(|(attempt, entry)| (attempt.clone(), entry.token))
            .collect()
    }

    /// The coordinator's answer to the heartbeat that went out at `sent` and named `named`: what isn't renewed is forgotten and stopped.
    pub fn renew(&self, named: &[AttemptId], renewed: &HashSet<AttemptId>, sent: Instant) {
        let mut inner = self.lock();
        inner.heard = inner.heard.max(Some(sent));
        for attempt in named {
            if renewed.contains(attempt) {
                if let Some(entry) = inner.attempts.get_mut(attempt) {
                    entry.renewed = entry.renewed.max(sent);
                }
            } else if let Some(entry) = inner.attempts.remove(attempt) {
                entry.stop.now(StopReason::LeaseLost);
                inner
                    .reports
                    .retain(|report| report.attempt() != Some(attempt));
            }
        }
    }

    /// Stops what had no renewal for a whole lease; says when to look again. Results that wait to be heard are kept: the coordinator
    /// decides what they are worth.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        let mut inner = self.lock();
        let lease = inner.lease;
        let overdue = |entry: &Entry| !entry.finished && entry.renewed + lease <= now;
        inner.attempts.retain(|attempt, entry| {
            if overdue(entry) {
                tracing::warn!(%attempt, "the lease ended without a renewal: stopping");
                entry.stop.now(StopReason::LeaseLost);
            }
            !overdue(entry)
        });
        inner
            .attempts
            .values()
            .filter(|entry| !entry.finished)
            .map(|entry| entry.renewed + lease)
            .min()
    }

    /// Tells one attempt to stop.
    pub fn cancel(&self, attempt: &AttemptId, reason: &str) {
        if let Some(entry) = self.lock().attempts.get(attempt) {
            entry.stop.now(StopReason::Cancelled(reason.to_owned()));
        }
    }

    /// Tells all attempts of a build to stop.
    pub fn cancel_build(&self, build: &BuildId, reason: &str) {
        for entry in self
            .lock()
            .attempts
            .values()
            .filter(|entry| entry.build == *build)
        {
            entry.stop.now(StopReason::Cancelled(reason.to_owned()));
        }
    }

    /// What the attempts of a build made is lost: they have failed, those too that had finished without the coordinator's being known to
    /// know.
    pub fn fail_build(&self, build: &BuildId, reason: &str) {
        let mut inner = self.lock();
        let Inner {
            attempts, reports, ..
        } = &mut *inner;
        for (attempt, entry) in attempts.iter_mut().filter(|(_, e)| e.build == *build) {
            entry.stop.now(StopReason::Cancelled(reason.to_owned()));
            entry.finished = true;
            let failed = Outcome::Failed(Failure::farm(reason));
            entry.said = vec![Report::Finished(attempt.clone(), entry.token, failed)];
            reports.extend(entry.said.iter().cloned());
        }
        drop(inner);
        self.reported.notify_one();
    }

    /// Tells all attempts to stop, because the agent ends.
    pub fn end(&self) {
        for entry in self.lock().attempts.values() {
            entry.stop.now(StopReason::AgentEnds);
        }
    }

    /// Begins anew with the hello of a new connection, which goes out `now`: all that is still held is said again, in order, after it.
    pub fn replay(&self, now: Instant) {
        let mut inner = self.lock();
        inner.heard = Some(now);
        inner.reports = inner
            .attempts
            .values()
            .flat_map(|entry| entry.said.iter().cloned())
            .collect();
        drop(inner);
        self.reported.notify_one();
    }

    /// How many reports wait for the connection.
    pub fn backlog(&self) -> usize {
        self.lock().reports.len()
    }

    /// The next report, as soon as there is one. For one caller at a time; nothing is lost if it is dropped while it waits.
    pub async fn next_report(&self) -> Report {
        loop {
            if let Some(report) = self.lock().reports.pop_front() {
                return report;
            }
            self.reported.notified().await;
        }
    }
}

impl Report {
    fn attempt(&self) -> Option<&AttemptId> {
        match self {
            Self::Accepted(attempt, ..)
            | Self::OutputReady(attempt, ..)
            | Self::Finished(attempt, ..) => Some(attempt),
            Self::KeeperClosed(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::work::BuildContext;
    use futures::FutureExt;

    const LEASE: Duration = Duration::from_secs(10);

    fn id(name: &str) -> AttemptId {
        name.to_owned().into()
    }

    fn offer(attempt: &str) -> Offer {
        let context = BuildContext {
            build: "b".to_owned().into(),
            sessions: Vec::new(),
            entitlements: Vec::new(),
            source_policy: None,
            cache_imports: Vec::new(),
            traceparent: None,
        };
        Offer {
            attempt: id(attempt),
            token: Token(7),
            stage: "s".into(),
            context: Arc::new(context),
            outputs: Vec::new(),
        }
    }

    fn ledger(slots: u32) -> Ledger {
        let ledger = Ledger::new(slots);
        ledger.set_lease(LEASE);
        ledger
    }

    fn done() -> Outcome {
        Outcome::Done(Tally::default())
    }

    fn reports(ledger: &Ledger) -> Vec<Report> {
        std::iter::from_fn(|| ledger.next_report().now_or_never()).collect()
    }

    #[test]
    fn a_slot_is_free_again_once_its_attempt_finished() {
        let ledger = ledger(1);
        let now = Instant::now();
        ledger.accept(&offer("a"), now).expect("a free slot");
        assert_eq!(ledger.accept(&offer("a"), now).err(), Some(Refusal::Known));
        ledger
            .accept(&offer("ahead"), now)
            .expect("room for what goes ahead");
        assert_eq!(ledger.accept(&offer("b"), now).err(), Some(Refusal::NoSlot));
        ledger.finish(&id("a"), done());
        ledger.accept(&offer("b"), now).expect("a free slot");
        assert_eq!(ledger.accept(&offer("c"), now).err(), Some(Refusal::NoSlot));
        // What was told to stop may take a moment over it.
        ledger.cancel(&id("b"), "no longer needed");
        ledger.accept(&offer("c"), now).expect("a free slot");
    }

    #[test]
    fn what_was_said_is_said_again_on_a_new_connection_until_it_is_confirmed() {
        let ledger = ledger(2);
        let now = Instant::now();
        ledger.accept(&offer("a"), now).expect("a free slot");
        ledger.output_ready(&id("a"), "o".to_owned().into(), HashMap::new());
        ledger.finish(&id("a"), done());
        let said = reports(&ledger);
        assert!(
            matches!(
                said[..],
                [
                    Report::Accepted(..),
                    Report::OutputReady(..),
                    Report::Finished(..)
                ]
            ),
            "{said:?}"
        );
        ledger.replay(now);
        assert_eq!(reports(&ledger), said[1..]);
        ledger.renew(&[id("a")], &HashSet::new(), now);
        ledger.replay(now);
        assert_eq!(reports(&ledger), []);
        assert_eq!(ledger.held(), []);
    }

    #[test]
    fn what_a_lost_keeper_held_is_not_said_to_be_there_again() {
        let ledger = ledger(2);
        let now = Instant::now();
        ledger.accept(&offer("a"), now).expect("a free slot");
        let running = ledger.accept(&offer("b"), now).expect("a free slot");
        ledger.output_ready(
            &id("a"),
            OutputId::from("edge:0".to_owned()),
            HashMap::new(),
        );
        ledger.finish(&id("a"), done());
        reports(&ledger);
        ledger.fail_build(&BuildId::from("b".to_owned()), "the engine was restarted");
        assert!(running.requested().now_or_never().is_some());
        ledger.output_ready(
            &id("b"),
            OutputId::from("edge:1".to_owned()),
            HashMap::new(),
        );
        ledger.finish(&id("b"), done());
        let failed = |attempt| {
            let failure = Failure::farm("the engine was restarted");
            Report::Finished(id(attempt), Token(7), Outcome::Failed(failure))
        };
        assert_eq!(reports(&ledger), [failed("a"), failed("b")]);
        ledger.replay(now);
        assert_eq!(reports(&ledger), [failed("a"), failed("b")]);
    }

    #[test]
    fn an_attempt_that_is_named_but_not_renewed_is_stopped_and_its_result_is_nobodys() {
        let ledger = ledger(2);
        let now = Instant::now();
        let lost = ledger.accept(&offer("a"), now).expect("a free slot");
        let other = ledger.accept(&offer("b"), now).expect("a free slot");
        // b came after the heartbeat that is answered here.
        ledger.renew(&[id("a")], &HashSet::new(), now);
        assert_eq!(lost.requested().now_or_never(), Some(StopReason::LeaseLost));
        assert_eq!(other.requested().now_or_never(), None);
        ledger.finish(&id("a"), done());
        assert_eq!(reports(&ledger), [Report::Accepted(id("b"), Token(7))]);
    }

    #[test]
    fn a_lease_runs_from_the_heartbeat_that_renewed_it() {
        let ledger = ledger(1);
        let start = Instant::now();
        let stop = ledger.accept(&offer("a"), start).expect("a free slot");
        let sent = start + LEASE / 2;
        ledger.renew(&[id("a")], &HashSet::from([id("a")]), sent);
        assert_eq!(ledger.expire(start + LEASE), Some(sent + LEASE));
        assert_eq!(stop.requested().now_or_never(), None);
        assert_eq!(ledger.expire(sent + LEASE), None);
        assert_eq!(stop.requested().now_or_never(), Some(StopReason::LeaseLost));
        assert_eq!(ledger.held(), []);
    }

    #[test]
    fn the_lease_of_an_offer_that_was_long_on_its_way_began_before_it_came() {
        let ledger = ledger(2);
        let start = Instant::now();
        ledger.replay(start);
        let late = ledger.accept(&offer("a"), start + 2 * LEASE);
        let late = late.expect("a free slot");
        assert_eq!(ledger.expire(start + 2 * LEASE), None);
        assert_eq!(late.requested().now_or_never(), Some(StopReason::LeaseLost));
        // From an answered heartbeat on it is known to be no older than that.
        let sent = start + 2 * LEASE;
        ledger.renew(&[], &HashSet::new(), sent);
        ledger
            .accept(&offer("b"), sent + LEASE / 2)
            .expect("a free slot");
        assert_eq!(ledger.expire(sent + LEASE / 2), Some(sent + LEASE));
    }

    #[test]
    fn a_finished_attempt_outlives_its_lease_until_the_coordinator_knows() {
        let ledger = ledger(1);
        let start = Instant::now();
        ledger.accept(&offer("a"), start).expect("a free slot");
        ledger.finish(&id("a"), done());
        assert_eq!(ledger.expire(start + LEASE * 9), None);
        assert_eq!(ledger.held(), [(id("a"), Token(7))]);
    }

    #[test]
    fn the_first_reason_to_stop_counts() {
        let ledger = ledger(1);
        let stop = ledger
            .accept(&offer("a"), Instant::now())
            .expect("a free slot");
        ledger.cancel_build(&"other".to_owned().into(), "not ours");
        assert_eq!(stop.requested().now_or_never(), None);
        ledger.cancel(&id("a"), "no longer needed");
        ledger.end();
        assert_eq!(
            stop.requested().now_or_never(),
            Some(StopReason::Cancelled("no longer needed".into()))
        );
    }
}
