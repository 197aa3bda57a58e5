//! What the rest of a job will probably cost: shown before a person approves it. The budget never relies on it.
//!
//! Sizes come from the plan, prices from the table that is also charged by; a middle value on purpose, where the budget
//! takes the worst case. It answers a number for people and must never be used to allow or refuse a call.

use std::sync::Arc;

use crate::agent::RoleBook;
use crate::budget::{PriceTable, WorstCaseInput};
use crate::job::{Job, Task};
use crate::protocol::{FeatureId, FeatureSpec, MicroUsd, TaskId, TaskKind, Usage};

/// Bytes of source text per token, a middle value for code (research: llm §4 warns against using it as a bound).
const BYTES_PER_TOKEN: u64 = 3;

/// Output beyond the file itself: thinking at medium effort, on average.
const THINKING_TOKENS: u64 = 2_000;

/// Expected output of a planning call.
const PLAN_TOKENS: u64 = 4_000;

/// Expected size of a file that no feature plan has described yet, in tokens.
const FILE_TOKENS: u64 = 1_500;

/// Prompt beyond contract and dependencies: role, task, frame.
const PROMPT_TOKENS: u64 = 1_500;

/// Estimates costs from the plan.
#[derive(Debug)]
pub struct Estimator {
    prices: Arc<PriceTable>,
    roles: RoleBook,
}

impl Estimator {
    /// An estimator for calls made in `roles` at `prices`.
    #[must_use]
    pub const fn new(prices: Arc<PriceTable>, roles: RoleBook) -> Self {
        Self { prices, roles }
    }

    /// Expected cost of every task that has not succeeded yet. Tasks of unknown price count as nothing.
    #[must_use]
    pub fn remaining(&self, job: &Job) -> MicroUsd {
        let head = head_tokens(job);
        job.tasks().iter().filter(|task| task.receipt.is_none()).map(|task| self.task(job, task, head)).sum()
    }

    /// The same for the files of one feature that may still be written, and the worst case of the dearest call among them.
    #[must_use]
    pub fn remaining_of(&self, job: &Job, feature: &FeatureId) -> (MicroUsd, MicroUsd) {
        let head = head_tokens(job);
        let open = job.feature_tasks(feature).filter(|task| !task.status.is_over());
        open.fold((MicroUsd::ZERO, MicroUsd::ZERO), |(sum, dearest), task| {
            (sum.saturating_add(self.task(job, task, head)), dearest.max(self.most(job, task, head)))
        })
    }

    /// Expected cost of a feature that is not planned yet: its plan, and every file that the strategic plan gives it at a usual
    /// size.
    #[must_use]
    pub fn unplanned(&self, job: &Job, feature: &FeatureSpec) -> MicroUsd {
        let Some(plan) = job.task(&TaskId::feature_plan(&feature.id)) else { return MicroUsd::ZERO };
        let head = head_tokens(job);
        let file = self.price(plan, 0, head, FILE_TOKENS + THINKING_TOKENS);
        feature.files.iter().fold(self.task(job, plan, head), |sum, _| sum.saturating_add(file))
    }

    /// About the worst case of one call at its full size, as the budget is going to see it.
    fn most(&self, job: &Job, task: &Task, head_tokens: u64) -> MicroUsd {
        let Ok(role) = self.roles.get(&task.agent) else { return MicroUsd::ZERO };
        let tokens = head_tokens + direct_needs_tokens(job, task) + PROMPT_TOKENS;
        let call = WorstCaseInput {
            body_bytes: tokens * BYTES_PER_TOKEN,
            messages: 2,
            writes_5m: true,
            ..WorstCaseInput::from_body(&role.model, "", role.max_output_tokens)
        };
        self.prices.worst(&call).map(|worst| worst.amount).unwrap_or_default()
    }

    fn task(&self, job: &Job, task: &Task, head_tokens: u64) -> MicroUsd {
        let (context, output) = match task.kind {
            TaskKind::File { .. } => {
                (direct_needs_tokens(job, task), u64::from(task.estimated_tokens) + THINKING_TOKENS)
            }
            _ => (0, PLAN_TOKENS),
        };
        self.price(task, context, head_tokens, output)
    }

    fn price(&self, task: &Task, context: u64, head_tokens: u64, output: u64) -> MicroUsd {
        let Ok(role) = self.roles.get(&task.agent) else { return MicroUsd::ZERO };
        // The head is read from the cache by all calls but the first few.
        let usage = Usage { input: context + PROMPT_TOKENS, cache_read: head_tokens, output, ..Usage::default() };
        self.prices.charge(&role.model, &usage).unwrap_or_default()
    }
}

/// Expected size of the contract that every prompt begins with.
fn head_tokens(job: &Job) -> u64 {
    job.plan_artifact().map_or(0, |artifact| artifact.bytes / BYTES_PER_TOKEN)
}

/// Expected size of the files that `task` is given in full.
fn direct_needs_tokens(job: &Job, task: &Task) -> u64 {
    job.direct_needs(&task.id).map(|needed| u64::from(needed.estimated_tokens)).sum()
}
