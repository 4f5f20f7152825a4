//! Whether the agent can take work, of all that it depends on: its own end, its engine, its disk.

use tokio::sync::watch;

use crate::{
    health::{Health, Pulse},
    space::Room,
};

/// Whether the agent is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It is not.
    Stays,
    /// It is, as soon as may be.
    Leaves,
}

/// Whether the agent can take work. Of several reasons why not, the one that lasts longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It can.
    Ready,
    /// It is about to end.
    Leaving,
    /// Its engine doesn't answer.
    EngineSilent,
    /// Its engine's disk is nearly full.
    DiskFull,
}

impl Condition {
    fn of(stay: Stay, pulse: Pulse, room: Room) -> Self {
        match (stay, pulse, room) {
            (Stay::Leaves, ..) => Self::Leaving,
            (_, Pulse::Silent | Pulse::Hangs, _) => Self::EngineSilent,
            (.., Room::Low) => Self::DiskFull,
            (Stay::Stays, Pulse::Answers, Room::Enough) => Self::Ready,
        }
    }

    /// Why it can't take an offer, if it can't.
    pub fn why_not(self) -> Option<&'static str> {
        match self {
            Self::Ready => None,
            Self::Leaving => Some("the agent is being stopped"),
            Self::EngineSilent => Some("the agent's engine does not answer"),
            Self::DiskFull => Some("the disk of the agent's engine is nearly full"),
        }
    }
}

/// Puts them together, until all receivers are gone or one of the sources is.
pub fn watch(
    mut health: watch::Receiver<Health>,
    mut room: watch::Receiver<Room>,
    mut stay: watch::Receiver<Stay>,
) -> watch::Receiver<Condition> {
    let (sender, receiver) = watch::channel(Condition::Ready);
    tokio::spawn(async move {
        loop {
            let pulse = health.borrow_and_update().pulse;
            let now = Condition::of(*stay.borrow_and_update(), pulse, *room.borrow_and_update());
            sender.send_if_modified(|known| std::mem::replace(known, now) != now);
            let changed = tokio::select! {
                changed = health.changed() => changed,
                changed = room.changed() => changed,
                changed = stay.changed() => changed,
                () = sender.closed() => return,
            };
            if changed.is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_ready_only_while_nothing_speaks_against_it() {
        for (stay, pulse, room, expect) in [
            (Stay::Stays, Pulse::Answers, Room::Enough, Condition::Ready),
            (Stay::Stays, Pulse::Answers, Room::Low, Condition::DiskFull),
            (
                Stay::Stays,
                Pulse::Silent,
                Room::Low,
                Condition::EngineSilent,
            ),
            (
                Stay::Stays,
                Pulse::Hangs,
                Room::Enough,
                Condition::EngineSilent,
            ),
            (
                Stay::Leaves,
                Pulse::Answers,
                Room::Enough,
                Condition::Leaving,
            ),
            (Stay::Leaves, Pulse::Hangs, Room::Low, Condition::Leaving),
        ] {
            let condition = Condition::of(stay, pulse, room);
            assert_eq!(condition, expect);
            assert_eq!(condition.why_not().is_none(), expect == Condition::Ready);
        }
    }
}
