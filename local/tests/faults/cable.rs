//! A cable between agents and the coordinator that a test can pull.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// Passes on everything that comes while it is plugged in.
pub struct Cable {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    to: SocketAddr,
    plug: Mutex<Plug>,
    changed: Condvar,
}

struct Plug {
    how: How,
    open: Vec<TcpStream>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Everything passes.
    In,
    /// What is open is broken off, and what comes is refused.
    Out,
    /// Nothing passes, and nobody is told.
    Silent,
}

impl Cable {
    /// A cable to this address, plugged in.
    pub fn to(to: SocketAddr) -> Cable {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let plug = Plug {
            how: How::In,
            open: Vec::new(),
        };
        let state = Arc::new(State {
            to,
            plug: Mutex::new(plug),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&state);
        // It ends with the process: a test has few of them.
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                accepting.take(near);
            }
        });
        Cable { address, state }
    }

    /// Its other end.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pulls it: both sides see their connections break, and new ones fail.
    pub fn pull(&self) {
        self.set(How::Out);
    }

    /// Keeps everything that comes, as a network does whose packets get lost: nobody is told.
    pub fn silence(&self) {
        self.set(How::Silent);
    }

    /// Plugs it in again; what was kept passes.
    pub fn plug_in(&self) {
        self.set(How::In);
    }

    fn set(&self, how: How) {
        let mut plug = self.state.plug.lock().expect("no panic");
        plug.how = how;
        if how == How::Out {
            for stream in plug.open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.state.changed.notify_all();
    }
}

impl State {
    fn take(self: &Arc<Self>, near: TcpStream) {
        let mut plug = self.plug.lock().expect("no panic");
        if plug.how == How::Out {
            return;
        }
        let Ok(far) = TcpStream::connect(self.to) else {
            return;
        };
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (mut from, mut to) = (copy(from), copy(to));
            let state = Arc::clone(self);
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(length @ 1..) = from.read(&mut buffer) {
                    state.wait();
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        plug.open.extend([near, far]);
    }

    fn wait(&self) {
        let plug = self.plug.lock().expect("no panic");
        let silent = self
            .changed
            .wait_while(plug, |plug| plug.how == How::Silent);
        drop(silent.expect("no panic"));
    }
}

fn copy(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a socket")
}
