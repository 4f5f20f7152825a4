//! Turns at planning: on one engine one frontend runs at a time.
//!
//! An engine that is asked for the same image by two builds at once asks the registry once, with the credentials of one of them, and gives
//! both the answer: an image that only one may read, or a refusal that only one deserves. It does so while frontends look up base images,
//! which is a matter of milliseconds, so builds take turns at that. What a build runs later names images by the digests it was told.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use croft_scheduler::AgentId;
use tokio::sync::Mutex as Turn;

/// How long a frontend has its engine for itself. One that takes longer (it clones a repository, say) must not hold up everybody.
const ALONE: Duration = Duration::from_secs(10);

/// The agents' turns.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<AgentId, Arc<Turn<()>>>>);

impl Turns {
    /// Does `work` when it is its turn on the agent.
    pub async fn take<T>(&self, agent: AgentId, work: impl Future<Output = T>) -> T {
        let turn = self.of(agent);
        let alone = turn.lock().await;
        let mut work = std::pin::pin!(work);
        if let Ok(done) = tokio::time::timeout(ALONE, work.as_mut()).await {
            return done;
        }
        drop(alone);
        work.await
    }

    /// How many have or want a turn on the agent.
    pub fn wanted(&self, agent: AgentId) -> usize {
        let turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Everybody but this map has one for just that.
        turns
            .get(&agent)
            .map_or(0, |turn| Arc::strong_count(turn) - 1)
    }

    fn of(&self, agent: AgentId) -> Arc<Turn<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(agent).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    fn agent(number: u128) -> AgentId {
        AgentId(uuid::Uuid::from_u128(number))
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_on_one_agent_and_agents_do_not_wait_for_each_other() {
        let turns = Turns::default();
        let (here, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || async {
            most.fetch_max(here.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            here.fetch_sub(1, Ordering::SeqCst);
        };
        let begun = tokio::time::Instant::now();
        join_all((0..5).map(|_| turns.take(agent(1), work()))).await;
        assert_eq!(most.load(Ordering::SeqCst), 1);
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        join_all((0..5).map(|number| turns.take(agent(number), work()))).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_one_does_not_hold_up_the_others_and_goes_on() {
        let turns = Turns::default();
        let begun = tokio::time::Instant::now();
        let long = turns.take(agent(1), tokio::time::sleep(Duration::from_secs(60)));
        let short = async {
            turns.take(agent(1), std::future::ready(())).await;
            assert_eq!(begun.elapsed(), ALONE);
        };
        tokio::join!(long, short);
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_leaves_nothing() {
        let turns = Turns::default();
        let long = turns.take(agent(1), tokio::time::sleep(Duration::from_secs(5)));
        let impatient = async {
            let turn = turns.take(agent(1), std::future::ready(()));
            assert!(
                tokio::time::timeout(Duration::from_secs(1), turn)
                    .await
                    .is_err()
            );
            assert_eq!(turns.wanted(agent(1)), 1);
        };
        tokio::join!(long, impatient);
        assert_eq!(turns.wanted(agent(1)), 0);
    }
}
