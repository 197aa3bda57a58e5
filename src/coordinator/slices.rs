//! Funding features: what each may spend once a job's money is too little for all of them.
//!
//! Looked at from the strategic plan on: whenever a feature is planned or finished and when the limit changes. While the money
//! is too little for everything, tasks that are less urgent than others wait until those are done, so that it goes to the most
//! important features first. Slices follow when all plans are in, and what a finished feature did not use
//! goes back to the rest: a feature that is over, or not funded, has the limit that it has spent, so that its calls are refused
//! where all money is refused, in the ledger. A funded one that runs into its slice gets more of what belongs to nobody.
//! When nothing else is left to do, every slice is opened again: money that nobody needs must not end a job.
//!
//! A limit that a person has set is never touched. The stores remember which limits were set here, under `job-slices/<job>`,
//! before the ledger has them: whatever else a slice's limit is, it is a person's.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::running::Running;
use super::{Coordinator, CoordinatorError, Estimator};
use crate::backend::{Adjustment, Backend, BackendError, Balance, Expected, Scope, Write};
use crate::budget::slices::{self, Want};
use crate::clock;
use crate::job::{FeatureRollup, JobStatus};
use crate::protocol::{FailureKind, FeatureId, InstanceId, JobId, MicroUsd, TaskOutcome, TaskResult};

/// What decides whether funding has to be looked at again: the limit, the known tasks, the features that are done, the files
/// given up.
type Occasion = (MicroUsd, usize, usize, u32);

/// Limits set here by feature: the present one last, and those before it, for the ledger may still have one of them.
type Ours = BTreeMap<FeatureId, Vec<MicroUsd>>;

/// How the features of a job are funded at present.
#[derive(Debug, Default)]
pub(super) struct Funding {
    /// When it was looked at last.
    seen: Option<Occasion>,
    /// Limits set here; read once.
    ours: Option<Ours>,
    /// A feature that ran into its slice, and what the smallest acceptable call needed.
    pressed: Option<(FeatureId, MicroUsd)>,
    /// Nothing is limited any more until the job's limit changes.
    opened_for: Option<MicroUsd>,
    /// There is too little for everything that is left to do.
    pub(super) is_tight: bool,
    /// What everything left to do might have cost when it was looked at last, and what was kept from it.
    needed: MicroUsd,
    hold_back: MicroUsd,
}

impl Coordinator {
    /// Decides anew what features may spend, if there is an occasion.
    pub(super) async fn fund_features(&mut self, id: &JobId) -> Result<(), CoordinatorError> {
        if !self.options.thrift.slices {
            return Ok(());
        }
        let Some(running) = self.jobs.get_mut(id) else { return Ok(()) };
        running.job.rank();
        let job = &running.job;
        if !matches!(job.status(), JobStatus::Planning | JobStatus::Running) || job.plan().is_none() {
            return Ok(());
        }
        let (budget, files) = (job.budget(), job.totals().files);
        let occasion = (budget, job.tasks().len(), job.features_done(), files.dead + files.skipped);
        let desk =
            Desk { backend: &self.backend, instance: &self.options.instance, estimator: &self.options.estimator };
        if running.funding.seen == Some(occasion) || running.funding.opened_for == Some(budget) {
            let Some((feature, needed)) = running.funding.pressed.take() else { return Ok(()) };
            return desk.relieve(running, &feature, needed).await;
        }
        if running.has_plenty() {
            running.funding.is_tight = false;
            running.funding.seen = Some(occasion);
            return Ok(());
        }
        running.funding.pressed = None;
        desk.fund(running).await?;
        running.funding.seen = Some(occasion);
        Ok(())
    }
}

/// Opens every slice: the last thing tried before a job ends for lack of money. False when none was limited here.
pub(super) async fn open_all(
    backend: &Backend,
    instance: &InstanceId,
    estimator: &Estimator,
    running: &mut Running,
) -> Result<bool, CoordinatorError> {
    if running.funding.ours.as_ref().is_none_or(BTreeMap::is_empty) {
        return Ok(false);
    }
    running.funding.opened_for = Some(running.job.budget());
    let desk = Desk { backend, instance, estimator };
    let slices = desk.slices(running).await?;
    let limits = slices.into_iter().filter(|slice| slice.ours).map(|slice| (slice.feature, None)).collect();
    desk.set(running, limits).await
}

impl Running {
    /// True when the limit of a feature's own was set here and may still be opened.
    pub(super) fn may_be_opened(&self, feature: &FeatureId) -> bool {
        let ours = self.funding.ours.as_ref().is_some_and(|ours| ours.contains_key(feature));
        ours && self.funding.opened_for != Some(self.job.budget())
    }

