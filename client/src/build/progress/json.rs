//! Progress as BuildKit's own status messages, one JSON object per line: what buildx calls `rawjson`, field for field (`client/graph.go`).
//! Times are RFC 3339 in UTC, bytes base64; what is empty is left out, but for the fields that BuildKit always writes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, SecondsFormat, Utc};
use croft_buildkit::api::{
    control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning},
    pb,
    wkt::Timestamp,
};
use serde_json::{Map, Value, json};

/// A status message as one line, without its end.
pub(super) fn line(status: &StatusResponse) -> String {
    let mut fields = Fields::default();
    fields.list("vertexes", status.vertexes.iter().map(vertex));
    fields.list("statuses", status.statuses.iter().map(transfer));
    fields.list("logs", status.logs.iter().map(log));
    fields.list("warnings", status.warnings.iter().map(warning));
    fields.value().to_string()
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn always(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.always(name, value);
        }
    }

    fn number(&mut self, name: &str, value: i64) {
        if value != 0 {
            self.always(name, value);
        }
    }

    fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.always(name, true);
        }
    }

    fn time(&mut self, name: &str, value: Option<&Timestamp>) {
        if let Some(time) = value.and_then(time) {
            self.always(name, time);
        }
    }

    fn bytes(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() {
            self.always(name, STANDARD.encode(value));
        }
    }

    fn list(&mut self, name: &str, values: impl Iterator<Item = Value>) {
        let values: Vec<Value> = values.collect();
        if !values.is_empty() {
            self.always(name, values);
        }
    }

    fn value(self) -> Value {
        Value::Object(self.0)
    }
}

fn vertex(vertex: &Vertex) -> Value {
    let mut fields = Fields::default();
    fields.text("digest", &vertex.digest);
    fields.list("inputs", vertex.inputs.iter().map(|input| json!(input)));
    fields.text("name", &vertex.name);
    fields.time("started", vertex.started.as_ref());
    fields.time("completed", vertex.completed.as_ref());
    fields.flag("cached", vertex.cached);
    fields.text("error", &vertex.error);
    if let Some(group) = &vertex.progress_group {
        let mut inner = Fields::default();
        inner.text("id", &group.id);
        inner.text("name", &group.name);
        inner.flag("weak", group.weak);
        fields.always("progressGroup", inner.value());
    }
    fields.value()
}

fn transfer(status: &VertexStatus) -> Value {
    let mut fields = Fields::default();
    fields.always("id", status.id.as_str());
    fields.text("vertex", &status.vertex);
    fields.text("name", &status.name);
    fields.number("total", status.total);
    fields.always("current", status.current);
    fields.always("timestamp", moment(status.timestamp.as_ref()));
    fields.time("started", status.started.as_ref());
    fields.time("completed", status.completed.as_ref());
    fields.value()
}

fn log(log: &VertexLog) -> Value {
    let mut fields = Fields::default();
    fields.text("vertex", &log.vertex);
    fields.number("stream", log.stream);
    fields.always("data", STANDARD.encode(&log.msg));
    fields.always("timestamp", moment(log.timestamp.as_ref()));
    fields.value()
}

fn warning(warning: &VertexWarning) -> Value {
    let mut fields = Fields::default();
    fields.text("vertex", &warning.vertex);
    fields.number("level", warning.level);
    fields.bytes("short", &warning.short);
    let detail = warning
        .detail
        .iter()
        .map(|line| json!(STANDARD.encode(line)));
    fields.list("detail", detail);
    fields.text("url", &warning.url);
    if let Some(info) = &warning.info {
        let mut inner = Fields::default();
        inner.text("filename", &info.filename);
        inner.bytes("data", &info.data);
        inner.text("language", &info.language);
        fields.always("sourceInfo", inner.value());
    }
    fields.list("range", warning.ranges.iter().map(range));
    fields.value()
}

fn range(range: &pb::Range) -> Value {
    let position = |at: Option<&pb::Position>| {
        let mut fields = Fields::default();
        if let Some(at) = at {
            fields.number("line", at.line.into());
            fields.number("character", at.character.into());
        }
        fields.value()
    };
    json!({"start": position(range.start.as_ref()), "end": position(range.end.as_ref())})
}

fn time(time: &Timestamp) -> Option<String> {
    let nanos = u32::try_from(time.nanos).ok()?;
    let time: DateTime<Utc> = DateTime::from_timestamp(time.seconds, nanos)?;
    Some(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// A time that BuildKit always writes: none is Go's beginning of time.
fn moment(value: Option<&Timestamp>) -> String {
    value
        .and_then(time)
        .unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{
        super::steps::tests::{log, status, vertex},
        *,
    };

    #[test]
    fn a_status_message_is_written_as_buildx_writes_it() {
        let written = line(&status(
            vec![vertex("a", Some(5), None)],
            vec![log("a", 10, b"\x1b[2J\n")],
        ));
        let read: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(
            read,
            json!({
                "vertexes": [{"digest": "sha256:a", "name": "a", "started": "1970-01-01T00:16:40.500Z"}],
                "logs": [{"vertex": "sha256:a", "stream": 1, "data": "G1sySgo=", "timestamp": "1970-01-01T00:16:41Z"}],
            })
        );
        assert!(!written.chars().any(char::is_control));
    }
}
