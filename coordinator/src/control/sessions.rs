//! The sessions that clients hold open: where a build's files, secrets and credentials come from.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use croft_buildkit::session::ClientSession;
use tokio::sync::watch;

/// Clients open the session and the solve at once, in any order: so long a solve waits for its session.
pub const SESSION_WAIT: Duration = Duration::from_secs(5);

/// All sessions by id.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, ClientSession>>,
    changed: watch::Sender<()>,
}

impl Sessions {
    /// Adds a session. A second one of the same id takes the place of the first, as in BuildKit.
    pub fn add(&self, session: ClientSession) {
        self.lock().insert(session.id().to_string(), session);
        self.changed.send_replace(());
    }

    /// Takes out a session that ended, unless another has taken its place.
    pub fn remove(&self, session: &ClientSession) {
        let mut open = self.lock();
        let id = session.id().as_str();
        if open.get(id).is_some_and(ClientSession::is_closed) {
            open.remove(id);
        }
    }

    /// An open session.
    pub fn get(&self, id: &str) -> Option<ClientSession> {
        self.lock().get(id).cloned()
    }

    /// An open session, or one that opens within [`SESSION_WAIT`].
    pub async fn wait(&self, id: &str) -> Option<ClientSession> {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.mark_unchanged();
                if let Some(session) = self.get(id) {
                    return Some(session);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(SESSION_WAIT, wait)
            .await
            .ok()
            .flatten()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, ClientSession>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
