//! The budget, with the real programs: never exceeded, at no entry of the ledger, by however many processes at once.
//! Ledger entries are added up here by hand, so that the ledger's own sums are not their own witness.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use codeswarm::backend::{Adjustment, Entry, EntryKind, ReserveOutcome, ReserveRequest, Scope};
use codeswarm::job::TaskStatus;
use codeswarm::llm::replay::{Bill, SplitMix64};
use codeswarm::protocol::{AgentType, InstanceId, JobId, MicroUsd, TaskId};

use crate::support::{Books, Example, Running, Sandbox, Settled, Tree, billed_calls, differences, share};

const EXAMPLE: Example = Example::LINK_SHORTENER;

/// Adds the ledger up, entry by entry, and answers the most that was ever spent and reserved together.
fn highest_commitment(entries: &[Entry]) -> MicroUsd {
    let (mut spent, mut open, mut highest) = (0, BTreeMap::new(), 0);
    let mut charged: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in entries {
        let id = entry.reservation.as_str();
        match entry.kind {
            EntryKind::Reserve => assert_eq!(open.insert(id, entry.reserved.0), None, "{id} was reserved twice"),
            EntryKind::Settle | EntryKind::Expire => {
                open.remove(id);
                // A settlement after an expiry corrects what the expiry charged.
                spent = spent + entry.charged.0 - charged.insert(id, entry.charged.0).unwrap_or(0);
            }
            EntryKind::Release => assert!(open.remove(id).is_some(), "{id} was released and not open"),
            EntryKind::Adjust => {}
        }
        highest = highest.max(spent + open.values().sum::<u64>());
    }
    MicroUsd(highest)
}

fn usd(amount: MicroUsd) -> String {
    format!("{}.{:06}", amount.0 / 1_000_000, amount.0 % 1_000_000)
}

#[test]
fn a_job_with_half_of_its_budget_keeps_what_it_has_and_a_top_up_finishes_it() {
    halve(&[]);
}

#[test]
fn a_job_with_half_of_its_budget_that_does_one_thing_at_a_time_completes_features() {
    let complete = halve(&["--concurrency", "1"]);
    assert!(complete > 0, "half of the money is enough for a feature");
}

/// Gives the job half of what it needs, then the rest. Answers how many features were complete in between.
fn halve(arguments: &[&str]) -> u32 {
    let whole = Sandbox::new();
    whole.run(EXAMPLE, &[]).expect_code(0);
    let cost = {
        let books = Books::open(&whole.data());
        books.balance(&books.only_job()).spent
    };
    let half = MicroUsd(cost.0 / 2);

    let sandbox = Sandbox::new();
    let ended = sandbox.run(EXAMPLE, &[&["--budget", &usd(half)], arguments].concat()).expect_code(4);
    let before = Settled::now(&sandbox).unwrap();
    let (id, entries, complete) = assert_partial(&sandbox, &whole, &ended.stdout);
    assert!(highest_commitment(&entries) <= half, "{} of {half}", highest_commitment(&entries));

    // Resuming without more money ends the same way, and costs nothing more that was done before.
    sandbox.resume(EXAMPLE, &[]).expect_code(4);
    before.assert_not_paid_again(&sandbox, "resumed without more money");

    let before = Settled::now(&sandbox).unwrap();
    let mut top_up = sandbox.codeswarm(&["budget", "top-up", id.as_str(), &usd(cost)]);
    Running::start(&mut top_up).end().expect_code(0);
    sandbox.resume(EXAMPLE, &[]).expect_code(0);
    assert_eq!(differences(&whole.output(), &sandbox.output()), "");
    before.assert_not_paid_again(&sandbox, "topped up");
    let books = Books::open(&sandbox.data());
    let (balance, limit) = (books.balance(&id), half.saturating_add(cost));
    assert_eq!((balance.limit, balance.reserved), (Some(limit), MicroUsd::ZERO));
    assert!(highest_commitment(&books.entries(&id)) <= limit);
    assert_eq!(balance.spent, Bill::load(&sandbox.bill()).unwrap().cost_micros, "nothing was cut off");
    complete
}

/// Files that are there are whole and the right ones, and what is missing is said.
fn assert_partial(sandbox: &Sandbox, whole: &Sandbox, said: &str) -> (JobId, Vec<Entry>, u32) {
    let (expected, output) = (whole.output(), sandbox.output());
    assert!(!output.is_empty() && output.len() < expected.len(), "{} of {} files", output.len(), expected.len());
    for (path, content) in &output {
        assert_eq!(Some(content), expected.get(path), "{path}");
    }
    let books = Books::open(&sandbox.data());
    let id = books.only_job();
    let job = books.job(&id);
    let mut complete = 0;
    for feature in job.features() {
        let tasks = || job.feature_tasks(&feature.spec.id);
        for task in tasks().filter(|task| task.status == TaskStatus::Succeeded) {
            assert!(output.contains_key(task.path().unwrap()), "{} is done and not in the output", task.id);
        }
        complete += u32::from(feature.committed.is_some_and(|commit| commit.complete));
    }
    let missing = job.tasks().iter().filter(|task| task.status != TaskStatus::Succeeded).filter_map(|task| task.path());
    let missing: Vec<&str> = missing.collect();
    assert!(said.contains("budget exhausted") && said.contains("budget top-up"), "{said}");
    assert!(missing.iter().take(5).all(|path| said.contains(path)), "{missing:?} are missing, said is\n{said}");
    let entries = books.entries(&id);
    (id, entries, complete)
}

