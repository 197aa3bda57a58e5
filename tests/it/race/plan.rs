//! What one round of the race is: room, faults, and who dies when. All of it follows from the round's number.
//!
//! Only timing is left to chance, so a round that failed can be run again with the same replies and the same limits. Faults
//! that break the provider's own promises (more output than was allowed, a dearer model) come in rounds of their own, for
//! no bound can hold against them and what is expected is something else.

use codeswarm::llm::replay::{Fault, Reply, Script, SplitMix64};
use serde::{Deserialize, Serialize};

/// Processes that race.
pub(super) const PROCESSES: u64 = 8;

/// Tasks of each of them, all at once.
pub(super) const TASKS: u64 = 64;

/// The model that is called.
pub(super) const MODEL: &str = "claude-sonnet-5-5";

/// Agent types that the tasks belong to in turn.
pub(super) const AGENTS: [&str; 3] = ["coder", "backend", "testing"];

/// About what the worst cases of all calls of a round add up to, in micro-dollars.
const EVERYTHING: u64 = PROCESSES * TASKS * 40_000;

/// Longest silence that a client bears, in milliseconds: some rounds wait for it, so it is short.
pub(super) const IDLE_MS: u64 = 300;

/// What every child is told about a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    /// The round's number, from which all that is random follows.
    pub(super) round: u64,
    /// Which of the processes this is.
    pub(super) slot: u64,
    /// The job that pays.
    pub(super) job: String,
    /// Where the provider is.
    pub(super) url: String,
    /// What the clock shows, in epoch milliseconds; none for a process that goes by the stores' own.
    pub(super) now: Option<i64>,
    /// Some calls are given up before they end.
    pub(super) drops: bool,
}

/// What a child says about its calls of a round.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Report {
    /// Complete replies.
    pub(super) answered: u64,
    /// Refused for lack of money before anything was sent.
    pub(super) refused: u64,
    /// Sent away by a guard.
    pub(super) parked: u64,
    /// Ended with an error of the provider.
    pub(super) failed: u64,
    /// Given up by the caller.
    pub(super) dropped: u64,
    /// Requests that were sent.
    pub(super) attempts: u64,
    /// What the calls that were not given up cost, in micro-dollars.
    pub(super) cost: u64,
    /// Ended with anything else; there must be none.
    pub(super) unexpected: u64,
}

/// A round.
#[derive(Debug, Clone)]
pub(super) struct Round {
    pub(super) number: u64,
    /// What the job may spend, in micro-dollars.
    pub(super) limit: u64,
    /// What is kept of it for verification and repair.
    pub(super) hold_back: u64,
    /// What one agent type may spend in the job.
    pub(super) agent_limit: Option<u64>,
    /// What the day may still spend.
    pub(super) day_room: Option<u64>,
    /// The process that is killed, and after which share of the last round's time, in percent.
    pub(super) killed: Option<(u64, u64)>,
    /// While calls are under way, all leases run out.
    pub(super) lapses: bool,
    pub(super) drops: bool,
    /// The provider breaks its own promises.
    pub(super) is_broken: bool,
    /// Percent of the replies that go wrong.
    faulty: u64,
    is_slow: bool,
    asks_for_patience: bool,
}

/// The source of what is random in a call of a round.
pub(super) fn random(round: u64, slot: u64, task: u64) -> SplitMix64 {
    SplitMix64::new((round * PROCESSES + slot) * TASKS + task)
}

/// The request that a task makes, by which its replies are found.
pub(super) fn key(slot: u64, task: u64) -> String {
    format!("file {slot}/{task}")
}

