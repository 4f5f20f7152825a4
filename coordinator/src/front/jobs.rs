//! The solves that clients have under way, and the gateway calls that belong to them.
//!
//! A client starts its solve, its status stream and its gateway calls at once and in any order, so each waits here for the others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    table: Mutex<Table>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Table {
    open: HashMap<String, Arc<Job>>,
    /// Solves that were refused a short while ago, oldest first.
    refused: VecDeque<Refused>,
}

struct Refused {
    client_ref: String,
    why: Status,
    at: Instant,
}

/// One solve.
pub struct Job {
    /// What it is for the farm.
    pub build: Arc<Build>,
    refs: Mutex<HashMap<String, Option<pb::Definition>>>,
    returned: Mutex<Option<oneshot::Sender<Result<Results, Failure>>>>,
}

/// Why there is no job.
#[derive(Debug)]
pub enum NoJob {
    /// Its solve was refused, with this.
    Refused(Status),
    /// Nobody has heard of it.
    Unknown(Status),
}

/// What the client's gateway function returns.
pub type Returned = oneshot::Receiver<Result<Results, Failure>>;

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
    ) -> Result<(Open, Returned), Status> {
        let (returned, result) = oneshot::channel();
        let job = Arc::new(Job {
            build,
            refs: Mutex::default(),
            returned: Mutex::new(Some(returned)),
        });
        {
            let mut table = self.lock();
            if table.open.len() >= MAX_JOBS {
                return Err(Status::resource_exhausted(format!(
                    "{MAX_JOBS} solves are under way: try again later"
                )));
            }
            if table.open.contains_key(client_ref) {
                return Err(Status::already_exists(format!(
                    "job ID {client_ref} exists"
                )));
            }
            table.open.insert(client_ref.to_owned(), job);
            table.refused.retain(|one| one.client_ref != client_ref);
        }
        self.changed.send_replace(());
        let open = Open {
            jobs: Arc::clone(self),
            client_ref: client_ref.to_owned(),
        };
        Ok((open, result))
    }

    /// Lets the calls that belong to a solve fail as it did, instead of waiting for a job that never comes.
    pub fn refuse(&self, client_ref: &str, why: &Status) {
        let mut table = self.lock();
        let old = |one: &Refused| one.at.elapsed() > JOB_WAIT;
        while table.refused.len() >= MAX_JOBS || table.refused.front().is_some_and(old) {
            table.refused.pop_front();
        }
        table.refused.push_back(Refused {
            client_ref: client_ref.to_owned(),
            why: why.clone(),
            at: Instant::now(),
        });
        drop(table);
        self.changed.send_replace(());
    }

    /// The job of a reference, waiting for it as clients need.
    pub async fn wait(&self, client_ref: &str) -> Result<Arc<Job>, NoJob> {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = self.lock().find(client_ref) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        let found = tokio::time::timeout(JOB_WAIT, wait).await.ok().flatten();
        let unknown = || NoJob::Unknown(Status::not_found(format!("no such job {client_ref}")));
        found.unwrap_or_else(|| Err(unknown()))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn find(&self, client_ref: &str) -> Option<Result<Arc<Job>, NoJob>> {
        if let Some(job) = self.open.get(client_ref) {
            return Some(Ok(Arc::clone(job)));
        }
        let refused = self
            .refused
            .iter()
            .find(|one| one.client_ref == client_ref)?;
        Some(Err(NoJob::Refused(refused.why.clone())))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.jobs.lock().open.remove(&self.client_ref);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_belongs_to_a_refused_solve_hears_of_that_at_once() {
        let jobs = Jobs::default();
        let early = jobs.wait("refused");
        tokio::pin!(early);
        assert!(futures::poll!(&mut early).is_pending());
        jobs.refuse("refused", &Status::invalid_argument("no"));
        for answer in [early.await, jobs.wait("refused").await] {
            assert!(matches!(answer.err(), Some(NoJob::Refused(why)) if why.message() == "no"));
        }
        let other = jobs.wait("other").await.err();
        assert!(matches!(other, Some(NoJob::Unknown(_))));
    }
}
