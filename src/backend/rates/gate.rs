//! The circuit breaker's states and what moves it between them: pure, one step at a time.
//!
//! Closed it counts failures; enough in a row, or a large enough share of enough calls, open it. Open it refuses until
//! its time is over, then lets a few trials through: all of them succeeding closes it, one failing opens it for twice as
//! long. A trial whose process dies ends with its lease. Only the caller knows what is a failure; refused money,
//! cancelled calls and faulty requests never are.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Slices of the window in which calls are counted.
const SLICES: i64 = 10;

/// When a breaker opens, for how long, and what closes it again. The same for every process of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatePolicy {
    /// Failures in a row that open it; 0 never does.
    pub consecutive: u32,
    /// Share of failed calls within `window` that opens it, in percent; 0 never does.
    pub ratio_percent: u32,
    /// Calls within `window` below which the share says nothing.
    pub least_calls: u32,
    /// How far back calls are counted.
    pub window: Duration,
    /// How long it stays open the first time; twice as long after each failed trial.
    pub open: Duration,
    /// It never stays open longer than this at once.
    pub longest_open: Duration,
    /// Trials let through together, all of which have to succeed; at least 1.
    pub trials: u32,
    /// After this time a trial that nobody has ended counts as never made.
    pub trial_lease: Duration,
}

/// A step of a breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateStep {
    /// Only look.
    Look,
    /// Ask to pass; a breaker that is due for trials grants one under this id.
    Enter {
        /// Fresh per call, 1 to 64 letters and digits; asking again with it answers the same trial.
        id: String,
    },
    /// The call of a trial is still made: its lease starts anew. A trial that has ended is not set up again.
    Renew {
        /// The id it was granted under.
        id: String,
    },
    /// How calls ended.
    Report {
        /// Calls that succeeded.
        succeeded: u32,
        /// Calls that failed.
        failed: u32,
        /// The trial that ended with it; neither succeeded nor failed, it was never made.
        trial: Option<String>,
    },
}

/// What a breaker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum GateView {
    /// Calls pass.
    Closed {
        /// No failure counts against it, so successes need not be reported.
        clean: bool,
    },
    /// Nothing passes for this long.
    Open {
        /// Until the first trial.
        wait: Duration,
    },
    /// Trials are under way and there is no room for more.
    HalfOpen {
        /// When to ask again.
        wait: Duration,
    },
    /// Trials are due: with [`GateStep::Enter`] this call is one, with anything else it could be.
    Trial,
}

/// A breaker as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Gate {
    /// Open until then; trials follow. `None` while closed.
    opened_until: Option<Timestamp>,
    /// How often it has opened without having been closed.
    opened: u32,
    /// Failures since the last success.
    in_a_row: u32,
    /// Slice number, successes and failures in it, oldest first.
    slices: Vec<(i64, u32, u32)>,
    /// Trials under way and when their leases end.
    trials: Vec<(String, Timestamp)>,
    /// Trials that succeeded since it was last open.
    passed: u32,
}

impl Gate {
    /// Makes one step.
    pub fn step(&mut self, now: Timestamp, policy: &GatePolicy, step: &GateStep) -> GateView {
        self.trials.retain(|(_, until)| *until > now);
        match step {
            GateStep::Look => {}
            GateStep::Enter { id } => return self.enter(now, policy, id),
            GateStep::Renew { id } => {
                if let Some((_, until)) = self.trials.iter_mut().find(|(known, _)| known == id) {
                    *until = now.after(policy.trial_lease);
                }
            }
            GateStep::Report { succeeded, failed, trial } => {
                self.report(now, policy, *succeeded, *failed, trial.as_deref());
            }
        }
        self.view(now, policy)
    }

    /// The state without a step.
    #[must_use]
    pub fn view(&self, now: Timestamp, policy: &GatePolicy) -> GateView {
        let Some(until) = self.opened_until else {
            let failures: u32 = self.slices.iter().map(|(_, _, failed)| failed).sum();
            return GateView::Closed { clean: self.in_a_row == 0 && failures == 0 };
        };
        if now < until {
            return GateView::Open { wait: until.since(now) };
        }
        let running = || self.trials.iter().filter(|(_, until)| *until > now);
        // Those that have passed keep their place: the number of trials bounds what a sick provider is asked.
        if self.passed + u32::try_from(running().count()).unwrap_or(u32::MAX) < policy.trials.max(1) {
            return GateView::Trial;
        }
        let next = running().map(|(_, until)| until.since(now)).min().unwrap_or(policy.open);
        GateView::HalfOpen { wait: next.min(policy.open).max(Duration::from_millis(1)) }
    }