impl Round {
    pub(super) fn new(number: u64) -> Self {
        let mut random = SplitMix64::new(number ^ 0x00b0_d6e7);
        let mut one_in = |many: u64| random.below(many) == 0;
        let (killed, lapses, drops) = (one_in(3), one_in(10), one_in(5));
        let (is_broken, is_slow, asks_for_patience) = (one_in(25), one_in(6), one_in(25));
        let (has_agent_limit, has_day_limit, holds_back) = (one_in(4), one_in(4), one_in(4));
        let limit = match random.below(8) {
            // Less than most calls need, all that could be wanted, anything.
            0 => random.below(60_000),
            1 => EVERYTHING * 2,
            _ => random.below(EVERYTHING),
        };
        Self {
            number,
            limit,
            hold_back: if holds_back { limit / (2 + random.below(10)) } else { 0 },
            agent_limit: has_agent_limit.then(|| random.below(limit / 2 + 1)),
            day_room: has_day_limit.then(|| random.below(EVERYTHING)),
            killed: killed.then(|| (random.below(PROCESSES), random.below(110))),
            lapses,
            drops,
            is_broken,
            faulty: [0, 10, 10, 40][usize::try_from(random.below(4)).unwrap()],
            is_slow,
            asks_for_patience,
        }
    }

    /// True when every charge reaches the one who reports it: nobody dies or gives up on the way.
    pub(super) fn is_accountable(&self) -> bool {
        self.killed.is_none() && !self.drops
    }

    /// What the provider answers to each task. One of them may ask for more patience than a round has, which is only good
    /// where the clock is moved past it.
    pub(super) fn script(&self, by_hand: bool) -> Script {
        let mut script = Script::new();
        for (slot, task) in (0..PROCESSES).flat_map(|slot| (0..TASKS).map(move |task| (slot, task))) {
            let mut random = random(self.number, slot, task);
            for _ in 0..3 {
                script.push(&key(slot, task), self.reply(&mut random));
            }
        }
        if self.asks_for_patience && by_hand {
            let reply = Reply::new("").fault(Fault::Status429).retry_after(90);
            script = script.merged(Script::new().reply(&key(self.number % PROCESSES, 7), reply));
        }
        if self.is_broken {
            let fault = [Fault::UsageOverBound, Fault::OtherModel][usize::try_from(self.number % 2).unwrap()];
            let reply = Reply::new("more than was allowed").fault(fault);
            script = script.merged(Script::new().reply(&key(self.number % PROCESSES, 9), reply));
        }
        script
    }

    fn reply(&self, random: &mut SplitMix64) -> Reply {
        const QUICK: [Fault; 27] = [
            Fault::Status400,
            Fault::Html413,
            Fault::Status429,
            Fault::Status429Date,
            Fault::Status429Ms,
            Fault::SpendCap429,
            Fault::Status500,
            Fault::Html503,
            Fault::Status504,
            Fault::Status529,
            Fault::CutMidStream,
            Fault::EofBeforeStop,
            Fault::ErrorEvent,
            Fault::Utf8Split,
            Fault::Crlf,
            Fault::Padded,
            Fault::UnknownEvent,
            Fault::SeveralUsages,
            Fault::NoUsage,
            Fault::ZeroUsage,
            Fault::RefusalBefore,
            Fault::Refusal,
            Fault::ThinkingOnly,
            Fault::MaxTokens,
            Fault::ToolCut,
            Fault::EmptyEndTurn,
            Fault::InvalidUtf8,
        ];
        const SLOW: [Fault; 4] = [Fault::StallBeforeHeaders, Fault::StallMidStream, Fault::LateHeaders, Fault::Huge];
        let reply = Reply::new("const ANSWER: u32 = 42; // and a little more of the same, so that it comes in pieces");
        let reply = reply.output_tokens(random.below(6_000)).delay(std::time::Duration::from_millis(random.below(30)));
        if random.below(100) >= self.faulty {
            return reply;
        }
        if self.is_slow && random.below(8) == 0 {
            let fault = SLOW[usize::try_from(random.below(4)).unwrap()];
            let delay = if fault == Fault::LateHeaders { IDLE_MS * 2 } else { 0 };
            return reply.fault(fault).delay(std::time::Duration::from_millis(delay));
        }
        let fault = QUICK[usize::try_from(random.below(QUICK.len() as u64)).unwrap()];
        let asks = matches!(fault, Fault::Status429Date | Fault::Status429Ms);
        if asks { reply.fault(fault).retry_after(0) } else { reply.fault(fault) }
    }
}
