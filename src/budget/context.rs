//! On whose behalf a call is made, and the ids of its reservations.
//!
//! A reservation id must never be used for two calls: the ledger answers a repeated id with the recorded outcome, so a
//! second call under it would run on money that is already spent. Clones of a context share its counter, and a random
//! token keeps two contexts apart even if somebody makes both for the same claim.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::backend::Scope;
use crate::clock;
use crate::protocol::{AgentType, FeatureId, InstanceId, JobId, TaskId};

/// Who calls, for which task, and whose money it is.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The job that pays.
    pub job: JobId,
    /// The task at work.
    pub task: TaskId,
    /// The agent type at work.
    pub agent: AgentType,
    /// This process.
    pub instance: InstanceId,
    /// Attempt of the task, from 1.
    pub attempt: u32,
    /// Number of the claim; differs between any two claims of the attempt.
    pub claim: u64,
    /// Every scope the calls fall in.
    pub scopes: Vec<Scope>,
    /// True for verification and repair.
    pub may_use_hold_back: bool,
    /// Calls of earlier attempts of the task that failed at the provider and may have been billed.
    pub failed_calls: u32,
    token: Arc<str>,
    calls: Arc<AtomicU32>,
}

impl CallContext {
    /// A context for one claim of `task`, paying from the account, the job and what its agent type may spend. Ordinary work: no hold-back.
    #[must_use]
    pub fn new(job: JobId, task: TaskId, agent: AgentType, instance: InstanceId, attempt: u32, claim: u64) -> Self {
        let scopes = vec![Scope::Account, Scope::Job(job.clone()), Scope::Agent(job.clone(), agent.clone())];
        let token = clock::random_token(8).into();
        let calls = Arc::new(AtomicU32::new(0));
        Self {
            job,
            task,
            agent,
            instance,
            attempt,
            claim,
            scopes,
            may_use_hold_back: false,
            failed_calls: 0,
            token,
            calls,
        }
    }

    /// The same context, paying from the slice of `feature` as well.
    #[must_use]
    pub fn for_feature(mut self, feature: &FeatureId) -> Self {
        self.scopes.push(Scope::Slice(self.job.clone(), feature.clone()));
        self
    }

    /// The same context with access to what the scopes hold back for verification and repair.
    #[must_use]
    pub fn with_hold_back(mut self) -> Self {
        self.may_use_hold_back = true;
        self
    }

    /// The same context after so many calls of earlier attempts that failed at the provider and may have been billed.
    #[must_use]
    pub const fn after_failed_calls(mut self, failed_calls: u32) -> Self {
        self.failed_calls = failed_calls;
        self
    }

    /// The id of the next reservation: `job:task:attempt:claim:token-call`, never the same twice.
    #[must_use]
    pub fn next_reservation_id(&self) -> String {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{}:{}:{}:{}:{}-{call}", self.job, self.task, self.attempt, self.claim, self.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> CallContext {
        let instance = InstanceId::new("i").unwrap();
        CallContext::new(JobId::new("j").unwrap(), TaskId::plan(), AgentType::planner(), instance, 2, 7)
    }

    #[test]
    fn no_two_calls_share_a_reservation_id_whatever_happens_to_the_context() {
        let first = context();
        let ids: std::collections::BTreeSet<_> = [&first, &first.clone(), &first, &context(), &context()]
            .map(CallContext::next_reservation_id)
            .into_iter()
            .collect();
        assert_eq!(ids.len(), 5, "{ids:?}");
        assert!(ids.iter().all(|id| id.starts_with("j:plan:2:7:")), "{ids:?}");
    }
}