#[test]
fn a_budget_below_the_first_call_buys_nothing_and_says_what_would_be_enough() {
    let sandbox = Sandbox::new();
    let ended = sandbox.run(EXAMPLE, &["--budget", "0.01", "--json"]).expect_code(4).json();
    let reason = ended["reason"].as_str().unwrap();
    let needed = reason.split("may need $").nth(1).and_then(|rest| rest.split([' ', ',', ')']).next());
    let needed = needed.unwrap_or_else(|| panic!("does not say what it needs: {reason}"));
    assert_eq!((&ended["cost_micro_usd"], ended["files"]["planned"].as_u64()), (&0.into(), Some(0)));
    assert!(billed_calls(&sandbox.bill()).is_empty(), "something was billed");
    assert_eq!(differences(&sandbox.output(), &Tree::new()), "");
    {
        let books = Books::open(&sandbox.data());
        let entries = books.entries(&books.only_job());
        assert!(entries.iter().all(|entry| entry.kind == EntryKind::Adjust), "{entries:?}");
    }
    let enough = Sandbox::new();
    enough.run(EXAMPLE, &["--budget", needed]).expect_code(4);
    assert_eq!(billed_calls(&enough.bill()).get("plan"), Some(&1), "{needed} was said to be enough for the first call");
}

/// How many reservations each of the two processes makes at the same time.
const EACH: u64 = 100;

/// How many of all of them there is room for.
const ROOM: u64 = 37;

/// Tells a child what to do: data directory, amount in micro-dollars.
const ROLE: &str = "CODESWARM_TEST_RESERVE";

fn job() -> JobId {
    JobId::new("shared").unwrap()
}

#[test]
fn stress_case_01_two_processes_are_together_granted_exactly_as_many_reservations_as_there_is_room_for() {
    for seed in 0..share(3, 25) {
        let mut random = SplitMix64::new(seed);
        let amount = 1_000 + random.below(1_000_000);
        // Less than one more than fits, nothing at all included.
        let limit = MicroUsd(ROOM * amount + random.below(amount) * random.below(2));
        let sandbox = Sandbox::new();
        let books = Books::open(&sandbox.data());
        let scope = Scope::Job(job());
        books
            .runtime
            .block_on(books.backend.ledger.adjust("limit", &scope, Adjustment::SetLimit(Some(limit))))
            .unwrap();
        let mut children: Vec<Running> = (0..2).map(|_| child(&sandbox, amount)).collect();
        children.iter_mut().for_each(|child| child.say("go"));
        let granted: Vec<u64> = children.iter_mut().map(granted).collect();
        assert_eq!(granted.iter().sum::<u64>(), ROOM, "seed {seed}: {granted:?}");
        let balance = books.balance(&job());
        assert_eq!((balance.reserved.0, balance.spent.0), (ROOM * amount, 0), "seed {seed}");
        children.iter_mut().for_each(|child| child.say("end"));
        children.into_iter().for_each(|child| drop(child.end().expect_code(0)));
        // The children ended without settling, so what they reserved is spent as soon as anybody looks.
        let balance = Books::open(&sandbox.data()).balance(&job());
        assert_eq!((balance.reserved.0, balance.spent.0), (0, ROOM * amount), "seed {seed}");
        assert!(highest_commitment(&books.entries(&job())) <= limit, "seed {seed}");
    }
}

/// This program again, in the role of [`reserves_as_a_child`], once it is ready.
fn child(sandbox: &Sandbox, amount: u64) -> Running {
    let program = std::env::current_exe().unwrap();
    let mut command = sandbox.command(program, &["budget::reserves_as_a_child", "--exact", "--ignored", "--nocapture"]);
    command.env(ROLE, format!("{amount} {}", sandbox.data().display()));
    let mut running = Running::listening(&mut command);
    running.wait_for(|line| line == "ready").expect("the child is ready");
    running
}

fn granted(child: &mut Running) -> u64 {
    let line = child.wait_for(|line| line.starts_with("granted ")).expect("the child counts");
    line["granted ".len()..].parse().unwrap()
}

#[test]
#[ignore = "the child process of another test"]
fn reserves_as_a_child() {
    let role = std::env::var_os(ROLE).expect("started by the other test").into_string().unwrap();
    let (amount, data) = role.split_once(' ').unwrap();
    let amount = MicroUsd(amount.parse().unwrap());
    let books = Books::open(&PathBuf::from(data));
    eprintln!("ready");
    wait_for_word("go");
    let calls: Vec<_> = (0..EACH)
        .map(|call| {
            let ledger = books.backend.ledger.clone();
            let request = request(amount, call);
            books.runtime.spawn(async move { ledger.reserve(request).await.unwrap() })
        })
        .collect();
    let outcomes: Vec<ReserveOutcome> = calls.into_iter().map(|call| books.runtime.block_on(call).unwrap()).collect();
    let granted = outcomes.iter().filter(|outcome| **outcome == ReserveOutcome::Granted).count();
    eprintln!("granted {granted}");
    wait_for_word("end");
}

fn wait_for_word(word: &str) {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    assert_eq!(line.trim(), word);
}

fn request(amount: MicroUsd, call: u64) -> ReserveRequest {
    ReserveRequest {
        id: format!("{}-{call}", std::process::id()),
        scopes: vec![Scope::Account, Scope::Job(job())],
        amount,
        tokens: 0,
        lease: Duration::from_secs(600),
        may_use_hold_back: false,
        instance: InstanceId::new(format!("child-{}", std::process::id())).unwrap(),
        job: job(),
        task: TaskId::plan(),
        agent: AgentType::planner(),
        model: "model".into(),
    }
}
