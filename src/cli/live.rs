//! Watching a job: bars per feature on a terminal, one plain line per fact everywhere else.
//!
//! What is shown is the fold of the job's log, the same that the coordinator acts on, so the view cannot disagree with
//! the work. Watching never writes.

use std::time::Duration;

use super::Failure;
use super::bars::Bars;
use super::screen::Screen;
use crate::backend::Backend;
use crate::clock::Timestamp;
use crate::coordinator::CoordinatorError;
use crate::job::{Job, JobStatus};
use crate::protocol::{Event, JobId, JobOutcome, MicroUsd, Origin, RecordedEvent, TaskKind};

/// Events read at once.
const PAGE: usize = 1_000;

/// Longest time without a redraw: the clock on the screen goes on.
const REDRAW: Duration = Duration::from_millis(500);

/// A job as its log tells it.
pub(super) struct Watched {
    pub(super) job: Job,
    seq: u64,
    limit: MicroUsd,
    estimate: MicroUsd,
    active_ms: u64,
    active_since: Option<Timestamp>,
}

impl Watched {
    /// Folds the whole log of `id`.
    pub(super) async fn load(backend: &Backend, id: &JobId) -> Result<Self, Failure> {
        let mut watched = Self {
            job: Job::new(id.clone()),
            seq: 0,
            limit: MicroUsd::ZERO,
            estimate: MicroUsd::ZERO,
            active_ms: 0,
            active_since: None,
        };
        watched.refresh(backend).await?;
        Ok(watched)
    }

    /// Folds what is new and answers it.
    pub(super) async fn refresh(&mut self, backend: &Backend) -> Result<Vec<RecordedEvent>, Failure> {
        let mut news = Vec::new();
        loop {
            let page = backend.events.read(self.job.id(), self.seq, PAGE).await?;
            if page.is_empty() {
                return Ok(news);
            }
            for recorded in page {
                self.job.apply(&recorded.event, recorded.at).map_err(|source| CoordinatorError::Log {
                    job: self.job.id().clone(),
                    seq: recorded.seq,
                    source: Box::new(source),
                })?;
                self.seq = recorded.seq;
                self.count_time(&recorded);
                match &recorded.event {
                    Event::JobSubmitted { budget, .. } => self.limit = *budget,
                    Event::BudgetChanged { limit } => self.limit = *limit,
                    Event::ApprovalRequested { estimate } => self.estimate = *estimate,
                    _ => {}
                }
                news.push(recorded);
            }
        }
    }

    /// Counts the time in which the job was worked on: not while it waited for a person or lay still after an end.
    fn count_time(&mut self, recorded: &RecordedEvent) {
        let until = recorded.at;
        if let Some(since) = self.active_since.take() {
            self.active_ms += u64::try_from(until.since(since).as_millis()).unwrap_or(u64::MAX);
        }
        let waits = matches!(self.job.status(), JobStatus::Ended(_) | JobStatus::Paused | JobStatus::AwaitingApproval);
        self.active_since = (!waits).then_some(until);
    }

    /// Time in which the job was worked on, in milliseconds.
    pub(super) const fn active_ms(&self) -> u64 {
        self.active_ms
    }

    /// The job's limit as the log knows it.
    pub(super) const fn limit(&self) -> MicroUsd {
        self.limit
    }

    /// Expected cost of the work that waits for approval.
    pub(super) const fn estimate(&self) -> MicroUsd {
        self.estimate
    }

    /// Where the job's replies come from.
    pub(super) fn origin(&self) -> Option<&Origin> {
        self.job.submission().map(|submission| &submission.origin)
    }

    /// Says so when nothing is left to do.
    pub(super) fn finished(&self) -> Option<&'static str> {
        match self.job.status() {
            JobStatus::Ended(JobOutcome::Completed) => Some("completed"),
            _ => None,
        }
    }
}

/// A job being watched by a person.
pub(super) struct Live<'a> {
    screen: &'a Screen,
    backend: &'a Backend,
    watched: Watched,
    bars: Option<Bars>,
}

impl<'a> Live<'a> {
    /// Starts watching; what has happened before is shown as a state, not as a story.
    pub(super) async fn new(screen: &'a Screen, backend: &'a Backend, id: &JobId) -> Result<Self, Failure> {
        let watched = Watched::load(backend, id).await?;
        let bars = screen.live.then(|| Bars::new(&watched));
        Ok(Self { screen, backend, watched, bars })
    }

