//! What breaks, and how it is mended.

use std::time::Duration;

use croft_scheduler::AgentId;
use croft_scheduler::fleet::{Duty, Health};

use super::agent::Life;
use super::farm::{Breaks, Event, Farm, Mended};

impl Farm {
    pub(super) fn fault(&mut self) {
        let ids: Vec<AgentId> = self.agents.keys().copied().collect();
        let agent = ids[self.rng.usize(..ids.len())];
        let up = self.agents[&agent].life == Life::Up;
        let back = self.within(Duration::from_secs(60));
        let which = match self.size.breaks {
            Breaks::Anything => self.rng.u32(..12),
            Breaks::NothingAgentsRestart => 11,
        };
        match which {
            0 if up => {
                self.cut(agent);
                self.agents.get_mut(&agent).expect("one of ours").die();
                self.after(back, Event::Mend(agent, Mended::Return));
            }
            1 | 2 if up => {
                self.agents.get_mut(&agent).expect("one of ours").life = Life::Frozen;
                self.after(back, Event::Mend(agent, Mended::Thaw));
            }
            3 | 4 if up => self.cut(agent),
            5 if up => {
                let said = self
                    .agents
                    .get_mut(&agent)
                    .expect("one of ours")
                    .lose_keepers();
                said.into_iter().for_each(|report| self.say(agent, report));
            }
            6 => {
                if let Some(view) = self.books.agents.get_mut(&agent) {
                    view.duty = Duty::Draining;
                    self.after(back, Event::Mend(agent, Mended::Resume));
                }
            }
            7 => {
                self.agents.get_mut(&agent).expect("one of ours").health = Health::Unhealthy;
                self.after(back, Event::Mend(agent, Mended::Healthy));
            }
            8 => {
                let count = self.images.len();
                if let Some(image) = (count > 0).then(|| self.rng.usize(..count)) {
                    let image = *self.images.iter().nth(image).expect("one of them");
                    self.images.remove(&image);
                }
            }
            10 => self.registry_away = self.registry_away.max(self.now + back),
            11 if up && self.agents[&agent].linked && !self.agents[&agent].leaving => {
                let one = self.agents.get_mut(&agent).expect("one of ours");
                one.leaving = true;
                let (connection, incarnation) = (one.connection, one.incarnation);
                // Where nothing breaks it hears of all that was sent to it before anybody knew.
                let least = match self.size.breaks {
                    Breaks::Anything => Duration::ZERO,
                    Breaks::NothingAgentsRestart => Duration::from_secs(7),
                };
                let limit = least + self.within(Duration::from_secs(10));
                // That it leaves it says at once.
                self.beats(agent, connection);
                self.after(limit, Event::HandBack(agent, incarnation));
            }
            9 if self.coordinator.up => {
                self.coordinator.up = false;
                self.coordinator.links.clear();
                let linked: Vec<AgentId> = ids
                    .into_iter()
                    .filter(|id| self.agents[id].linked)
                    .collect();
                linked.into_iter().for_each(|agent| self.cut(agent));
                let wait = self.millis(20_000);
                self.after(wait, Event::Start);
            }
            _ => {}
        }
    }

    /// An agent that was told to end has gone on for long enough: it gives back what it has.
    pub(super) fn hand_back(&mut self, agent: AgentId, incarnation: u64) {
        let one = self.agents.get_mut(&agent).expect("one of ours");
        if one.incarnation != incarnation {
            return;
        }
        let said = one.hand_back();
        said.into_iter().for_each(|report| self.say(agent, report));
        // It leaves the link when all is heard, if it has one.
        let heard = self.arrival(agent, true) + Duration::from_millis(1);
        self.at(heard, Event::Gone(agent, incarnation));
    }

    /// An agent that was told to end has ended, and is soon started again.
    pub(super) fn gone(&mut self, agent: AgentId, incarnation: u64) {
        if self.agents[&agent].incarnation == incarnation {
            self.cut(agent);
            self.agents.get_mut(&agent).expect("one of ours").die();
            let back = self.millis(3000);
            self.after(back, Event::Mend(agent, Mended::Return));
        }
    }

    pub(super) fn mend(&mut self, agent: AgentId, what: Mended) {
        let one = self.agents.get_mut(&agent).expect("one of ours");
        match what {
            Mended::Thaw if one.life == Life::Frozen => {
                one.life = Life::Up;
                // What it holds no more it lets go before it does anything else.
                one.expire(self.terms.lease, self.now);
                let waiting = self.frozen.remove(&agent).unwrap_or_default();
                waiting
                    .into_iter()
                    .for_each(|event| self.at(self.now, event));
            }
            Mended::Return if one.life == Life::Dead => {
                one.life = Life::Up;
                self.after(Duration::from_millis(10), Event::Connect(agent));
            }
            Mended::Resume => {
                if let Some(view) = self.books.agents.get_mut(&agent) {
                    view.duty = Duty::Active;
                }
                self.wake();
            }
            Mended::Healthy => one.health = Health::Healthy,
            Mended::Thaw | Mended::Return => {}
        }
    }

    /// All that is broken is mended, and nothing breaks any more.
    pub(super) fn calm(&mut self) {
        self.stormy = false;
        self.registry_away = self.now;
        let pending: Vec<u64> = self
            .events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Fault))
            .map(|(number, _)| *number)
            .collect();
        for number in pending {
            self.events.insert(number, Event::Pass);
        }
        for agent in self.agents.keys().copied().collect::<Vec<_>>() {
            for what in [
                Mended::Thaw,
                Mended::Return,
                Mended::Resume,
                Mended::Healthy,
            ] {
                self.mend(agent, what);
            }
        }
        if !self.coordinator.up {
            self.start();
        }
    }
}
