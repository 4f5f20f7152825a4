//! Who pays for a failure: the build's own is final, the farm's is retried elsewhere, each time a little later.

use std::time::Duration;

use crate::lifecycle::FailureKind;

/// What the farm spends on its own failures at one stage.
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

/// Whether a stage gets another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No: the stage, and with it the build, has failed.
    No,
    /// Yes, but not sooner than after this wait.
    After(Duration),
}

/// What follows a failure of a kind at a stage at which the farm had failed `farm_failures` times before.
pub fn retry(budget: &FarmBudget, farm_failures: u32, kind: FailureKind) -> Retry {
    match kind {
        FailureKind::Build => Retry::No,
        FailureKind::Farm if farm_failures.saturating_add(1) >= budget.failures => Retry::No,
        FailureKind::Farm => {
            let factor = 1u32.checked_shl(farm_failures).unwrap_or(u32::MAX);
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
