//! The race for the last cent: eight processes, each with sixty-four calls at once, one budget with room for a part of them.
//!
//! Round after round the provider misbehaves, leases run out under calls that are still going on, and processes are killed in
//! the middle of whatever they do. After every round: what the provider has billed is at most what the ledger has charged,
//! that is at most the limit, at no entry was more committed, and nothing is left set aside.

mod arena;
mod caller;
mod plan;
mod tally;

use std::time::Instant;

use self::arena::{Arena, Verdict};
use self::plan::{PROCESSES, Report, Round, TASKS};
use crate::support::share;

/// Rounds on the same stores; then come fresh ones, so that no store grows without bounds.
const ROUNDS_EACH: u64 = 100;

impl Report {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.parked += other.parked;
        self.failed += other.failed;
        self.dropped += other.dropped;
        self.attempts += other.attempts;
        self.cost += other.cost;
        self.unexpected += other.unexpected;
    }
}

#[test]
fn stress_eight_processes_on_one_file_never_spend_more_than_there_is() {
    let arenas = |nth: u64| Arena::embedded(nth % 2 == 1);
    race("embedded", arenas);
}

#[test]
fn stress_eight_processes_on_redis_and_nats_never_spend_more_than_there_is() {
    // Now and then by the servers' own clock: then it is silence, and not a lease, by which the dead are found.
    let arenas = |nth: u64| Arena::servers(nth % 5 != 4);
    race("redis and nats", arenas);
}

#[test]
fn stress_the_dead_are_found_by_their_silence_and_pay_for_what_they_held() {
    let rounds = share(5, 100);
    let mut arena = Arena::servers(false);
    let verdicts: Vec<Verdict> = (50_000..50_000 + rounds).map(|number| arena.run(&Round::new(number))).collect();
    assert!(verdicts.iter().any(|verdict| verdict.killed > 0), "nobody was killed");
    arena.rebuild(&verdicts);
}

#[expect(clippy::print_stderr, reason = "the figures are what people look for")]
fn race(name: &str, open: impl Fn(u64) -> Arena) {
    let (rounds, began) = (share(20, 1_000), Instant::now());
    let (mut verdicts, mut records) = (Vec::new(), 0);
    for first in (0..rounds).step_by(usize::try_from(ROUNDS_EACH).unwrap()) {
        let mut arena = open(first / ROUNDS_EACH);
        let numbers = first..rounds.min(first + ROUNDS_EACH);
        let own: Vec<Verdict> = numbers.map(|number| arena.run(&Round::new(number))).collect();
        records += arena.rebuild(&own);
        verdicts.extend(own);
    }
    let sum = |of: fn(&Verdict) -> u64| verdicts.iter().map(of).sum::<u64>();
    let (granted, refused) = (sum(|verdict| verdict.tally.granted), sum(|verdict| verdict.report.refused));
    eprintln!(
        "{name}: {rounds} rounds in {:.0?}, {} calls; {granted} reservations granted, {refused} calls refused, {} parked, \
         {} failed, {} given up; {} processes killed, {} reservations ran out, {} of them settled late; overshoot {} µUSD, \
         billed {} <= spent {} µUSD, beyond their bounds {} µUSD; {records} records rebuilt",
        began.elapsed(),
        rounds * PROCESSES * TASKS,
        sum(|verdict| verdict.report.parked),
        sum(|verdict| verdict.report.failed),
        sum(|verdict| verdict.report.dropped),
        sum(|verdict| verdict.killed),
        sum(|verdict| verdict.tally.expired),
        sum(|verdict| verdict.tally.late),
        verdicts.iter().map(|verdict| verdict.tally.overshoot).max().unwrap_or(0),
        sum(|verdict| verdict.billed),
        sum(|verdict| verdict.spent),
        sum(|verdict| verdict.tally.overrun),
    );
    assert!(
        granted > 0 && refused > 0 && sum(|verdict| verdict.killed) > 0,
        "the rounds no longer try what they should"
    );
    let used = verdicts.iter().filter(|verdict| verdict.report.answered > 0 && verdict.report.refused > 0).count();
    assert!(used * 3 > verdicts.len(), "only {used} rounds had room for a part of the calls");
}
