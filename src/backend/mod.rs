//! Seven small traits behind which all shared state lives, and the error they share.
//!
//! Everything above this room is written against [`Backend`] only, so that one machine with a SQLite file and a
//! cluster with JetStream and Redis run the very same code. The promises are written on the traits, stated once as
//! tests in `tests/it/conformance/`, and kept by every implementation without capability flags.
//!
//! Rules that hold for all seven:
//! - An error from a write means *unknown*, not *failed*: repeat it with the same id.
//! - Every mutating step is idempotent by an id and answers a replay with the recorded outcome; only [`RateTable`], whose
//!   states are hints, counts a repeated step twice.
//! - No step spans two traits. Whoever needs several steps orders them so that a crash between any two is harmless.
//! - Time is the store's clock, never the caller's.
//! - *Durable* means that the death of any process changes nothing. Loss of power may undo the newest steps in the order
//!   they came, except those that must not be undone: money set aside, limits, job logs, commands.

mod bound;
pub mod broker;
pub(crate) mod delay;
mod digest;
pub mod distributed;
pub mod embedded;
pub mod error;
pub mod events;
mod journal;
pub mod ledger;
pub mod locks;
pub mod nats;
pub mod open;
pub mod presence;
pub mod rates;
pub mod redis;
pub mod state;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use broker::{Broker, DeadLetter, Delivery, DeliveryTag, Depth, Disposition, Outgoing, Queue, Signal};
pub use error::BackendError;
pub use events::{EventLog, JobEntry};
pub use ledger::{
    Adjustment, Balance, Entry, EntryFilter, EntryKind, Ledger, Rebuilt, ReservationState, ReserveOutcome,
    ReserveRequest, Scope, SettleOutcome, Settlement, Standing,
};
pub use locks::{Acquired, LockInfo, LockMode, LockRequest, LockTable};
pub use rates::{
    Amounts, GatePolicy, GateStep, GateView, Headroom, Limits, RateState, RateTable, Reading, Take, Taken,
};
pub use state::{Change, Condition, Expected, Snapshot, StateStore, Versioned, Write};

use crate::clock::Clock;
use crate::protocol::ArtifactRef;

/// Immutable bytes by SHA-256.
///
/// Promises: `put` is durable before it answers and idempotent (same bytes, same reference); `get` answers exactly
/// the bytes that were put or an error, never others: a digest that does not match is [`BackendError::Corrupt`].
#[async_trait]
pub trait Artifacts: Send + Sync {
    /// Stores `bytes`.
    async fn put(&self, bytes: Bytes) -> Result<ArtifactRef, BackendError>;

    /// Reads what was stored under `artifact`; [`BackendError::NotFound`] when nothing was.
    async fn get(&self, artifact: &ArtifactRef) -> Result<Bytes, BackendError>;
}

/// The opened stores of one deployment.
#[derive(Clone)]
pub struct Backend {
    /// Durable queues.
    pub broker: Arc<dyn Broker>,
    /// Job histories.
    pub events: Arc<dyn EventLog>,
    /// Immutable bytes.
    pub artifacts: Arc<dyn Artifacts>,
    /// Versioned keys.
    pub state: Arc<dyn StateStore>,
    /// Money.
    pub ledger: Arc<dyn Ledger>,
    /// Leases.
    pub locks: Arc<dyn LockTable>,
    /// Allowances and breakers of providers.
    pub rates: Arc<dyn RateTable>,
    /// The stores' clock: the one all processes of the deployment agree on.
    pub clock: Clock,
    /// How long a delivery stays with its consumer without [`Disposition::Progress`].
    pub delivery_lease: Duration,
}
