//! Funding features: which ones may spend once a job's money is too little for all of them.
//!
//! Looked at when all plans are in, when the limit changes and whenever a feature is finished, because what it did not use
//! goes back to the rest. A feature that is not funded has a slice with a limit of zero, so that its calls are refused
//! where all money is refused: in the ledger. When nothing else is left to do, every slice is opened again: money that
//! nobody needs must not end a job. Nothing here is kept: a new leader looks again.

use super::running::Running;
use super::{Coordinator, CoordinatorError};
use crate::backend::{Adjustment, Backend, Scope};
use crate::budget::slices::{self, Want};
use crate::clock;
use crate::job::JobStatus;
use crate::protocol::{FeatureId, JobId, MicroUsd};

/// What decides whether funding has to be looked at again: the limit, the features that are done, and whether the job runs.
type Occasion = (MicroUsd, usize);

/// How the features of a job are funded at present.
#[derive(Debug, Default)]
pub(super) struct Funding {
    /// When it was looked at last.
    seen: Option<Occasion>,
    /// Features with a slice of zero.
    closed: Vec<FeatureId>,
    /// Nothing is closed any more until the limit changes.
    opened_for: Option<MicroUsd>,
    /// What everything left to do might have cost when it was looked at last, and what was kept from it.
    needed: MicroUsd,
    hold_back: MicroUsd,
}

impl Coordinator {
    /// Decides anew which features may spend, if there is an occasion.
    pub(super) async fn fund_features(&mut self, id: &JobId) -> Result<(), CoordinatorError> {
        if !self.options.thrift.slices {
            return Ok(());
        }
        let Some(running) = self.jobs.get_mut(id) else { return Ok(()) };
        let job = &running.job;
        if job.status() != JobStatus::Running || !job.is_planned() {
            return Ok(());
        }
        let occasion = (job.budget(), job.features_done());
        if running.funding.seen == Some(occasion) || running.funding.opened_for == Some(job.budget()) {
            return Ok(());
        }
        if running.has_plenty() {
            running.funding.seen = Some(occasion);
            return Ok(());
        }
        if running.funding.seen.is_none() {
            running.funding.closed = closed_before(&self.backend, running).await?;
        }
        let job = &running.job;
        let balance = self.backend.ledger.balance(&Scope::Job(id.clone())).await?;
        let available =
            balance.limit.unwrap_or_default().saturating_sub(balance.spent).saturating_sub(balance.hold_back);
        let wants: Vec<Want> = job
            .features()
            .filter(|feature| feature.counts.succeeded < feature.counts.total)
            .map(|feature| Want {
                feature: feature.spec.id.clone(),
                expected: self.options.estimator.remaining_of(job, &feature.spec.id),
                tail: job.feature_tasks(&feature.spec.id).map(|task| job.tail(&task.id)).max().unwrap_or(0),
            })
            .collect();
        let funded = slices::fund(available, &wants);
        let closed: Vec<FeatureId> = match &funded {
            None => Vec::new(),
            Some(funded) => {
                wants.iter().map(|want| want.feature.clone()).filter(|feature| !funded.contains(feature)).collect()
            }
        };
        running.funding.seen = Some(occasion);
        (running.funding.needed, running.funding.hold_back) = (slices::needed(&wants), balance.hold_back);
        set(&self.backend, running, closed).await
    }
}

impl Running {
    /// True when nothing has to be decided and nobody asked, because what was too little for nobody cannot have become too
    /// little: the work that is left only shrinks, and the ledger hardly knows of more than the log and a tenth of the limit.
    fn has_plenty(&self) -> bool {
        let (funding, limit) = (&self.funding, self.job.budget());
        let is_known = funding.seen.is_some_and(|(seen, _)| seen == limit) && funding.closed.is_empty();
        let left = limit.saturating_sub(self.job.cost()).saturating_sub(limit.percent(10));
        is_known && funding.needed <= left.saturating_sub(funding.hold_back)
    }
}

/// The features that an earlier leader has closed.
async fn closed_before(backend: &Backend, running: &Running) -> Result<Vec<FeatureId>, CoordinatorError> {
    let mut closed = Vec::new();
    for feature in running.job.features() {
        let scope = Scope::Slice(running.id.clone(), feature.spec.id.clone());
        if backend.ledger.balance(&scope).await?.limit == Some(MicroUsd::ZERO) {
            closed.push(feature.spec.id.clone());
        }
    }
    Ok(closed)
}

/// Opens every slice: the last thing tried before a job ends for lack of money. False when none was closed.
pub(super) async fn open_all(backend: &Backend, running: &mut Running) -> Result<bool, CoordinatorError> {
    if running.funding.closed.is_empty() {
        return Ok(false);
    }
    running.funding.opened_for = Some(running.job.budget());
    set(backend, running, Vec::new()).await?;
    Ok(true)
}

/// Closes the slices of exactly these features.
async fn set(backend: &Backend, running: &mut Running, closed: Vec<FeatureId>) -> Result<(), CoordinatorError> {
    let before = std::mem::take(&mut running.funding.closed);
    let opening = before.iter().filter(|feature| !closed.contains(feature)).map(|feature| (feature, None));
    let closing =
        closed.iter().filter(|feature| !before.contains(feature)).map(|feature| (feature, Some(MicroUsd::ZERO)));
    let mut is_changed = false;
    for (feature, limit) in opening.chain(closing) {
        let scope = Scope::Slice(running.id.clone(), feature.clone());
        let request = format!("slice:{}", clock::unique_id());
        backend.ledger.adjust(&request, &scope, Adjustment::SetLimit(limit)).await?;
        tracing::info!(job = %running.id, %feature, is_funded = limit.is_none(), "funding changed");
        is_changed = true;
    }
    if is_changed {
        running.waiting_for_money.clear();
        running.unaffordable.clear();
    }
    running.funding.closed = closed;
    Ok(())
}
