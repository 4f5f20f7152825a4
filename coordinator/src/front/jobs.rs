//! The solves that clients have under way, and the gateway calls that belong to them.
//!
//! A client starts its solve, its status stream and its gateway calls at once and in any order, so each waits here for the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard_buildkit_proto::pb;
use tokio::sync::{oneshot, watch};
use tonic::Status;

use crate::control::{Build, Failure, Results};

/// How long a call waits for the solve that it belongs to. Clients give up on a status stream after six seconds.
pub const JOB_WAIT: Duration = Duration::from_secs(5);
/// Results that one gateway build may hold.
const MAX_REFS: usize = 10_000;
/// Solves that may be under way at once.
const MAX_JOBS: usize = 10_000;

/// All jobs by the client's reference.
#[derive(Default)]
pub struct Jobs {
    open: Mutex<HashMap<String, Arc<Job>>>,
    changed: watch::Sender<()>,
}

/// One solve.
pub struct Job {
    /// What it is for the farm.
    pub build: Arc<Build>,
    refs: Mutex<HashMap<String, Option<pb::Definition>>>,
    returned: Mutex<Option<oneshot::Sender<Result<Results, Failure>>>>,
}

/// Keeps a job open; dropped, the job is gone.
pub struct Open {
    jobs: Arc<Jobs>,
    client_ref: String,
}

impl Jobs {
    /// Opens the job of a solve. The receiver gets what the client's gateway function returns.
    pub fn open(
        self: &Arc<Self>,
        client_ref: &str,
        build: Arc<Build>,
    ) -> Result<(Open, oneshot::Receiver<Result<Results, Failure>>), Status> {
        let (returned, result) = oneshot::channel();
        let job = Arc::new(Job {
            build,
            refs: Mutex::default(),
            returned: Mutex::new(Some(returned)),
        });
        {
            let mut open = self.lock();
            if open.len() >= MAX_JOBS {
                return Err(Status::resource_exhausted(format!(
                    "{MAX_JOBS} solves are under way: try again later"
                )));
            }
            if open.contains_key(client_ref) {
                return Err(Status::already_exists(format!(
                    "job ID {client_ref} exists"
                )));
            }
            open.insert(client_ref.to_owned(), job);
        }
        self.changed.send_replace(());
        let open = Open {
            jobs: Arc::clone(self),
            client_ref: client_ref.to_owned(),
        };
        Ok((open, result))
    }

    /// The job of a reference, waiting for it as clients need.
    pub async fn wait(&self, client_ref: &str) -> Result<Arc<Job>, Status> {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.mark_unchanged();
                if let Some(job) = self.lock().get(client_ref).cloned() {
                    return Some(job);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(JOB_WAIT, wait)
            .await
            .ok()
            .flatten()
            .ok_or_else(|| Status::not_found(format!("no such job {client_ref}")))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.jobs.lock().remove(&self.client_ref);
    }
}

impl Job {
    /// Gives a result a name under which the client may return it.
    pub fn keep(&self, definition: Option<pb::Definition>) -> Result<String, Status> {
        let mut refs = self.refs.lock().unwrap_or_else(PoisonError::into_inner);
        if refs.len() >= MAX_REFS {
            return Err(Status::resource_exhausted(format!(
                "one build holds {MAX_REFS} results already"
            )));
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        refs.insert(id.clone(), definition);
        Ok(id)
    }

    /// What a name stands for. The empty name is the empty image.
    pub fn kept(&self, id: &str) -> Result<Option<pb::Definition>, Status> {
        if id.is_empty() {
            return Ok(None);
        }
        let refs = self.refs.lock().unwrap_or_else(PoisonError::into_inner);
        refs.get(id)
            .cloned()
            .ok_or_else(|| Status::not_found(format!("no such ref: {id}")))
    }

    /// Ends the client's gateway function.
    pub fn finish(&self, result: Result<Results, Failure>) -> Result<(), Status> {
        let sender = self
            .returned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match sender {
            Some(sender) => {
                // The solve may have ended meanwhile; then nobody waits for this.
                let _ = sender.send(result);
                Ok(())
            }
            None => Err(Status::failed_precondition(
                "the build has returned already",
            )),
        }
    }
}
