//! Pure changes to BuildKit's progress messages, for whoever merges several engines' streams into one.
//!
//! What to drop, rename or hold back is the caller's decision.

use crate::api::{control::StatusResponse, wkt::Timestamp};

const NANOS: i128 = 1_000_000_000;

/// What must be added to one machine's clock to read another's, to the nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset(i128);

impl ClockOffset {
    /// An offset in nanoseconds; negative if the remote clock is ahead of ours.
    pub fn from_nanos(nanos: i64) -> Self {
        Self(nanos.into())
    }

    /// The offset that turns `remote` into `local`, both read at the same moment.
    pub fn between(remote: &Timestamp, local: &Timestamp) -> Self {
        Self(nanos(local) - nanos(remote))
    }

    /// The same moment on the other clock. Stops at the ends of what a timestamp can say.
    pub fn apply(self, time: &Timestamp) -> Timestamp {
        let moved = nanos(time) + self.0;
        Timestamp {
            seconds: moved
                .div_euclid(NANOS)
                .clamp(i64::MIN.into(), i64::MAX.into()) as i64,
            nanos: moved.rem_euclid(NANOS) as i32,
        }
    }
}

fn nanos(time: &Timestamp) -> i128 {
    i128::from(time.seconds) * NANOS + i128::from(time.nanos)
}

/// Moves every time in the message to another clock.
pub fn shift_times(response: &mut StatusResponse, offset: ClockOffset) {
    let vertices = response
        .vertexes
        .iter_mut()
        .flat_map(|v| [&mut v.started, &mut v.completed]);
    let statuses = response
        .statuses
        .iter_mut()
        .flat_map(|s| [&mut s.timestamp, &mut s.started, &mut s.completed]);
    let logs = response.logs.iter_mut().map(|l| &mut l.timestamp);
    for time in vertices.chain(statuses).chain(logs).flatten() {
        *time = offset.apply(time);
    }
}

/// Replaces every vertex digest: those of vertices and of their inputs, and those that statuses, logs and warnings name.
pub fn map_digests(response: &mut StatusResponse, mut map: impl FnMut(&str) -> String) {
    let vertices = response
        .vertexes
        .iter_mut()
        .flat_map(|v| std::iter::once(&mut v.digest).chain(&mut v.inputs));
    let statuses = response.statuses.iter_mut().map(|s| &mut s.vertex);
    let logs = response.logs.iter_mut().map(|l| &mut l.vertex);
    let warnings = response.warnings.iter_mut().map(|w| &mut w.vertex);
    for digest in vertices.chain(statuses).chain(logs).chain(warnings) {
        if !digest.is_empty() {
            *digest = map(digest);
        }
    }
}

/// Replaces the name under which each vertex is shown; the closure gets its digest and its name.
pub fn map_names(response: &mut StatusResponse, mut map: impl FnMut(&str, &str) -> String) {
    for vertex in &mut response.vertexes {
        vertex.name = map(&vertex.digest, &vertex.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::control::{Vertex, VertexLog, VertexStatus, VertexWarning};

    fn at(seconds: i64, nanos: i32) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos })
    }

    fn message() -> StatusResponse {
        StatusResponse {
            vertexes: vec![Vertex {
                digest: "a".into(),
                inputs: vec!["b".into(), "c".into()],
                name: "RUN x".into(),
                started: at(10, 100),
                ..Default::default()
            }],
            statuses: vec![VertexStatus {
                id: "extracting".into(),
                vertex: "a".into(),
                timestamp: at(10, 0),
                started: at(9, 999_999_999),
                completed: at(11, 0),
                ..Default::default()
            }],
            logs: vec![VertexLog {
                vertex: "b".into(),
                timestamp: at(12, 0),
                ..Default::default()
            }],
            warnings: vec![VertexWarning {
                vertex: "c".into(),
                ..Default::default()
            }],
        }
    }

    #[test]
    fn every_time_moves_and_absent_ones_stay_absent() {
        let mut m = message();
        shift_times(&mut m, ClockOffset::from_nanos(-1_000_000_050));
        assert_eq!(m.vertexes[0].started, at(9, 50));
        assert_eq!(m.vertexes[0].completed, None);
        assert_eq!(m.statuses[0].timestamp, at(8, 999_999_950));
        assert_eq!(m.statuses[0].started, at(8, 999_999_949));
        assert_eq!(m.statuses[0].completed, at(9, 999_999_950));
        assert_eq!(m.logs[0].timestamp, at(10, 999_999_950));
    }

    #[test]
    fn a_clock_offset_turns_the_remote_reading_into_the_local_one() {
        let (remote, local) = (at(5, 900_000_000).unwrap(), at(-3, 100_000_000).unwrap());
        assert_eq!(ClockOffset::between(&remote, &local).apply(&remote), local);
        let end = Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert_eq!(
            ClockOffset::from_nanos(i64::MAX).apply(&end).seconds,
            i64::MAX
        );
    }

    #[test]
    fn every_digest_is_mapped_and_nothing_else() {
        let mut m = message();
        map_digests(&mut m, |d| format!("{d}'"));
        assert_eq!(
            (m.vertexes[0].digest.as_str(), &m.vertexes[0].inputs[..]),
            ("a'", &["b'".into(), "c'".into()][..])
        );
        assert_eq!(
            (&m.statuses[0].vertex[..], &m.statuses[0].id[..]),
            ("a'", "extracting")
        );
        assert_eq!(
            (&m.logs[0].vertex[..], &m.warnings[0].vertex[..]),
            ("b'", "c'")
        );
        assert_eq!(m.vertexes[0].name, "RUN x");
    }

    #[test]
    fn names_are_mapped_by_vertex() {
        let mut m = message();
        map_names(&mut m, |digest, name| format!("[{digest}] {name}"));
        assert_eq!(m.vertexes[0].name, "[a] RUN x");
    }
}
