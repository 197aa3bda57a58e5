//! What a data directory holds: jobs, money, the stored outcomes of attempts.
//!
//! Read through the library's traits, for the files of a store are nobody's interface; this must never write to a job.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codeswarm::backend::embedded::{self, Durability};
use codeswarm::backend::{Backend, Balance, Entry, EntryFilter, Scope};
use codeswarm::clock::Clock;
use codeswarm::job::Job;
use codeswarm::llm::replay::Bill;
use codeswarm::protocol::{InstanceId, JobId, TaskId};
use tokio::runtime::Runtime;

use super::PATIENCE;

/// An opened data directory, through the same library that the programs use.
pub(crate) struct Books {
    pub(crate) runtime: Runtime,
    pub(crate) backend: Backend,
}

impl Books {
    /// Opens `data` itself; processes on it that have died are reaped, as any program would.
    pub(crate) fn open(data: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let instance = InstanceId::fresh("test");
        let opening = embedded::open(data, &instance, Durability::Process, Clock::system());
        let backend = runtime.block_on(opening).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
        Self { runtime, backend }
    }

    /// Opens a copy of `data`, so that looking changes nothing. The directory must not be in use.
    pub(crate) fn open_copy(data: &Path, copy: &Path) -> Self {
        copy_directory(data, copy);
        Self::open(copy)
    }

    /// All jobs, oldest first.
    pub(crate) fn jobs(&self) -> Vec<JobId> {
        let jobs = self.runtime.block_on(self.backend.events.jobs()).unwrap();
        jobs.into_iter().map(|entry| entry.job).collect()
    }

    /// The only job.
    #[track_caller]
    pub(crate) fn only_job(&self) -> JobId {
        let jobs = self.jobs();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs[0].clone()
    }

    /// The fold of the job's log.
    pub(crate) fn job(&self, id: &JobId) -> Job {
        let log = self.runtime.block_on(self.backend.events.read(id, 0, 100_000)).unwrap();
        Job::replay(id.clone(), &log).expect("the log folds")
    }

    /// Waits until the job has ended and answers it.
    #[track_caller]
    pub(crate) fn wait_until_ended(&self, id: &JobId) -> Job {
        let deadline = Instant::now() + PATIENCE;
        let mut seq = 0;
        loop {
            let log = self.runtime.block_on(self.backend.events.read(id, seq, 100_000)).unwrap();
            seq = log.last().map_or(seq, |recorded| recorded.seq);
            let job = self.job(id);
            if job.end().is_some() {
                return job;
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            assert!(!rest.is_zero(), "job {id} is {:?} after {PATIENCE:?}", job.status());
            self.runtime.block_on(self.backend.events.wait(id, seq, rest)).unwrap();
        }
    }

    /// The job's balance.
    pub(crate) fn balance(&self, id: &JobId) -> Balance {
        self.runtime.block_on(self.backend.ledger.balance(&Scope::Job(id.clone()))).unwrap()
    }

    /// The job's ledger entries, oldest first.
    pub(crate) fn entries(&self, id: &JobId) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let after = entries.last().map_or(0, |entry| entry.id);
            let filter = EntryFilter { job: Some(id.clone()), after, ..EntryFilter::default() };
            let page = self.runtime.block_on(self.backend.ledger.entries(filter)).unwrap();
            if page.is_empty() {
                return entries;
            }
            entries.extend(page);
        }
    }

    /// Waits until the ledger has an entry of the job that `wanted` accepts. The ledger tells nobody about news, so it is
    /// asked again and again.
    #[track_caller]
    pub(crate) fn wait_for_entry(&self, id: &JobId, wanted: impl Fn(&Entry) -> bool) -> Entry {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(entry) = self.entries(id).into_iter().find(&wanted) {
                return entry;
            }
            assert!(Instant::now() < deadline, "no such entry after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Tasks of which an attempt has a stored result that is a success, with the number of such attempts.
    pub(crate) fn stored_successes(&self, id: &JobId) -> BTreeMap<TaskId, u32> {
        let prefix = format!("attempt/{id}/");
        let snapshot = self.runtime.block_on(self.backend.state.snapshot(&prefix)).unwrap();
        let mut found = BTreeMap::new();
        for entry in snapshot.entries {
            let value = entry.value.expect("living");
            let record: serde_json::Value = serde_json::from_slice(&value).unwrap();
            let (task, _) = entry.key[prefix.len()..].rsplit_once('/').unwrap();
            // How an outcome is spelled is the worker's affair; that a receipt means success is the protocol's.
            if !record["outcome"].is_null() && record["outcome"].to_string().contains("\"receipt\"") {
                *found.entry(TaskId::new(task).unwrap()).or_insert(0) += 1;
            }
        }
        found
    }
}

/// Billed calls by request key; none when nothing was ever billed. A line that a kill cut short would be reported.
pub(crate) fn billed_calls(bill: &Path) -> BTreeMap<Arc<str>, u64> {
    if bill.exists() { Bill::load(bill).expect("the bill is whole").calls_by_key() } else { BTreeMap::new() }
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
