//! The leader loop: fold, decide, dispatch, supervise, commit.
//!
//! A coordinator leads a set of jobs. From the submission on it alone appends to their logs (compare-and-set makes a
//! deposed one harmless), and it alone lets files reach the output. One loop handles whatever has arrived in batches:
//! results and commands become events, events free tasks, tasks go out, and only then are the handled messages
//! acknowledged, so a crash at any point repeats steps that may be repeated. A coordinator must never call a model.

mod advance;
mod commit;
mod deliver;
mod dispatch;
mod error;
mod estimate;
mod intake;
mod lead;
mod measure;
mod recover;
mod results;
mod running;
mod slices;
mod submit;
mod thrift;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use deliver::{Delivered, deliver, leader};
pub use error::CoordinatorError;
pub use estimate::Estimator;
pub use submit::{Submission, command, refuse_if_led, submit};
pub use thrift::Thrift;

use commit::CommitDone;
use intake::Handled;
use lead::Leadership;
use running::Running;

use crate::backend::{Backend, Outgoing};
use crate::metric;
use crate::protocol::{AgentType, InstanceId, JobId};
use crate::resilience::RetryPolicy;
use crate::schedule::Capacity;

/// Which jobs a coordinator leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    /// One job; every other unfinished job of the deployment is suspended, so that nothing of it is paid for unasked.
    Only(JobId),
    /// All unfinished jobs, and all that are submitted from now on.
    All,
}

/// How a coordinator works.
#[derive(Clone)]
pub struct CoordinatorOptions {
    /// Fresh per process start.
    pub instance: InstanceId,
    /// Which jobs it leads.
    pub lead: Lead,
    /// Extra tasks handed out ahead of free slots, in percent.
    pub prefetch_percent: u32,
    /// Delays between a task's attempts.
    pub retry: RetryPolicy,
    /// A task that has waited for its provider for longer than this burns its attempts from then on.
    pub longest_parking: Duration,
    /// What happens when money runs low.
    pub thrift: Thrift,
    /// Expected costs, for approval.
    pub estimator: Arc<Estimator>,
}

/// How often the fleet's size, retries and ends are looked at without any message.
const TICK: Duration = Duration::from_millis(250);

/// The leader of a set of jobs.
pub struct Coordinator {
    backend: Backend,
    options: CoordinatorOptions,
    leadership: Leadership,
    jobs: BTreeMap<JobId, Running>,
    capacity: Capacity,
    /// Tasks handed out so far; priorities take turns by it.
    dispatched: u64,
    /// Agent types that had living workers when the fleet was looked at last.
    served: BTreeSet<AgentType>,
    /// Workers that were alive then.
    living: BTreeSet<InstanceId>,
    /// Messages of tasks given up, to be put among the dead letters.
    letters: Vec<(Outgoing, String)>,
    commits: (mpsc::Sender<CommitDone>, mpsc::Receiver<CommitDone>),
}

impl Coordinator {
    /// Becomes the leader, or says who is.
    ///
    /// # Errors
    /// [`CoordinatorError::NotLeader`] while another coordinator leads; store errors.
    pub async fn elect(backend: Backend, options: CoordinatorOptions) -> Result<Self, CoordinatorError> {
        let leadership = Leadership::acquire(&backend, &options.instance).await?;
        Ok(Self {
            backend,
            options,
            leadership,
            jobs: BTreeMap::new(),
            capacity: Capacity::default(),
            dispatched: 0,
            served: BTreeSet::new(),
            living: BTreeSet::new(),
            letters: Vec::new(),
            commits: mpsc::channel(64),
        })
    }

    /// Leads until `shutdown` is cancelled, or, with [`Lead::Only`], until the job has ended.
    ///
    /// # Errors
    /// [`CoordinatorError`] when the lead is lost or the stores fail; everything not yet done is found again by whoever
    /// leads next.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), CoordinatorError> {
        let outcome = self.lead(&shutdown).await;
        self.stop_measuring();
        self.leadership.resign(&self.backend).await;
        outcome
    }

    async fn lead(&mut self, shutdown: &CancellationToken) -> Result<(), CoordinatorError> {
        self.recover().await?;
        self.refresh_capacity().await?;
        let mut inbox = intake::start(self.backend.clone(), self.options.instance.clone());
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut handled = Handled::default();
            let next_retry = self.until_next_retry();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(done) = self.commits.1.recv() => self.committed(done)?,
                batch = inbox.recv() => match batch {
                    Some(Ok(batch)) => handled = self.handle(batch).await?,
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(CoordinatorError::LoopEnded("intake")),
                },
                _ = tick.tick() => {
                    self.refresh_capacity().await?;
                    self.measure();
                }
                () = tokio::time::sleep(next_retry) => {}
            }
            // Here, not only in the tick: under load the inbox is never empty, and the lease has to be kept all the same.
            self.leadership.keep(&self.backend).await?;
            self.step(handled).await?;
            if self.is_done() {
                return Ok(());
            }
        }
    }

    /// Everything that follows from what has just been handled, in crash-safe order: log first, then publish and acknowledge.
    async fn step(&mut self, handled: Handled) -> Result<(), CoordinatorError> {
        self.advance().await?;
        let messages = self.dispatch()?;
        self.put_letters().await;
        self.flush().await?;
        // Both follow from the log, and whatever a crash leaves undone is done again from it; so neither waits for the other.
        let publish = async { if messages.is_empty() { Ok(()) } else { self.backend.broker.publish(messages).await } };
        tokio::try_join!(publish, handled.acknowledge(&self.backend))?;
        self.drop_ended().await;
        Ok(())
    }

    /// Appends what is staged, to the logs of all jobs at once. An append is never cut off because another one has failed.
    async fn flush(&mut self) -> Result<(), CoordinatorError> {
        let backend = &self.backend;
        let appends =
            self.jobs.values_mut().filter(|running| running.is_staged()).map(|running| running.flush(backend));
        join_all(appends).await.into_iter().collect()
    }

    /// Puts what was given up among the dead letters, before the log says so: a crash in between brings the same failure again,
    /// and the same letter. Letters are for people; the job does not wait for them.
    async fn put_letters(&mut self) {
        let letters = std::mem::take(&mut self.letters);
        if letters.is_empty() {
            return;
        }
        if let Err(error) = self.backend.broker.dead_letter(letters).await {
            metric::store_failed(error.store());
            tracing::warn!(%error, "tasks that were given up could not be put among the dead letters");
        }
    }

    /// Time until the next attempt of some task is due, or the longest that a tick takes.
    fn until_next_retry(&self) -> Duration {
        let now = self.backend.clock.now();
        let next = self.jobs.values().filter_map(|running| running.job.next_retry_at()).min();
        // One that is due already and still not out waits for a slot, not for the clock.
        next.map(|at| at.since(now)).filter(|wait| !wait.is_zero()).map_or(TICK, |wait| wait.min(TICK))
    }

    /// True when the one job that was to be led has ended and nothing of it is under way any more.
    fn is_done(&self) -> bool {
        matches!(self.options.lead, Lead::Only(_)) && self.jobs.is_empty()
    }
}
