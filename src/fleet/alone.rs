//! One part of the fleet alone in its process: a worker, or a coordinator.
//!
//! A standby is an ordinary coordinator that has not got the lead yet; losing the lead puts it back to standing by instead
//! of ending the process. Worker and coordinator meet in the stores only, never in memory.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::local::coordinator_options;
use super::{FleetError, LocalOptions, Parts};
use crate::backend::Backend;
use crate::config::Settings;
use crate::coordinator::{Coordinator, CoordinatorError, Lead};
use crate::error::Coded;
use crate::metric;
use crate::protocol::{AgentType, InstanceId};
use crate::resilience::Absence;
use crate::worker::{Worker, WorkerOptions};

/// How a process is asked to end.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Finish what runs, take nothing new.
    pub gently: CancellationToken,
    /// Cut running calls off as well; they are charged in full.
    pub at_once: CancellationToken,
}

/// How often a standby asks for the lead: a dead leader's lease ends when it is buried, and work has to go on soon after.
const STANDBY: Duration = Duration::from_millis(250);

/// Works on tasks of `agents` until `stop`, then drains, at once if it says so.
///
/// # Errors
/// [`FleetError::Worker`] when the worker cannot go on.
pub async fn work(
    backend: &Backend,
    parts: Parts,
    instance: InstanceId,
    agents: Vec<AgentType>,
    slots: u32,
    drain: Duration,
    stop: Stop,
) -> Result<(), FleetError> {
    let executor = parts.executor(backend, &instance);
    let options = WorkerOptions { instance, agents, slots, drain };
    let worker = Worker::new(backend.clone(), options, executor);
    let abort = worker.abort_handle();
    let run = worker.run(stop.gently);
    tokio::pin!(run);
    let outcome = tokio::select! {
        ended = &mut run => ended,
        () = stop.at_once.cancelled() => {
            abort.cancel();
            run.await
        }
    };
    parts.stop().await;
    Ok(outcome?)
}

/// A term that lasted this long shows that the stores are there, even if it ended because they went away.
const STEADY: Duration = Duration::from_secs(30);

/// Leads all jobs until `stop`; stands by while another coordinator leads, and again when the lead is lost or the stores are
/// away for a while: everything that was not done yet is found again in the logs.
///
/// # Errors
/// Whatever ends a coordinator for good, stores that stay away for minutes included.
pub async fn serve(
    backend: &Backend,
    settings: &Settings,
    base: &Path,
    instance: InstanceId,
    stop: CancellationToken,
) -> Result<(), FleetError> {
    let options = LocalOptions { instance, lead: Lead::All, slots: 0, drain: Duration::ZERO };
    let estimator = super::assemble::estimator(settings, base)?;
    let (mut stands_by, mut absence) = (false, Absence::default());
    while !stop.is_cancelled() {
        let mut began = Instant::now();
        let error =
            match Coordinator::elect(backend.clone(), coordinator_options(estimator.clone(), settings, &options)).await
            {
                Ok(coordinator) => {
                    tracing::info!("leading");
                    stands_by = false;
                    let ended = coordinator.run(stop.clone()).await;
                    if began.elapsed() >= STEADY {
                        absence.end();
                        began = Instant::now();
                    }
                    match ended {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Err(CoordinatorError::NotLeader { holder }) => {
                    absence.end();
                    if !std::mem::replace(&mut stands_by, true) {
                        metric::leads(false);
                        tracing::info!(%holder, "standing by");
                    }
                    pause(&stop, STANDBY).await;
                    continue;
                }
                Err(error) => error,
            };
        let wait = match &error {
            CoordinatorError::Deposed => {
                tracing::warn!("the lead was lost");
                Some(STANDBY)
            }
            CoordinatorError::Backend(cause) => {
                tracing::warn!(error = %cause, "the stores do not answer; trying again");
                absence.pause(cause.retry(), began)
            }
            _ => None,
        };
        let Some(wait) = wait else { return Err(error.into()) };
        pause(&stop, wait).await;
    }
    Ok(())
}

/// Waits, unless the process is to stop.
async fn pause(stop: &CancellationToken, wait: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(wait) => {}
    }
}
