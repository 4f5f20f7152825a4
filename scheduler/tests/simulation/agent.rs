//! An agent in the simulation: what it runs, under which leases as it sees them, what it holds, and what it has still to say. As the real
//! ledger and keepers, without an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use croft_scheduler::fleet::{AHEAD_FACTOR, AgentView, Health, StageKey};
use croft_scheduler::{AgentId, AttemptId, BuildId, FailureKind, Timestamp, Token};

use super::books::{Bound, Origin};

/// Whether its process goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Up,
    /// It does nothing, and nothing of it is lost.
    Frozen,
    Dead,
}

pub struct Agent {
    pub view: AgentView,
    pub life: Life,
    pub health: Health,
    /// Whether it was told to end: it takes nothing more, and goes on with what it has for a while.
    pub leaving: bool,
    /// Which of its connections this is. Grows with each.
    pub connection: u64,
    pub linked: bool,
    /// Which of its lives this is: what was under way in an earlier one is gone.
    pub incarnation: u64,
    /// What its keepers hold.
    pub keepers: BTreeMap<BuildId, BTreeMap<usize, Origin>>,
    /// Builds whose keeper ended by itself, until the coordinator is known to have heard of it. No other is opened for them before: the
    /// coordinator would take it for the one that it knows.
    pub lost: BTreeSet<BuildId>,
    pub runs: BTreeMap<AttemptId, Run>,
    /// When the last word went out that the coordinator is known to have heard: what it sends from then on was sent later.
    pub heard: Timestamp,
    /// Results that it made though nobody had asked it to: they must never reach an image.
    pub strays: u64,
}

/// An attempt that it holds.
pub struct Run {
    pub token: Token,
    pub key: StageKey,
    pub origin: Origin,
    /// When its lease was renewed, as far as the agent knows.
    pub renewed: Timestamp,
    /// What is said again after a reconnect.
    pub said: Vec<Report>,
    pub finished: bool,
    /// How it ended, if it did.
    pub failed: Option<FailureKind>,
    /// What it waits for: its engine has another attempt make that.
    pub waits: BTreeSet<usize>,
    pub offer: Offer,
}

/// What became of a run that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It has all that it takes.
    Over,
    /// What makes an input failed by its own fault, and so it has failed too.
    Failed,
}

/// What the coordinator asks for.
#[derive(Debug, Clone)]
pub enum Order {
    Run(Offer),
    Renewed {
        named: Vec<AttemptId>,
        renewed: BTreeSet<AttemptId>,
        sent: Timestamp,
    },
    Cancel(AttemptId),
    CloseKeeper(BuildId),
    Export {
        build: BuildId,
        edge: usize,
        origin: Origin,
    },
}

#[derive(Debug, Clone)]
pub struct Offer {
    pub attempt: AttemptId,
    pub token: Token,
    pub key: StageKey,
    pub bound: BTreeMap<usize, Bound>,
    /// The producer of each input.
    pub producers: BTreeMap<usize, usize>,
    pub work: Duration,
    pub fails: bool,
    /// Its outputs, and whether each is exported at once.
    pub outputs: Vec<(usize, bool)>,
}

/// What an agent says.
#[derive(Debug, Clone)]
pub enum Report {
    Hello {
        running: Vec<(AttemptId, Token)>,
        keepers: BTreeSet<BuildId>,
    },
    Heartbeat {
        running: Vec<(AttemptId, Token)>,
        health: Health,
        sent: Timestamp,
    },
    Accepted(AttemptId, Token),
    Output(AttemptId, Token, usize, Origin, bool),
    Finished(AttemptId, Token, Finish),
    KeeperClosed(BuildId),
    Exported {
        build: BuildId,
        edge: usize,
        origin: Origin,
        handover: Handover,
    },
}

/// What came of having a result exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// It is in the registry.
    There,
    /// It isn't, for now.
    Failed,
    /// The engine can't export it, now and later.
    Broken,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub enum Finish {
    Done,
    Failed(FailureKind),
    /// The command that makes one of its inputs failed.
    Upstream,
    /// An image that it takes is not in the registry any more.
    LostImage(usize, Origin),
}

