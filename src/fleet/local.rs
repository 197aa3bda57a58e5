//! Coordinator and worker as tasks of one process: what `codeswarm run` starts.
//!
//! The parts share nothing but the stores, as if they were processes of their own, so one machine tests what many run.
//! The worker always ends before the treasurer that settles its calls: no call may outlive its books.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{FleetError, Parts};
use crate::backend::Backend;
use crate::config::{BudgetSettings, Settings};
use crate::coordinator::{Coordinator, CoordinatorOptions, Estimator, Lead, Thrift};
use crate::protocol::InstanceId;
use crate::resilience::RetryPolicy;
use crate::worker::{Worker, WorkerError, WorkerOptions};

/// How a local fleet is set up.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// This process.
    pub instance: InstanceId,
    /// Which jobs are led.
    pub lead: Lead,
    /// Tasks worked on at once; 0 leads without working.
    pub slots: u32,
    /// How long running calls may take to finish after a stop was asked for.
    pub drain: Duration,
}

/// A coordinator and a worker for every agent type.
pub struct LocalFleet {
    coordinator: JoinHandle<Result<(), FleetError>>,
    worker: JoinHandle<Result<(), WorkerError>>,
    stop_coordinator: CancellationToken,
    stop_worker: CancellationToken,
    abort: CancellationToken,
    parts: Parts,
}

impl LocalFleet {
    /// Takes the lead and starts working.
    ///
    /// # Errors
    /// [`FleetError`] when another coordinator leads these stores, or they fail.
    pub async fn start(
        backend: &Backend,
        parts: Parts,
        settings: &Settings,
        options: LocalOptions,
    ) -> Result<Self, FleetError> {
        let coordinator =
            Coordinator::elect(backend.clone(), coordinator_options(parts.estimator(), settings, &options)).await?;
        let executor = parts.executor(backend, &options.instance);
        let worker_options = WorkerOptions {
            instance: options.instance,
            agents: parts.agents(),
            slots: options.slots,
            drain: options.drain,
        };
        let worker = Worker::new(backend.clone(), worker_options, executor);
        let (stop_coordinator, stop_worker) = (CancellationToken::new(), CancellationToken::new());
        let abort = worker.abort_handle();
        worker.announce().await?;
        let worker = tokio::spawn(worker.run(stop_worker.clone()));
        let stop = stop_coordinator.clone();
        let coordinator = tokio::spawn(async move { coordinator.run(stop).await.map_err(FleetError::from) });
        Ok(Self { coordinator, worker, stop_coordinator, stop_worker, abort, parts })
    }

    /// Cancelling this asks the worker to finish what it is doing and take nothing new.
    #[must_use]
    pub fn drain_handle(&self) -> CancellationToken {
        self.stop_worker.clone()
    }

    /// Cancelling this as well cuts running calls off; they are charged in full.
    #[must_use]
    pub fn abort_handle(&self) -> CancellationToken {
        self.abort.clone()
    }

    /// Waits until the job has ended, or [`LocalFleet::drain_handle`] was cancelled and the running calls are in. Then everything is
    /// settled, reported and stopped.
    ///
    /// # Errors
    /// What ended the coordinator or the worker, the coordinator's first.
    pub async fn join(mut self) -> Result<(), FleetError> {
        let (coordinator, worker) = tokio::select! {
            ended = &mut self.coordinator => {
                self.stop_worker.cancel();
                (ended, (&mut self.worker).await)
            }
            ended = &mut self.worker => {
                // The coordinator stays until the last results are published, and its successor reads them.
                self.stop_coordinator.cancel();
                ((&mut self.coordinator).await, ended)
            }
        };
        self.parts.stop().await;
        coordinator.map_err(|panic| FleetError::Died { part: "coordinator", why: panic.to_string() })??;
        worker.map_err(|panic| FleetError::Died { part: "worker", why: panic.to_string() })??;
        Ok(())
    }
}

/// The coordinator's options as the settings say.
pub(super) fn coordinator_options(
    estimator: Arc<Estimator>,
    settings: &Settings,
    options: &LocalOptions,
) -> CoordinatorOptions {
    CoordinatorOptions {
        instance: options.instance.clone(),
        lead: options.lead.clone(),
        prefetch_percent: settings.fleet.prefetch_percent,
        retry: RetryPolicy {
            first_delay: Duration::from_millis(settings.job.retry_first_delay_ms),
            max_delay: Duration::from_millis(settings.job.retry_longest_delay_ms),
            ..RetryPolicy::default()
        },
        longest_parking: Duration::from_secs(settings.job.longest_parking_seconds),
        thrift: thrift(&settings.budget),
        estimator,
    }
}

/// When a job saves, as the settings say; zero percent and an empty model mean never.
fn thrift(budget: &BudgetSettings) -> Thrift {
    let unless_zero = |percent: u64| (percent > 0).then_some(percent);
    let model = Some(budget.cheaper_model.clone()).filter(|model| !model.is_empty());
    Thrift {
        warn_percent: budget.warn_percent,
        cheaper_model: unless_zero(budget.cheaper_model_percent).zip(model),
        drop_optional_percent: unless_zero(budget.drop_optional_percent),
        pause_percent: unless_zero(budget.pause_percent),
        slices: budget.slices,
    }
}
