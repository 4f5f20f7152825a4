//! Waiting → Ready → Running → Done, with the ways back that a farm needs: a failure of the farm's frees the stage for another agent,
//! and a result that is gone, or that came from one that is gone, is made again.

use super::{IllegalTransition, words};

words!(
    "a stage",
    /// Where a stage stands.
    StageState {
        /// Something that it takes is not there yet.
        Waiting = "waiting",
        /// All that it takes is there; it wants an agent.
        Ready = "ready",
        /// An attempt at it lives.
        Running = "running",
        /// Its results are there.
        Done = "done",
        /// It ended its build.
        Failed = "failed",
        /// Its build ended before it.
        Cancelled = "cancelled",
    }
);

words!(
    "a stage's event",
    /// What happens to a stage.
    StageEvent {
        /// The last of its inbound edges is there.
        InputsThere = "given its inputs",
        /// An attempt was offered to an agent.
        Placed = "placed",
        /// An attempt was offered to the agent that is making what is not there yet.
        PlacedAhead = "placed ahead of its inputs",
        /// Its attempt succeeded.
        Succeeded = "done",
        /// Its attempt failed by the farm's fault, or was lost, and the farm's budget allows another; or it was handed back. Its inputs are
        /// there.
        FarmFailed = "retried",
        /// Its attempt failed by the build's own fault, the farm's budget is used up (by a result that was refuted, it may be), or nobody
        /// came to run it in time.
        Failed = "failed",
        /// Its build ended.
        Cancelled = "cancelled",
        /// Its unexported result was lost or refuted, or one of the artifacts that it was made from was; or it ran ahead of its inputs, and
        /// they are not made where it runs.
        Invalidated = "invalidated",
    }
);

impl StageState {
    /// Whether it ended for good. Done is no such end: a lost result takes a stage back.
    pub const fn is_final(self) -> bool {
        matches!(self, StageState::Failed | StageState::Cancelled)
    }

    /// The state after `event`.
    pub fn apply(self, event: StageEvent) -> Result<StageState, IllegalTransition> {
        use StageEvent as E;
        use StageState as S;
        Ok(match (self, event) {
            (S::Waiting, E::InputsThere) => S::Ready,
            (S::Ready, E::Placed) | (S::Waiting, E::PlacedAhead) => S::Running,
            (S::Running, E::Succeeded) => S::Done,
            (S::Running, E::FarmFailed) => S::Ready,
            (S::Ready | S::Running | S::Done, E::Failed) => S::Failed,
            (S::Waiting | S::Ready | S::Running, E::Cancelled) => S::Cancelled,
            (S::Ready | S::Running | S::Done, E::Invalidated) => S::Waiting,
            _ => {
                return Err(IllegalTransition {
                    what: "a stage",
                    state: self.as_str(),
                    event: event.as_str(),
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{StageEvent as E, StageState as S};

    #[test]
    fn every_transition_is_in_the_table_and_no_other_is_legal() {
        let table = [
            (S::Waiting, E::InputsThere, S::Ready),
            (S::Ready, E::Placed, S::Running),
            (S::Waiting, E::PlacedAhead, S::Running),
            (S::Running, E::Succeeded, S::Done),
            (S::Running, E::FarmFailed, S::Ready),
            (S::Ready, E::Failed, S::Failed),
            (S::Running, E::Failed, S::Failed),
            (S::Done, E::Failed, S::Failed),
            (S::Waiting, E::Cancelled, S::Cancelled),
            (S::Ready, E::Cancelled, S::Cancelled),
            (S::Running, E::Cancelled, S::Cancelled),
            (S::Ready, E::Invalidated, S::Waiting),
            (S::Running, E::Invalidated, S::Waiting),
            (S::Done, E::Invalidated, S::Waiting),
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
    fn every_state_reads_what_it_writes() {
        for &state in S::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }
}
