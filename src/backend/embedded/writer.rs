//! The one thread that writes: it takes whatever is queued, runs it in one transaction and commits once.
//!
//! A commit costs about the same for one operation as for hundreds, so a full queue makes writing faster, and a lone
//! operation never waits for company. Time enters twice: deadlines of waiting callers are real time, everything
//! stored is the [`Clock`]'s. The thread must never wait for anything but its queue, the disk and SQLite's lock.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::broadcast;

use super::alive::{self, Guard, Lives};
use super::fault::{classify, io};
use super::flush::Flusher;
use super::inbox::Request;
use super::ledger::scopes::ScopeCache;
use super::step::{Call, Effects, Operation, Step};
use super::waiting::{Claim, WaitingRoom};
use super::{broker, maintenance};
use crate::backend::{BackendError, Signal};
use crate::clock::Clock;
use crate::protocol::InstanceId;

/// Most operations in one transaction.
const BATCH: usize = 512;

/// How often the database is compared while somebody waits (the event log promises at most 100 ms).
const POLL: Duration = Duration::from_millis(25);

/// How often dead processes and old rows are looked for.
const MAINTENANCE: Duration = Duration::from_secs(1);

/// The writer thread's own.
pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) file: String,
    pub(super) clock: Clock,
    pub(super) process: InstanceId,
    pub(super) queue: Receiver<Request>,
    pub(super) signals: broadcast::Sender<Signal>,
    /// The lock on this process's life; others take over once it is gone.
    pub(super) lives: Lives,
    pub(super) room: WaitingRoom,
    /// Start of this process's lease tokens.
    pub(super) next_lease: i64,
    /// Newest signal already passed on.
    pub(super) last_signal: i64,
    /// Answers steps that have to survive loss of power; `None` when nothing has to.
    pub(super) flusher: Option<Flusher>,
}

/// What a committed transaction leaves to do.
struct Committed {
    effects: Effects,
    claims: Vec<Claim>,
}

/// Where a transaction failed.
enum Failure {
    /// In an operation: the others may still succeed.
    Inside(rusqlite::Error),
    /// At its beginning or its end: none of it can.
    Whole(rusqlite::Error),
}

impl Failure {
    fn into_error(self, file: &str) -> BackendError {
        let (Self::Inside(error) | Self::Whole(error)) = self;
        classify(&error, file)
    }
}

