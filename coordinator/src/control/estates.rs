//! When a build's keepers are let go of: when the builds that ran beside it on its client's connection are over too.
//!
//! The targets of a bake have steps in common, and each is to run once. An engine gives what one build ran to the next for certain only while
//! a job holds it: of a step that shares its inputs with a build that still runs, it was seen to miss the cache.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use croft_scheduler::{AgentId, BuildId};

/// What builds left that are over. Kept in memory only: a coordinator that starts has the agents close what it doesn't know.
#[derive(Default)]
pub(super) struct Estates(Mutex<Vec<Estate>>);

/// A keeper: whose, and where.
pub(super) type Keeper = (AgentId, BuildId);

struct Estate {
    keepers: Vec<Keeper>,
    /// Whoever may still want what they hold. Nobody joins later, so a connection on which builds never cease holds no more than these.
    beside: HashSet<BuildId>,
}

impl Estates {
    /// Leaves a build's keepers to those `beside` it. Gives those that are to be closed now: of builds that this was the last one beside, and
    /// its own if there is none.
    pub(super) fn settle(
        &self,
        over: BuildId,
        keepers: Vec<Keeper>,
        beside: HashSet<BuildId>,
    ) -> Vec<Keeper> {
        let mut estates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        estates.push(Estate { keepers, beside });
        for estate in estates.iter_mut() {
            estate.beside.remove(&over);
        }
        let free = estates.extract_if(.., |estate| estate.beside.is_empty());
        free.flat_map(|estate| estate.keepers).collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn build(number: u128) -> BuildId {
        BuildId(Uuid::from_u128(number))
    }

    /// Where a build ran, and beside which.
    fn settle(estates: &Estates, over: u128, beside: &[u128]) -> Vec<u128> {
        let agent = AgentId(Uuid::from_u128(0));
        let beside = beside.iter().copied().map(build).collect();
        let closed = estates.settle(build(over), vec![(agent, build(over))], beside);
        closed.iter().map(|(_, build)| build.0.as_u128()).collect()
    }

    #[test]
    fn a_build_that_is_alone_leaves_nothing() {
        let estates = Estates::default();
        assert_eq!(settle(&estates, 1, &[]), [1]);
    }

    #[test]
    fn keepers_outlive_the_builds_beside_theirs_and_no_later_ones() {
        let estates = Estates::default();
        assert_eq!(settle(&estates, 1, &[2, 3]), []);
        // The fourth began when the first was over.
        assert_eq!(settle(&estates, 3, &[2, 4]), []);
        assert_eq!(settle(&estates, 2, &[4]), [1]);
        assert_eq!(settle(&estates, 4, &[]), [3, 2, 4]);
    }
}
