//! Who pays for a failure: the build's own is final, the farm's is retried elsewhere, each time a little later, and that of its stage
//! registry wherever it was, for longer. What is handed back nobody pays for.

use std::time::Duration;

use crate::lifecycle::FailureKind;

/// What the farm spends on its own failures of one kind at one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FarmBudget {
    /// How many attempts at one stage may fail by the farm's fault before its build fails.
    pub failures: u32,
    /// The wait after the first failure; it doubles with each.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl Default for FarmBudget {
    fn default() -> Self {
        FarmBudget {
            failures: 5,
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(30),
        }
    }
}

impl FarmBudget {
    /// What it spends on failures of the stage registry: one that is started anew, or is away for a minute or two, fails no build.
    pub const REGISTRY: FarmBudget = FarmBudget {
        failures: 20,
        first_wait: Duration::from_millis(500),
        longest_wait: Duration::from_secs(15),
    };
}

/// Whether a stage gets another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No: the stage, and with it the build, has failed.
    No,
    /// Yes, but not sooner than after this wait.
    After(Duration),
}

/// What follows a failure of a kind at a stage that had failed in the same way `before` times. `budget` is that of the kind.
pub fn retry(budget: &FarmBudget, before: u32, kind: FailureKind) -> Retry {
    match kind {
        FailureKind::Build => Retry::No,
        // Until it is known that the agent takes nothing more it would be offered this again.
        FailureKind::HandedBack => Retry::After(budget.first_wait),
        FailureKind::Farm | FailureKind::Registry
            if before.saturating_add(1) >= budget.failures =>
        {
            Retry::No
        }
        FailureKind::Farm | FailureKind::Registry => {
            let factor = 1u32.checked_shl(before).unwrap_or(u32::MAX);
            Retry::After(
                budget
                    .first_wait
                    .saturating_mul(factor)
                    .min(budget.longest_wait),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builds_own_failure_is_never_retried() {
        assert_eq!(
            retry(&FarmBudget::default(), 0, FailureKind::Build),
            Retry::No
        );
    }

    #[test]
    fn the_farms_waits_grow_to_a_limit_until_its_budget_is_used_up() {
        let budget = FarmBudget {
            failures: 5,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(3),
        };
        let all: Vec<Retry> = (0..5)
            .map(|before| retry(&budget, before, FailureKind::Farm))
            .collect();
        let after = |s| Retry::After(Duration::from_secs(s));
        assert_eq!(all, [after(1), after(2), after(3), after(3), Retry::No]);
    }

    #[test]
    fn agents_may_be_stopped_under_a_stage_as_often_as_they_like() {
        let budget = FarmBudget::default();
        for before in [0, budget.failures, u32::MAX] {
            assert_eq!(
                retry(&budget, before, FailureKind::HandedBack),
                Retry::After(budget.first_wait)
            );
        }
    }

    #[test]
    fn a_stage_registry_that_is_away_for_minutes_uses_no_budget_up() {
        let mut waited = Duration::ZERO;
        let mut before = 0;
        while let Retry::After(wait) = retry(&FarmBudget::REGISTRY, before, FailureKind::Registry) {
            // It is back soon after it was started again.
            assert!(wait <= Duration::from_secs(15));
            waited += wait;
            before += 1;
        }
        assert!(waited >= Duration::from_secs(180), "{waited:?}");
    }

    #[test]
    fn no_number_of_failures_overflows() {
        let budget = FarmBudget {
            failures: u32::MAX,
            ..FarmBudget::default()
        };
        for before in [31, 32, 1 << 20] {
            assert_eq!(
                retry(&budget, before, FailureKind::Farm),
                Retry::After(budget.longest_wait)
            );
        }
        assert_eq!(retry(&budget, u32::MAX, FailureKind::Farm), Retry::No);
    }
}
