//! The coordinator's clock as seen from here. Progress is told in its time.

use std::{
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use croft_buildkit::{
    api::{control::StatusResponse, wkt::Timestamp},
    progress::{ClockOffset, shift_times},
};

/// How far the coordinator's clock is from ours. Ours is the engine's as well: they share a machine.
#[derive(Debug, Default)]
pub struct Clock(Mutex<ClockOffset>);

impl Clock {
    /// Sets it: the coordinator said just now what time it has.
    pub fn set(&self, theirs: &prost_types::Timestamp) {
        let theirs = Timestamp {
            seconds: theirs.seconds,
            nanos: theirs.nanos,
        };
        let ours = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let ours = Timestamp {
            seconds: i64::try_from(ours.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(ours.subsec_nanos()).unwrap_or_default(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            ClockOffset::between(&ours, &theirs);
    }

    /// Moves all times in it to the coordinator's clock.
    pub fn shift(&self, status: &mut StatusResponse) {
        shift_times(
            status,
            *self.0.lock().unwrap_or_else(PoisonError::into_inner),
        );
    }
}