    /// True when nothing has to be decided and nobody asked, because what was too little for nobody cannot have become too
    /// little: the work that is left only shrinks, and the ledger hardly knows of more than the log and a tenth of the limit.
    fn has_plenty(&self) -> bool {
        let (funding, limit) = (&self.funding, self.job.budget());
        let is_known = funding.seen.is_some_and(|(seen, tasks, ..)| seen == limit && tasks == self.job.tasks().len())
            && funding.ours.as_ref().is_some_and(BTreeMap::is_empty);
        let left =
            limit.saturating_sub(self.job.cost()).saturating_sub(self.unlogged).saturating_sub(limit.percent(10));
        is_known && funding.needed <= left.saturating_sub(funding.hold_back)
    }

    /// Notes that a call of a feature with a slice was refused for lack of money.
    pub(super) fn note_pressure(&mut self, result: &TaskResult) {
        let TaskOutcome::Failed { failure } = &result.outcome else { return };
        let needed = failure.needed.filter(|needed| *needed > MicroUsd::ZERO);
        let feature = self.job.task(&result.task).and_then(|task| task.feature()).cloned();
        if let (FailureKind::Budget, Some(needed), Some(feature)) = (failure.kind, needed, feature)
            && self.funding.ours.as_ref().is_some_and(|ours| ours.contains_key(&feature))
        {
            self.funding.pressed = Some((feature, needed));
        }
    }
}

/// A feature's part of the money as it is.
struct Slice {
    feature: FeatureId,
    balance: Balance,
    /// True when the limit was set here.
    ours: bool,
}

impl Slice {
    /// What it keeps from the others: what is left of it, but of a person's limit no more than may be needed.
    fn keeps(&self, wants: &[Want]) -> Option<MicroUsd> {
        let want = wants.iter().find(|want| want.feature == self.feature)?;
        let left = self.balance.limit?.saturating_sub(self.balance.spent);
        Some(if self.ours { left } else { left.min(want.needed()) })
    }

    /// What a person's limit leaves, if there is one.
    fn of_a_person(&self) -> Option<MicroUsd> {
        self.balance.limit.filter(|_| !self.ours).map(|limit| limit.saturating_sub(self.balance.spent))
    }
}

/// True when no task of the feature will be tried by itself again.
fn is_over(feature: &FeatureRollup<'_>) -> bool {
    let counts = feature.counts;
    counts.succeeded + counts.dead + counts.skipped >= counts.total
}

/// What funding needs of its coordinator.
struct Desk<'a> {
    backend: &'a Backend,
    instance: &'a InstanceId,
    estimator: &'a Estimator,
}

