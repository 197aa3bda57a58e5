//! A [`RateTable`] in memory for this room's tests, on Tokio's clock, counting how often it is asked.
//!
//! Built on the same arithmetic as the real ones, so that a test of a wrapper can only differ from production in where the
//! state lies. It must never be reachable outside tests.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::backend::rates::gate::Gate;
use crate::backend::rates::meter::Bank;
use crate::backend::{BackendError, GatePolicy, GateStep, GateView, Limits, RateState, RateTable, Take, Taken};
use crate::clock::Timestamp;

pub(crate) struct TestTable {
    start: Instant,
    banks: Mutex<BTreeMap<String, Bank>>,
    gates: Mutex<BTreeMap<String, Gate>>,
    takes: AtomicU32,
    steps: AtomicU32,
    is_away: AtomicBool,
}

impl Default for TestTable {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            banks: Mutex::default(),
            gates: Mutex::default(),
            takes: AtomicU32::new(0),
            steps: AtomicU32::new(0),
            is_away: AtomicBool::new(false),
        }
    }
}

impl TestTable {
    pub(crate) fn takes(&self) -> u32 {
        self.takes.load(Ordering::Relaxed)
    }

    pub(crate) fn gate_steps(&self) -> u32 {
        self.steps.load(Ordering::Relaxed)
    }

    pub(crate) fn be_away(&self) {
        self.is_away.store(true, Ordering::Relaxed);
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_767_225_600_000).after(self.start.elapsed())
    }

    fn answer(&self) -> Result<(), BackendError> {
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(BackendError::Unavailable { store: "test", reason: "away".into() }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl RateTable for TestTable {
    async fn take(&self, key: &str, limits: &Limits, take: Take) -> Result<Taken, BackendError> {
        self.answer()?;
        self.takes.fetch_add(1, Ordering::Relaxed);
        Ok(self.banks.lock().unwrap().entry(key.into()).or_default().take(self.now(), limits, &take))
    }

    async fn gate(&self, key: &str, policy: &GatePolicy, step: GateStep) -> Result<GateView, BackendError> {
        self.answer()?;
        self.steps.fetch_add(1, Ordering::Relaxed);
        Ok(self.gates.lock().unwrap().entry(key.into()).or_default().step(self.now(), policy, &step))
    }

    async fn list(&self) -> Result<Vec<RateState>, BackendError> {
        let (banks, mut gates) = (self.banks.lock().unwrap(), self.gates.lock().unwrap());
        let states = banks
            .iter()
            .map(|(key, bank)| RateState::of(key.clone(), bank, gates.entry(key.clone()).or_default(), self.now()));
        Ok(states.collect())
    }
}