    pub(super) const fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Waits for news for a moment and shows them. Cancel-safe: what was not shown is read again.
    pub(super) async fn follow(&mut self) -> Result<(), Failure> {
        self.backend.events.wait(self.watched.job.id(), self.watched.seq, REDRAW).await?;
        self.catch_up().await
    }

    /// Shows what has been logged so far.
    pub(super) async fn catch_up(&mut self) -> Result<(), Failure> {
        let news = self.watched.refresh(self.backend).await?;
        for recorded in &news {
            if let Some(line) = describe(&self.watched, recorded) {
                match &self.bars {
                    Some(bars) if is_remarkable(&recorded.event) => bars.say(&line),
                    Some(_) => {}
                    None => self.screen.note(&line),
                }
            }
        }
        if let Some(bars) = &mut self.bars {
            bars.update(&self.watched, self.backend.clock.now());
        }
        Ok(())
    }

    /// Shows a line of the program's own.
    pub(super) fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.say(line),
            None => self.screen.note(line),
        }
    }

    /// Runs `question` with the bars out of the way, on a thread that may block.
    pub(super) async fn suspended<Q: Future<Output = Result<bool, Failure>>>(
        &self,
        question: impl FnOnce() -> Q,
    ) -> Result<bool, Failure> {
        if let Some(bars) = &self.bars {
            bars.hide();
        }
        let answer = question().await;
        if let Some(bars) = &self.bars {
            bars.show_again();
        }
        answer
    }

    /// Takes the bars away.
    pub(super) fn close(&self) {
        if let Some(bars) = &self.bars {
            bars.hide();
        }
    }
}

/// Worth a line even above bars.
const fn is_remarkable(event: &Event) -> bool {
    matches!(
        event,
        Event::PlanAccepted { .. }
            | Event::TaskFailed { .. }
            | Event::TaskDead { .. }
            | Event::FeatureCommitted { .. }
            | Event::BudgetWarning { .. }
            | Event::BudgetChanged { .. }
            | Event::JobPaused
            | Event::JobResumed
    )
}

/// One line for an event; `None` for those that only matter to machines.
pub(super) fn describe(watched: &Watched, recorded: &RecordedEvent) -> Option<String> {
    let job = &watched.job;
    Some(match &recorded.event {
        Event::JobSubmitted { name, .. } => format!("submitted: {name}"),
        Event::TaskDispatched { .. } | Event::JobEnded { .. } => return None,
        Event::TaskSucceeded { task, cost, duration_ms, .. } => {
            let task = job.task(task)?;
            let files = job.totals().files;
            let took = format!("{cost}, {:.1} s, {}", seconds(*duration_ms), task.agent);
            match &task.kind {
                TaskKind::File { path, .. } => format!("[{}/{}] {path} ({took})", files.succeeded, files.total),
                TaskKind::FeaturePlan { feature, .. } => format!("planned feature {feature} ({took})"),
                TaskKind::Plan { .. } => format!("planned the job ({took})"),
            }
        }
        Event::TaskFailed { task, attempt, failure, retry_at, .. } => {
            let next = if retry_at.is_some() { "will be tried again" } else { "is not tried again for now" };
            format!("{task} attempt {attempt} failed, {next}: [{}] {}", failure.code, first_line(&failure.message))
        }
        Event::TaskDead { task, reason } => format!("gave up on {task}: {}", first_line(reason)),
        Event::TaskSkipped { task, because } => format!("skipped {task}: it needs {because}"),
        Event::TaskRevived { task } => format!("{task} gets new attempts"),
        Event::PlanAccepted { plan, .. } => {
            let files: usize = plan.features.iter().map(|feature| feature.files.len()).sum();
            format!("plan: {} features, {files} files: {}", plan.features.len(), plan.summary)
        }
        Event::FeaturePlanned { feature, plan } => format!("feature {feature}: {} tasks", plan.tasks.len()),
        Event::ApprovalRequested { estimate } => {
            format!("the plan waits for approval; the rest will cost about {estimate}")
        }
        Event::PlanApproved => "plan approved".into(),
        Event::FeatureCommitted { feature, files, complete, .. } => {
            let kind = if *complete { "complete" } else { "partial" };
            format!("wrote feature {feature}: {files} files ({kind})")
        }
        Event::BudgetWarning { spent, limit } => format!("warning: {spent} of the budget of {limit} is spent"),
        Event::BudgetChanged { limit } => format!("the budget is {limit} now"),
        Event::JobPaused => "paused".into(),
        Event::JobResumed => "resumed".into(),
    })
}

/// Milliseconds as seconds, for display.
#[allow(clippy::cast_precision_loss)] // display only
pub(super) fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1_000.0
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}