impl Desk<'_> {
    async fn fund(&self, running: &mut Running) -> Result<(), CoordinatorError> {
        let ours = self.ours(running).await?;
        let balance = self.backend.ledger.balance(&Scope::Job(running.id.clone())).await?;
        let available = left(&balance);
        let mut wants = self.wants(running);
        (running.funding.needed, running.funding.hold_back) = (slices::needed(&wants), balance.hold_back);
        running.funding.is_tight = running.funding.needed > available;
        if !running.job.is_planned() || (!ours && !running.funding.is_tight) {
            return Ok(());
        }
        let slices = self.slices(running).await?;
        // What a person has limited is none of our business; it only takes what it needs, or may have, from the rest.
        let mut taken = MicroUsd::ZERO;
        wants.retain(|want| {
            let slice = slices.iter().find(|slice| slice.feature == want.feature);
            let Some(most) = slice.and_then(Slice::of_a_person) else { return true };
            taken = taken.saturating_add(want.needed().min(most));
            false
        });
        let funded = slices::fund(available.saturating_sub(taken), &wants);
        running.funding.is_tight = funded.is_some();
        let limits = slices.into_iter().filter(|slice| slice.of_a_person().is_none());
        let limits = limits.filter_map(|slice| {
            let limit = funded.as_ref().map(|funded| {
                slice.balance.spent.saturating_add(funded.get(&slice.feature).copied().unwrap_or_default())
            });
            (limit != slice.balance.limit).then_some((slice.feature, limit))
        });
        let limits: Vec<_> = limits.collect();
        self.set(running, limits).await.map(|_| ())
    }

    fn wants(&self, running: &Running) -> Vec<Want> {
        let job = &running.job;
        let want = |feature: FeatureRollup<'_>| {
            let id = &feature.spec.id;
            let (mut expected, call) = self.estimator.remaining_of(job, id);
            if !feature.planning.is_over() {
                expected = self.estimator.unplanned(job, feature.spec);
            }
            let tail = job.feature_tasks(id).map(|task| job.tail(&task.id)).max().unwrap_or(0);
            let urgency = job.feature_tasks(id).map(|task| job.urgency(&task.id)).min();
            let urgency = urgency.unwrap_or(feature.spec.priority);
            Want { feature: id.clone(), urgency, expected, call, tail }
        };
        job.features().filter(|feature| !is_over(feature)).map(want).collect()
    }

    /// Adds to the slice of `feature` what no slice has, if a call that needs `needed` was refused because of it.
    async fn relieve(
        &self,
        running: &mut Running,
        feature: &FeatureId,
        needed: MicroUsd,
    ) -> Result<(), CoordinatorError> {
        let slices = self.slices(running).await?;
        let Some(slice) = slices.iter().find(|slice| slice.feature == *feature && slice.ours) else { return Ok(()) };
        let balance = self.backend.ledger.balance(&Scope::Job(running.id.clone())).await?;
        let wants = self.wants(running);
        let allotted: MicroUsd = slices.iter().filter_map(|slice| slice.keeps(&wants)).sum();
        let unallotted = left(&balance).saturating_sub(allotted);
        let (_, call) = self.estimator.remaining_of(&running.job, feature);
        let available = slice.balance.available().unwrap_or_default();
        let Some(more) = slices::relief(available, needed, call, unallotted) else { return Ok(()) };
        let limit = slice.balance.limit.map(|limit| limit.saturating_add(more));
        self.set(running, vec![(feature.clone(), limit)]).await.map(|_| ())
    }

    /// Every feature's slice as the ledger has it.
    async fn slices(&self, running: &Running) -> Result<Vec<Slice>, CoordinatorError> {
        let mut slices = Vec::new();
        for feature in running.job.features() {
            let id = &feature.spec.id;
            let balance = self.backend.ledger.balance(&Scope::Slice(running.id.clone(), id.clone())).await?;
            let known = running.funding.ours.as_ref().and_then(|ours| ours.get(id));
            let ours = balance.limit.is_some_and(|limit| known.is_some_and(|known| known.contains(&limit)));
            slices.push(Slice { feature: id.clone(), balance, ours });
        }
        Ok(slices)
    }

    /// Reads which limits were set here, by this leader or one before it; true when there are any.
    async fn ours(&self, running: &mut Running) -> Result<bool, CoordinatorError> {
        if running.funding.ours.is_none() {
            let found = self.backend.state.get(&[key(&running.id)]).await?.into_iter().next().flatten();
            let ours = found.and_then(|found| found.value).map(|value| serde_json::from_slice::<Ours>(&value));
            running.funding.ours = Some(ours.transpose().unwrap_or_default().unwrap_or_default());
        }
        Ok(running.funding.ours.as_ref().is_some_and(|ours| !ours.is_empty()))
    }

    /// Sets these limits, after it was written down that they are ours. False when there were none.
    async fn set(
        &self,
        running: &mut Running,
        limits: Vec<(FeatureId, Option<MicroUsd>)>,
    ) -> Result<bool, CoordinatorError> {
        if limits.is_empty() {
            return Ok(false);
        }
        let ours = running.funding.ours.get_or_insert_default();
        for (feature, limit) in &limits {
            let known = ours.entry(feature.clone()).or_default();
            known.drain(..known.len().saturating_sub(2));
            known.extend(*limit);
        }
        self.remember(&running.id, ours).await?;
        for (feature, limit) in &limits {
            let scope = Scope::Slice(running.id.clone(), feature.clone());
            let request = format!("slice:{}", clock::unique_id());
            self.backend.ledger.adjust(&request, &scope, Adjustment::SetLimit(*limit)).await?;
            tracing::info!(job = %running.id, %feature, ?limit, "funding changed");
        }
        // What was opened is nobody's any more.
        let before = ours.len();
        for (feature, _) in limits.iter().filter(|(_, limit)| limit.is_none()) {
            ours.remove(feature);
        }
        if ours.len() < before {
            self.remember(&running.id, ours).await?;
        }
        running.try_money_again();
        Ok(true)
    }

    async fn remember(&self, id: &JobId, ours: &Ours) -> Result<(), CoordinatorError> {
        let value = serde_json::to_vec(ours)
            .map_err(|error| BackendError::Invalid { field: "slices", why: error.to_string() })?;
        let write = Write { key: key(id), expected: Expected::Any, value: Some(Bytes::from(value)) };
        self.backend.state.commit(self.instance, vec![write]).await?;
        Ok(())
    }
}

/// What may still be spent, running calls not yet counted.
fn left(balance: &Balance) -> MicroUsd {
    balance.limit.unwrap_or_default().saturating_sub(balance.spent).saturating_sub(balance.hold_back)
}

/// Where it stands which limits are ours.
fn key(id: &JobId) -> String {
    format!("job-slices/{id}")
}
