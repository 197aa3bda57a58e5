//! What a long-running process tells about itself: health, readiness, metrics, log lines.
//!
//! Health is answered by a thread with a runtime of its own, so that no amount of work makes a process look dead, and it
//! speaks of this process only: a liveness probe that asks the stores would restart a whole fleet when a store is down. Nothing
//! here may ever decide what a job does, and no answer may hold a secret.

mod ask;
mod error;
mod gauges;
mod health;
mod logs;
mod recorder;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use ask::{Healthcheck, default_url};
pub use error::TelemetryError;
pub use gauges::watch_stores;
pub use health::Health;
pub use logs::{Speaker, start_logs};

use crate::backend::{Backend, BackendError};
use crate::clock::Clock;
use crate::metric;
use crate::protocol::ArtifactRef;

/// How often the main runtime shows that it runs.
const PULSE: Duration = Duration::from_secs(1);

/// How often the stores are asked whether they answer, and how long they may take. Two answers may be missing before the
/// process counts as not ready.
const PROBE: Duration = Duration::from_secs(2);

/// A key that nobody writes.
const PROBE_KEY: &str = "telemetry/probe";

/// The running telemetry of a process; it ends when this is dropped.
#[derive(Debug)]
pub struct Telemetry {
    health: Arc<Health>,
    address: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Telemetry {
    /// Begins to answer on `listen`; without an address, health is still kept and nobody is told.
    ///
    /// # Errors
    /// [`TelemetryError::Listen`] when the address cannot be used, [`TelemetryError::Start`] when the system has no thread
    /// for it.
    pub fn start(listen: Option<SocketAddr>) -> Result<Self, TelemetryError> {
        let health = Arc::new(Health::default());
        let stop = CancellationToken::new();
        let address = match listen {
            None => None,
            Some(listen) => {
                let metrics = recorder::install();
                metric::process_started(Clock::system().now());
                Some(server::start(listen, Arc::clone(&health), metrics, stop.clone())?)
            }
        };
        let pulse = tokio::spawn(beat(Arc::clone(&health)));
        Ok(Self { health, address, tasks: vec![pulse], stop })
    }

    /// What the process knows about itself.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Where it listens, the real port included; `None` when nobody asked for it.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// From now on the process is ready while the stores of `backend` answer.
    pub fn probe(&mut self, backend: &Backend) {
        if self.address.is_some() {
            self.tasks.push(tokio::spawn(probe(backend.clone(), Arc::clone(&self.health))));
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Shows that the main runtime runs.
async fn beat(health: Arc<Health>) {
    let mut tick = tokio::time::interval(PULSE);
    loop {
        tick.tick().await;
        health.pulse();
    }
}

/// Asks both halves of the stores something that costs next to nothing.
async fn probe(backend: Backend, health: Arc<Health>) {
    let mut tick = tokio::time::interval(PROBE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let keys = [PROBE_KEY.to_owned()];
    let nothing = ArtifactRef { sha256: "0".repeat(64), bytes: 1 };
    loop {
        tick.tick().await;
        let state = bounded(async { backend.state.get(&keys).await.map(drop) });
        let artifacts = bounded(async {
            match backend.artifacts.get(&nothing).await {
                Err(BackendError::NotFound { .. }) => Ok(()),
                other => other.map(drop),
            }
        });
        let (state, artifacts) = tokio::join!(state, artifacts);
        metric::store_up("state", state.is_ok());
        metric::store_up("artifacts", artifacts.is_ok());
        match state.and(artifacts) {
            Ok(()) => health.stores_answer(),
            Err(why) => {
                tracing::debug!(%why, "the stores do not answer");
                health.stores_fail(why);
            }
        }
    }
}

/// Waits for an answer for a while. What is told to strangers is which store failed, never the error's own words.
async fn bounded(answer: impl Future<Output = Result<(), BackendError>>) -> Result<(), &'static str> {
    match tokio::time::timeout(PROBE, answer).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            metric::store_failed(error.store());
            Err(error.store())
        }
        Err(_) => Err("a store"),
    }
}
