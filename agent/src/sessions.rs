//! The clients' sessions that are open on this agent's engine. Several builds may name one session, and an engine has one of an id only,
//! so they are shared and counted here. What their calls are answered is the tunnel's business.
//!
//! One that no build uses any more stays open for a while, for the next build of a bake or the next try: a Docker Engine takes up to ten
//! seconds to forget one, and refuses another of the same id until then. Nobody answers its calls meanwhile.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use croft_buildkit::{
    engine::Engine,
    session::{EngineSession, SessionId, SessionSpec},
};
use tonic::Status;

use crate::tunnel::{Forwarder, Tunnel, User, Users};

/// How long a session should stay open that no build uses.
pub const LINGER: Duration = Duration::from_secs(10);

/// All sessions on the engine.
#[derive(Debug)]
pub struct Sessions {
    engine: Engine,
    tunnel: Arc<Tunnel>,
    slots: Mutex<HashMap<SessionId, Arc<Slot>>>,
    linger: Duration,
}

/// The place of one session. Its lock is held while the session is opened or closed, so that the two never overlap.
#[derive(Debug, Default)]
struct Slot {
    users: Users,
    cuts: Arc<AtomicUsize>,
    /// How often its last user has left it.
    left: AtomicU64,
    session: tokio::sync::Mutex<Option<Arc<EngineSession>>>,
}

/// A build's share in a session, until it is dropped. The session is closed some time after the last one.
#[derive(Debug)]
pub struct Lease {
    sessions: Arc<Sessions>,
    id: SessionId,
    user: User,
    slot: Arc<Slot>,
    session: Arc<EngineSession>,
}

