//! W3C trace context on calls: taken from one side's metadata, put on the other's. Making spans is the callers' work.

use tonic::metadata::{AsciiMetadataValue, MetadataMap};

/// The `traceparent` (and `tracestate`) of a call, opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    parent: AsciiMetadataValue,
    state: Option<AsciiMetadataValue>,
}

impl TraceContext {
    /// Takes a `traceparent` header's value; `None` if it can't be a header at all.
    pub fn new(traceparent: &str) -> Option<Self> {
        Some(Self {
            parent: traceparent.parse().ok()?,
            state: None,
        })
    }

    /// What a caller sent along, if anything.
    pub fn from_metadata(metadata: &MetadataMap) -> Option<Self> {
        Some(Self {
            parent: metadata.get("traceparent")?.clone(),
            state: metadata.get("tracestate").cloned(),
        })
    }

    /// Puts it on an outgoing call.
    pub fn apply(&self, metadata: &mut MetadataMap) {
        metadata.insert("traceparent", self.parent.clone());
        if let Some(state) = &self.state {
            metadata.insert("tracestate", state.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_sent_is_put_on_the_next_call() {
        let mut inbound = MetadataMap::new();
        inbound.insert(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                .parse()
                .unwrap(),
        );
        inbound.insert("tracestate", "a=b".parse().unwrap());
        let mut outbound = MetadataMap::new();
        TraceContext::from_metadata(&inbound)
            .unwrap()
            .apply(&mut outbound);
        assert_eq!(outbound.get("traceparent"), inbound.get("traceparent"));
        assert_eq!(outbound.get("tracestate"), inbound.get("tracestate"));
        assert_eq!(TraceContext::from_metadata(&MetadataMap::new()), None);
    }
}