    /// The state for people, who need not know the policy.
    #[must_use]
    pub fn glance(&self, now: Timestamp) -> GateView {
        let only_look = GatePolicy {
            consecutive: 0,
            ratio_percent: 0,
            least_calls: 0,
            window: Duration::ZERO,
            open: Duration::ZERO,
            longest_open: Duration::ZERO,
            trials: 1,
            trial_lease: Duration::ZERO,
        };
        self.view(now, &only_look)
    }

    fn enter(&mut self, now: Timestamp, policy: &GatePolicy, id: &str) -> GateView {
        if self.trials.iter().any(|(known, _)| known == id) {
            return GateView::Trial;
        }
        let view = self.view(now, policy);
        if view == GateView::Trial {
            self.trials.push((id.to_owned(), now.after(policy.trial_lease)));
        }
        view
    }

    fn report(&mut self, now: Timestamp, policy: &GatePolicy, succeeded: u32, failed: u32, trial: Option<&str>) {
        let before = self.trials.len();
        self.trials.retain(|(id, _)| Some(id.as_str()) != trial);
        let was_trial = self.trials.len() < before;
        match self.opened_until {
            None => self.count(now, policy, succeeded, failed),
            Some(_) if was_trial && failed > 0 => self.open(now, policy),
            Some(_) if was_trial && succeeded > 0 => {
                self.passed += 1;
                if self.passed >= policy.trials.max(1) {
                    *self = Self::default();
                }
            }
            // Calls from before it opened, or trials from an earlier time, prove nothing about now.
            Some(_) => {}
        }
    }

    fn count(&mut self, now: Timestamp, policy: &GatePolicy, succeeded: u32, failed: u32) {
        self.in_a_row = if succeeded > 0 { failed } else { self.in_a_row.saturating_add(failed) };
        let window = i64::try_from(policy.window.as_millis()).unwrap_or(i64::MAX).max(1);
        let slice = now.0 / (window / SLICES).max(1);
        self.slices.retain(|(at, ..)| *at > slice - SLICES);
        match self.slices.last_mut() {
            Some((at, well, badly)) if *at >= slice => {
                *well = well.saturating_add(succeeded);
                *badly = badly.saturating_add(failed);
            }
            _ => self.slices.push((slice, succeeded, failed)),
        }
        let (well, badly) = self.slices.iter().fold((0_u64, 0_u64), |(well, badly), (_, more_well, more_badly)| {
            (well + u64::from(*more_well), badly + u64::from(*more_badly))
        });
        let in_a_row = policy.consecutive > 0 && self.in_a_row >= policy.consecutive;
        let enough = well + badly >= u64::from(policy.least_calls.max(1));
        let share = policy.ratio_percent > 0 && badly * 100 >= u64::from(policy.ratio_percent) * (well + badly);
        if failed > 0 && (in_a_row || (enough && share)) {
            self.open(now, policy);
        }
    }

