//! Lease arithmetic: how long an agent may work on an attempt without being heard.

use std::time::Duration;

use crate::time::Timestamp;

/// No renewal travels longer, and no two clocks drift further apart during a lease that makes sense.
const LONGEST_GRACE: Duration = Duration::from_secs(1);

/// The terms of a lease, the same for every attempt of a farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// How long a lease runs from each renewal. The agent stops an attempt itself when it had no renewal for so long.
    pub lease: Duration,
    /// How often an agent asks for a renewal.
    pub heartbeat: Duration,
    /// How much longer than the lease the coordinator waits before it gives the stage to another agent: what a renewal may need to
    /// travel, and how far two machines' clocks may drift apart during one lease.
    pub grace: Duration,
}

impl LeaseTerms {
    /// Terms with this lease: three heartbeats fit into it, so that two may get lost.
    pub fn new(lease: Duration) -> LeaseTerms {
        LeaseTerms {
            lease,
            heartbeat: lease / 3,
            grace: (lease / 10).min(LONGEST_GRACE),
        }
    }

    /// When a lease that is given or renewed `now` ends in the coordinator's books.
    pub fn until(&self, now: Timestamp) -> Timestamp {
        now + self.lease + self.grace
    }
}

impl Default for LeaseTerms {
    fn default() -> Self {
        LeaseTerms::new(Duration::from_secs(15))
    }
}

/// Whether a lease that runs until then has ended. It still holds in the very millisecond that it names.
pub fn has_ended(lease_until: Timestamp, now: Timestamp) -> bool {
    now > lease_until
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_stops_before_its_stage_is_given_away() {
        let terms = LeaseTerms::default();
        let renewed = Timestamp(1_000_000);
        let agent_stops = renewed + terms.lease;
        assert!(agent_stops < terms.until(renewed));
        assert!(!has_ended(terms.until(renewed), agent_stops));
    }

    #[test]
    fn two_heartbeats_may_get_lost() {
        let terms = LeaseTerms::new(Duration::from_secs(9));
        assert!(terms.heartbeat * 3 <= terms.lease);
    }

    #[test]
    fn a_lease_holds_until_its_very_end() {
        assert!(!has_ended(Timestamp(10), Timestamp(10)));
        assert!(has_ended(Timestamp(10), Timestamp(11)));
    }
}