impl Agent {
    pub fn new(view: AgentView) -> Agent {
        Agent {
            view,
            life: Life::Up,
            health: Health::Healthy,
            leaving: false,
            connection: 0,
            linked: false,
            incarnation: 0,
            keepers: BTreeMap::new(),
            lost: BTreeSet::new(),
            runs: BTreeMap::new(),
            heard: Timestamp(0),
            strays: 0,
        }
    }

    pub fn id(&self) -> AgentId {
        self.view.id
    }

    /// What it says of itself.
    pub fn says(&self) -> Health {
        match self.leaving {
            true => Health::Leaving,
            false => self.health,
        }
    }

    pub fn held(&self) -> Vec<(AttemptId, Token)> {
        self.runs.iter().map(|(id, run)| (*id, run.token)).collect()
    }

    /// Its process is gone, with all that it and its engine's keepers had.
    pub fn die(&mut self) {
        (self.life, self.linked, self.leaving) = (Life::Dead, false, false);
        self.incarnation += 1;
        self.keepers.clear();
        self.lost.clear();
        self.runs.clear();
    }

    /// Its engine was restarted: what the keepers held is gone, and what ran in them has failed. That goes for attempts too that had
    /// finished without the coordinator's knowing: what they delivered is not there any more. Returns what is to be said.
    pub fn lose_keepers(&mut self) -> Vec<Report> {
        let ended: Vec<BuildId> = std::mem::take(&mut self.keepers).into_keys().collect();
        self.lost.extend(&ended);
        let mut reports: Vec<Report> = ended.into_iter().map(Report::KeeperClosed).collect();
        for (attempt, run) in &mut self.runs {
            let failed = Finish::Failed(FailureKind::Farm);
            (run.finished, run.failed) = (true, Some(FailureKind::Farm));
            run.said = vec![Report::Finished(*attempt, run.token, failed)];
            reports.extend(run.said.iter().cloned());
        }
        reports
    }

    /// Gives back what it has not finished, and lets go what it holds: it is about to end. Returns what is to be said.
    pub fn hand_back(&mut self) -> Vec<Report> {
        let held: Vec<AttemptId> = self.runs.keys().copied().collect();
        let back = || Finish::Failed(FailureKind::HandedBack);
        let mut said: Vec<Report> = held
            .into_iter()
            .filter_map(|attempt| self.finish(attempt, back()))
            .collect();
        let ended = std::mem::take(&mut self.keepers).into_keys();
        said.extend(ended.map(Report::KeeperClosed));
        said
    }

    /// Takes an offer. Returns what is to be said at once.
    pub fn take(&mut self, offer: &Offer) -> Vec<Report> {
        let Offer { attempt, token, .. } = *offer;
        if self.runs.contains_key(&attempt) {
            return Vec::new();
        }
        if self.leaving {
            let back = Finish::Failed(FailureKind::HandedBack);
            return vec![Report::Finished(attempt, token, back)];
        }
        let busy = self.runs.values().filter(|run| !run.finished).count();
        let lost = self.lost.contains(&offer.key.build);
        let room = self.view.slots as usize * AHEAD_FACTOR as usize;
        if lost || busy >= room || self.health == Health::Unhealthy {
            let refused = Finish::Failed(FailureKind::Farm);
            return vec![Report::Finished(attempt, token, refused)];
        }
        let build = offer.key.build;
        let mut origin = BTreeMap::from([(offer.key.stage.index(), token)]);
        let mut waits = BTreeSet::new();
        for (edge, bound) in &offer.bound {
            let keeper = self.keepers.entry(build).or_default();
            let came_from = match (bound, keeper.get(edge)) {
                (Bound::Held(wanted), Some(held)) if Rc::ptr_eq(wanted, held) => Rc::clone(held),
                // Its engine runs the producer again, as that is in the definition: a result that nobody may use.
                (Bound::Held(wanted), _) => {
                    self.strays += 1;
                    let mut stray = (**wanted).clone();
                    stray.insert(offer.producers[edge], Token(u64::MAX - self.strays));
                    Rc::new(stray)
                }
                (Bound::Image(image), _) => Rc::clone(image),
                (Bound::Coming, _) => {
                    waits.insert(*edge);
                    continue;
                }
            };
            mix(&mut origin, &came_from);
        }
        self.keepers.entry(build).or_default();
        let run = Run {
            token,
            key: offer.key,
            origin: Rc::new(origin),
            // It may have been on its way for long.
            renewed: self.heard,
            said: Vec::new(),
            finished: false,
            failed: None,
            waits,
            offer: offer.clone(),
        };
        self.runs.insert(attempt, run);
        vec![Report::Accepted(attempt, token)]
    }

