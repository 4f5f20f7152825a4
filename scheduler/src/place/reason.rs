//! Why a stage went where it went, and why another waits: data for programs, and sentences for people.
//!
//! The sentences have no numbers that change while nothing else does: they are stored with the stage, and shown as they are.

use std::fmt;
use std::time::Duration;

use croft_planner::{EdgeId, Platform};

use super::score::{Candidate, Desk};
use super::stage::ReadyStage;
use crate::fleet::{AgentView, Lack, Nativeness};
use crate::servable::Unservable;
use crate::time::Human;

/// Why this agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What decided.
    pub why: Why,
    /// The platforms of the stage that the agent only emulates.
    pub emulates: Vec<Platform>,
}

/// What decided between the agents that could have taken a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// No other could.
    Only,
    /// A stage that it belongs with was placed there.
    Together,
    /// The others would have emulated.
    Native,
    /// The farm failed at it on the others.
    NotFailed,
    /// Its engine's cache has so many of the stage's commands.
    Cache {
        /// Commands of the stage that it has.
        holds: usize,
        /// Commands that the stage has.
        of: usize,
        /// What that saves against the next best agent.
        saves: Duration,
    },
    /// More of the stage's inputs are there.
    Inputs,
    /// What a later stage takes with its result is there.
    Meets,
    /// It makes what the stage takes just now: its engine starts what it can, and has the rest wait.
    Ahead,
    /// It was free, and the agent that suits best was not.
    Spilled {
        /// That agent's name.
        busy: String,
    },
    /// It has less to do than the next best.
    LessBusy {
        /// That agent's name.
        than: String,
    },
    /// A stage like this one ran there last.
    Alike,
    /// Its project ran there last.
    Project,
    /// Nothing did: it is the first of equals.
    First,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Only => f.write_str("the only agent that can"),
            Why::Together => f.write_str("a stage that it belongs with is there"),
            Why::Native => f.write_str("native"),
            Why::NotFailed => f.write_str("another try, elsewhere"),
            Why::Cache { holds, of, saves } => {
                write!(
                    f,
                    "holds the cache of {holds} of {of} commands (saves about {})",
                    Human(*saves)
                )
            }
            Why::Inputs => f.write_str("holds its inputs"),
            Why::Meets => f.write_str("what a later stage takes with it is there"),
            Why::Ahead => f.write_str("is making its inputs"),
            Why::Spilled { busy } => write!(f, "free, while {busy} is busy"),
            Why::LessBusy { than } => write!(f, "less busy than {than}"),
            Why::Alike => f.write_str("ran this stage last"),
            Why::Project => f.write_str("last used by this project"),
            Why::First => f.write_str("first of equals"),
        }?;
        if !self.emulates.is_empty() {
            write!(f, "; emulates {}", Commas(&self.emulates))?;
        }
        Ok(())
    }
}

/// Why a stage is not placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// What it takes is being made, and it has no business on the agent that does.
    Inputs,
    /// The farm failed at it a short while ago.
    Pause,
    /// All agents that could take it are full.
    Full {
        /// Their names.
        agents: Vec<String>,
    },
    /// Others are free, but an agent that is full is worth waiting for.
    WorthWaiting {
        /// Its name.
        agent: String,
        /// What makes it so.
        because: Because,
    },
    /// No agent can take it now. What could change by itself is in `agents`; if nothing is, no agent ever can.
    Nobody {
        /// The agents that could but for something that may pass, by name, with what that is.
        agents: Vec<(String, Unfit)>,
        /// What is asked for and what there is.
        unservable: Unservable,
    },
}

/// Why a full agent is worth waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// A stage that it belongs with was placed there.
    Together,
    /// The free ones would emulate.
    Native,
    /// The farm failed at it on the free ones.
    Failed,
    /// Its cache or its inputs save more than the wait costs.
    Saves(Duration),
}

/// Why an agent can't take a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It doesn't run the stage's platforms.
    Platform,
    /// Its engine can't do or isn't allowed to what the stage requires. Never empty.
    Lacks(Vec<Lack>),
    /// It was started with none.
    NoSlots,
    /// It isn't connected.
    Away,
    /// Its engine doesn't answer.
    Unhealthy,
    /// It is being stopped.
    Leaving,
    /// It takes no new work.
    Draining,
    /// Its disk is nearly full.
    Disk,
    /// What the stage takes is only on an agent that is away.
    Input {
        /// Which input.
        edge: EdgeId,
        /// The agent's name, if it is known.
        on: Option<String>,
    },
}

impl Unfit {
    /// Whether it may pass without a person's doing.
    pub fn may_pass(&self) -> bool {
        !matches!(self, Unfit::Platform | Unfit::Lacks(_) | Unfit::NoSlots)
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Platform => f.write_str("does not run its platform"),
            Unfit::Lacks(lacks) => Ands(lacks).fmt(f),
            Unfit::NoSlots => f.write_str("has no slots"),
            Unfit::Away => f.write_str("is away"),
            Unfit::Unhealthy => f.write_str("has an engine that does not answer"),
            Unfit::Leaving => f.write_str("is being stopped"),
            Unfit::Draining => f.write_str("is draining"),
            Unfit::Disk => f.write_str("has too little free disk"),
            Unfit::Input { edge, on: Some(on) } => {
                write!(f, "can't get result {edge}: {on} has it and is away")
            }
            Unfit::Input { edge, on: None } => write!(f, "can't get result {edge}: nobody has it"),
        }
    }
}

