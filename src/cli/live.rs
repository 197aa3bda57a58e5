//! Watching a job: bars per feature on a terminal, one plain line per fact everywhere else.
//!
//! What is shown is the fold of the job's log, the same that the coordinator acts on, so the view cannot disagree with
//! the work. Watching never writes.

use std::collections::HashSet;
use std::time::Duration;

use super::Failure;
use super::bars::Bars;
use super::screen::Screen;
use super::story::{describe, lack};
use crate::backend::Backend;
use crate::clock::Timestamp;
use crate::coordinator::CoordinatorError;
use crate::job::{Job, JobStatus};
use crate::protocol::{Event, FailureKind, JobId, MicroUsd, Origin, RecordedEvent};

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
    topped_up: bool,
}

impl Watched {
    /// Nothing folded yet.
    pub(super) const fn empty(job: Job) -> Self {
        Self {
            job,
            seq: 0,
            limit: MicroUsd::ZERO,
            estimate: MicroUsd::ZERO,
            active_ms: 0,
            active_since: None,
            topped_up: false,
        }
    }

    /// Folds the whole log of `id`.
    pub(super) async fn load(backend: &Backend, id: &JobId) -> Result<Self, Failure> {
        let mut watched = Self::empty(Job::new(id.clone()));
        watched.refresh(backend, |_, _| ()).await?;
        Ok(watched)
    }

    /// Folds what is new and shows each event to `each` together with the job as of that event; true when there was any.
    pub(super) async fn refresh(
        &mut self,
        backend: &Backend,
        mut each: impl FnMut(&Self, &RecordedEvent),
    ) -> Result<bool, Failure> {
        let before = self.seq;
        loop {
            let page = backend.events.read(self.job.id(), self.seq, PAGE).await?;
            if page.is_empty() {
                return Ok(self.seq > before);
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
                    Event::BudgetChanged { limit } => {
                        self.topped_up = *limit > self.limit;
                        self.limit = *limit;
                    }
                    Event::JobEnded { .. } => self.topped_up = false,
                    Event::ApprovalRequested { estimate } => self.estimate = *estimate,
                    _ => {}
                }
                each(self, &recorded);
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

    /// True when the job has ended and everything that followed from its end is recorded.
    pub(super) fn is_settled(&self) -> bool {
        let ended = matches!(self.job.status(), JobStatus::Ended(_));
        ended && self.job.in_flight().len() == 0 && self.job.uncommitted().is_empty()
    }

    /// True when the budget was raised after the last end.
    pub(super) const fn is_topped_up(&self) -> bool {
        self.topped_up
    }

    /// Sequence of the newest event that was folded.
    pub(super) const fn seq(&self) -> u64 {
        self.seq
    }
}

/// A job being watched by a person.
pub(super) struct Live<'a> {
    screen: &'a Screen,
    backend: &'a Backend,
    watched: Watched,
    bars: Option<Bars>,
    lines: Lines,
    /// What has been said to be lacking: tasks ask again whenever other calls give back what they did not need.
    lacking: HashSet<String>,
}

/// Where plain lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// To standard error: they accompany a command that does something else.
    Notes,
    /// To standard output: they are what was asked for.
    Results,
}

impl<'a> Live<'a> {
    /// Starts watching; what has happened before is shown as a state, not as a story.
    pub(super) async fn new(
        screen: &'a Screen,
        backend: &'a Backend,
        id: &JobId,
        lines: Lines,
    ) -> Result<Self, Failure> {
        let watched = Watched::load(backend, id).await?;
        let drawn = screen.live && (lines == Lines::Notes || screen.terminal);
        let bars = drawn.then(|| Bars::new(&watched));
        Ok(Self { screen, backend, watched, bars, lines, lacking: HashSet::new() })
    }

    pub(super) const fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Waits for news for a moment and shows them; false when there were none. Cancel-safe: what was not shown is read
    /// again.
    pub(super) async fn follow(&mut self) -> Result<bool, Failure> {
        self.backend.events.wait(self.watched.job.id(), self.watched.seq, REDRAW).await?;
        self.catch_up().await
    }

    /// Shows what has been logged so far; false when that is nothing new.
    pub(super) async fn catch_up(&mut self) -> Result<bool, Failure> {
        let Self { screen, backend, watched, bars, lines, lacking } = self;
        let news = watched
            .refresh(backend, |watched, recorded| {
                let is_news = match &recorded.event {
                    Event::TaskFailed { failure, .. } if failure.kind == FailureKind::Budget => {
                        lacking.insert(lack(failure))
                    }
                    _ => true,
                };
                let shown = is_news && (bars.is_none() || is_remarkable(&recorded.event));
                if let Some(line) = describe(watched, recorded).filter(|_| shown) {
                    print(screen, bars.as_ref(), *lines, &line);
                }
            })
            .await?;
        if let Some(bars) = bars {
            bars.update(watched, backend.clock.now());
        }
        Ok(news)
    }

    /// Shows a line of the program's own.
    pub(super) fn say(&self, line: &str) {
        print(self.screen, self.bars.as_ref(), self.lines, line);
    }

    /// Runs `question` with the bars out of the way.
    pub(super) async fn suspended<T, Q: Future<Output = T>>(&self, question: impl FnOnce() -> Q) -> T {
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

fn print(screen: &Screen, bars: Option<&Bars>, lines: Lines, line: &str) {
    match (bars, lines) {
        (Some(bars), _) => bars.say(line),
        (None, Lines::Notes) => screen.note(line),
        (None, Lines::Results) => screen.result(line),
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
            | Event::BudgetOverrun { .. }
            | Event::JobPaused { .. }
            | Event::JobResumed
    )
}
