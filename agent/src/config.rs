//! How the agent is told what to do: flags and `CROFT_*` variables, one struct for each concern. Checks what can be checked without asking anybody.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, ValueEnum};
use croft_buildkit::{api::pb::Platform, engine::Address};

use crate::space::Watermark;

/// Where a `buildkitd` listens by default.
const BUILDKITD_SOCKET: &str = "/run/buildkit/buildkitd.sock";
/// Where Docker Engine listens by default.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// The agent of a croft build farm: beside one BuildKit engine, it runs what the coordinator offers.
#[derive(Debug, Clone, Parser)]
#[command(name = "croft-agent", version, about)]
pub struct Config {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub coordinator: CoordinatorConfig,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub engine: EngineConfig,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub identity: IdentityConfig,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: TelemetryConfig,
}

/// Where the coordinators are and how to trust them.
#[derive(Debug, Clone, Args)]
pub struct CoordinatorConfig {
    /// The coordinator's agent port, as http://host:port or https://host:port; of several, which may be given with commas, the active one
    /// is found
    #[arg(
        long = "coordinator",
        env = "CROFT_COORDINATOR",
        value_name = "URL",
        value_delimiter = ',',
        required = true
    )]
    pub urls: Vec<http::Uri>,
    /// The authority that signed the coordinator's certificate (PEM)
    #[arg(long, env = "CROFT_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// This agent's certificate (PEM)
    #[arg(
        long,
        env = "CROFT_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The key of this agent's certificate (PEM)
    #[arg(
        long,
        env = "CROFT_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// The name in the coordinator's certificate, where it is not the URL's host
    #[arg(long, env = "CROFT_TLS_SERVER_NAME", value_name = "NAME")]
    pub tls_server_name: Option<String>,
}

/// The engine, and what may be done on it.
#[derive(Debug, Clone, Args)]
pub struct EngineConfig {
    /// The engine's address: unix://… or tcp://… for buildkitd, docker+unix://… for Docker Engine
    /// [default: buildkitd's socket if it is there, else Docker Engine's]
    #[arg(long = "engine", env = "CROFT_ENGINE", value_name = "ADDRESS")]
    pub address: Option<Address>,
    /// Where the engine keeps its data, to watch the disk [default: what the engine says, else --state-dir]
    #[arg(long = "engine-root", env = "CROFT_ENGINE_ROOT", value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// How long the engine may leave us without an answer before what runs on it is given up, to be run elsewhere
    #[arg(long, env = "CROFT_ENGINE_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub engine_timeout: Duration,
    /// With less free on the engine's disk no work is taken and its cache is pruned; of a part and a number the smaller counts
    #[arg(
        long,
        env = "CROFT_DISK_LOW",
        value_name = "SPACE",
        default_value = "5%,5GB"
    )]
    pub disk_low: Watermark,
    /// How much is to be free on the engine's disk once its cache was pruned
    #[arg(
        long,
        env = "CROFT_DISK_HIGH",
        value_name = "SPACE",
        default_value = "10%,10GB"
    )]
    pub disk_high: Watermark,
    /// How many attempts run at once [default: the number of processors]
    #[arg(long, env = "CROFT_SLOTS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: Option<u32>,
    /// Also offer the platforms that the engine only emulates
    #[arg(long, env = "CROFT_EMULATE")]
    pub emulate: bool,
    /// Stand for these platforms, os/arch[/variant], the native one first, whatever the machine is: for test farms only
    #[arg(
        long,
        env = "CROFT_PLATFORM",
        value_name = "PLATFORM",
        value_parser = platform,
        value_delimiter = ','
    )]
    pub platform: Vec<Platform>,
}

