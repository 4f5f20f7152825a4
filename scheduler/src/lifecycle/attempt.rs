//! Offered → Running → one of four ends. An attempt never comes back: another try is another attempt, under another token.

use super::{FailureKind, IllegalTransition, words};

words!(
    "an attempt",
    /// Where an attempt stands.
    AttemptState {
        /// An agent was asked to run it. Its lease has begun.
        Offered = "offered",
        /// The agent runs it.
        Running = "running",
        /// All its outputs are there.
        Succeeded = "succeeded",
        /// It went wrong, or what it had made turned out to be no good; a [`FailureKind`] says whose fault.
        Failed = "failed",
        /// The coordinator ended it.
        Cancelled = "cancelled",
        /// Its lease ended without a word from the agent.
        Lost = "lost",
    }
);

/// What happens to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptEvent {
    /// The agent took the offer.
    Accepted,
    /// The agent says that all outputs are there. That it accepted may have been lost on the way: a report of success says so too.
    Succeeded,
    /// The agent says that it went wrong, or that it can't take the offer.
    Failed(FailureKind),
    /// Its build ended, or its stage was invalidated.
    Cancelled,
    /// Its lease ended.
    LeaseEnded,
    /// A result that its agent was said to hold can't be got out of its engine, whatever the attempt had said.
    Refuted,
}

impl AttemptEvent {
    /// All of them.
    pub const ALL: &[AttemptEvent] = &[
        AttemptEvent::Accepted,
        AttemptEvent::Succeeded,
        AttemptEvent::Failed(FailureKind::Build),
        AttemptEvent::Failed(FailureKind::Farm),
        AttemptEvent::Failed(FailureKind::Registry),
        AttemptEvent::Failed(FailureKind::HandedBack),
        AttemptEvent::Cancelled,
        AttemptEvent::LeaseEnded,
        AttemptEvent::Refuted,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            AttemptEvent::Accepted => "accepted",
            AttemptEvent::Succeeded => "finished",
            AttemptEvent::Failed(_) => "failed",
            AttemptEvent::Cancelled => "cancelled",
            AttemptEvent::LeaseEnded => "lost",
            AttemptEvent::Refuted => "refuted",
        }
    }
}

impl AttemptState {
    /// Whether it ended.
    pub const fn is_final(self) -> bool {
        !matches!(self, AttemptState::Offered | AttemptState::Running)
    }

    /// The state after `event`.
    pub fn apply(self, event: AttemptEvent) -> Result<AttemptState, IllegalTransition> {
        use AttemptEvent as E;
        use AttemptState as S;
        Ok(match (self, event) {
            (S::Offered, E::Accepted) => S::Running,
            (S::Offered | S::Running, E::Succeeded) => S::Succeeded,
            (S::Offered | S::Running, E::Failed(_)) => S::Failed,
            (S::Offered | S::Running, E::Cancelled) => S::Cancelled,
            (S::Offered | S::Running, E::LeaseEnded) => S::Lost,
            (S::Offered | S::Running | S::Succeeded, E::Refuted) => S::Failed,
            _ => {
                return Err(IllegalTransition {
                    what: "an attempt",
                    state: self.as_str(),
                    event: event.as_str(),
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::FailureKind::{Build, Farm, HandedBack, Registry};
    use super::{AttemptEvent as E, AttemptState as S};

    #[test]
    fn every_transition_is_in_the_table_and_no_other_is_legal() {
        let table = [
            (S::Offered, E::Accepted, S::Running),
            (S::Offered, E::Succeeded, S::Succeeded),
            (S::Running, E::Succeeded, S::Succeeded),
            (S::Offered, E::Failed(Build), S::Failed),
            (S::Offered, E::Failed(Farm), S::Failed),
            (S::Offered, E::Failed(Registry), S::Failed),
            (S::Offered, E::Failed(HandedBack), S::Failed),
            (S::Running, E::Failed(Build), S::Failed),
            (S::Running, E::Failed(Farm), S::Failed),
            (S::Running, E::Failed(Registry), S::Failed),
            (S::Running, E::Failed(HandedBack), S::Failed),
            (S::Offered, E::Cancelled, S::Cancelled),
            (S::Running, E::Cancelled, S::Cancelled),
            (S::Offered, E::LeaseEnded, S::Lost),
            (S::Running, E::LeaseEnded, S::Lost),
            (S::Offered, E::Refuted, S::Failed),
            (S::Running, E::Refuted, S::Failed),
            (S::Succeeded, E::Refuted, S::Failed),
        ];
        for &state in S::ALL {
            for &event in E::ALL {
                let expected = table
                    .iter()
                    .find(|(s, e, _)| (*s, *e) == (state, event))
                    .map(|(_, _, next)| *next);
                assert_eq!(state.apply(event).ok(), expected, "{state} {event:?}");
            }
        }
    }

    #[test]
    fn an_attempt_never_comes_back() {
        for &state in S::ALL.iter().filter(|s| s.is_final()) {
            let mut next = E::ALL.iter().filter_map(|&event| state.apply(event).ok());
            assert!(next.all(|next| next.is_final()), "{state}");
        }
    }

    #[test]
    fn every_state_reads_what_it_writes() {
        for &state in S::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }
}
