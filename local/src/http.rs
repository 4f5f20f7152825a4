//! The little HTTP that a farm needs to look at its parts and to fill its registries: one request per connection, to loopback or a
//! Unix socket only, with bodies in memory.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// A part that does not answer within this is not there yet.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a request goes.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A request without a body; see [`Request::body`].
#[derive(Debug)]
pub(crate) struct Request<'a> {
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, String)>,
    body: &'a [u8],
}

/// What the peer said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl<'a> Request<'a> {
    pub fn new(method: &'a str, path: &'a str) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            body: &[],
        }
    }

    pub fn header(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn basic_auth(self, user: &str, password: &str) -> Self {
        let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        self.header("Authorization", value)
    }

    pub fn body(mut self, body: &'a [u8]) -> Self {
        self.body = body;
        self
    }

    /// Sends the request. HTTP/1.0, so that the answer is never chunked and ends with the connection.
    pub fn send(self, peer: &Peer) -> io::Result<Answer> {
        match peer {
            Peer::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_patience(PATIENCE)?;
                self.exchange(stream, &address.to_string())
            }
            Peer::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_patience(PATIENCE)?;
                self.exchange(stream, "localhost")
            }
        }
    }

    fn exchange(self, mut stream: impl Read + Write, host: &str) -> io::Result<Answer> {
        let mut head = format!("{} {} HTTP/1.0\r\nHost: {host}\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        stream.write_all(head.as_bytes())?;
        stream.write_all(self.body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Answer::parse(&answer).ok_or_else(|| io::Error::other("not an HTTP answer"))
    }
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Answer> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Answer {
            status,
            headers,
            body: bytes.get(end + 4..)?.to_vec(),
        })
    }

    /// A header's value; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The status and the start of the body, for messages.
    pub fn summary(&self) -> String {
        let body: String = String::from_utf8_lossy(&self.body)
            .chars()
            .take(300)
            .collect();
        format!("HTTP {} {body}", self.status)
    }
}

/// A connection that can be told how long to wait for bytes.
pub(crate) trait Stream: Read + Write {
    fn set_patience(&self, patience: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))
    }
}

impl Stream for UnixStream {
    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))
    }
}

/// Whether an HTTP/2 server is at the other end: it answers the connection preface with its settings.
pub(crate) fn speaks_http2(connected: io::Result<impl Stream>) -> io::Result<()> {
    const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut stream = connected?;
    stream.set_patience(PATIENCE)?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    stream.write_all(&EMPTY_SETTINGS)?;
    let mut frame = [0; 9];
    stream.read_exact(&mut frame)?;
    match frame[3] {
        4 => Ok(()),
        other => Err(io::Error::other(format!(
            "HTTP/2 frame of type {other} instead of settings"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart_into_status_headers_and_body() {
        let answer =
            Answer::parse(b"HTTP/1.1 202 Accepted\r\nLocation:  /v2/x\r\nA: b\r\n\r\n\x00body")
                .unwrap();
        assert_eq!(
            (answer.status, answer.header("location")),
            (202, Some("/v2/x"))
        );
        assert_eq!(answer.body, b"\x00body");
    }

    #[test]
    fn half_an_answer_is_none() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "nonsense\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
        ] {
            assert!(Answer::parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }
}