impl Writer {
    /// Announces this process and takes over from dead ones, before anybody else may start or look.
    pub(super) fn begin(&mut self, guard: Guard) -> Result<(), BackendError> {
        let (announce, _) = Call::new(|step: &mut Step<'_>| Ok(alive::announce(step)?), None);
        let mut operations: Vec<Box<dyn Operation>> = vec![Box::new(announce)];
        let reap = self.lives.dead_under(guard).map_err(|error| io(self.file.as_ref(), &error))?;
        operations.extend(reap.map(|reap| Box::new(reap) as Box<dyn Operation>));
        match self.transaction(&mut operations, false, false) {
            Ok(_) => operations.into_iter().for_each(|operation| operation.answer(None)),
            Err(failure) => return Err(failure.into_error(&self.file)),
        }
        Ok(())
    }

    /// Works until every handle on the store is gone.
    pub(super) fn run(mut self) {
        let mut data_version = 0;
        let (mut next_poll, mut next_maintenance) = (Instant::now(), Instant::now());
        let mut operations = Vec::with_capacity(BATCH);
        loop {
            if !self.receive(&mut operations, next_poll, next_maintenance) {
                return;
            }
            let now = Instant::now();
            let maintain = now >= next_maintenance;
            if maintain {
                operations.extend(maintenance::operations(&self.db, &self.lives, self.clock.now()));
                next_maintenance = now + MAINTENANCE;
            }
            // Leases and delays end without anybody writing, so a poll serves everyone; only what others wrote is
            // worth comparing the rest with.
            let poll = maintain || (self.is_listening() && now >= next_poll);
            let others_wrote = poll && self.others_wrote(&mut data_version);
            self.turn(&mut operations, poll);
            if others_wrote {
                self.pass_on_signals();
            }
            if let Err(error) = self.room.compare(&self.db, others_wrote) {
                tracing::warn!(%error, "cannot compare waiting readers with the store");
            }
            if poll || self.room.deadline().is_some_and(|deadline| deadline <= now) {
                self.room.sweep(now);
            }
            if poll {
                next_poll = now + POLL;
            }
        }
    }

    /// Whether anybody in this process wants to know what other processes do.
    fn is_listening(&self) -> bool {
        self.room.deadline().is_some() || self.signals.receiver_count() > 0
    }

    /// Waits until something is queued or due and takes what is queued; false when every handle is gone.
    fn receive(&mut self, operations: &mut Vec<Box<dyn Operation>>, poll: Instant, maintenance: Instant) -> bool {
        let mut wake = if self.is_listening() { poll.min(maintenance) } else { maintenance };
        wake = self.room.deadline().map_or(wake, |deadline| wake.min(deadline));
        match self.queue.recv_timeout(wake.saturating_duration_since(Instant::now())) {
            Ok(request) => self.sort(request, operations),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while operations.len() < BATCH
            && let Ok(request) = self.queue.try_recv()
        {
            self.sort(request, operations);
        }
        true
    }

    fn sort(&mut self, request: Request, operations: &mut Vec<Box<dyn Operation>>) {
        match request {
            Request::Run(operation) => operations.push(operation),
            Request::Pull(puller) => self.room.pull(puller),
            Request::Tail(tailer) => self.room.tail(tailer),
            Request::Follow(follower) => self.room.follow(follower),
        }
    }

    /// Whether another connection has committed since `known`, which is brought up to date.
    fn others_wrote(&self, known: &mut i64) -> bool {
        let version = self.db.prepare_cached("PRAGMA data_version").and_then(|mut get| get.query_row([], |r| r.get(0)));
        version.is_ok_and(|version: i64| std::mem::replace(known, version) != version)
    }

    /// Runs what is queued; `all` also serves pulls that have looked before.
    fn turn(&mut self, operations: &mut Vec<Box<dyn Operation>>, all: bool) {
        if operations.is_empty() && !self.room.has_work(&self.db, self.clock.now(), all).unwrap_or(true) {
            self.room.deliver(Vec::new());
            return;
        }
        match self.transaction(operations, true, all) {
            Ok(committed) => {
                self.answer(operations);
                self.finish(committed);
            }
            Err(Failure::Whole(error)) => {
                operations.drain(..).for_each(|operation| operation.answer(Some(classify(&error, &self.file))));
                self.room.fail(|| classify(&error, &self.file));
            }
            Err(Failure::Inside(_)) => self.one_by_one(operations),
        }
    }

    /// Answers committed operations: at once, or after a flush where that is what the answer means.
    fn answer(&self, operations: &mut Vec<Box<dyn Operation>>) {
        let Some(flusher) = &self.flusher else {
            operations.drain(..).for_each(|operation| operation.answer(None));
            return;
        };
        let flushed: Vec<_> = operations.extract_if(.., |operation| operation.must_flush()).collect();
        if !flushed.is_empty() {
            flusher.answer(flushed);
        }
        operations.drain(..).for_each(|operation| operation.answer(None));
    }

    /// Runs each operation in a transaction of its own, so that only the faulty one fails.
    fn one_by_one(&mut self, operations: &mut Vec<Box<dyn Operation>>) {
        for operation in operations.drain(..) {
            let mut alone = [operation];
            let outcome = self.transaction(&mut alone, false, false);
            let [operation] = alone;
            match outcome {
                Ok(committed) => {
                    self.answer(&mut vec![operation]);
                    self.finish(committed);
                }
                Err(failure) => {
                    let error = failure.into_error(&self.file);
                    tracing::warn!(%error, "an operation of the embedded store failed");
                    operation.answer(Some(error));
                }
            }
        }
        match self.transaction(&mut [], true, true) {
            Ok(committed) => self.finish(committed),
            Err(Failure::Inside(error) | Failure::Whole(error)) => self.room.fail(|| classify(&error, &self.file)),
        }
    }

    /// One transaction: all operations, then messages for those who wait.
    fn transaction(
        &mut self,
        operations: &mut [Box<dyn Operation>],
        claim: bool,
        all: bool,
    ) -> Result<Committed, Failure> {
        let outcome = self.attempt(operations, claim, all);
        if outcome.is_err() && !self.db.is_autocommit() {
            // Nothing can be done about a rollback that fails; SQLite has then ended the transaction by itself.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        outcome
    }

    fn attempt(&mut self, operations: &mut [Box<dyn Operation>], claim: bool, all: bool) -> Result<Committed, Failure> {
        let execute = |sql| self.db.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        execute("BEGIN IMMEDIATE").map_err(Failure::Whole)?;
        let mut step = Step {
            db: &self.db,
            now: self.clock.now(),
            process: &self.process,
            next_lease: &mut self.next_lease,
            effects: Effects::default(),
            scopes: ScopeCache::default(),
            expired: None,
            must_flush: false,
            locks_purged: false,
        };
        for operation in operations {
            operation.run(&mut step).map_err(Failure::Inside)?;
        }
        step.scopes.write_back(&self.db).map_err(Failure::Inside)?;
        let claims = if claim { self.room.claim(&mut step, all).map_err(Failure::Inside)? } else { Vec::new() };
        let effects = step.effects;
        execute("COMMIT").map_err(Failure::Whole)?;
        Ok(Committed { effects, claims })
    }

    /// Tells everyone whom a committed transaction concerns.
    fn finish(&mut self, committed: Committed) {
        self.room.tell(&committed.effects);
        self.room.deliver(committed.claims);
        for signal in committed.effects.signals {
            // Nobody listening is fine: signals are hints.
            let _ = self.signals.send(signal);
        }
    }

    /// Passes on the signals of other processes.
    fn pass_on_signals(&mut self) {
        match broker::signals_after(&self.db, self.last_signal, &self.process) {
            Ok((last, signals)) => {
                self.last_signal = last;
                for signal in signals {
                    let _ = self.signals.send(signal);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read signals"),
        }
    }
}
