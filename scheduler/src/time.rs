//! Instants as the pure core sees them: handed in by the caller, once for each decision, never asked for.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant: milliseconds since 1970-01-01T00:00:00Z, by the database's clock, which is the one clock of the farm.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How long ago `earlier` was; nothing if it is still to come.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, later: Duration) -> Timestamp {
        Timestamp(
            self.0
                .saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// A duration for people: `0.3 s`, `12 s`, `4 min`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Human(pub Duration);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match ms {
            0..10_000 => write!(f, "{}.{} s", ms / 1000, ms % 1000 / 100),
            10_000..120_000 => write!(f, "{} s", ms / 1000),
            _ => write!(f, "{} min", ms / 60_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_never_wrap() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(u64::MAX) + Duration::MAX, Timestamp(u64::MAX));
        assert_eq!(
            (Timestamp(1) + Duration::from_millis(2)).since(Timestamp(1)),
            Duration::from_millis(2)
        );
    }

    #[test]
    fn durations_are_said_as_people_do() {
        let said = |ms| Human(Duration::from_millis(ms)).to_string();
        assert_eq!(
            [said(340), said(12_900), said(240_000)],
            ["0.3 s", "12 s", "4 min"]
        );
    }
}
