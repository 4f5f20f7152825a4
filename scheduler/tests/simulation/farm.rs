//! The farm in the simulation: one coordinator after another, a network that delays and breaks, agents that die, freeze and drain. Time is a
//! queue of events; all chance comes from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use croft_scheduler::fleet::StageKey;
use croft_scheduler::place::{Decision, Policy};
use croft_scheduler::{
    AgentId, AttemptId, BuildId, FailureKind, FarmBudget, LeaseTerms, Timestamp, Token,
};
use fastrand::Rng;

use super::agent::{Agent, Finish, Life, Order, Report};
use super::books::{Books, End};
use super::support::NOW;
use super::{builds, judge};

/// How big a farm is, and how much goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub agents: u32,
    pub builds: u32,
    /// Faults in all.
    pub faults: u32,
    pub breaks: Breaks,
    /// Whether each decision is judged by brute force.
    pub judged: bool,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaks {
    Anything,
    /// Nothing: agents are told to end, and started again.
    NothingAgentsRestart,
}

/// What had to be done again in a farm, to see that things do break.
#[derive(Debug, Clone, Copy, Default)]
pub struct Again {
    /// Attempts that failed by the farm's fault.
    pub by_farm: usize,
    /// Attempts that failed over the registry.
    pub over_registry: usize,
    /// Attempts that agents handed back.
    pub handed_back: usize,
    /// The most of these at one stage.
    pub of_one_stage: usize,
    /// Attempts that went ahead of their inputs.
    pub ahead: usize,
}

impl std::ops::AddAssign for Again {
    fn add_assign(&mut self, other: Again) {
        self.by_farm += other.by_farm;
        self.over_registry += other.over_registry;
        self.handed_back += other.handed_back;
        self.of_one_stage = self.of_one_stage.max(other.of_one_stage);
        self.ahead += other.ahead;
    }
}

/// Builds come and things break for so long; then all is mended, and everything must come to its end.
const STORM: Duration = Duration::from_secs(120);
/// No build may take longer than that after the storm.
const CALM: Duration = Duration::from_secs(3600);
/// How long a stage waits for an agent to come.
pub(super) const AGENT_WAIT: Duration = Duration::from_secs(60);

pub(super) enum Event {
    Build,
    Cancel(BuildId),
    Fault,
    Mend(AgentId, Mended),
    Calm,
    /// The coordinator looks and decides.
    Pass,
    /// What it decided reaches the database.
    Commit(u64, Vec<Decision>),
    Reap,
    Published(BuildId),
    Connect(AgentId),
    /// The coordinator notices that a connection is gone.
    Noticed(AgentId, u64),
    Beat(AgentId, u64),
    ToAgent(AgentId, u64, Order),
    FromAgent(AgentId, u64, Report),
    Step(AgentId, u64, AttemptId, Step),
    HandBack(AgentId, u64),
    Gone(AgentId, u64),
    Start,
}

pub(super) enum Step {
    Make(usize, bool),
    Finish(Finish),
}

pub(super) enum Mended {
    Thaw,
    Return,
    Resume,
    Healthy,
}

pub(super) struct Coordinator {
    /// Which one, counted from the first.
    pub(super) number: u64,
    pub(super) up: bool,
    /// The connection of each agent, by the agent's count and by the database's epoch.
    pub(super) links: BTreeMap<AgentId, (u64, u64)>,
    pub(super) exporting: BTreeMap<(BuildId, usize), AgentId>,
    /// Whether it is about to look.
    pub(super) woken: bool,
}

pub struct Farm {
    pub(super) rng: Rng,
    pub(super) size: Size,
    pub(super) now: Timestamp,
    pub(super) queue: BinaryHeap<Reverse<(Timestamp, u64)>>,
    pub(super) events: BTreeMap<u64, Event>,
    pub(super) sequence: u64,
    pub(super) books: Books,
    pub(super) agents: BTreeMap<AgentId, Agent>,
    /// What a frozen agent will find when it wakes up.
    pub(super) frozen: BTreeMap<AgentId, Vec<Event>>,
    pub(super) coordinator: Coordinator,
    /// When the last message of each direction of a connection arrives: the next can't overtake it.
    pub(super) arrivals: BTreeMap<(AgentId, bool), Timestamp>,
    /// The registry: which results' images it has.
    pub(super) images: BTreeSet<(BuildId, usize, Token)>,
    /// Until when it answers nobody.
    pub(super) registry_away: Timestamp,
    pub(super) builds: u32,
    pub(super) stormy: bool,
    pub(super) terms: LeaseTerms,
    pub(super) budget: FarmBudget,
    pub(super) policy: Policy,
}

/// Runs one farm from its first build to its last.
pub fn run(seed: u64, size: Size) -> Again {
    let mut farm = Farm::new(seed, size);
    farm.go();
    judge::over(&farm.books, &farm.budget);
    for agent in farm.agents.values() {
        assert!(
            agent.runs.is_empty(),
            "{} still runs something",
            agent.view.name
        );
        assert!(
            agent.keepers.is_empty(),
            "{} still holds results",
            agent.view.name
        );
    }
    if size.breaks == Breaks::NothingAgentsRestart {
        judge::no_fault(&farm.books);
    }
    again(&farm.books)
}

