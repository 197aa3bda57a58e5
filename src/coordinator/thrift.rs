//! What a coordinator does about money that is running low: warn, work cheaper, leave out, ask.
//!
//! The ledger alone keeps a job within its budget; this only decides what the last money is spent on, in steps that the
//! configuration orders. It goes by what the ledger says is spent, and must never be needed for the limit to hold.

use super::running::Running;
use super::{Coordinator, CoordinatorError};
use crate::backend::Scope;
use crate::clock::Timestamp;
use crate::job::{Decision, JobStatus, Task};
use crate::protocol::{JobId, Priority};

/// At which share of its limit a job does what, in percent of the limit spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thrift {
    /// People are told, once per limit.
    pub warn_percent: u64,
    /// From here on, tasks of low priority go to this model.
    pub cheaper_model: Option<(u64, String)>,
    /// From here on, optional tasks wait: those of low priority that nothing more urgent needs.
    pub drop_optional_percent: Option<u64>,
    /// Here the job pauses and waits for a person, once per limit.
    pub pause_percent: Option<u64>,
    /// Whether money is kept for whole features, the critical path first, once it is too little for all of them.
    pub slices: bool,
}

impl Thrift {
    /// The share at which the first of the steps is due.
    fn first_percent(&self) -> u64 {
        let steps = [
            Some(self.warn_percent),
            self.cheaper_model.as_ref().map(|(percent, _)| *percent),
            self.drop_optional_percent,
            self.pause_percent,
        ];
        steps.into_iter().flatten().min().unwrap_or(self.warn_percent)
    }

    /// The model that `task` goes to instead of its role's, after `spent_percent` of the limit.
    pub(super) fn model(&self, task: &Task, spent_percent: u64) -> Option<String> {
        let (percent, model) = self.cheaper_model.as_ref()?;
        (spent_percent >= *percent && task.priority == Priority::Low).then(|| model.clone())
    }

    /// True when optional tasks wait after `spent_percent` of the limit.
    pub(super) fn drops_optional(&self, spent_percent: u64) -> bool {
        self.drop_optional_percent.is_some_and(|percent| spent_percent >= percent)
    }
}

impl Coordinator {
    /// Looks at the ledger when enough was spent since the last look, and takes the steps that are due.
    pub(super) async fn watch_money(&mut self, id: &JobId, now: Timestamp) -> Result<(), CoordinatorError> {
        let thrift = &self.options.thrift;
        let Some(running) = self.jobs.get_mut(id) else { return Ok(()) };
        let (cost, budget) = (running.job.cost(), running.job.budget());
        // The ledger knows of more than the log (calls that never reported), but hardly of more than a tenth of the budget beyond
        // what it knew when a job was taken up, or a worker lost.
        let near = budget.percent(thrift.first_percent().saturating_sub(10));
        let is_far = || running.money_seen_at.is_some() && cost.saturating_add(running.unlogged) < near;
        if running.money_seen_at == Some((cost, budget)) || is_far() {
            return Ok(());
        }
        running.money_seen_at = Some((cost, budget));
        let balance = self.backend.ledger.balance(&Scope::Job(id.clone())).await?;
        running.unlogged = balance.spent.saturating_sub(cost);
        let Some(limit) = balance.limit.filter(|limit| limit.0 > 0) else { return Ok(()) };
        running.spent_percent = share(balance.spent.0, limit.0);
        if running.spent_percent >= thrift.warn_percent && running.warned_at != Some(limit) {
            running.warned_at = Some(limit);
            running.stage(Decision::BudgetWarning { spent: balance.spent, limit }, now)?;
        }
        let is_due = thrift.pause_percent.is_some_and(|percent| running.spent_percent >= percent);
        if is_due && running.job.status() == JobStatus::Running && running.paused_at != Some(limit) {
            running.paused_at = Some(limit);
            let percent = running.spent_percent;
            let reason = format!("{percent} % of the budget of {limit} is spent (budget.pause_percent): go on?");
            tracing::warn!(job = %id, spent = %balance.spent, %limit, "paused to ask whether to go on");
            running.stage(Decision::Pause { reason: Some(reason) }, now)?;
        }
        Ok(())
    }
}

impl Running {
    /// True for a task that is left out to keep the rest within the budget.
    pub(super) fn is_left_out(&self, task: &Task, thrift: &Thrift) -> bool {
        thrift.drops_optional(self.spent_percent) && self.job.is_optional(&task.id)
    }
}

/// `part` of `whole` in percent, rounded down.
fn share(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_down_and_survives_large_amounts() {
        assert_eq!(share(799, 1_000), 79);
        assert_eq!(share(u64::MAX, u64::MAX), 100);
    }
}
