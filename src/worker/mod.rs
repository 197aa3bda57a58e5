//! The worker runtime: pull, claim, heartbeat, run the agent, store, report, acknowledge, drain.
//!
//! One runtime serves every agent type, alone in a process or next to a coordinator: it knows the stores' traits and
//! nothing else. Its order of steps is what makes `kill -9` harmless: the outcome is stored in the claim before it is
//! reported, and reported before the message is acknowledged, so each crash repeats only steps that may be repeated.
//! A worker must never write to the output directory and never call the coordinator.

mod attempt;
mod claim;
mod execute;
mod heartbeat;
mod report;
mod stop;
mod texts;
mod underway;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use claim::{CLAIM_LEASE, MAX_CLAIMS, is_any_claimed, is_stopped, stop_key};
pub use execute::Executor;

use crate::backend::{Backend, BackendError, Expected, Queue, Write};
use crate::clock::Timestamp;
use crate::error::Coded;
use crate::metric;
use crate::protocol::{AgentType, InstanceId, Priority};
use crate::resilience::Absence;
use crate::schedule;

/// What one worker serves.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Fresh per process start.
    pub instance: InstanceId,
    /// Queues it serves.
    pub agents: Vec<AgentType>,
    /// Tasks it works on at once.
    pub slots: u32,
    /// How long running tasks may take to finish after a stop was asked for.
    pub drain: Duration,
}

/// How a worker announces itself to the coordinators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCard {
    /// Which process.
    pub instance: InstanceId,
    /// Queues it serves.
    pub agents: Vec<AgentType>,
    /// Tasks it works on at once.
    pub slots: u32,
    /// When it started.
    pub since: Timestamp,
}

/// Prefix of the keys under which workers announce themselves.
pub const CARD_PREFIX: &str = "fleet/worker/";

/// The worker had to stop.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The stores failed for longer than a worker may pretend to be alive.
    #[error("the worker cannot go on without its stores")]
    Backend(#[from] BackendError),
    /// A slot's task panicked: a bug.
    #[error("a worker slot died: {0}")]
    SlotDied(String),
    /// A background loop of the worker ended: a bug, or its stores are gone.
    #[error("the worker's {0} loop ended unexpectedly")]
    LoopDied(&'static str),
}

impl Coded for WorkerError {
    fn code(&self) -> &'static str {
        match self {
            Self::Backend(error) => error.code(),
            Self::SlotDied(_) => "CS-WORKER-002",
            Self::LoopDied(_) => "CS-WORKER-004",
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Backend(error) => error.remedy(),
            Self::SlotDied(_) | Self::LoopDied(_) => {
                "restart the worker and report the message above as a bug; the task is redelivered".into()
            }
        }
    }
}

/// How often a worker sees to it that it is still announced.
const CARD_LOOK: Duration = Duration::from_secs(3);

/// Longest time one pull waits before it asks again.
const PULL_WAIT: Duration = Duration::from_secs(30);

/// A running set of slots.
pub struct Worker {
    shared: Arc<Shared>,
}

/// What all slots of a worker share.
struct Shared {
    backend: Backend,
    options: WorkerOptions,
    executor: Executor,
    reporter: report::Reporter,
    stops: stop::Stops,
    underway: underway::Underway,
    /// Pulls so far; priorities take turns by it.
    turn: AtomicU64,
    /// Ends a drain before its time is up.
    abort: CancellationToken,
    /// The card has been written.
    announced: AtomicBool,
}

impl Worker {
    /// A worker over `backend` that runs tasks with `executor`.
    #[must_use]
    pub fn new(backend: Backend, options: WorkerOptions, executor: Executor) -> Self {
        let reporter = report::Reporter::start(&backend, &options.instance);
        let stops = stop::Stops::default();
        Self {
            shared: Arc::new(Shared {
                backend,
                options,
                executor,
                reporter,
                stops,
                underway: underway::Underway::default(),
                turn: AtomicU64::new(0),
                abort: CancellationToken::new(),
                announced: AtomicBool::new(false),
            }),
        }
    }

    /// Tells the coordinators how many slots there are, so that they hand out as much as can be worked on. [`Worker::run`]
    /// does it too; a process that leads as well does it before, or its first tasks would go out to an unknown fleet.
    ///
    /// # Errors
    /// Store errors.
    pub async fn announce(&self) -> Result<(), BackendError> {
        if self.shared.announced.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        announce(&self.shared).await
    }

    /// Cancelling this after `shutdown` ends the drain at once.
    #[must_use]
    pub fn abort_handle(&self) -> CancellationToken {
        self.shared.abort.clone()
    }