fn again(books: &Books) -> Again {
    let failed = |kind: FailureKind| {
        let attempts = books.attempts.values();
        attempts.filter(move |attempt| attempt.failure == Some(kind))
    };
    let mut of_stages: BTreeMap<StageKey, usize> = BTreeMap::new();
    for attempt in failed(FailureKind::HandedBack) {
        *of_stages.entry(attempt.key).or_default() += 1;
    }
    Again {
        by_farm: failed(FailureKind::Farm).count(),
        over_registry: failed(FailureKind::Registry).count(),
        handed_back: of_stages.values().sum(),
        of_one_stage: of_stages.into_values().max().unwrap_or_default(),
        ahead: books.attempts.values().filter(|a| a.went_ahead).count(),
    }
}

impl Farm {
    fn new(seed: u64, size: Size) -> Farm {
        let mut rng = Rng::with_seed(seed);
        let number = rng.u32(1..=size.agents);
        let agents = (1..=u128::from(number))
            .map(|number| Agent::new(builds::any_agent(&mut rng, number)))
            .map(|agent| (agent.id(), agent))
            .collect();
        let mut farm = Farm {
            rng,
            size,
            now: NOW,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            books: Books::default(),
            agents,
            frozen: BTreeMap::new(),
            coordinator: Coordinator {
                number: 0,
                up: false,
                links: BTreeMap::new(),
                exporting: BTreeMap::new(),
                woken: false,
            },
            arrivals: BTreeMap::new(),
            images: BTreeSet::new(),
            registry_away: NOW,
            builds: 0,
            stormy: true,
            terms: LeaseTerms::default(),
            budget: FarmBudget::default(),
            policy: Policy::default(),
        };
        farm.start();
        farm.after(Duration::from_secs(1), Event::Reap);
        for agent in farm.agents.keys().copied().collect::<Vec<_>>() {
            let join = match farm.rng.u32(..4) {
                0 => farm.within(STORM),
                _ => farm.within(Duration::from_secs(1)),
            };
            farm.after(join, Event::Connect(agent));
        }
        for _ in 0..farm.rng.u32(1..=size.builds) {
            let come = farm.within(STORM);
            farm.after(come, Event::Build);
        }
        for _ in 0..farm.rng.u32(..=size.faults) {
            let come = farm.within(STORM);
            farm.after(come, Event::Fault);
        }
        farm.after(STORM, Event::Calm);
        farm
    }

    fn go(&mut self) {
        let end = NOW + STORM + CALM;
        while let Some(Reverse((at, number))) = self.queue.pop() {
            self.now = at;
            let calm = !self.stormy && self.books.builds.values().all(|b| b.state.is_final());
            if calm
                && self
                    .agents
                    .values()
                    .all(|a| a.runs.is_empty() && a.keepers.is_empty())
            {
                return;
            }
            if at > end {
                return;
            }
            let event = self.events.remove(&number).expect("it was queued");
            self.happens(event);
        }
    }

    pub(super) fn within(&mut self, longest: Duration) -> Duration {
        Duration::from_millis(self.rng.u64(..longest.as_millis() as u64))
    }

    pub(super) fn millis(&mut self, longest: u64) -> Duration {
        Duration::from_millis(self.rng.u64(1..=longest))
    }

    pub(super) fn after(&mut self, wait: Duration, event: Event) {
        let at = self.now + wait;
        self.at(at, event);
    }

    pub(super) fn at(&mut self, at: Timestamp, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn happens(&mut self, event: Event) {
        let of_agent = match &event {
            Event::Connect(agent)
            | Event::Beat(agent, _)
            | Event::ToAgent(agent, ..)
            | Event::HandBack(agent, _)
            | Event::Gone(agent, _)
            | Event::Step(agent, ..) => Some(*agent),
            _ => None,
        };
        if let Some(agent) = of_agent {
            match self.agents[&agent].life {
                Life::Up => {}
                Life::Frozen => return self.frozen.entry(agent).or_default().push(event),
                Life::Dead => return,
            }
        }
        match event {
            Event::Build => self.build_comes(),
            Event::Cancel(build) => self.end(build, End::Cancelled),
            Event::Fault => self.fault(),
            Event::Mend(agent, what) => self.mend(agent, what),
            Event::Calm => self.calm(),
            Event::Pass => self.pass(),
            Event::Commit(coordinator, decisions) => self.commit(coordinator, decisions),
            Event::Reap => self.reap(),
            Event::Published(build) => self.published(build),
            Event::Connect(agent) => self.connect(agent),
            Event::Noticed(agent, connection) => self.leaves(agent, connection),
            Event::Beat(agent, connection) => self.beat(agent, connection),
            Event::ToAgent(agent, connection, order) => self.hears(agent, connection, order),
            Event::FromAgent(agent, connection, report) => self.told(agent, connection, report),
            Event::Step(agent, incarnation, attempt, step) => {
                self.step(agent, incarnation, attempt, step)
            }
            Event::HandBack(agent, incarnation) => self.hand_back(agent, incarnation),
            Event::Gone(agent, incarnation) => self.gone(agent, incarnation),
            // It may have been started when all was mended.
            Event::Start if self.coordinator.up => {}
            Event::Start => self.start(),
        }
    }
}
