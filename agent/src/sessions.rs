//! The clients' sessions that are open on this agent's engine. Several builds may name one session, and an engine has one of an id only,
//! so they are shared and counted here. What their calls are answered is the tunnel's business.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use croft_buildkit::{
    engine::Engine,
    session::{EngineSession, SessionId, SessionSpec},
};
use tonic::Status;

use crate::{
    ids::BuildId,
    tunnel::{Forwarder, Tunnel, Users},
};

/// All sessions on the engine.
#[derive(Debug)]
pub struct Sessions {
    engine: Engine,
    tunnel: Arc<Tunnel>,
    slots: Mutex<HashMap<SessionId, Arc<Slot>>>,
}

/// The place of one session. Its lock is held while the session is opened or closed, so that the two never overlap.
#[derive(Debug, Default)]
struct Slot {
    users: Users,
    cuts: Arc<AtomicUsize>,
    session: tokio::sync::Mutex<Option<Arc<EngineSession>>>,
}

/// A build's share in a session. The session is closed when the last one is gone.
#[derive(Debug)]
pub struct Lease {
    sessions: Arc<Sessions>,
    id: SessionId,
    build: BuildId,
    session: Arc<EngineSession>,
    cuts: Arc<AtomicUsize>,
    released: bool,
}

impl Sessions {
    /// No sessions yet.
    pub fn new(engine: Engine, tunnel: Arc<Tunnel>) -> Arc<Self> {
        Arc::new(Self {
            engine,
            tunnel,
            slots: Mutex::default(),
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session for a build, or joins it where it is open.
    pub async fn acquire(
        self: &Arc<Self>,
        build: &BuildId,
        spec: &SessionSpec,
    ) -> Result<Lease, Status> {
        let slot = self.slots().entry(spec.id.clone()).or_default().clone();
        let mut open = slot.session.lock().await;
        let session = match open.as_ref().filter(|session| !session.is_closed()) {
            Some(session) => session.clone(),
            None => {
                let forwarder = Forwarder {
                    tunnel: self.tunnel.clone(),
                    session: spec.id.clone(),
                    users: slot.users.clone(),
                    cuts: slot.cuts.clone(),
                };
                let session =
                    Arc::new(EngineSession::open(&self.engine, spec, Arc::new(forwarder)).await?);
                *open = Some(session.clone());
                session
            }
        };
        users(&slot.users).push(build.clone());
        Ok(Lease {
            sessions: self.clone(),
            id: spec.id.clone(),
            build: build.clone(),
            session,
            cuts: slot.cuts.clone(),
            released: false,
        })
    }

    async fn release(&self, id: SessionId, build: BuildId) {
        let Some(slot) = self.slots().get(&id).cloned() else {
            return;
        };
        let mut open = slot.session.lock().await;
        let unused = {
            let mut users = users(&slot.users);
            if let Some(at) = users.iter().rposition(|user| *user == build) {
                users.remove(at);
            }
            users.is_empty()
        };
        if unused && let Some(session) = open.take() {
            session.close().await;
        }
        drop(open);
        let mut slots = self.slots();
        // Ours and the map's: nobody else waits for this slot, and nobody can find it while we hold the map.
        if users(&slot.users).is_empty() && Arc::strong_count(&slot) == 2 {
            slots.remove(&id);
        }
    }
}

fn users(users: &Users) -> MutexGuard<'_, Vec<BuildId>> {
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
        self.cuts.load(Ordering::Relaxed)
    }

    /// Gives it back; if it was the last, returns when the engine has forgotten the session.
    pub async fn release(mut self) {
        self.released = true;
        self.sessions
            .release(self.id.clone(), self.build.clone())
            .await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.released {
            let (sessions, id, build) =
                (self.sessions.clone(), self.id.clone(), self.build.clone());
            tokio::spawn(async move { sessions.release(id, build).await });
        }
    }
}
