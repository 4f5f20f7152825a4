//! A cable between agents and the coordinator that a test can pull.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use croft_local::Farm;

use crate::support::{agent, process::eventually};

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
    /// How many bytes a connection passes on in one direction before it keeps the rest.
    most: Option<u64>,
    /// Whether one has come to that.
    stuck: bool,
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
            most: None,
            stuck: false,
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

    /// From now on each connection keeps what comes in one direction after so many bytes: one that carries much gets stuck in the middle of
    /// it, while others pass on what little they carry.
    pub fn keep_after(&self, bytes: u64) {
        let mut plug = self.state.plug.lock().expect("no panic");
        plug.most = Some(bytes);
    }

    /// Waits until a connection is stuck.
    pub fn wait_stuck(&self) {
        eventually("a connection is stuck", || {
            let plug = self.state.plug.lock().expect("no panic");
            plug.stuck.then_some(())
        });
    }

    /// Plugs it in again; what was kept passes.
    pub fn plug_in(&self) {
        self.set(How::In);
    }

    /// Pulls it until the farm knows that this agent is away, which is sooner than a lease ends, and plugs it in again.
    pub fn interrupt(&self, farm: &Farm, agent: &str) {
        self.pull();
        eventually("the farm knows", || {
            (agent::state(farm, agent) == "away").then_some(())
        });
        self.plug_in();
    }

    fn set(&self, how: How) {
        let mut plug = self.state.plug.lock().expect("no panic");
        (plug.how, plug.most, plug.stuck) = (how, None, false);
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
                let mut passed = 0;
                while let Ok(length @ 1..) = from.read(&mut buffer) {
                    passed += length as u64;
                    state.wait(passed);
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        plug.open.extend([near, far]);
    }

    /// Waits while what a connection was given, with these last bytes of it, is to be kept.
    fn wait(&self, passed: u64) {
        let mut plug = self.plug.lock().expect("no panic");
        let too_much = |plug: &Plug| plug.most.is_some_and(|most| passed > most);
        plug.stuck |= too_much(&plug);
        let kept = |plug: &mut Plug| plug.how == How::Silent || too_much(plug);
        let passes = self.changed.wait_while(plug, kept);
        drop(passes.expect("no panic"));
    }
}

fn copy(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a socket")
}