impl Refusal {
    /// Whether no agent of the farm could take the stage even if all were there and idle.
    pub fn is_for_ever(&self) -> bool {
        matches!(self, Refusal::Nobody { agents, .. } if agents.is_empty())
    }

    /// Whether the stage waits for an agent to come (or to come back), not for a slot.
    pub fn is_for_want_of_an_agent(&self) -> bool {
        matches!(self, Refusal::Nobody { .. })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Inputs => f.write_str("results that are being made"),
            Refusal::Pause => f.write_str("a pause after a failure of the farm's"),
            Refusal::Full { agents } => write!(f, "a free slot on {}", Commas(agents)),
            Refusal::WorthWaiting { agent, because } => {
                write!(f, "a free slot on {agent}")?;
                match because {
                    Because::Together => f.write_str(", where a stage is that it belongs with"),
                    Because::Native => f.write_str(", because the free agents would emulate"),
                    Because::Failed => {
                        f.write_str(", because the farm failed at it on the free agents")
                    }
                    Because::Saves(_) => f.write_str(", which saves more than the wait costs"),
                }
            }
            Refusal::Nobody { agents, unservable } if agents.is_empty() => unservable.fmt(f),
            Refusal::Nobody { agents, unservable } => {
                f.write_str("an agent")?;
                if !unservable.platforms.is_empty() {
                    write!(f, " for {}", Commas(&unservable.platforms))?;
                }
                for (place, (name, unfit)) in agents.iter().enumerate() {
                    write!(f, "{} {name} {unfit}", if place == 0 { ":" } else { "," })?;
                }
                for (name, lacks) in &unservable.lacking {
                    write!(f, ", {name} {}", Ands(lacks))?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Entitlement(name) => write!(f, "does not allow {name}"),
            Lack::Device(name) => write!(f, "has no device {name} for builds"),
            Lack::Capability(name) => write!(f, "has an engine without {name}"),
        }
    }
}

/// What is true of one thing at once.
pub(crate) struct Ands<'a, T>(pub &'a [T]);

impl<T: fmt::Display> fmt::Display for Ands<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if place == 0 { "" } else { " and " })?;
        }
        Ok(())
    }
}

/// A list for people.
pub(crate) struct Commas<'a, T>(pub &'a [T]);

impl<T: fmt::Display> fmt::Display for Commas<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// What decided for the first of `candidates`, which are in the order of their scores.
pub(super) fn reason(stage: &ReadyStage, candidates: &[Candidate], desks: &[Desk<'_>]) -> Reason {
    let best = &candidates[0];
    let name = |candidate: &Candidate| desks[candidate.desk].agent.name.clone();
    let emulates = |agent: &AgentView| match best.score.nativeness {
        Nativeness::Native => Vec::new(),
        Nativeness::Emulated => stage
            .platforms
            .difference(&agent.platforms)
            .cloned()
            .collect(),
    };
    let waitless = |candidate: &Candidate| {
        let mut score = candidate.score.clone();
        score.delay -= candidate.cost.wait;
        score
    };
    let suits_best = candidates
        .iter()
        .min_by_key(|&candidate| waitless(candidate))
        .unwrap_or(best);
    let why = match candidates.get(1) {
        None => Why::Only,
        Some(_) if suits_best.desk != best.desk => Why::Spilled {
            busy: name(suits_best),
        },
        Some(next) => why_better(stage, best, next, name(next)),
    };
    Reason {
        why,
        emulates: emulates(desks[best.desk].agent),
    }
}

/// The first field of the score, or the greatest part of the delay, in which the best is better than the next.
fn why_better(stage: &ReadyStage, best: &Candidate, next: &Candidate, next_name: String) -> Why {
    let (a, b) = (&best.score, &next.score);
    if a.nativeness != b.nativeness {
        return Why::Native;
    }
    if a.failures != b.failures {
        return Why::NotFailed;
    }
    if a.delay != b.delay {
        let saved =
            |part: fn(&super::Cost) -> Duration| part(&next.cost).saturating_sub(part(&best.cost));
        let (cache, inputs) = (saved(|cost| cost.rebuild), saved(|cost| cost.transfer));
        let meeting = saved(|cost| cost.meeting);
        let queue = saved(|cost| cost.wait + cost.contention);
        // A command that was cached is not run beside others either: contention alone must be the greatest to count.
        return if cache >= inputs.max(meeting) && cache * 2 >= queue && !cache.is_zero() {
            Why::Cache {
                holds: best.cached,
                of: stage.commands.len(),
                saves: cache,
            }
        } else if meeting > inputs && meeting >= queue {
            Why::Meets
        } else if inputs >= queue {
            Why::Inputs
        } else {
            Why::LessBusy { than: next_name }
        };
    }
    if a.last_alike != b.last_alike {
        Why::Alike
    } else if a.last_project != b.last_project {
        Why::Project
    } else if a.load != b.load {
        Why::LessBusy { than: next_name }
    } else {
        Why::First
    }
}
