//! Whether this process lives, and whether it should be given work.
//!
//! Two questions with different answers: a process whose stores are away is alive and not ready, one that drains likewise.
//! Only atomics, so that asking never waits for anybody; nothing here may ask a store.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Silence of the main runtime after which the process counts as hung.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Silence of the stores after which the process is not ready.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// Stands for "never" where an instant is expected.
const NEVER: u64 = u64::MAX;

/// What a process knows about itself. Instants are milliseconds since it started.
#[derive(Debug)]
pub struct Health {
    start: Instant,
    pulse: AtomicU64,
    answer: AtomicU64,
    draining: AtomicBool,
    /// The loop that died, once one has.
    fault: Mutex<Option<String>>,
    /// The store that failed last.
    silent: Mutex<Option<&'static str>>,
}

impl Default for Health {
    /// Alive, and not ready yet.
    fn default() -> Self {
        Self {
            start: Instant::now(),
            pulse: AtomicU64::new(0),
            answer: AtomicU64::new(NEVER),
            draining: AtomicBool::new(false),
            fault: Mutex::default(),
            silent: Mutex::default(),
        }
    }
}

impl Health {
    /// The main runtime runs.
    pub(super) fn pulse(&self) {
        self.pulse.store(self.now(), Ordering::Relaxed);
    }

    /// All stores have answered.
    pub(super) fn stores_answer(&self) {
        self.answer.store(self.now(), Ordering::Relaxed);
    }

    /// A store has not.
    pub(super) fn stores_fail(&self, store: &'static str) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = Some(store);
    }

    /// The process takes nothing new from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// A loop of the process has died; it is about to end.
    pub fn fail(&self, what: &str) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(what.to_owned());
    }

    /// Whether the process lives; else why not.
    ///
    /// # Errors
    /// One sentence.
    pub fn alive(&self) -> Result<(), String> {
        self.alive_at(self.now())
    }

    /// Whether the process should be given work; else why not.
    ///
    /// # Errors
    /// One sentence.
    pub fn ready(&self) -> Result<(), String> {
        self.ready_at(self.now())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    fn alive_at(&self, now: u64) -> Result<(), String> {
        if let Some(fault) = self.fault.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Err(fault.clone());
        }
        let pause = Duration::from_millis(now.saturating_sub(self.pulse.load(Ordering::Relaxed)));
        if pause > LONGEST_PAUSE {
            return Err(format!("the main loop has not run for {} s", pause.as_secs()));
        }
        Ok(())
    }

    fn ready_at(&self, now: u64) -> Result<(), String> {
        self.alive_at(now)?;
        if self.draining.load(Ordering::Relaxed) {
            return Err("draining: running work is being finished, nothing new is taken".into());
        }
        let answer = self.answer.load(Ordering::Relaxed);
        let silent = *self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = silent.unwrap_or("a store");
        if answer == NEVER {
            return Err(format!("starting: the stores have not answered yet (waiting for {silent})"));
        }
        let silence = Duration::from_millis(now.saturating_sub(answer));
        if silence > LONGEST_SILENCE {
            return Err(format!("{silent} has not answered for {} s", silence.as_secs()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_while_its_runtime_runs_and_none_of_its_loops_has_died() {
        let health = Health::default();
        assert_eq!(health.alive_at(5_000), Ok(()));
        assert!(health.alive_at(5_001).unwrap_err().contains("main loop"));
        health.fail("the intake loop ended");
        assert_eq!(health.alive_at(0).unwrap_err(), "the intake loop ended");
    }

    #[test]
    fn a_process_without_stores_is_alive_and_not_ready_and_draining_ends_readiness_at_once() {
        let health = Health::default();
        assert!(health.ready_at(0).unwrap_err().contains("starting"));
        health.answer.store(1_000, Ordering::Relaxed);
        health.pulse.store(4_000, Ordering::Relaxed);
        assert_eq!(health.ready_at(6_000), Ok(()));
        health.stores_fail("Redis");
        assert!(health.ready_at(6_001).unwrap_err().contains("Redis"));
        assert_eq!(health.alive_at(6_001), Ok(()));
        health.drain();
        assert!(health.ready_at(1_000).unwrap_err().contains("draining"));
        assert_eq!(health.alive_at(1_000), Ok(()));
    }
}
