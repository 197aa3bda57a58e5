//! The connections of this process: made, named, shared, given up and made anew.
//!
//! Connections are multiplexed, so any number of tasks share a few, and a request waits for its own answer only. The pool
//! makes and counts them; each is taken out for as long as it is well, because the pool's check at every checkout
//! (UNWATCH and PING) would double the cost of a request. The client's default of 500 ms for an answer must never apply
//! anywhere: it takes a busy server for a dead one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ConnectionInfo, RedisError, ScriptInvocation, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::fault::{STORE, Verdict, classify, verdict};
use crate::backend::BackendError;
use crate::clock::random_token;

/// First and longest pause before a request is repeated; real ones are between half and all of it.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Requests that wait in a connection's queue before their callers have to wait for a place.
const QUEUED_REQUESTS: usize = 512;

/// What is sent.
pub(super) enum Request<'a> {
    /// A script.
    Script(ScriptInvocation<'a>),
    /// A single command.
    Command(Cmd),
}

impl<'a> From<ScriptInvocation<'a>> for Request<'a> {
    fn from(call: ScriptInvocation<'a>) -> Self {
        Self::Script(call)
    }
}

impl From<Cmd> for Request<'_> {
    fn from(command: Cmd) -> Self {
        Self::Command(command)
    }
}

impl Request<'_> {
    async fn send(&self, connection: &mut MultiplexedConnection) -> Result<Value, RedisError> {
        match self {
            // Loads the script and repeats when the server does not know it (any more).
            Self::Script(call) => call.invoke_async(connection).await,
            Self::Command(command) => command.query_async(connection).await,
        }
    }
}

/// A connection in use, and which one since the start it is.
struct Open {
    number: u64,
    connection: Connection,
}

/// The place of one connection.
#[derive(Default)]
struct Slot {
    open: RwLock<Option<Open>>,
    connecting: Mutex<()>,
}

impl Slot {
    fn current(&self) -> Option<(u64, MultiplexedConnection)> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(|open| (open.number, MultiplexedConnection::clone(&open.connection)))
    }

    /// Gives the connection up unless it has been replaced. Whoever still waits for an answer on it may get it.
    fn give_up(&self, number: u64) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(broken) = open.take_if(|open| open.number == number) {
            drop(Connection::take(broken.connection));
        }
    }
}

/// Growing pauses between attempts, with jitter, so that a fleet does not come back in one instant.
struct Pauses(Duration);

impl Pauses {
    /// Waits for the next pause; false when it would end after `deadline`.
    async fn pass(&mut self, deadline: Instant) -> bool {
        let share = f64::from(u16::from_str_radix(&random_token(4), 16).unwrap_or_default()) / f64::from(u16::MAX);
        let end = Instant::now() + self.0.mul_f64(share.mul_add(0.5, 0.5));
        self.0 = (self.0 * 2).min(PAUSES.1);
        if end >= deadline {
            return false;
        }
        sleep_until(end).await;
        true
    }
}

/// The connections.
pub(super) struct Links {
    pool: Pool,
    slots: Box<[Slot]>,
    next: AtomicUsize,
    made: AtomicU64,
    patience: Duration,
    address: String,
    name: String,
}

impl Links {
    /// At most `connections` to the server of `info`, which show up there under `name`; made when they are needed. Nothing
    /// takes longer than `patience`.
    pub(super) fn new(
        info: ConnectionInfo,
        connections: usize,
        patience: Duration,
        name: String,
    ) -> Result<Self, BackendError> {
        let address = info.addr().to_string();
        let manager = Manager::new_with_config(info, config(patience)).map_err(|error| classify(&error, &address))?;
        let pool = Pool::builder(manager)
            .max_size(connections.max(1))
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(patience))
            .wait_timeout(Some(patience))
            .recycle_timeout(Some(patience))
            .build()
            .map_err(|error| BackendError::Unavailable { store: STORE, reason: error.to_string() })?;
        let slots = (0..connections.max(1)).map(|_| Slot::default()).collect();
        Ok(Self { pool, slots, next: AtomicUsize::new(0), made: AtomicU64::new(0), patience, address, name })
    }

    /// Sends `request` and answers what the server says, repeating it while the server cannot answer and there is time:
    /// every script is idempotent, so that a lost answer does no harm.
    pub(super) async fn ask<'a>(&self, request: impl Into<Request<'a>>) -> Result<Value, BackendError> {
        let next = || self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        self.ask_on(next, request.into()).await
    }

    /// The same, always on one connection: what is asked later is answered later, as long as that connection is well.
    pub(super) async fn ask_in_order<'a>(&self, request: impl Into<Request<'a>>) -> Result<Value, BackendError> {
        self.ask_on(|| 0, request.into()).await
    }

    async fn ask_on(&self, slot: impl Fn() -> usize, request: Request<'_>) -> Result<Value, BackendError> {
        let deadline = Instant::now() + self.patience;
        let mut pauses = Pauses(PAUSES.0);
        loop {
            let (slot, number, mut connection) = self.connection(slot(), deadline, &mut pauses).await?;
            let error = match timeout_at(deadline, request.send(&mut connection)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => {
                    // Perhaps the other end is gone without a word; a new connection would notice.
                    slot.give_up(number);
                    return Err(self.silent());
                }
            };
            match verdict(&error) {
                Verdict::Final => return Err(classify(&error, &self.address)),
                Verdict::Wait => {}
                Verdict::Reconnect => slot.give_up(number),
            }
            if !pauses.pass(deadline).await {
                return Err(classify(&error, &self.address));
            }
        }
    }

    /// A connection, made if need be.
    async fn connection(
        &self,
        slot: usize,
        deadline: Instant,
        pauses: &mut Pauses,
    ) -> Result<(&Slot, u64, MultiplexedConnection), BackendError> {
        let slot = &self.slots[slot];
        if let Some((number, connection)) = slot.current() {
            return Ok((slot, number, connection));
        }
        let _connecting = timeout_at(deadline, slot.connecting.lock()).await.map_err(|_| self.silent())?;
        loop {
            if let Some((number, connection)) = slot.current() {
                return Ok((slot, number, connection));
            }
            match timeout_at(deadline, self.connect()).await {
                Ok(Ok(connection)) => {
                    let number = self.made.fetch_add(1, Ordering::Relaxed);
                    let open = Some(Open { number, connection });
                    *slot.open.write().unwrap_or_else(PoisonError::into_inner) = open;
                }
                Ok(Err(error)) => {
                    let passes = matches!(error, BackendError::Unavailable { .. });
                    if !passes || !pauses.pass(deadline).await {
                        return Err(error);
                    }
                }
                Err(_) => return Err(self.silent()),
            }
        }
    }

    async fn connect(&self) -> Result<Connection, BackendError> {
        let mut connection = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => classify(&error, &self.address),
            other => BackendError::Unavailable { store: STORE, reason: format!("{other} (server {})", self.address) },
        })?;
        // For people who look at CLIENT LIST; a login that may not do this works all the same.
        let mut named = redis::cmd("CLIENT");
        let named = named.arg("SETNAME").arg(&self.name).query_async::<Value>(&mut connection).await;
        drop(named);
        Ok(connection)
    }

    /// How long a request may take.
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    /// What a caller is told who has waited for that long.
    pub(super) fn silent(&self) -> BackendError {
        let reason = format!("no answer from {} within {} ms", self.address, self.patience.as_millis());
        BackendError::Unavailable { store: STORE, reason }
    }
}

/// Settings of every connection for requests.
pub(super) fn config(patience: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(Some(patience))
        .set_pipeline_buffer_size(QUEUED_REQUESTS)
}