impl Sessions {
    /// No sessions yet. Each will stay open for `linger` when no build uses it.
    pub fn new(engine: Engine, tunnel: Arc<Tunnel>, linger: Duration) -> Arc<Self> {
        Arc::new(Self {
            engine,
            tunnel,
            slots: Mutex::default(),
            linger,
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session for a build, or joins it where it is open.
    pub async fn acquire(
        self: &Arc<Self>,
        user: &User,
        spec: &SessionSpec,
    ) -> Result<Lease, Status> {
        let slot = self.slots().entry(spec.id.clone()).or_default().clone();
        let mut open = slot.session.lock().await;
        let session = match open.as_ref().filter(|session| !session.is_closed()) {
            Some(session) => session.clone(),
            None => match self.open(spec, &slot).await {
                Ok(session) => open.insert(session).clone(),
                Err(status) => {
                    drop(open);
                    self.forget(&spec.id, &slot);
                    return Err(status);
                }
            },
        };
        users(&slot.users).push(user.clone());
        drop(open);
        Ok(Lease {
            sessions: self.clone(),
            id: spec.id.clone(),
            user: user.clone(),
            slot,
            session,
        })
    }

    async fn open(&self, spec: &SessionSpec, slot: &Slot) -> Result<Arc<EngineSession>, Status> {
        let forwarder = Forwarder {
            tunnel: self.tunnel.clone(),
            session: spec.id.clone(),
            users: slot.users.clone(),
            cuts: slot.cuts.clone(),
        };
        let session = EngineSession::open(&self.engine, spec, Arc::new(forwarder)).await?;
        Ok(Arc::new(session))
    }

    /// Closes a session that nobody comes back to. `left` is how often it had been left.
    async fn linger(self: Arc<Self>, id: SessionId, slot: Arc<Slot>, left: u64) {
        tokio::time::sleep(self.linger).await;
        let mut open = slot.session.lock().await;
        let unused = users(&slot.users).is_empty() && slot.left.load(Ordering::Relaxed) == left;
        if unused && let Some(session) = open.take() {
            session.close().await;
        }
        drop(open);
        self.forget(&id, &slot);
    }

    fn forget(&self, id: &SessionId, slot: &Arc<Slot>) {
        let mut slots = self.slots();
        // Ours and the map's: nobody else has or waits for this slot, and nobody can find it while we hold the map.
        if Arc::strong_count(slot) == 2 {
            slots.remove(id);
        }
    }
}

fn users(users: &Users) -> MutexGuard<'_, Vec<User>> {
    users.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lease {
    /// Which session it is.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// The session, to see when the engine lets go of it.
    pub fn session(&self) -> Arc<EngineSession> {
        self.session.clone()
    }

    /// How many of its calls were cut off between here and the coordinator.
    pub fn cuts(&self) -> usize {
        self.slot.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut users = users(&self.slot.users);
        if let Some(at) = users.iter().rposition(|user| *user == self.user) {
            users.remove(at);
        }
        if users.is_empty() {
            let left = self.slot.left.fetch_add(1, Ordering::Relaxed) + 1;
            let (sessions, id, slot) = (self.sessions.clone(), self.id.clone(), self.slot.clone());
            tokio::spawn(sessions.linger(id, slot, left));
        }
    }
}

#[cfg(test)]
mod tests {
    use croft_buildkit::engine::Address;
    use tempfile::TempDir;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{UnixListener, UnixStream},
        sync::Notify,
    };

    use super::*;

    /// A Docker Engine that hands over every connection and says nothing, until it hangs up on all of them.
    async fn sessions(linger: Duration) -> (Arc<Sessions>, Arc<Notify>, TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let hang_up = Arc::new(Notify::new());
        let hangs_up = hang_up.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let hangs_up = hangs_up.clone();
                tokio::spawn(async move {
                    let hangs_up = hangs_up.notified();
                    let stream = hand_over(stream).await;
                    hangs_up.await;
                    drop(stream);
                });
            }
        });
        let engine = Engine::connect(&Address::DockerUnix(socket)).await;
        let sessions = Sessions::new(engine.expect("an engine"), Arc::default(), linger);
        (sessions, hang_up, folder)
    }

    async fn hand_over(mut stream: UnixStream) -> std::io::Result<UnixStream> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n";
        stream.write_all(answer.as_bytes()).await?;
        Ok(stream)
    }

    fn user(build: &str) -> User {
        User {
            build: build.to_owned().into(),
            trace: None,
        }
    }

    fn spec() -> SessionSpec {
        SessionSpec {
            id: SessionId::unique(),
            name: String::new(),
            shared_key: String::new(),
            methods: Vec::new(),
        }
    }

    async fn acquire(sessions: &Arc<Sessions>, build: &str, spec: &SessionSpec) -> Lease {
        let lease = sessions.acquire(&user(build), spec).await;
        lease.expect("a session")
    }

    #[tokio::test]
    async fn who_comes_back_soon_finds_the_session_open() {
        let (sessions, _hang_up, _folder) = sessions(Duration::MAX).await;
        let spec = spec();
        let first = acquire(&sessions, "1", &spec).await;
        let second = acquire(&sessions, "2", &spec).await;
        let session = first.session();
        drop((first, second));
        let third = acquire(&sessions, "3", &spec).await;
        assert!(Arc::ptr_eq(&session, &third.session()) && !session.is_closed());
    }

    #[tokio::test]
    async fn a_session_that_is_left_is_closed_and_who_comes_then_waits_for_that_and_gets_another() {
        let (sessions, hang_up, _folder) = sessions(Duration::ZERO).await;
        let spec = spec();
        let first = acquire(&sessions, "1", &spec).await;
        let (session, slot) = (first.session(), first.slot.clone());
        drop(first);
        while slot.session.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!session.is_closed(), "the engine still has it");
        let mut second = Box::pin(acquire(&sessions, "2", &spec));
        assert!(futures::poll!(&mut second).is_pending());
        hang_up.notify_waiters();
        let second = second.await;
        assert!(session.is_closed() && !second.session().is_closed());
        drop((slot, second));
        hang_up.notify_waiters();
        while !sessions.slots().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_session_that_the_engine_dropped_is_opened_anew() {
        let (sessions, hang_up, _folder) = sessions(Duration::MAX).await;
        let spec = spec();
        let first = acquire(&sessions, "1", &spec).await;
        hang_up.notify_waiters();
        first.session().closed().await;
        let second = acquire(&sessions, "2", &spec).await;
        assert!(!second.session().is_closed());
    }
}
