//! `kill -9` at any point: the resumed job ends with the same files, and no stored result is paid for twice.
//!
//! The programs are the real ones and the judge is not theirs: the fake server's bill is a file that only it writes, one
//! line per call before the first byte of the reply leaves, so it knows of calls that the killed process never heard of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codeswarm::llm::replay::{Bill, SplitMix64};
use codeswarm::protocol::{JobId, JobOutcome, MicroUsd};

use crate::support::{Books, Example, Git, Running, Sandbox, Settled, Tree, billed_calls, differences, share};

/// Latency of every reply: long enough that a kill finds calls under way.
const LATENCY: [&str; 2] = ["--replay-latency", "25"];

/// Every call that is under way at a kill counts in full, so a job that is killed often needs room for that.
const BUDGET: [&str; 2] = ["--budget", "200"];

/// When a run is killed.
#[derive(Debug, Clone, Copy)]
enum KillAt {
    /// After so many lines of progress.
    Line(u64),
    /// After so much time.
    Time(Duration),
}

/// What an undisturbed run does.
struct Undisturbed {
    output: Tree,
    lines: u64,
    took: Duration,
    calls: BTreeMap<Arc<str>, u64>,
}

fn undisturbed(arguments: &[&str]) -> Undisturbed {
    let sandbox = Sandbox::new();
    let started = Instant::now();
    let ended = sandbox.run(Example::LINK_SHORTENER, &[&LATENCY[..], &BUDGET, arguments].concat()).expect_code(0);
    let took = started.elapsed();
    let calls = billed_calls(&sandbox.bill());
    assert!(calls.values().all(|calls| *calls == 1), "an undisturbed run pays once: {calls:?}");
    Undisturbed { output: sandbox.output(), lines: ended.stderr.lines().count() as u64, took, calls }
}

/// A point somewhere in a run, before its beginning and behind its end included.
fn kill_point(random: &mut SplitMix64, whole: &Undisturbed) -> KillAt {
    let part = random.unit();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    if random.unit() < 0.5 {
        KillAt::Line((part * (whole.lines + 1) as f64) as u64)
    } else {
        KillAt::Time(whole.took.mul_f64(part * 1.05))
    }
}

/// Kills `running` at `point`, if it still runs by then.
fn kill(mut running: Running, point: KillAt) {
    match point {
        KillAt::Line(lines) => {
            for _ in 0..lines {
                if running.next_line().is_none() {
                    break;
                }
            }
        }
        KillAt::Time(after) => {
            running.read_until(Instant::now() + after);
        }
    }
    running.kill();
}

/// The server's bill is covered by the ledger, the ledger by the budget, and nothing is left open.
fn assert_books_balance(sandbox: &Sandbox, context: &str) -> (Books, JobId) {
    let books = Books::open(&sandbox.data());
    let id = books.only_job();
    let balance = books.balance(&id);
    let bill = Bill::load(&sandbox.bill()).unwrap();
    assert!(bill.cost_micros <= balance.spent, "{context}: billed {} of {balance:?}", bill.cost_micros);
    assert!(balance.spent <= balance.limit.unwrap(), "{context}: {balance:?}");
    assert_eq!(balance.reserved, MicroUsd::ZERO, "{context}: {balance:?}");
    (books, id)
}

/// Runs the job, kills it at each point in turn, resumes it to its end and checks every promise. Answers the sandbox and
/// how many stored results the kills left behind.
fn survive(points: &[KillAt], whole: &Undisturbed, extra: &[&str], context: &str) -> (Sandbox, usize) {
    let sandbox = Sandbox::new();
    let bystanders = sandbox.bystanders();
    let mut deaths: Vec<Settled> = Vec::new();
    let start = |deaths: &[Settled]| {
        let mut command = match deaths.last() {
            None => sandbox.run_command(Example::LINK_SHORTENER, &[&LATENCY[..], &BUDGET, extra].concat()),
            Some(_) => sandbox.resume_command(Example::LINK_SHORTENER, &LATENCY),
        };
        Running::start(&mut command)
    };
    for point in points {
        if deaths.last().is_some_and(|death| death.ended) {
            break;
        }
        kill(start(&deaths), *point);
        deaths.extend(Settled::now(&sandbox));
    }
    if !deaths.last().is_some_and(|death| death.ended) {
        start(&deaths).end().expect_code(0);
    } else {
        // The end was logged, but the process did not live to say so: there must be nothing left to do.
        let ended = start(&deaths).end().expect_code(1);
        assert!(ended.stderr.contains("nothing to resume"), "{context}: {ended:?}");
    }
    let difference = differences(&whole.output, &sandbox.output());
    assert!(difference.is_empty(), "{context}: not the files of an undisturbed run\n{difference}");
    let (books, id) = assert_books_balance(&sandbox, context);
    assert_eq!(books.job(&id).end().map(|(outcome, ..)| outcome), Some(JobOutcome::Completed), "{context}");
    for (index, death) in deaths.iter().enumerate() {
        death.assert_not_paid_again(&sandbox, &format!("{context}, kill {}", index + 1));
    }
    let billed = billed_calls(&sandbox.bill());
    assert_eq!(billed.keys().collect::<Vec<_>>(), whole.calls.keys().collect::<Vec<_>>(), "{context}");
    let difference = differences(&bystanders, &sandbox.bystanders());
    assert!(difference.is_empty(), "{context}: something outside was touched\n{difference}");
    (sandbox, deaths.iter().map(Settled::results).sum())
}

#[test]
fn stress_a_job_killed_at_any_point_ends_with_the_same_files_and_pays_for_nothing_twice() {
    let whole = undisturbed(&[]);
    let mut results = 0;
    for seed in 0..share(5, 40) {
        let point = kill_point(&mut SplitMix64::new(seed), &whole);
        results += survive(&[point], &whole, &[], &format!("seed {seed}, killed at {point:?}")).1;
    }
    assert!(results > 0, "no kill struck while there was anything to lose");
}

#[test]
fn stress_a_job_killed_again_and_again_ends_with_the_same_files() {
    let whole = undisturbed(&[]);
    for seed in 1_000..1_000 + share(2, 20) {
        let mut random = SplitMix64::new(seed);
        let points: Vec<KillAt> = (0..5)
            .map(|_| match kill_point(&mut random, &whole) {
                // Early enough that several of them strike.
                KillAt::Line(lines) => KillAt::Line(lines / 4),
                KillAt::Time(after) => KillAt::Time(after / 3),
            })
            .collect();
        survive(&points, &whole, &[], &format!("seed {seed}, killed at {points:?}"));
    }
}

#[test]
fn stress_a_job_killed_while_it_commits_to_git_has_one_commit_per_feature() {
    let whole = undisturbed(&["--git"]);
    for seed in 2_000..2_000 + share(3, 20) {
        let mut random = SplitMix64::new(seed);
        // The second half of the output is where features are written.
        let line = whole.lines / 2 + random.below(whole.lines / 2);
        let context = format!("seed {seed}, killed at line {line}");
        let (sandbox, _) = survive(&[KillAt::Line(line)], &whole, &["--git"], &context);
        let git = Git::at(&sandbox.out());
        assert_eq!(git.features(), git.distinct_features(), "{context}: a feature was committed twice");
        assert_eq!(git.features().len(), 6, "{context}");
        assert_eq!(git.run(&["status", "--porcelain"]), "", "{context}");
        git.run(&["fsck", "--strict"]);
    }
}
