//! Free ports on loopback.
//!
//! They are drawn from below the range that the system gives to outgoing connections, so that none of those takes a port between
//! the look and the use. Two farms that draw the same port at once are told apart by the part that cannot start.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Mutex, PoisonError},
};

use crate::{
    error::{Error, Result},
    home::random_hex,
};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
const DRAWS: usize = 200;

/// Ports that this process has handed out: a part may take a moment to bind its own.
static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Where a farm's ports come from.
#[derive(Debug, Clone, Copy, Default)]
pub enum Ports {
    /// Any free ones.
    #[default]
    Free,
    /// This one and those after it (CROFT_PORT_BASE), skipping what is in use.
    From(u16),
    /// This address, which was drawn before.
    At(SocketAddr),
}

impl Ports {
    /// A loopback address that nothing listens on.
    pub fn draw(self) -> Result<SocketAddr> {
        for attempt in 0..DRAWS {
            let port = match self {
                Ports::At(address) => return Ok(address),
                Ports::Free => {
                    let random = u16::from_str_radix(&random_hex(2)?, 16).unwrap_or_default();
                    FIRST + random % COUNT
                }
                Ports::From(base) => match u16::try_from(usize::from(base) + attempt) {
                    Ok(port) => port,
                    Err(_) => break,
                },
            };
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = taken.get_or_insert_default();
            if !taken.contains(&port) && TcpListener::bind(address).is_ok() {
                taken.insert(port);
                return Ok(address);
            }
        }
        Err(Error::Missing {
            what: format!("a free port ({self:?})"),
            remedy: "set CROFT_PORT_BASE to a range of free ports".to_owned(),
        })
    }
}
