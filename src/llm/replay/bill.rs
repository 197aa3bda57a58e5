//! The server's own bill, kept without looking at the client's ledger.
//!
//! A call is billed once its reply begins, whatever happens to it on the way; tests compare the sum with what the client
//! believes it spent. With a file, every call is one line appended in one write, so that the bill of a process that was
//! killed is complete, and several processes can share a file. The log must never be rewritten in place.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{LineFault, ReplayError};
use crate::protocol::{MicroUsd, Usage};

/// One billed call; one line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BillEntry {
    /// The request's key.
    pub key: Arc<str>,
    /// The model that was asked.
    pub model: String,
    /// Tokens by kind.
    pub usage: Usage,
    /// What they cost.
    pub cost_micros: MicroUsd,
}

/// What all calls so far cost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bill {
    /// Billed calls.
    pub calls: u64,
    /// Tokens by kind.
    pub usage: Usage,
    /// What they cost.
    pub cost_micros: MicroUsd,
    /// The same by request key.
    pub keys: BTreeMap<Arc<str>, Tally>,
    /// The same by the model that was asked.
    pub models: BTreeMap<String, Tally>,
}

/// What some calls cost together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Billed calls.
    pub calls: u64,
    /// Tokens by kind.
    pub usage: Usage,
    /// What they cost.
    pub cost_micros: MicroUsd,
}

impl Tally {
    fn add(&mut self, entry: &BillEntry) {
        self.calls += 1;
        self.usage = self.usage.plus(entry.usage);
        self.cost_micros = self.cost_micros.saturating_add(entry.cost_micros);
    }
}

impl Bill {
    /// Adds a call.
    pub fn add(&mut self, entry: &BillEntry) {
        self.calls += 1;
        self.usage = self.usage.plus(entry.usage);
        self.cost_micros = self.cost_micros.saturating_add(entry.cost_micros);
        self.keys.entry(entry.key.clone()).or_default().add(entry);
        match self.models.get_mut(&entry.model) {
            Some(tally) => tally.add(entry),
            None => self.models.entry(entry.model.clone()).or_default().add(entry),
        }
    }

    /// How often `key` was billed.
    #[must_use]
    pub fn calls_of(&self, key: &str) -> u64 {
        self.keys.get(key).map_or(0, |tally| tally.calls)
    }

    /// How often every key was billed.
    #[must_use]
    pub fn calls_by_key(&self) -> BTreeMap<Arc<str>, u64> {
        self.keys.iter().map(|(key, tally)| (key.clone(), tally.calls)).collect()
    }

    /// Sums up a log, whoever wrote it.
    ///
    /// # Errors
    /// [`ReplayError::File`], or [`ReplayError::Bill`] with the first wrong line.
    pub fn load(path: &Path) -> Result<Self, ReplayError> {
        let failed = |source| ReplayError::File { path: path.to_owned(), source };
        let mut bill = Self::default();
        for (index, line) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
            let entry = serde_json::from_str(&line.map_err(failed)?).map_err(|error| ReplayError::Bill {
                path: path.to_owned(),
                fault: LineFault { line: index + 1, why: error.to_string() },
            })?;
            bill.add(&entry);
        }
        Ok(bill)
    }
}

/// The running bill and its log.
#[derive(Debug)]
pub(super) struct BillKeeper {
    inner: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    bill: Bill,
    log: Option<(PathBuf, File)>,
    /// Reused for every line.
    line: Vec<u8>,
}

impl BillKeeper {
    /// Starts an empty bill, or goes on with the one at `path`.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, ReplayError> {
        let (mut bill, mut log) = (Bill::default(), None);
        if let Some(path) = path {
            let failed = |source| ReplayError::File { path: path.to_owned(), source };
            let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
            bill = Bill::load(path)?;
            log = Some((path.to_owned(), file));
        }
        Ok(Self { inner: Mutex::new(Kept { bill, log, line: Vec::new() }) })
    }

    /// Adds a call. The write is one short append to the page cache; handing it to another thread would cost more.
    pub(super) fn add(&self, entry: &BillEntry) -> Result<(), ReplayError> {
        let mut kept = self.lock();
        let Kept { bill, log, line } = &mut *kept;
        if let Some((path, file)) = log {
            line.clear();
            serde_json::to_writer(&mut *line, entry)
                .map_err(std::io::Error::from)
                .and_then(|()| {
                    line.push(b'\n');
                    file.write_all(line)
                })
                .map_err(|source| ReplayError::File { path: path.clone(), source })?;
        }
        bill.add(entry);
        Ok(())
    }

    /// What all calls so far cost.
    pub(super) fn snapshot(&self) -> Bill {
        self.lock().bill.clone()
    }

    /// Starts again from nothing, in the log, too.
    pub(super) fn reset(&self) -> Result<(), ReplayError> {
        let mut kept = self.lock();
        if let Some((path, file)) = &kept.log {
            file.set_len(0).map_err(|source| ReplayError::File { path: path.clone(), source })?;
        }
        kept.bill = Bill::default();
        Ok(())
    }

    /// A panic between two statements cannot leave a half-made bill worse than stopping to bill would be.
    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, output: u64) -> BillEntry {
        let usage = Usage { output, ..Usage::default() };
        BillEntry { key: key.into(), model: "m".into(), usage, cost_micros: MicroUsd(output * 2) }
    }

    #[test]
    fn a_log_survives_its_writer_and_is_continued() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("bill.jsonl");
        let first = BillKeeper::open(Some(&path)).expect("opens");
        let second = BillKeeper::open(Some(&path)).expect("opens");
        first.add(&entry("plan", 3)).expect("writes");
        second.add(&entry("file a", 5)).expect("writes");
        first.add(&entry("plan", 7)).expect("writes");
        drop((first, second));
        let bill = BillKeeper::open(Some(&path)).expect("opens").snapshot();
        assert_eq!((bill.calls, bill.usage.output, bill.cost_micros), (3, 15, MicroUsd(30)));
        assert_eq!((bill.calls_of("plan"), bill.calls_of("file a"), bill.calls_of("file b")), (2, 1, 0));
        let plan = bill.keys["plan"];
        assert_eq!((plan.calls, plan.usage.output, plan.cost_micros), (2, 10, MicroUsd(20)));
        assert_eq!(bill.models["m"], Tally { calls: 3, usage: bill.usage, cost_micros: MicroUsd(30) });
        let json = serde_json::to_string(&bill).expect("serializes");
        assert_eq!(serde_json::from_str::<Bill>(&json).expect("reads"), bill);
    }

    #[test]
    fn a_reset_empties_the_log_too() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("bill.jsonl");
        let keeper = BillKeeper::open(Some(&path)).expect("opens");
        keeper.add(&entry("plan", 3)).expect("writes");
        keeper.reset().expect("resets");
        keeper.add(&entry("plan", 1)).expect("writes");
        assert_eq!(Bill::load(&path).expect("valid"), keeper.snapshot());
        assert_eq!(keeper.snapshot().calls, 1);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("bill.jsonl");
        BillKeeper::open(Some(&path)).expect("opens").add(&entry("plan", 3)).expect("writes");
        OpenOptions::new().append(true).open(&path).expect("opens").write_all(b"{\"key\"").expect("writes");
        assert!(matches!(Bill::load(&path), Err(ReplayError::Bill { fault, .. }) if fault.line == 2));
    }
}