    /// Works until `shutdown` is cancelled, then drains: running tasks finish within [`WorkerOptions::drain`], and
    /// what is still running then is cancelled, settled and handed back.
    ///
    /// # Errors
    /// [`WorkerError`] when a slot dies or the stores stay away; the process should end then, not linger.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        self.announce().await?;
        let shared = self.shared;
        let mut stop_listener = shared.stops.listen(&shared.backend);
        let mut slots = JoinSet::new();
        for _ in 0..shared.options.slots {
            slots.spawn(slot(Arc::clone(&shared), shutdown.clone()));
        }
        let mut outcome = Ok(());
        let grace = async {
            shutdown.cancelled().await;
            tokio::select! {
                () = shared.abort.cancelled() => {}
                () = tokio::time::sleep(shared.options.drain) => {}
            }
        };
        tokio::pin!(grace);
        let mut out_of_patience = false;
        let mut look = tokio::time::interval(CARD_LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = slots.join_next() => match ended {
                    None => break,
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => { outcome = Err(WorkerError::Backend(error)); shutdown.cancel(); }
                    Some(Err(panic)) => { outcome = Err(WorkerError::SlotDied(panic.to_string())); shutdown.cancel(); }
                },
                () = shared.reporter.ended(), if outcome.is_ok() => {
                    outcome = Err(WorkerError::LoopDied("reporting"));
                    shutdown.cancel();
                }
                _ = &mut stop_listener, if outcome.is_ok() => {
                    outcome = Err(WorkerError::LoopDied("listening"));
                    shutdown.cancel();
                }
                _ = look.tick(), if !shutdown.is_cancelled() => keep_announced(&shared).await,
                () = &mut grace, if !out_of_patience => { out_of_patience = true; shared.stops.stop_everything(); }
            }
        }
        shared.reporter.drain().await;
        stop_listener.abort();
        withdraw(&shared).await;
        outcome
    }
}

/// One slot: a single message at a time, from pull to acknowledgement.
async fn slot(shared: Arc<Shared>, shutdown: CancellationToken) -> Result<(), BackendError> {
    let rotation = queues(&shared.options.agents);
    let mut absence = Absence::default();
    while !shutdown.is_cancelled() {
        let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
        let queues = &rotation[usize::try_from(turn % schedule::ROTATION).unwrap_or_default()];
        let began = Instant::now();
        let pull = shared.backend.broker.pull(&shared.options.instance, queues, 1, PULL_WAIT);
        let pulled = tokio::select! {
            () = shutdown.cancelled() => break,
            pulled = pull => pulled,
        };
        match pulled {
            Ok(deliveries) => {
                absence.end();
                for delivery in deliveries {
                    attempt::process(&shared, delivery).await;
                }
            }
            Err(error) => {
                let Some(pause) = absence.pause(error.retry(), began) else { return Err(error) };
                metric::store_failed(error.store());
                tracing::warn!(%error, failures = absence.failures(), "cannot pull; trying again");
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
    Ok(())
}

/// The queues of `agents` for every turn of the rotation: usually the most urgent first, now and then a less urgent one, so
/// that none starves behind a steady stream of more urgent work (see [`schedule::order`]).
fn queues(agents: &[AgentType]) -> Vec<Vec<Queue>> {
    let of = |priority: Priority| agents.iter().map(move |agent| Queue::Task { agent: agent.clone(), priority });
    (0..schedule::ROTATION).map(|turn| schedule::order(turn).into_iter().flat_map(of).collect()).collect()
}

/// Writes the worker's card.
async fn announce(shared: &Shared) -> Result<(), BackendError> {
    let options = &shared.options;
    let since = shared.backend.clock.now();
    let card =
        WorkerCard { instance: options.instance.clone(), agents: options.agents.clone(), slots: options.slots, since };
    let value = serde_json::to_vec(&card)
        .map_err(|error| BackendError::Invalid { field: "worker card", why: error.to_string() })?;
    write_card(shared, Some(Bytes::from(value))).await
}

/// Announces the worker again if its card is gone: the store has lost its data, or somebody took the worker for dead.
async fn keep_announced(shared: &Shared) {
    let key = format!("{CARD_PREFIX}{}", shared.options.instance);
    let outcome = match shared.backend.state.get(&[key]).await {
        Ok(found) if found.iter().flatten().any(|entry| entry.value.is_some()) => Ok(()),
        Ok(_) => announce(shared).await,
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "cannot see to the worker's card; looking again soon");
    }
}

/// Takes the announcement back; a failure only means that the card stays until the process is known to be dead.
async fn withdraw(shared: &Shared) {
    if let Err(error) = write_card(shared, None).await {
        tracing::warn!(%error, "cannot withdraw the worker's card");
    }
}

async fn write_card(shared: &Shared, value: Option<Bytes>) -> Result<(), BackendError> {
    let key = format!("{CARD_PREFIX}{}", shared.options.instance);
    let write = Write { key, expected: Expected::Any, value };
    shared.backend.state.commit(&shared.options.instance, vec![write]).await.map(drop)
}
