//! Log lines, and traces that join the coordinator's: an attempt's span is a child of its build's, and the engine's are children of that.

use std::{collections::HashMap, io::IsTerminal};

use anyhow::Context as _;
use croft_buildkit::trace::TraceContext;
use opentelemetry::{
    propagation::{Extractor, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::{LogFormat, TelemetryConfig},
    work::Offer,
};

/// Keeps traces going out. The last ones leave with [`Telemetry::end`].
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sets both up for the whole program. Call it inside the runtime.
    pub fn start(config: &TelemetryConfig, agent: &str) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_new(&config.log).with_context(|| {
            format!(
                "--log {}: give it as info, or croft_agent=debug,warn",
                config.log
            )
        })?;
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colours = std::io::stderr().is_terminal() && !refused;
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(colours)
            .with_writer(std::io::stderr);
        let lines = match config.log_format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        let provider = config
            .otlp_endpoint
            .as_deref()
            .map(|endpoint| provider(endpoint, agent))
            .transpose()?;
        let traces = provider.as_ref().map(|provider| {
            // What the tracing libraries themselves say would be traced in turn.
            let own = EnvFilter::new("off,croft_agent=info");
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("croft-agent"))
                .with_filter(own)
        });
        tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .with(traces)
            .try_init()?;
        Ok(Self { provider })
    }

    /// Sends what is left.
    pub async fn end(self) {
        if let Some(provider) = self.provider {
            // It blocks while it sends.
            let _ = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        }
    }
}

fn provider(endpoint: &str, agent: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("--otlp-endpoint {endpoint}: give it as http://host:4317"))?;
    let resource = Resource::builder()
        .with_service_name("croft-agent")
        .with_attribute(opentelemetry::KeyValue::new(
            "service.instance.id",
            agent.to_owned(),
        ))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

struct Traceparent<'a>(&'a str);

impl Extractor for Traceparent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// The span of one attempt, in its build's trace.
pub fn attempt_span(offer: &Offer) -> Span {
    let span = tracing::info_span!(
        "attempt",
        attempt = %offer.attempt,
        stage = offer.stage,
        build = %offer.context.build,
        outcome = tracing::field::Empty,
    );
    if let Some(parent) = &offer.context.traceparent {
        // Fails where nothing is traced, and then nothing is lost.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&Traceparent(parent)));
    }
    span
}

/// What engine calls are to carry: the span that we are in if it is traced, else the build's own trace.
pub fn engine_trace(traceparent: Option<&str>) -> Option<TraceContext> {
    let context = Span::current().context();
    if context.span().span_context().is_valid() {
        let mut carrier = HashMap::new();
        TraceContextPropagator::new().inject_context(&context, &mut carrier);
        return TraceContext::new(carrier.get("traceparent")?);
    }
    TraceContext::new(traceparent?)
}
