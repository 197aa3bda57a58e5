//! What is settled at a moment, and must never be paid for again.
//!
//! The server's bill and the stored results are two records that the program keeps apart; this holds them together.

use std::collections::BTreeMap;
use std::sync::Arc;

use codeswarm::job::Job;
use codeswarm::protocol::{TaskId, TaskKind};

use super::{Books, Sandbox, billed_calls};

/// Which requests have a stored result, and how often each was billed.
pub(crate) struct Settled {
    stored: Vec<String>,
    billed: BTreeMap<Arc<str>, u64>,
    /// The job has ended.
    pub(crate) ended: bool,
}

impl Settled {
    /// Looks at a copy of the data directory, which no process may be using; `None` while there is no job.
    pub(crate) fn now(sandbox: &Sandbox) -> Option<Self> {
        let billed = billed_calls(&sandbox.bill());
        if !sandbox.data().exists() {
            assert!(billed.is_empty(), "calls were paid for outside of any job: {billed:?}");
            return None;
        }
        let copy = tempfile::tempdir().unwrap();
        let books = Books::open_copy(&sandbox.data(), &copy.path().join("data"));
        let id = books.jobs().pop()?;
        let job = books.job(&id);
        let stored = books.stored_successes(&id).keys().map(|task| request_key(&job, task)).collect();
        Some(Self { stored, billed, ended: job.end().is_some() })
    }

    /// How many requests have a stored result.
    pub(crate) fn results(&self) -> usize {
        self.stored.len()
    }

    /// Fails the test when a request with a stored result was billed since.
    #[track_caller]
    pub(crate) fn assert_not_paid_again(&self, sandbox: &Sandbox, context: &str) {
        let now = billed_calls(&sandbox.bill());
        for key in &self.stored {
            let before = self.billed.get(key.as_str()).copied().unwrap_or(0);
            assert!(before > 0, "{context}: {key} was stored and never billed");
            assert_eq!(now[key.as_str()], before, "{context}: {key} was stored and has been paid for again");
        }
    }
}

/// The request key under which the fake server bills a task of `job`.
fn request_key(job: &Job, task: &TaskId) -> String {
    let task = job.task(task).unwrap_or_else(|| panic!("{task} is not a task of {}", job.id()));
    match &task.kind {
        TaskKind::Plan { .. } => "plan".into(),
        TaskKind::FeaturePlan { feature, .. } => format!("feature-plan {feature}"),
        TaskKind::File { path, .. } => format!("file {path}"),
    }
}
