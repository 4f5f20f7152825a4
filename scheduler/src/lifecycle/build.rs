//! Planning → Running → Publishing → one of three ends.

use super::{IllegalTransition, words};

words!(
    "a build",
    /// Where a build stands.
    BuildState {
        /// Its frontend runs; it has no stages yet.
        Planning = "planning",
        /// Its stages wait, run or are done.
        Running = "running",
        /// Its stages are done; indexes are pushed and tags moved.
        Publishing = "publishing",
        /// It ended well: everything that it was asked for is there.
        Succeeded = "succeeded",
        /// It ended with an error.
        Failed = "failed",
        /// Somebody ended it: its client, a person, its deadline.
        Cancelled = "cancelled",
    }
);

words!(
    "a build's event",
    /// What happens to a build.
    BuildEvent {
        /// Its plan is stored.
        Planned = "planned",
        /// All its stages are done.
        Built = "built",
        /// Everything is published that had to be.
        Published = "published",
        /// It can't succeed any more.
        Failed = "failed",
        /// Somebody doesn't want it any more.
        Cancelled = "cancelled",
    }
);

impl BuildState {
    /// Whether it has ended. A build ends once.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            BuildState::Succeeded | BuildState::Failed | BuildState::Cancelled
        )
    }

    /// The state after `event`.
    pub fn apply(self, event: BuildEvent) -> Result<BuildState, IllegalTransition> {
        use BuildEvent as E;
        use BuildState as S;
        Ok(match (self, event) {
            (S::Planning, E::Planned) => S::Running,
            (S::Running, E::Built) => S::Publishing,
            (S::Publishing, E::Published) => S::Succeeded,
            (S::Planning | S::Running | S::Publishing, E::Failed) => S::Failed,
            (S::Planning | S::Running | S::Publishing, E::Cancelled) => S::Cancelled,
            _ => {
                return Err(IllegalTransition {
                    what: "a build",
                    state: self.as_str(),
                    event: event.as_str(),
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{BuildEvent as E, BuildState as S};

    #[test]
    fn every_transition_is_in_the_table_and_no_other_is_legal() {
        let table = [
            (S::Planning, E::Planned, S::Running),
            (S::Running, E::Built, S::Publishing),
            (S::Publishing, E::Published, S::Succeeded),
            (S::Planning, E::Failed, S::Failed),
            (S::Running, E::Failed, S::Failed),
            (S::Publishing, E::Failed, S::Failed),
            (S::Planning, E::Cancelled, S::Cancelled),
            (S::Running, E::Cancelled, S::Cancelled),
            (S::Publishing, E::Cancelled, S::Cancelled),
        ];
        for &state in S::ALL {
            for &event in E::ALL {
                let expected = table
                    .iter()
                    .find(|(s, e, _)| (*s, *e) == (state, event))
                    .map(|(_, _, next)| *next);
                assert_eq!(state.apply(event).ok(), expected, "{state} {event}");
            }
        }
    }

    #[test]
    fn nothing_happens_to_a_build_that_ended() {
        for &state in S::ALL.iter().filter(|s| s.is_final()) {
            for &event in E::ALL {
                let error = state.apply(event).unwrap_err();
                assert_eq!(
                    error.to_string(),
                    format!("a build that is {state} can't be {event}")
                );
            }
        }
    }

    #[test]
    fn every_state_reads_what_it_writes() {
        for &state in S::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("done".parse::<S>().is_err());
    }
}
