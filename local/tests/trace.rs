//! One trace joins front, agent and solve, as a collector sees it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use croft_local::{Farm, FarmOptions};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use support::{Buildx, Context, Repository};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

struct Collector(mpsc::Sender<Seen>);

/// A span: whose it is, its name and its trace.
struct Seen {
    service: String,
    name: String,
    trace: Vec<u8>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|r| r.attributes).unwrap_or_default();
            let service = attributes
                .into_iter()
                .find(|pair| pair.key == "service.name")
                .and_then(|pair| match pair.value?.value? {
                    Value::StringValue(text) => Some(text),
                    _ => None,
                })
                .unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|s| s.spans) {
                let seen = Seen {
                    service: service.clone(),
                    name: span.name,
                    trace: span.trace_id,
                };
                // The test may have seen enough.
                let _ = self.0.send(seen);
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn one_trace_joins_front_and_agent() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (spans, seen) = mpsc::channel();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Collector(spans)))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );

    let mut options = FarmOptions::from_env().unwrap();
    options.agents = croft_local::agents("amd64").unwrap();
    options.engines.clear();
    let flags = ["--otlp-endpoint".to_owned(), endpoint];
    options.coordinator_flags.extend(flags.clone());
    options.agent_flags.extend(flags);
    let farm = Farm::start(options).unwrap();
    let buildx = Buildx::of(&farm);
    let context = Context::new("FROM busybox\nRUN : $NONCE\n");
    let repository = Repository::of(farm.registry(), "trace");
    let build = buildx.build(&context).platforms(&["linux/amd64"]);
    build.push(&repository.tag("latest")).run().succeeded();

    let mut traces: BTreeMap<Vec<u8>, BTreeSet<String>> = BTreeMap::new();
    let wanted: BTreeSet<String> = ["croft-coordinator: solve", "croft-agent: attempt"]
        .map(str::to_owned)
        .into();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !traces.values().any(|names| names.is_superset(&wanted)) {
        let left = deadline.saturating_duration_since(Instant::now());
        let span = seen
            .recv_timeout(left)
            .unwrap_or_else(|_| panic!("no trace has {wanted:?}: {traces:?}"));
        let name = format!("{}: {}", span.service, span.name);
        traces.entry(span.trace).or_default().insert(name);
    }
    drop(farm);
    runtime.shutdown_background();
}
