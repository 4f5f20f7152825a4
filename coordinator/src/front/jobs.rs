//! The solves that clients have under way, and the gateway calls that belong to them.
//!
//! A client starts its solve, its status stream and its gateway calls at once and in any order, so each waits here for the others.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use bollard_buildkit_proto::pb;
use tokio::sync::{OnceCell, oneshot, watch};
use tonic::Status;

use crate::control::{Build, Failure, Progress, Reader, Results};

/// How long a call waits for the solve that it belongs to. Clients give up on a status stream after six seconds.
pub const JOB_WAIT: Duration = Duration::from_secs(5);
/// Solves of the past that are remembered.
const MAX_PAST: usize = 256;
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
    /// Solves that ended a short while ago before all calls that belong to them had come, oldest first.
    past: VecDeque<Past>,
}

struct Past {
    client_ref: String,
    end: NoJob,
    at: Instant,
}

/// One solve.
pub struct Job {
    /// What it is for the farm.
    pub build: Arc<Build>,
    /// Somebody follows its progress, or has.
    followed: AtomicBool,
    refs: Mutex<HashMap<String, Kept>>,
    returned: Mutex<Option<oneshot::Sender<Result<Results, Failure>>>>,
}

/// A result that the client may return.
#[derive(Clone)]
struct Kept {
    definition: Option<pb::Definition>,
    solved: Arc<Solved>,
}

/// What one gateway solve came to. Its results are one plan: when the client wants one of them to be made before it returns, all are.
#[derive(Default)]
pub struct Solved {
    /// The answer as the client got it, without the definitions.
    pub answer: OnceLock<gateway::Result>,
    /// How making them ended.
    pub made: OnceCell<Result<(), Status>>,
}

/// Why there is no job.
#[derive(Clone)]
pub enum NoJob {
    /// Its solve was refused, with this.
    Refused(Status),
    /// It is over, and nobody has followed this.
    Over(Arc<Progress>),
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
            followed: AtomicBool::new(false),
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
            table.past.retain(|one| one.client_ref != client_ref);
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
        self.lock()
            .remember(client_ref, NoJob::Refused(why.clone()));
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
        let past = self.past.iter().find(|one| one.client_ref == client_ref)?;
        Some(Err(past.end.clone()))
    }

    fn remember(&mut self, client_ref: &str, end: NoJob) {
        let old = |one: &Past| one.at.elapsed() > JOB_WAIT;
        while self.past.len() >= MAX_PAST || self.past.front().is_some_and(old) {
            self.past.pop_front();
        }
        self.past.push_back(Past {
            client_ref: client_ref.to_owned(),
            end,
            at: Instant::now(),
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut table = self.jobs.lock();
        let Some(job) = table.open.remove(&self.client_ref) else {
            return;
        };
        // A solve may be over before the question about its progress comes, which is put at the same time.
        if !job.followed.load(Ordering::Acquire) {
            let progress = Arc::clone(job.build.progress());
            table.remember(&self.client_ref, NoJob::Over(progress));
            drop(table);
            self.jobs.changed.send_replace(());
        }
    }
}

impl Job {
    /// Follows its progress.
    pub fn follow(&self) -> Reader {
        self.followed.store(true, Ordering::Release);
        self.build.progress().reader()
    }

    /// Gives a result a name under which the client may return it.
    pub fn keep(
        &self,
        definition: Option<pb::Definition>,
        solved: &Arc<Solved>,
    ) -> Result<String, Status> {
        let mut refs = self.refs.lock().unwrap_or_else(PoisonError::into_inner);
        if refs.len() >= MAX_REFS {
            return Err(Status::resource_exhausted(format!(
                "one build holds {MAX_REFS} results already"
            )));
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let kept = Kept {
            definition,
            solved: Arc::clone(solved),
        };
        refs.insert(id.clone(), kept);
        Ok(id)
    }

    /// What a name stands for. The empty name is the empty image.
    pub fn kept(&self, id: &str) -> Result<Option<pb::Definition>, Status> {
        match id {
            "" => Ok(None),
            id => self.find(id).map(|kept| kept.definition),
        }
    }

    /// The solve that a name comes from.
    pub fn solved(&self, id: &str) -> Result<Arc<Solved>, Status> {
        self.find(id).map(|kept| kept.solved)
    }

    fn find(&self, id: &str) -> Result<Kept, Status> {
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
    use std::collections::BTreeMap;

    use croft_scheduler::{BuildId, ConnectionId};

    use super::*;
    use crate::control::Outputs;
    use crate::control::Request;

    fn build() -> Arc<Build> {
        let request = Request {
            client_ref: String::new(),
            session: String::new(),
            connection: ConnectionId(uuid::Uuid::new_v4()),
            outputs: Outputs::Keep,
            entitlements: Vec::new(),
            source_policy: Vec::new(),
            cache_imports: Vec::new(),
            attrs: BTreeMap::new(),
            traceparent: String::new(),
        };
        Arc::new(Build::new(BuildId(uuid::Uuid::new_v4()), request))
    }

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

    #[tokio::test(start_paused = true)]
    async fn the_progress_of_a_job_that_was_over_too_soon_can_still_be_followed_once() {
        let jobs = Arc::new(Jobs::default());
        let (soon, _returned) = jobs.open("soon", build()).unwrap();
        let (late, _returned) = jobs.open("late", build()).unwrap();
        drop(jobs.wait("late").await.ok().unwrap().follow());
        drop((soon, late));
        assert!(matches!(
            jobs.wait("soon").await.err(),
            Some(NoJob::Over(_))
        ));
        assert!(matches!(
            jobs.wait("late").await.err(),
            Some(NoJob::Unknown(_))
        ));
        let _again = jobs.open("soon", build()).unwrap();
        assert!(jobs.wait("soon").await.is_ok());
    }
}
