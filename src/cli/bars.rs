//! Live bars: one per feature, and one line of totals with money and time.
//!
//! They show the fold and nothing else, and must never be drawn where nobody sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::live::Watched;
use super::screen::printable;
use super::words::{clock, money};
use crate::clock::Timestamp;
use crate::job::{FeatureRollup, JobStatus};
use crate::protocol::FeatureId;

/// More features than this share one bar: a screen has only so many lines.
const MAX_BARS: usize = 15;

/// Terminals with fewer columns get shorter names and bars.
const NARROW: u16 = 72;

/// The bars of one job.
pub(super) struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    features: BTreeMap<FeatureId, ProgressBar>,
    feature_style: ProgressStyle,
    started: Option<Timestamp>,
    done_at_start: u32,
}

impl Bars {
    pub(super) fn new(watched: &Watched) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        let total = all.add(ProgressBar::new(1));
        let is_narrow = console::Term::stderr().size().1 < NARROW;
        let (whole, feature) = if is_narrow {
            ("{spinner} {bar:10} {pos}/{len} {wide_msg}", "  {prefix:12!} {bar:10} {pos:>3}/{len:3} {wide_msg}")
        } else {
            ("{spinner} {bar:24} {pos}/{len} {wide_msg}", "  {prefix:20!} {bar:24} {pos:>3}/{len:3} {wide_msg}")
        };
        total.set_style(style(whole));
        total.enable_steady_tick(Duration::from_millis(125));
        let done_at_start = watched.job.totals().all.succeeded;
        Self { all, total, features: BTreeMap::new(), feature_style: style(feature), started: None, done_at_start }
    }

    /// Prints a line above the bars.
    pub(super) fn say(&self, line: &str) {
        self.all.suspend(|| super::screen::Screen::of_process().note(line));
    }

    pub(super) fn hide(&self) {
        self.all.set_draw_target(ProgressDrawTarget::hidden());
        self.total.disable_steady_tick();
        let _ = self.all.clear();
    }

    pub(super) fn show_again(&self) {
        self.all.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        self.total.enable_steady_tick(Duration::from_millis(125));
    }

    pub(super) fn update(&mut self, watched: &Watched, now: Timestamp) {
        let job = &watched.job;
        let started = *self.started.get_or_insert(now);
        let features: Vec<FeatureRollup<'_>> = job.features().collect();
        if features.len() <= MAX_BARS {
            for feature in &features {
                let bar = self.features.entry(feature.spec.id.clone()).or_insert_with(|| {
                    let bar = self.all.insert_before(&self.total, ProgressBar::new(1));
                    bar.set_style(self.feature_style.clone());
                    bar.set_prefix(printable(feature.spec.id.as_str()));
                    bar
                });
                bar.set_length(u64::from(feature.counts.total.max(1)));
                bar.set_position(u64::from(feature.counts.succeeded));
                bar.set_message(note(feature));
            }
        }
        let totals = job.totals().all;
        self.total.set_length(u64::from(totals.total.max(1)));
        self.total.set_position(u64::from(totals.succeeded));
        let running = job.in_flight().len();
        let doing = match job.status() {
            JobStatus::Submitted | JobStatus::Planning => "planning, ",
            JobStatus::AwaitingApproval => "waiting for approval, ",
            JobStatus::Paused => "paused, ",
            _ => "",
        };
        let spent = money(job.cost());
        let left = self.time_left(totals.succeeded, totals.total, now.since(started));
        self.total.set_message(format!(
            "{doing}{running} running, {spent} of {}, {}{left}",
            watched.limit(),
            clock(now.since(started))
        ));
    }

    /// Extrapolates from what this process has seen; nothing sensible can be said before all plans are in.
    fn time_left(&self, done: u32, total: u32, elapsed: Duration) -> String {
        let fresh = done.saturating_sub(self.done_at_start);
        if fresh < 3 || done >= total {
            return String::new();
        }
        let left = elapsed / fresh * (total - done);
        format!(", about {} left", clock(left))
    }
}

fn note(feature: &FeatureRollup<'_>) -> String {
    let mut notes = Vec::new();
    if feature.counts.running > 0 {
        notes.push(format!("{} running", feature.counts.running));
    }
    if feature.counts.dead + feature.counts.skipped > 0 {
        notes.push(format!("{} given up", feature.counts.dead + feature.counts.skipped));
    }
    if feature.committed.is_some_and(|commit| commit.complete) {
        notes.push("written".into());
    }
    notes.join(", ")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}
