//! How many calls at once a provider bears, found out by asking: additive increase, multiplicative decrease.
//!
//! A limit grows only while it is used to the full, quickly at first and past its old ceiling, by one per round below it, and falls by a tenth when
//! the provider says that it is too much (429, 529, silence) or answers several times slower than it used to. Further
//! refusals of calls that were under way then only press it down to what remains under way, and never below half, so
//! that a burst of refusals for other reasons costs one round and not many. Every process does so alone: each sees
//! refusals in proportion to what it sends, and equal additive steps with proportional cuts are what makes any number of
//! them converge to equal shares (Chiu and Jain 1989). Pure: time comes in as a value.

use std::time::Duration;

use tokio::time::Instant;

/// Below this limit it doubles every round; above, a round adds a quarter.
const DOUBLING_BELOW: f64 = 8.0;

/// What is left of the limit after the provider said that it was too much.
const CUT: f64 = 0.9;

/// How much slower the limit grows close to where it was last cut.
const CAUTION: f64 = 8.0;

/// Calls from which on the usual speed is known well enough to compare with.
const WARM: u32 = 20;

/// Weights of the newest call in the usual and in the present speed.
const USUAL: f64 = 0.02;
const PRESENT: f64 = 0.3;

/// Output tokens added to each call's length, so that the way there and back of a short one does not look slow.
const FIXED_TOKENS: f64 = 200.0;

/// Bounds of the limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AimdPolicy {
    /// Where it starts; at least 1.
    pub start: u32,
    /// It never grows beyond this.
    pub max: u32,
    /// Calls this many times slower than usual, per output token, count as too much; 0 never do.
    pub slowdown: u32,
}

/// How a call ended, as far as the number of calls at once can be the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// It went well; the length of its reply in output tokens.
    Fine {
        /// Output tokens.
        tokens: u64,
    },
    /// The provider said, or showed by its silence, that it was too much.
    TooMuch,
    /// It says nothing about load.
    Unknown,
}

/// The limit and what is known about it.
#[derive(Debug, Clone)]
pub struct Aimd {
    policy: AimdPolicy,
    limit: f64,
    /// Growing fast until the first cut.
    is_starting: bool,
    /// Where it was last cut.
    ceiling: Option<f64>,
    cut_at: Option<Instant>,
    /// How low further refusals of the same round may push it.
    floor: f64,
    /// Milliseconds per output token, over long and over the last calls.
    usual: f64,
    present: f64,
    calls: u32,
}

impl Aimd {
    /// A limit at its start.
    #[must_use]
    pub fn new(policy: AimdPolicy) -> Self {
        let limit = f64::from(policy.start.clamp(1, policy.max.max(1)));
        Self {
            policy,
            limit,
            is_starting: true,
            ceiling: None,
            cut_at: None,
            floor: 1.0,
            usual: 0.0,
            present: 0.0,
            calls: 0,
        }
    }

    /// Calls that may be under way at once; at least 1.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and a configured u32")]
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Takes in a call that began at `began`, while `under_way` calls, itself included, were.
    pub fn ended(&mut self, load: Load, began: Instant, now: Instant, under_way: u32) {
        match load {
            Load::Unknown => {}
            Load::TooMuch => self.cut(began, now, under_way),
            Load::Fine { tokens } => {
                self.note_speed(now.saturating_duration_since(began), tokens);
                let factor = f64::from(self.policy.slowdown);
                if factor > 0.0 && self.calls > WARM && self.present > factor * self.usual {
                    self.cut(began, now, under_way);
                } else if f64::from(under_way) + 1.0 > self.limit {
                    self.grow();
                }
            }
        }
    }

    fn grow(&mut self) {
        if self.ceiling.is_some_and(|ceiling| self.limit > ceiling + 1.0) {
            // The provider bears more than it did, so where it was cut says nothing any more.
            (self.ceiling, self.is_starting) = (None, true);
        }
        let step = match self.ceiling {
            _ if self.is_starting && self.limit < DOUBLING_BELOW => 1.0,
            _ if self.is_starting => 0.25,
            Some(ceiling) if self.limit > ceiling - 1.5 => 1.0 / (CAUTION * self.limit),
            _ => 1.0 / self.limit,
        };
        self.limit = (self.limit + step).min(f64::from(self.policy.max.max(1)));
    }

    fn cut(&mut self, began: Instant, now: Instant, under_way: u32) {
        // More may be under way than is allowed now.
        let borne = f64::from(under_way).min(self.limit);
        if self.cut_at.is_some_and(|cut| began < cut) {
            // One of many: what is still under way besides it is what the provider bears.
            self.limit = (f64::from(under_way) - 1.0).clamp(self.floor, self.limit);
            return;
        }
        self.ceiling = Some(borne);
        self.floor = (borne / 2.0).max(1.0);
        self.limit = (borne * CUT).max(1.0);
        self.is_starting = false;
        self.cut_at = Some(now);
        self.present = self.usual;
    }

