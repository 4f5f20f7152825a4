//! How people name an engine. Reaching it is [`super::connect`]'s work.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where an engine listens, and whether BuildKit speaks there at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `unix:///run/buildkit/buildkitd.sock`: a buildkitd.
    Unix(PathBuf),
    /// `tcp://host:port`: a buildkitd, without TLS.
    Tcp {
        /// A name or an address; IPv6 in brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `docker+unix:///var/run/docker.sock`: a Docker Engine, whose API must be upgraded to BuildKit's.
    DockerUnix(PathBuf),
}

/// Why a text is no engine's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no engine's address ({reason}): use unix:///path or tcp://host:port for buildkitd, docker+unix:///path for Docker Engine"
)]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = |reason| AddressError {
            text: text.to_owned(),
            reason,
        };
        let path = |rest: &str| {
            if rest.starts_with('/') && rest.len() > 1 {
                Ok(PathBuf::from(rest))
            } else {
                Err(refuse("the socket's path must be absolute"))
            }
        };
        match text
            .split_once("://")
            .ok_or_else(|| refuse("it has no scheme"))?
        {
            ("unix", rest) => path(rest).map(Self::Unix),
            ("docker+unix", rest) => path(rest).map(Self::DockerUnix),
            ("tcp", rest) => {
                let (host, port) = rest
                    .rsplit_once(':')
                    .ok_or_else(|| refuse("it has no port"))?;
                let port = port
                    .parse()
                    .ok()
                    .filter(|&p| p != 0)
                    .ok_or_else(|| refuse("its port is no port"))?;
                let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
                let named = !host.is_empty()
                    && host
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
                if !bracketed && !named {
                    return Err(refuse("its host is no host"));
                }
                Ok(Self::Tcp {
                    host: host.to_owned(),
                    port,
                })
            }
            _ => Err(refuse("its scheme is unknown")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::DockerUnix(path) => write!(f, "docker+unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_were_written() {
        for text in [
            "unix:///run/buildkit/buildkitd.sock",
            "tcp://engine-1:1234",
            "tcp://[::1]:1234",
            "docker+unix:///var/run/docker.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_address_says_what_is_wrong_and_what_would_be_right() {
        for (text, reason) in [
            ("/var/run/docker.sock", "no scheme"),
            ("unix://relative", "absolute"),
            ("unix:///", "absolute"),
            ("tcp://host", "no port"),
            ("tcp://host:0", "no port"),
            ("tcp://host:x", "no port"),
            ("tcp://:1", "no host"),
            ("tcp://a/b:1", "no host"),
            ("ssh://host", "unknown"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                error.contains(reason) && error.contains("docker+unix:///path"),
                "{text}: {error}"
            );
        }
    }
}