    fn open(&mut self, now: Timestamp, policy: &GatePolicy) {
        let doubled = policy.open.saturating_mul(1 << self.opened.min(16));
        let opened = self.opened.saturating_add(1);
        let until = now.after(doubled.min(policy.longest_open.max(policy.open)));
        *self = Self { opened_until: Some(until), opened, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: GatePolicy = GatePolicy {
        consecutive: 5,
        ratio_percent: 50,
        least_calls: 20,
        window: Duration::from_secs(60),
        open: Duration::from_secs(10),
        longest_open: Duration::from_secs(60),
        trials: 2,
        trial_lease: Duration::from_secs(100),
    };
    const START: Timestamp = Timestamp(1_000_000);

    fn at(seconds: u64) -> Timestamp {
        START.after(Duration::from_secs(seconds))
    }

    fn open(seconds: u64) -> GateView {
        GateView::Open { wait: Duration::from_secs(seconds) }
    }

    fn report(gate: &mut Gate, now: Timestamp, succeeded: u32, failed: u32, trial: Option<&str>) -> GateView {
        gate.step(now, &POLICY, &GateStep::Report { succeeded, failed, trial: trial.map(str::to_owned) })
    }

    fn enter(gate: &mut Gate, now: Timestamp, id: &str) -> GateView {
        gate.step(now, &POLICY, &GateStep::Enter { id: id.into() })
    }

    fn renew(gate: &mut Gate, now: Timestamp, id: &str) -> GateView {
        gate.step(now, &POLICY, &GateStep::Renew { id: id.into() })
    }

    fn opened() -> Gate {
        let mut gate = Gate::default();
        assert_eq!(report(&mut gate, at(0), 0, 5, None), open(10));
        gate
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_starts_the_count_anew() {
        let mut gate = Gate::default();
        assert_eq!(gate.step(at(0), &POLICY, &GateStep::Look), GateView::Closed { clean: true });
        assert_eq!(report(&mut gate, at(0), 0, 4, None), GateView::Closed { clean: false });
        assert_eq!(report(&mut gate, at(1), 1, 0, None), GateView::Closed { clean: false });
        assert_eq!(report(&mut gate, at(2), 0, 4, None), GateView::Closed { clean: false });
        assert_eq!(report(&mut gate, at(3), 0, 1, None), open(10));
    }

    #[test]
    fn a_share_of_failures_opens_it_only_among_enough_calls_of_the_window() {
        let mut gate = Gate::default();
        for second in 0..9 {
            assert!(matches!(report(&mut gate, at(second), 1, 1, None), GateView::Closed { .. }));
        }
        assert_eq!(report(&mut gate, at(9), 1, 1, None), open(10));
        let mut slow = Gate::default();
        for minute in 0..50 {
            assert!(matches!(report(&mut slow, at(minute * 30), 1, 1, None), GateView::Closed { .. }));
        }
    }

    #[test]
    fn after_its_time_only_as_many_trials_pass_as_it_allows_and_all_of_them_have_to_succeed() {
        let mut gate = opened();
        assert_eq!(enter(&mut gate, at(9), "a"), open(1));
        assert_eq!(enter(&mut gate, at(10), "a"), GateView::Trial);
        assert_eq!(enter(&mut gate, at(10), "a"), GateView::Trial, "asking again is the same trial");
        assert_eq!(enter(&mut gate, at(10), "b"), GateView::Trial);
        assert!(matches!(enter(&mut gate, at(10), "c"), GateView::HalfOpen { .. }));
        assert!(matches!(report(&mut gate, at(11), 1, 0, Some("a")), GateView::HalfOpen { .. }));
        assert_eq!(report(&mut gate, at(12), 1, 0, Some("b")), GateView::Closed { clean: true });
    }

    #[test]
    fn a_failed_trial_opens_it_for_twice_as_long_up_to_the_longest() {
        let mut gate = opened();
        let mut now = 10;
        for expected in [20, 40, 60, 60] {
            assert_eq!(enter(&mut gate, at(now), "t"), GateView::Trial);
            assert_eq!(report(&mut gate, at(now), 0, 1, Some("t")), open(expected));
            now += expected;
        }
    }

    #[test]
    fn a_trial_that_was_never_made_or_died_makes_room_for_another() {
        let mut gate = opened();
        for id in ["a", "b"] {
            assert_eq!(enter(&mut gate, at(10), id), GateView::Trial);
        }
        assert_eq!(report(&mut gate, at(11), 0, 0, Some("a")), GateView::Trial);
        assert_eq!(enter(&mut gate, at(11), "c"), GateView::Trial);
        assert!(matches!(enter(&mut gate, at(12), "d"), GateView::HalfOpen { .. }));
        assert!(matches!(renew(&mut gate, at(100), "c"), GateView::HalfOpen { .. }), "it is still made");
        assert_eq!(enter(&mut gate, at(110), "d"), GateView::Trial, "b died with its lease");
        assert!(matches!(enter(&mut gate, at(199), "e"), GateView::HalfOpen { .. }), "c has been renewed");
    }

    #[test]
    fn a_renewal_that_comes_late_sets_no_trial_up_again() {
        let mut gate = opened();
        enter(&mut gate, at(10), "a");
        report(&mut gate, at(11), 0, 0, Some("a"));
        enter(&mut gate, at(11), "b");
        assert_eq!(renew(&mut gate, at(12), "a"), GateView::Trial, "there is room for one beside b");
        assert_eq!(renew(&mut gate, at(111), "b"), GateView::Trial);
        for id in ["c", "d"] {
            assert_eq!(enter(&mut gate, at(111), id), GateView::Trial, "neither a nor b takes a place");
        }
        report(&mut gate, at(112), 0, 1, Some("c"));
        let before = gate.clone();
        renew(&mut gate, at(112), "d");
        assert_eq!(gate, before);
    }

    #[test]
    fn calls_from_before_it_opened_prove_nothing() {
        let mut gate = opened();
        assert_eq!(report(&mut gate, at(1), 9, 0, None), open(9));
        assert_eq!(report(&mut gate, at(2), 0, 9, None), open(8));
        assert_eq!(report(&mut gate, at(10), 0, 1, Some("unknown")), GateView::Trial);
    }
}
