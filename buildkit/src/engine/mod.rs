//! One engine: how it is reached, and clients for its services.
//!
//! [`Engine`] is cheap to clone and reconnects by itself; whether the engine deserves another try is the caller's decision.

mod address;
mod connect;
mod info;

use std::{error::Error, sync::Arc, time::Duration};

use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

pub(crate) use self::connect::{Io, UpgradeError, upgrade};
pub use self::{
    address::{Address, AddressError},
    info::{EngineInfo, EngineKind, ImageStore},
};
use crate::{
    HEADER_LIMIT, MESSAGE_LIMIT,
    api::{
        control::{InfoRequest, control_client::ControlClient},
        frontend::llb_bridge_client::LlbBridgeClient,
    },
    gateway::BuildRef,
    trace::TraceContext,
};

/// A client of the Control service.
pub type Control = ControlClient<EngineService>;
/// A client of one build's LLBBridge.
pub type Bridge = LlbBridgeClient<EngineService>;
/// The connection that both go over.
pub type EngineService = InterceptedService<Channel, CallMetadata>;

/// How long a connection, with a Docker Engine's upgrade, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What may be on its way to us unread, of one call and of all. Fixed: adaptive windows measure with pings, and
/// grpc-go closes connections that ping more often than once in five minutes. For the same reason there is no HTTP/2
/// keepalive: TCP's own finds a host that is gone, [`Engine::healthy`] an engine that hangs.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A BuildKit engine.
#[derive(Clone, Debug)]
pub struct Engine {
    address: Arc<Address>,
    channel: Channel,
    trace: Option<TraceContext>,
}

/// Why an engine can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing there speaks BuildKit.
    #[error("no BuildKit engine answers at {address}: {}", root_cause(source.as_ref()))]
    Connect {
        /// Where.
        address: Address,
        /// What went wrong.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Something else listens there.
    #[error(
        "what listens at {address} does not speak BuildKit's API ({}); a Docker Engine's address begins with docker+unix://",
        status.message()
    )]
    NotBuildkit {
        /// Where.
        address: Address,
        /// What went wrong.
        status: Status,
    },
    /// It took too long to answer.
    #[error("the engine at {address} did not answer within {} ms", timeout.as_millis())]
    Hangs {
        /// Where.
        address: Address,
        /// How long we waited.
        timeout: Duration,
    },
    /// It answered with an error.
    #[error("the engine at {address} refused {call}: {}", status.message())]
    Refused {
        /// Where.
        address: Address,
        /// The call.
        call: &'static str,
        /// Its answer.
        status: Status,
    },
    /// It has no worker, or one without a platform.
    #[error("the engine at {0} has no worker that could build anything")]
    NoWorker(Address),
    /// A Docker Engine that can't export images for other engines.
    #[error(
        "the Docker Engine at {0} runs without the containerd image store, so it can neither push by digest nor build \
         for several platforms: put \"features\": {{\"containerd-snapshotter\": true}} into its daemon.json and restart it"
    )]
    NoContainerdStore(Address),
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl Engine {
    /// Connects, so that a wrong address shows at once. Later the connection is made anew whenever it broke.
    pub async fn connect(address: &Address) -> Result<Self, EngineError> {
        let channel = endpoint()
            .connect_with_connector(connect::Connector::new(address.clone(), CONNECT_TIMEOUT))
            .await
            .map_err(|e| EngineError::Connect {
                address: address.clone(),
                source: e.into(),
            })?;
        Ok(Self {
            address: Arc::new(address.clone()),
            channel,
            trace: None,
        })
    }

    /// The same engine over a connection of its own, made on first use: bulk data there does not hold up other calls.
    pub fn separate(&self) -> Self {
        let connector = connect::Connector::new(Address::clone(&self.address), CONNECT_TIMEOUT);
        Self {
            channel: endpoint().connect_with_connector_lazy(connector),
            ..self.clone()
        }
    }

    /// The same engine and connection, with every call belonging to `trace`.
    pub fn traced(&self, trace: TraceContext) -> Self {
        Self {
            trace: Some(trace),
            ..self.clone()
        }
    }

    /// The trace that calls belong to.
    pub(crate) fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// A client of the Control service, with BuildKit's message limits.
    pub fn control(&self) -> Control {
        ControlClient::new(self.service(None))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// A client of the LLBBridge of a build that [`crate::gateway::Gateway`] or a client's solve holds open.
    pub fn bridge(&self, build: &BuildRef) -> Bridge {
        LlbBridgeClient::new(self.service(Some(build.metadata_value())))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// What the engine is and can do. Opens an internal build for a moment, because only its gateway tells the capabilities.
    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        info::read(self).await
    }

    /// Whether it answers at all, within `timeout`.
    pub async fn healthy(&self, timeout: Duration) -> Result<(), EngineError> {
        let mut control = self.control();
        match tokio::time::timeout(timeout, control.info(InfoRequest {})).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(self.refused("Info", status)),
            Err(_) => Err(EngineError::Hangs {
                address: Address::clone(&self.address),
                timeout,
            }),
        }
    }

    fn refused(&self, call: &'static str, status: Status) -> EngineError {
        EngineError::Refused {
            address: Address::clone(&self.address),
            call,
            status,
        }
    }

    fn service(&self, build: Option<AsciiMetadataValue>) -> EngineService {
        InterceptedService::new(
            self.channel.clone(),
            CallMetadata {
                build,
                trace: self.trace.clone(),
            },
        )
    }
}

fn endpoint() -> Endpoint {
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADER_LIMIT)
}

/// Puts the build's id and the trace on every call.
#[derive(Clone, Debug)]
pub struct CallMetadata {
    build: Option<AsciiMetadataValue>,
    trace: Option<TraceContext>,
}

impl Interceptor for CallMetadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(build) = &self.build {
            request
                .metadata_mut()
                .insert(crate::gateway::BUILD_ID_HEADER, build.clone());
        }
        if let Some(trace) = &self.trace {
            trace.apply(request.metadata_mut());
        }
        Ok(request)
    }
}
