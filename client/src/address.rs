//! Where a farm is, as people write it: `host:port`, or with the schemes that buildx and browsers use.

use std::{fmt, str::FromStr};

/// The coordinator's client port by default.
pub const DEFAULT_PORT: u16 = 8372;

/// The address of a coordinator's client port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FarmAddress {
    host: String,
    port: u16,
    scheme: Scheme,
}

/// What an address says about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Nothing, or `tcp://` as buildx writes it, which says nothing either: the TLS flags decide.
    Unsaid,
    /// `http://`: without TLS.
    Plain,
    /// `https://`: with TLS.
    Tls,
}

/// Why a text is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; write it like 127.0.0.1:8372 or tcp://farm:8372")]
pub struct NotAnAddress {
    reason: &'static str,
}

impl FarmAddress {
    /// What the address says about TLS.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A port of this machine.
    pub fn here(port: u16) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
            scheme: Scheme::Unsaid,
        }
    }

    /// The address as one writes it to mean the same.
    pub fn written(&self) -> String {
        match self.scheme {
            Scheme::Unsaid => self.to_string(),
            Scheme::Plain => format!("http://{self}"),
            Scheme::Tls => format!("https://{self}"),
        }
    }

    /// The host as a URL has it: an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }
}

/// `host:port`.
impl fmt::Display for FarmAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for FarmAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let refuse = |reason| Err(NotAnAddress { reason });
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Unsaid, text),
            Some(("tcp", rest)) => (Scheme::Unsaid, rest),
            Some(("http", rest)) => (Scheme::Plain, rest),
            Some(("https", rest)) => (Scheme::Tls, rest),
            Some(_) => return refuse("only tcp://, http:// and https:// are known"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.find(']') {
            Some(end) if rest.starts_with('[') => (&rest[..=end], &rest[end + 1..]),
            Some(_) => return refuse("a bracket is in the wrong place"),
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => DEFAULT_PORT,
            None => return refuse("after a bracket comes :port"),
            Some(digits) => match digits.parse() {
                Ok(0) | Err(_) => {
                    return refuse(
                        "the port is no number from 1 to 65535, or an IPv6 address has no brackets",
                    );
                }
                Ok(port) => port,
            },
        };
        match host
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
        {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_err() => {
                return refuse("in brackets goes an IPv6 address");
            }
            Some(_) => {}
            None if host.is_empty() => return refuse("the host is missing"),
            None if !host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) =>
            {
                return refuse("the host has a character that no host name has");
            }
            None => {}
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            scheme,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_the_forms_that_people_and_buildx_write() {
        for (text, shown, scheme) in [
            ("127.0.0.1:8372", "127.0.0.1:8372", Scheme::Unsaid),
            ("farm", "farm:8372", Scheme::Unsaid),
            (
                "tcp://farm.example:9000",
                "farm.example:9000",
                Scheme::Unsaid,
            ),
            ("http://farm:1/", "farm:1", Scheme::Plain),
            ("https://farm", "farm:8372", Scheme::Tls),
            ("[::1]:65535", "[::1]:65535", Scheme::Unsaid),
            ("tcp://[fd00::2]", "[fd00::2]:8372", Scheme::Unsaid),
        ] {
            let address: FarmAddress = text.parse().expect(text);
            assert_eq!(
                (address.to_string().as_str(), address.scheme()),
                (shown, scheme),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_right_form() {
        for text in [
            "",
            ":8372",
            "farm:",
            "farm:0",
            "farm:65536",
            "farm:x",
            "::1",
            "unix:///run/x",
            "farm/path",
            "a b:1",
            "user@farm:1",
            "[::1",
            "::1]:5",
            "[farm]:1",
            "[::1]5",
            "tcp://",
            "http://farm:1//",
        ] {
            let error = text.parse::<FarmAddress>().expect_err(text).to_string();
            assert!(error.contains("127.0.0.1:8372"), "{text}: {error}");
        }
    }
}
