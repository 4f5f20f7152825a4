//! Reaching a farm: the channel, TLS, and the calls of croft.v1's `Farm`, with every failure explained.

use std::{error::Error as _, path::PathBuf, time::Duration};

use croft_proto::v1::{self, farm_client::FarmClient};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    address::{FarmAddress, Scheme},
    config::Farm,
    convert,
    error::Error,
    model::{Agent, AgentDetail, Build, BuildDetail},
};

/// A farm that doesn't answer a connection within this is away.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// What a farm may have on its way to us unread, of one call and of all, in bytes: outputs come as fast as the network lets them. HTTP/2
/// also takes small pieces for an attack once they are many for the latter.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A farm answers a question within this or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A farm that can be asked.
#[derive(Debug, Clone)]
pub struct Connection {
    address: FarmAddress,
    wire: Wire,
    channel: Channel,
    client: FarmClient<Channel>,
}

impl Connection {
    /// Connects to the farm's active coordinator; reads the TLS files. Of several addresses the first one counts whose coordinator is
    /// active: others are away or stand by.
    ///
    /// # Errors
    /// Flags that contradict one another, files that can't be used, and a farm that can't be reached.
    pub async fn open(farm: &Farm) -> Result<Self, Error> {
        if let [only] = &farm.addresses[..] {
            return Self::open_one(farm, only).await;
        }
        let mut failed = None;
        for address in &farm.addresses {
            match Self::open_one(farm, address).await {
                Ok(one) if one.is_active().await => return Ok(one),
                Ok(_) => {}
                Err(error @ Error::Unreachable { .. }) => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        let addresses = farm.addresses.iter().map(ToString::to_string);
        Err(failed.unwrap_or_else(|| Error::NobodyActive {
            addresses: addresses.collect::<Vec<_>>().join(" and "),
        }))
    }

    /// Whether it serves, by gRPC's health service. One that has none is taken for a coordinator that does.
    async fn is_active(&self) -> bool {
        let mut health = HealthClient::new(self.channel());
        let asked = question(HealthCheckRequest::default());
        match health.check(asked).await {
            Ok(answer) => answer.into_inner().status() == ServingStatus::Serving,
            Err(status) => status.code() == Code::Unimplemented,
        }
    }

    async fn open_one(farm: &Farm, address: &FarmAddress) -> Result<Self, Error> {
        let tls = tls(farm, address)?;
        let (wire, scheme) = match tls {
            Some(_) => (Wire::Tls, "https"),
            None => (Wire::Plain, "http"),
        };
        let mut endpoint = Endpoint::try_from(format!("{scheme}://{address}"))
            .map_err(|error| unreachable(address, wire, &error))?
            .connect_timeout(CONNECT_WITHIN)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            // A build's error brings the whole Dockerfile in its trailers.
            .http2_max_header_list_size(croft_buildkit::HEADER_LIMIT);
        if let Some(tls) = tls {
            endpoint = endpoint
                .tls_config(tls)
                .map_err(|error| Error::Tls(root(&error)))?;
        }
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| unreachable(address, wire, &error))?;
        let client = FarmClient::new(channel.clone())
            .max_decoding_message_size(croft_proto::MAX_MESSAGE_BYTES);
        Ok(Self {
            address: address.clone(),
            wire,
            channel,
            client,
        })
    }

    /// The connection itself, for other services of the farm than croft.v1's. Calls over it have no time limit.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The builds that are asked for, newest first.
    ///
    /// # Errors
    /// What the farm answers, or that it doesn't.
    pub async fn builds(&mut self, asked: v1::ListBuildsRequest) -> Result<Vec<Build>, Error> {
        let answer = self.client.list_builds(question(asked)).await;
        let answer = answer.map_err(|status| self.explain(&status))?;
        Ok(answer
            .into_inner()
            .builds
            .into_iter()
            .map(convert::build)
            .collect())
    }

    /// One build: by its id, a unique start of it, the client's reference, or `latest`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unclear`] if several builds' ids start so, and what else the farm answers.
    pub async fn build(&mut self, id: &str) -> Result<BuildDetail, Error> {
        let answer = self
            .client
            .get_build(question(v1::GetBuildRequest { id: id.to_owned() }))
            .await;
        convert::build_detail(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    /// Every agent that the farm knows, by name.
    ///
    /// # Errors
    /// What the farm answers, or that it doesn't.
    pub async fn agents(&mut self) -> Result<Vec<Agent>, Error> {
        let answer = self
            .client
            .list_agents(question(v1::ListAgentsRequest {}))
            .await;
        let answer = answer.map_err(|status| self.explain(&status))?;
        Ok(answer
            .into_inner()
            .agents
            .into_iter()
            .map(convert::agent)
            .collect())
    }

    /// What a build has said, as it is written down; with `follow`, until it ends.
    ///
    /// # Errors
    /// As for [`Connection::build`].
    pub async fn log(
        &mut self,
        asked: v1::ReadLogRequest,
    ) -> Result<tonic::Streaming<v1::ReadLogResponse>, Error> {
        let answer = self.client.read_log(asked).await;
        Ok(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    /// Removes a build that is over, named as for [`Connection::build`].
    ///
    /// # Errors
    /// As for [`Connection::build`], and that it is not over.
    pub async fn remove_build(&mut self, id: &str) -> Result<Build, Error> {
        let request = v1::RemoveBuildRequest { id: id.to_owned() };
        let answer = self.client.remove_build(question(request)).await;
        let answer = answer.map_err(|status| self.explain(&status))?;
        let build = answer.into_inner().build;
        build
            .map(convert::build)
            .ok_or(Error::Malformed("the build"))
    }

    /// One agent, by name or id, with what it runs and holds.
    ///
    /// # Errors
    /// [`Error::NotFound`], and what else the farm answers.
    pub async fn agent(&mut self, agent: &str) -> Result<AgentDetail, Error> {
        let request = v1::GetAgentRequest {
            agent: agent.to_owned(),
        };
        let answer = self.client.get_agent(question(request)).await;
        convert::agent_detail(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    /// Forgets an agent that is away, by name or id.
    ///
    /// # Errors
    /// [`Error::NotFound`], that it is not away, and what else the farm answers.
    pub async fn remove_agent(&mut self, agent: &str) -> Result<Agent, Error> {
        let request = v1::RemoveAgentRequest {
            agent: agent.to_owned(),
        };
        let answer = self.client.remove_agent(question(request)).await;
        let answer = answer.map_err(|status| self.explain(&status))?;
        let agent = answer.into_inner().agent;
        agent
            .map(convert::agent)
            .ok_or(Error::Malformed("the agent"))
    }

    /// Ends a build, named as for [`Connection::build`]; `reason` is for the people whose build it is, and may be empty.
    ///
    /// # Errors
    /// As for [`Connection::build`], and that it is over.
    pub async fn cancel(&mut self, id: &str, reason: &str) -> Result<Build, Error> {
        let request = v1::CancelBuildRequest {
            id: id.to_owned(),
            reason: reason.to_owned(),
        };
        let answer = self.client.cancel_build(question(request)).await;
        let answer = answer.map_err(|status| self.explain(&status))?;
        let build = answer.into_inner().build;
        build
            .map(convert::build)
            .ok_or(Error::Malformed("the build"))
    }

    /// Has an agent, by name or id, take no new work.
    ///
    /// # Errors
    /// [`Error::NotFound`], and what else the farm answers.
    pub async fn drain(&mut self, agent: &str) -> Result<Agent, Error> {
        let request = v1::DrainAgentRequest {
            agent: agent.to_owned(),
        };
        let answer = self.client.drain_agent(question(request)).await;
        let answer = answer.map_err(|status| self.explain(&status))?;
        let agent = answer.into_inner().agent;
        agent
            .map(convert::agent)
            .ok_or(Error::Malformed("the agent"))
    }

    /// Has an agent, by name or id, take work again.
    ///
    /// # Errors
    /// [`Error::NotFound`], and what else the farm answers.
    pub async fn resume(&mut self, agent: &str) -> Result<Agent, Error> {
        let request = v1::ResumeAgentRequest {
            agent: agent.to_owned(),
        };
        let answer = self.client.resume_agent(question(request)).await;
        let answer = answer.map_err(|status| self.explain(&status))?;
        let agent = answer.into_inner().agent;
        agent
            .map(convert::agent)
            .ok_or(Error::Malformed("the agent"))
    }

    /// A refusal of the farm's, or a break, as an error of ours.
    pub fn explain(&self, status: &Status) -> Error {
        let said = one_line(status.message());
        match status.code() {
            // A server that is none of ours may answer anything: what broke below gRPC counts first.
            _ if status.source().is_some() => unreachable(&self.address, self.wire, status),
            Code::NotFound => Error::NotFound(said),
            Code::FailedPrecondition => Error::Declined(said),
            Code::InvalidArgument => Error::Unclear(said),
            Code::Unimplemented => Error::Foreign {
                address: self.address.to_string(),
            },
            Code::Unauthenticated | Code::PermissionDenied => Error::Refused(said),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Error::Unreachable {
                address: self.address.to_string(),
                reason: said,
                remedy: "try again; if it stays so, look into the coordinator's log",
            },
            _ => Error::Farm(said),
        }
    }
}

/// A request that is answered soon or not at all.
fn question<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_WITHIN);
    request
}

/// TLS is on if the address or any of the flags says so.
fn tls(farm: &Farm, address: &FarmAddress) -> Result<Option<ClientTlsConfig>, Error> {
    let named = farm.tls_ca.is_some() || farm.tls_cert.is_some() || farm.tls_key.is_some();
    match address.scheme() {
        Scheme::Plain if named => return Err(Error::UnusedTls),
        Scheme::Plain => return Ok(None),
        Scheme::Unsaid if !named => return Ok(None),
        Scheme::Unsaid | Scheme::Tls => {}
    }
    let Some(ca) = &farm.tls_ca else {
        return Err(Error::NoAuthority);
    };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    match (&farm.tls_cert, &farm.tls_key) {
        (Some(cert), Some(key)) => tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
        (None, None) => {}
        _ => return Err(Error::HalfIdentity),
    }
    let name = farm
        .tls_server_name
        .as_deref()
        .unwrap_or_else(|| address.host().trim_matches(['[', ']']));
    Ok(Some(tls.domain_name(name)))
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File {
        path: path.clone(),
        source,
    })
}

/// How a farm is spoken to: half of why it may not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Plain,
    Tls,
}

fn unreachable(
    address: &FarmAddress,
    wire: Wire,
    error: &(dyn std::error::Error + 'static),
) -> Error {
    let reason = root(error);
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let remedy = if says(&[
        "refused",
        "lookup",
        "timed out",
        "elapsed",
        "unreachable",
        "No route",
    ]) {
        "start the coordinator, or say where it is with --addr or CROFT_ADDR"
    } else if says(&["corrupt message"]) {
        "it may not use TLS: try without the --tls flags (CROFT_TLS_*)"
    } else {
        match wire {
            Wire::Tls => {
                "check the --tls flags (CROFT_TLS_*): the authority, our certificate, the server's name"
            }
            Wire::Plain => {
                "check that --addr names a coordinator's client port; if that wants TLS, give --tls-ca"
            }
        }
    };
    Error::Unreachable {
        address: address.to_string(),
        reason,
        remedy,
    }
}

/// What is at the bottom of an error, in one line.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    one_line(&deepest.to_string())
}

fn one_line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}