/// Who this agent is.
#[derive(Debug, Clone, Args)]
pub struct IdentityConfig {
    /// How long an agent that is told to end goes on with what it runs and holds; told again it ends at once
    #[arg(long, env = "CROFT_STOP_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub stop_timeout: Duration,
    /// This agent's name, unique in the farm [default: the host's name]
    #[arg(long, env = "CROFT_AGENT_NAME")]
    pub name: Option<String>,
    /// A label that people see the agent by, key=value; may be given several times
    #[arg(
        long = "label",
        env = "CROFT_LABELS",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    pub labels: Vec<Label>,
    /// The agent's own folder; its disk is watched if the engine's is not known
    #[arg(
        long,
        env = "CROFT_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/croft-agent"
    )]
    pub state_dir: PathBuf,
}

/// What the agent tells of itself, and to whom.
#[derive(Debug, Clone, Args)]
pub struct TelemetryConfig {
    /// How log lines look
    #[arg(long, env = "CROFT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Which log lines are written, as in RUST_LOG
    #[arg(long, env = "CROFT_LOG", default_value = "info")]
    pub log: String,
    /// Send traces to this OTLP collector, http://host:4317
    #[arg(long, env = "CROFT_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each line.
    Json,
}

fn platform(text: &str) -> Result<Platform, String> {
    croft_buildkit::platform::parse(text).ok_or_else(|| {
        "a platform is os/arch or os/arch/variant, as in linux/amd64 or linux/arm/v7".to_owned()
    })
}

/// Reads `90s`, `10m`, `1h`, `500ms`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is no time: write it like 90s, 10m or 1h"))
}

/// One label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    key: String,
    value: String,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err("a label is key=value".to_owned()),
        }
    }
}

/// What can be wrong with the configuration. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The URL's scheme.
    #[error("--coordinator {0}: give it as http://host:port or https://host:port")]
    Scheme(http::Uri),
    /// TLS without an authority.
    #[error(
        "--coordinator {0} wants TLS: name the authority that signed the coordinator's certificate with --tls-ca"
    )]
    NoAuthority(http::Uri),
    /// Certificates without TLS.
    #[error("--tls-ca, --tls-cert and --tls-key need an https:// coordinator, not {0}")]
    NoTls(http::Uri),
    /// A file.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Certificates that can't be used.
    #[error("the TLS files cannot be used: {0}")]
    Tls(tonic::transport::Error),
    /// No name.
    #[error("this host's name is not usable ({0}): name the agent with --name")]
    Name(String),
    /// Neither socket.
    #[error(
        "no engine found at {BUILDKITD_SOCKET} nor {DOCKER_SOCKET}: start buildkitd or Docker Engine, or say where it is with --engine"
    )]
    NoEngine,
}

impl CoordinatorConfig {
    /// The coordinators as something to connect to; reads the TLS files.
    pub fn endpoints(&self) -> Result<Vec<tonic::transport::Endpoint>, ConfigError> {
        self.urls.iter().map(|url| self.endpoint(url)).collect()
    }

    fn endpoint(&self, url: &http::Uri) -> Result<tonic::transport::Endpoint, ConfigError> {
        use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
        let endpoint = Endpoint::from(url.clone());
        let encrypted = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(ConfigError::Scheme(url.clone())),
        };
        if !encrypted {
            let unused = self.tls_ca.is_some() || self.tls_cert.is_some();
            return if unused {
                Err(ConfigError::NoTls(url.clone()))
            } else {
                Ok(endpoint)
            };
        }
        let Some(ca) = &self.tls_ca else {
            return Err(ConfigError::NoAuthority(url.clone()));
        };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        if let Some(name) = &self.tls_server_name {
            tls = tls.domain_name(name);
        }
        endpoint.tls_config(tls).map_err(ConfigError::Tls)
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::File {
        path: path.clone(),
        source,
    })
}

impl EngineConfig {
    /// The engine's address, looked for where none is given.
    pub fn address(&self) -> Result<Address, ConfigError> {
        let there = |socket: &str| Some(PathBuf::from(socket)).filter(|path| path.exists());
        self.address
            .clone()
            .or_else(|| there(BUILDKITD_SOCKET).map(Address::Unix))
            .or_else(|| there(DOCKER_SOCKET).map(Address::DockerUnix))
            .ok_or(ConfigError::NoEngine)
    }