    /// Lets go on what waits for nothing any more.
    pub fn settle(&mut self) -> Vec<(AttemptId, Wait)> {
        let waiting = self.runs.iter().filter(|(_, run)| !run.finished);
        let waiting = waiting.flat_map(|(id, run)| run.waits.iter().map(|edge| (*id, *edge)));
        let waiting: Vec<(AttemptId, usize)> = waiting.collect();
        let mut over = BTreeMap::new();
        for (id, edge) in waiting {
            let run = &self.runs[&id];
            let (build, maker) = (run.key.build, run.offer.producers[&edge]);
            let at_it = self
                .runs
                .values()
                .filter(|other| other.key.build == build && other.key.stage.index() == maker);
            let at_it = at_it.max_by_key(|other| other.token);
            let held = self
                .keepers
                .get(&build)
                .and_then(|keeper| keeper.get(&edge));
            // An earlier attempt's is not what is waited for while there is a later one.
            let held = held.filter(|held| {
                at_it.is_none_or(|other| other.failed.is_none() && held[&maker] == other.token)
            });
            let came_from = match (held, at_it) {
                (Some(held), _) => Rc::clone(held),
                (None, Some(other)) if !other.finished => continue,
                (None, Some(other)) if other.failed == Some(FailureKind::Build) => {
                    over.insert(id, Wait::Failed);
                    continue;
                }
                // Its engine goes on with what the other attempt had begun.
                (None, _) => {
                    self.strays += 1;
                    Rc::new(BTreeMap::from([(maker, Token(u64::MAX - self.strays))]))
                }
            };
            let run = self.runs.get_mut(&id).expect("it waited");
            mix(Rc::make_mut(&mut run.origin), &came_from);
            run.waits.remove(&edge);
            if run.waits.is_empty() {
                over.entry(id).or_insert(Wait::Over);
            }
        }
        over.into_iter().collect()
    }

    /// An output of an attempt is there.
    pub fn make(&mut self, attempt: AttemptId, output: usize, exported: bool) -> Option<Report> {
        let run = self.runs.get_mut(&attempt).filter(|run| !run.finished)?;
        let keeper = self.keepers.get_mut(&run.key.build)?;
        keeper.insert(output, Rc::clone(&run.origin));
        let origin = Rc::clone(&run.origin);
        let report = Report::Output(attempt, run.token, output, origin, exported);
        run.said.push(report.clone());
        Some(report)
    }

    pub fn finish(&mut self, attempt: AttemptId, finish: Finish) -> Option<Report> {
        let run = self.runs.get_mut(&attempt).filter(|run| !run.finished)?;
        run.finished = true;
        run.failed = match finish {
            Finish::Done => None,
            Finish::Failed(kind) => Some(kind),
            Finish::Upstream => Some(FailureKind::Build),
            Finish::LostImage(..) => Some(FailureKind::Farm),
        };
        let report = Report::Finished(attempt, run.token, finish);
        run.said.push(report.clone());
        Some(report)
    }

    pub fn renew(&mut self, named: &[AttemptId], renewed: &BTreeSet<AttemptId>, sent: Timestamp) {
        self.heard = self.heard.max(sent);
        for attempt in named {
            match self.runs.get_mut(attempt) {
                Some(run) if renewed.contains(attempt) => run.renewed = run.renewed.max(sent),
                _ => drop(self.runs.remove(attempt)),
            }
        }
    }

    /// Stops what had no renewal for a whole lease.
    pub fn expire(&mut self, lease: Duration, now: Timestamp) {
        self.runs
            .retain(|_, run| run.finished || run.renewed + lease > now);
    }
}

fn mix(origin: &mut BTreeMap<usize, Token>, came_from: &Origin) {
    for (stage, token) in came_from.iter() {
        // Of two the odd one is kept, so that the judge finds it.
        let entry = origin.entry(*stage).or_insert(*token);
        *entry = (*entry).max(*token);
    }
}
