//! A relay that counts what clients send to the farm: what buildx really uploads, whatever either side says of it.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Listens until it is dropped. Connections that are open then live until one side closes them.
#[derive(Debug)]
pub struct Meter {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Meter {
    /// A meter before this address.
    pub fn before(target: SocketAddr) -> Meter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (sent, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, ended) = (Arc::clone(&sent), Arc::clone(&over));
        let listener = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let server = TcpStream::connect(target).expect("the farm listens");
                relay(&client, &server, Some(Arc::clone(&count)));
                relay(&server, &client, None);
            }
        });
        Meter {
            address,
            sent,
            over,
            listener: Some(listener),
        }
    }

    /// Where clients connect instead.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that all clients have sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // So that it looks.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(listener) = self.listener.take().filter(|_| woken) {
            let _ = listener.join();
        }
    }
}

/// Copies one direction until it ends, in a thread of its own.
fn relay(from: &TcpStream, to: &TcpStream, count: Option<Arc<AtomicU64>>) {
    let mut from = from.try_clone().expect("a socket");
    let mut to = to.try_clone().expect("a socket");
    let copy = move || -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = from.read(&mut buffer)?;
            if length == 0 {
                return to.shutdown(Shutdown::Write);
            }
            to.write_all(&buffer[..length])?;
            if let Some(count) = &count {
                count.fetch_add(length as u64, Ordering::Relaxed);
            }
        }
    };
    // A side that breaks off is the other's to notice.
    thread::spawn(copy);
}
