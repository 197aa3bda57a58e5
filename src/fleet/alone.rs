//! One part of the fleet alone in its process: a worker, or a coordinator.
//!
//! A standby is an ordinary coordinator that has not got the lead yet; losing the lead puts it back to standing by instead
//! of ending the process. Worker and coordinator meet in the stores only, never in memory.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::local::coordinator_options;
use super::{FleetError, LocalOptions, Parts};
use crate::backend::Backend;
use crate::config::Settings;
use crate::coordinator::{Coordinator, CoordinatorError, Lead};
use crate::metric;
use crate::protocol::{AgentType, InstanceId};
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
    let options = WorkerOptions { instance, agents, slots, drain };
    let worker = Worker::new(backend.clone(), options, parts.executor(backend));
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

/// Leads all jobs until `stop`; stands by while another coordinator leads, and again when the lead is lost.
///
/// # Errors
/// Whatever ends a coordinator except losing the lead.
pub async fn serve(
    backend: &Backend,
    settings: &Settings,
    base: &Path,
    instance: InstanceId,
    stop: CancellationToken,
) -> Result<(), FleetError> {
    let options = LocalOptions { instance, lead: Lead::All, slots: 0, drain: Duration::ZERO };
    let estimator = super::assemble::estimator(settings, base)?;
    let mut stands_by = false;
    while !stop.is_cancelled() {
        match Coordinator::elect(backend.clone(), coordinator_options(estimator.clone(), settings, &options)).await {
            Ok(coordinator) => {
                tracing::info!("leading");
                stands_by = false;
                match coordinator.run(stop.clone()).await {
                    Err(CoordinatorError::Deposed) => tracing::warn!("the lead was lost"),
                    outcome => return Ok(outcome?),
                }
            }
            Err(CoordinatorError::NotLeader { holder }) => {
                if !std::mem::replace(&mut stands_by, true) {
                    metric::leads(false);
                    tracing::info!(%holder, "standing by");
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(STANDBY) => {}
        }
    }
    Ok(())
}