    /// How many attempts run at once.
    pub fn slots(&self) -> u32 {
        self.slots.unwrap_or_else(|| {
            std::thread::available_parallelism()
                .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
        })
    }
}

impl IdentityConfig {
    /// The agent's name.
    pub fn name(&self) -> Result<String, ConfigError> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => {
                let name = nix::unistd::gethostname()
                    .map_err(|error| ConfigError::Name(error.to_string()))?;
                name.into_string()
                    .map_err(|name| ConfigError::Name(name.to_string_lossy().into_owned()))
            }
        }
    }

    /// The labels by key; of two with one key the last counts.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.labels
            .iter()
            .map(|label| (label.key.clone(), label.value.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Config {
        Config::try_parse_from([&["croft-agent"], args].concat()).expect("good flags")
    }

    #[test]
    fn an_https_coordinator_needs_an_authority_to_trust() {
        let config = parse(&["--coordinator", "https://farm:8373"]);
        assert!(matches!(
            config.coordinator.endpoints(),
            Err(ConfigError::NoAuthority(_))
        ));
    }

    #[test]
    fn certificates_are_not_silently_unused() {
        let config = parse(&["--coordinator", "http://farm:8373", "--tls-ca", "/ca.pem"]);
        assert!(matches!(
            config.coordinator.endpoints(),
            Err(ConfigError::NoTls(_))
        ));
    }

    #[test]
    fn several_coordinators_may_be_given_in_either_way() {
        let several = ["http://a:1", "http://b:2", "http://c:3"];
        for flags in [
            &["--coordinator", "http://a:1,http://b:2,http://c:3"][..],
            &[
                "--coordinator",
                several[0],
                "--coordinator",
                several[1],
                "--coordinator",
                several[2],
            ],
        ] {
            let endpoints = parse(flags).coordinator.endpoints().expect("good");
            let urls: Vec<_> = endpoints.iter().map(|one| one.uri().to_string()).collect();
            assert_eq!(urls, several.map(|url| format!("{url}/")));
        }
        let mixed = ["--coordinator", "http://a:1,b:2"];
        assert!(matches!(
            parse(&mixed).coordinator.endpoints(),
            Err(ConfigError::Scheme(_))
        ));
    }

    #[test]
    fn a_coordinator_without_a_scheme_is_told_how_to_write_it() {
        let config = parse(&["--coordinator", "farm:8373"]);
        assert!(matches!(
            config.coordinator.endpoints(),
            Err(ConfigError::Scheme(_))
        ));
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let config = parse(&[
            "--coordinator",
            "https://farm:8373",
            "--tls-ca",
            "/nowhere/ca.pem",
        ]);
        let error = config
            .coordinator
            .endpoints()
            .expect_err("no such file")
            .to_string();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn labels_are_pairs_and_the_last_of_a_key_counts() {
        let config = parse(&[
            "--coordinator",
            "http://f:1",
            "--label",
            "disk=ssd",
            "--label",
            "disk=nvme,zone=a",
        ]);
        let labels: Vec<_> = config.identity.labels().into_iter().collect();
        assert_eq!(
            labels,
            [("disk".into(), "nvme".into()), ("zone".into(), "a".into())]
        );
        let bad = Config::try_parse_from([
            "croft-agent",
            "--coordinator",
            "http://f:1",
            "--label",
            "=x",
        ]);
        assert!(bad.is_err());
    }

    #[test]
    fn times_and_free_space_are_read_as_people_write_them() {
        let config = parse(&[
            "--coordinator",
            "http://f:1",
            "--engine-timeout",
            "1500ms",
            "--stop-timeout",
            "2m",
        ]);
        assert_eq!(config.engine.engine_timeout, Duration::from_millis(1500));
        assert_eq!(config.identity.stop_timeout, Duration::from_secs(120));
        for bad in ["", "s", "1d", "-1s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_platform_must_look_like_one() {
        let bad = Config::try_parse_from([
            "croft-agent",
            "--coordinator",
            "http://f:1",
            "--platform",
            "arm64",
        ]);
        assert!(bad.is_err());
    }
}