    #[expect(clippy::cast_precision_loss, reason = "speeds need no more than 53 bits")]
    fn note_speed(&mut self, took: Duration, tokens: u64) {
        let per_token = took.as_secs_f64() * 1_000.0 / (tokens as f64 + FIXED_TOKENS);
        if self.calls == 0 {
            (self.usual, self.present) = (per_token, per_token);
        }
        // The first calls count alike, or the very first would rule the average for long.
        let weight = USUAL.max(1.0 / f64::from(self.calls + 1));
        self.usual += weight * (per_token - self.usual);
        self.present += PRESENT * (per_token - self.present);
        self.calls = self.calls.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: AimdPolicy = AimdPolicy { start: 4, max: 100, slowdown: 3 };
    const FINE: Load = Load::Fine { tokens: 1_000 };

    /// Rounds of equally long calls against a provider that bears `bears` of them; rejected calls per round.
    fn rounds(aimd: &mut [Aimd], bears: u32, rounds: u32) -> Vec<u32> {
        let (mut now, mut random) = (Instant::now(), 7_u64);
        let mut rejected = Vec::new();
        for _ in 0..rounds {
            let began = now;
            now += Duration::from_secs(10);
            let sent: Vec<u32> = aimd.iter().map(Aimd::limit).collect();
            let all: u32 = sent.iter().sum();
            let over = all.saturating_sub(bears);
            rejected.push(over);
            // Every call is as likely to be refused as any other.
            let mut refused = vec![0; sent.len()];
            for _ in 0..over {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let mut at = u32::try_from(random >> 33).unwrap() % all;
                let takes = |sent: &u32| at.checked_sub(*sent).map(|rest| at = rest).is_none();
                let whose = sent.iter().position(takes).unwrap();
                refused[whose] += u32::from(refused[whose] < sent[whose]);
            }
            for ((aimd, sent), refused) in aimd.iter_mut().zip(sent).zip(refused) {
                // Refusals come at once, replies when they are done.
                (0..refused).for_each(|nth| aimd.ended(Load::TooMuch, began, began, sent - nth));
                (refused..sent).for_each(|_| aimd.ended(FINE, began, now, sent - refused));
            }
        }
        rejected
    }

    #[test]
    fn it_finds_the_limit_stays_close_and_is_seldom_refused() {
        let mut aimd = [Aimd::new(POLICY)];
        let rejected = rounds(&mut aimd, 20, 200);
        assert!((17..=20).contains(&aimd[0].limit()), "{}", aimd[0].limit());
        assert!(rejected.iter().all(|&n| n <= 5), "{rejected:?}");
        let (all, calls) = (rejected.iter().sum::<u32>(), 200 * 19);
        assert!(all * 100 < calls * 3, "{all} of about {calls}");
    }

    #[test]
    fn processes_that_start_apart_converge_to_equal_shares() {
        let mut aimd = [Aimd::new(AimdPolicy { start: 70, ..POLICY }), Aimd::new(AimdPolicy { start: 4, ..POLICY })];
        rounds(&mut aimd, 80, 400);
        let (one, other) = (aimd[0].limit(), aimd[1].limit());
        assert!(one.abs_diff(other) <= 16 && (64..=84).contains(&(one + other)), "{one} and {other}");
    }

    #[test]
    fn it_never_falls_below_one_nor_grows_beyond_its_bound() {
        let mut aimd = [Aimd::new(AimdPolicy { start: 50, max: 30, slowdown: 0 })];
        assert_eq!(aimd[0].limit(), 30);
        rounds(&mut aimd, 1_000, 50);
        assert_eq!(aimd[0].limit(), 30);
        rounds(&mut aimd, 0, 200);
        assert_eq!(aimd[0].limit(), 1);
        rounds(&mut aimd, 1_000, 40);
        assert_eq!(aimd[0].limit(), 30, "once past its old ceiling it grows fast again");
    }

    #[test]
    fn a_round_of_refusals_presses_it_down_to_what_is_borne_and_never_below_half() {
        for (refused, expected) in [(1, 90), (30, 70), (100, 50)] {
            let mut aimd = Aimd::new(AimdPolicy { start: 100, ..POLICY });
            let began = Instant::now();
            let now = began + Duration::from_secs(1);
            (0..refused).for_each(|n| aimd.ended(Load::TooMuch, began, now, 100 - n));
            assert_eq!(aimd.limit(), expected, "{refused} of 100 refused");
            let next = aimd.limit();
            aimd.ended(Load::TooMuch, now, now + Duration::from_secs(1), next);
            assert_eq!(aimd.limit(), next * 9 / 10);
        }
    }

    #[test]
    fn it_does_not_grow_while_it_is_not_used() {
        let mut aimd = Aimd::new(POLICY);
        let now = Instant::now();
        (0..100).for_each(|_| aimd.ended(FINE, now, now + Duration::from_secs(1), 2));
        assert_eq!(aimd.limit(), 4);
    }

    #[test]
    fn replies_several_times_slower_than_usual_are_too_much_and_slow_ones_are_not() {
        for (seconds, cuts) in [(2, false), (10, true)] {
            let mut aimd = Aimd::new(AimdPolicy { start: 50, ..POLICY });
            let now = Instant::now();
            (0..100).for_each(|_| aimd.ended(FINE, now, now + Duration::from_secs(1), 10));
            let later = now + Duration::from_secs(100);
            (0..20).for_each(|_| aimd.ended(FINE, later, later + Duration::from_secs(seconds), 10));
            assert_eq!(aimd.limit() < 50, cuts, "{seconds}: {}", aimd.limit());
        }
    }
}
