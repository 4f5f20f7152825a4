//! A web server on loopback with a few files, for what Dockerfiles fetch.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::process::PATIENCE;

/// It serves until this is dropped.
#[derive(Debug)]
pub struct Web {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    served: Arc<Mutex<Vec<String>>>,
    server: Option<JoinHandle<()>>,
}

impl Web {
    /// Serves these files by their paths, and 404 for all others.
    pub fn serve<const N: usize>(files: [(&str, Vec<u8>); N]) -> Web {
        let files: BTreeMap<String, Vec<u8>> = files
            .into_iter()
            .map(|(path, bytes)| (path.to_owned(), bytes))
            .collect();
        Web::answer(move |path| files.get(path).cloned())
    }

    /// Serves what is said of each path at the time it is asked for.
    pub fn answer(content: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let ends = Arc::new(AtomicBool::new(false));
        let served = Arc::new(Mutex::new(Vec::new()));
        let server = {
            let (ends, served) = (ends.clone(), served.clone());
            thread::spawn(move || {
                // A scope, so that no connection outlives the server.
                thread::scope(|scope| {
                    for connection in listener.incoming() {
                        if ends.load(Ordering::Acquire) {
                            return;
                        }
                        let (content, served) = (&content, &served);
                        // A client that goes away is no failure of the server.
                        scope
                            .spawn(move || connection.and_then(|one| serve(&one, content, served)));
                    }
                });
            })
        };
        Web {
            address,
            ends,
            served,
            server: Some(server),
        }
    }

    /// `http://host:port`.
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, as `GET /path`.
    pub fn served(&self) -> Vec<String> {
        self.served.lock().expect("no panic").clone()
    }
}

/// One request for each connection.
fn serve(
    mut connection: &TcpStream,
    content: &(impl Fn(&str) -> Option<Vec<u8>> + Sync),
    served: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for header in lines {
        if header?.is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    served
        .lock()
        .expect("no panic")
        .push(format!("{method} {path}"));
    let (status, body) = match content(path) {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    match method {
        "HEAD" => Ok(()),
        _ => connection.write_all(&body),
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}
