//! What a job does when its money runs low: cheaper models, optional tasks left out, a question, whole features first.
//!
//! Each run is of the real program against a scripted provider, and its first run tells what the whole job costs, so that
//! no test knows a price. Money must be sound in every one of them.

mod urgent;

use std::process::Stdio;
use std::time::Duration;

use codeswarm::backend::{EntryFilter, EntryKind, Scope};
use codeswarm::llm::replay::{Fault, Reply, Script, SyntheticJob};
use codeswarm::protocol::{Event, FeatureId, MicroUsd, Priority};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::faults::{Bout, Provider, Wrong, file, job, script};
use crate::rig::Sandbox;

const ONE_AT_A_TIME: (&str, &str) = ("CODESWARM_FLEET_CONCURRENCY", "1");
const SMALL_CALLS: (&str, &str) = ("CODESWARM_LLM_MAX_OUTPUT_TOKENS", "2000");

/// Five features of two files, the last two of low priority.
fn job_with_options() -> SyntheticJob {
    let mut job = job(5, 2);
    for feature in &mut job.plan.features[3..] {
        feature.priority = Priority::Low;
    }
    job
}

/// What the job costs from beginning to end.
async fn whole_cost(job: &SyntheticJob) -> MicroUsd {
    let bout = Bout::of(script(job, Wrong::new(), false), &[ONE_AT_A_TIME, SMALL_CALLS]).await;
    bout.ran.assert_ended(0, &[]);
    bout.story.balance.spent
}

fn dollars(amount: MicroUsd) -> String {
    format!("{}.{:06}", amount.0 / 1_000_000, amount.0 % 1_000_000)
}

/// The answers to every request of `job`, each file of which costs nearly as much as a call can.
fn dear(job: &SyntheticJob) -> Script {
    let mut script = Script::new();
    script.push("plan", serde_json::to_string(&job.plan).unwrap());
    for (feature, plan) in job.plan.features.iter().zip(&job.feature_plans) {
        script.push(&format!("feature-plan {}", feature.id), serde_json::to_string(plan).unwrap());
    }
    for task in &job.tasks {
        script.push(&format!("file {}", task.path), Reply::new(file(&task.path)).output_tokens(1_900));
    }
    script
}

/// Paths of the files whose tasks succeeded, and the models that wrote them.
fn written(bout: &Bout) -> Vec<(String, String)> {
    let of = |event: &Event| match event {
        Event::TaskSucceeded { task, receipt, .. } => Some((task.to_string(), receipt.model.clone())),
        _ => None,
    };
    bout.story.events.iter().filter_map(of).filter(|(task, _)| task.starts_with("file/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_low_priority_go_to_the_cheaper_model_once_money_runs_low() {
    let job = job_with_options();
    let twice = dollars(MicroUsd(whole_cost(&job).await.0 * 2));
    let settings = [
        ONE_AT_A_TIME,
        SMALL_CALLS,
        ("CODESWARM_JOB_BUDGET_USD", twice.as_str()),
        ("CODESWARM_BUDGET_WARN_PERCENT", "90"),
        ("CODESWARM_BUDGET_CHEAPER_MODEL", "claude-haiku-4-5"),
        ("CODESWARM_BUDGET_CHEAPER_MODEL_PERCENT", "5"),
    ];
    let bout = Bout::of(script(&job, Wrong::new(), false), &settings).await;
    bout.ran.assert_ended(0, &[]);
    bout.assert_files(&job, &[]);
    for (task, model) in written(&bout) {
        let is_low = ["file/f0003", "file/f0004"].iter().any(|low| task.starts_with(low));
        assert_eq!(model == "claude-haiku-4-5", is_low, "{task} by {model}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn optional_tasks_are_left_out_and_come_with_more_money() {
    let job = job_with_options();
    let twice = dollars(MicroUsd(whole_cost(&job).await.0 * 2));
    let settings = [
        ONE_AT_A_TIME,
        SMALL_CALLS,
        ("CODESWARM_JOB_BUDGET_USD", twice.as_str()),
        ("CODESWARM_BUDGET_DROP_OPTIONAL_PERCENT", "5"),
    ];
    let bout = Bout::of(script(&job, Wrong::new(), false), &settings).await;
    bout.ran.assert_ended(4, &["optional tasks are left out"]);
    let optional = |path: &str| path.starts_with("f0003/") || path.starts_with("f0004/");
    let missing: Vec<&str> = job.tasks.iter().map(|task| task.path.as_str()).filter(|path| optional(path)).collect();
    bout.assert_files(&job, &missing);
    let id = bout.sandbox.stores().await.0.events.jobs().await.unwrap()[0].job.to_string();
    let top_up = bout.sandbox.run(&["budget", "top-up", &id, "100"], &[]).await;
    top_up.assert_ended(0, &[]);
    let url = bout.provider.base_url();
    let resumed =
        bout.sandbox.run(&["resume", "--yes"], &[&settings[..], &[("ANTHROPIC_BASE_URL", &url)]].concat()).await;
    resumed.assert_ended(0, &[]);
    bout.assert_files(&job, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_out_completes_whole_features_instead_of_a_bit_of_each() {
    let job = job(5, 3);
    let whole = Bout::of(dear(&job), &[ONE_AT_A_TIME, SMALL_CALLS]).await;
    whole.ran.assert_ended(0, &[]);
    let budget = dollars(MicroUsd(whole.story.balance.spent.0 * 7 / 10));
    let settings = [ONE_AT_A_TIME, SMALL_CALLS, ("CODESWARM_JOB_BUDGET_USD", budget.as_str())];
    let bout = Bout::of(dear(&job), &settings).await;
    bout.ran.assert_ended(4, &[]);
    let complete =
        bout.story.events.iter().filter(|event| matches!(event, Event::FeatureCommitted { complete: true, .. }));
    assert!(complete.count() >= 2, "{:?}", written(&bout));
    let mut done = std::collections::BTreeMap::<String, usize>::new();
    for (task, _) in written(&bout) {
        *done.entry(task.split('/').nth(1).unwrap().to_owned()).or_default() += 1;
    }
    let begun = done.values().filter(|files| **files < 3).count();
    assert!(begun <= 1, "more than one feature was left half done: {done:?}");
}

/// What the ledger says was changed, oldest first: the notes of its adjustments.
async fn changes(sandbox: &Sandbox) -> Vec<String> {
    let (backend, _copy) = sandbox.stores().await;
    let entries = backend.ledger.entries(EntryFilter { limit: 100_000, ..EntryFilter::default() }).await.unwrap();
    entries.into_iter().filter(|entry| entry.kind == EntryKind::Adjust).map(|entry| entry.note).collect()
}

/// Limits that the slice of `feature` has had, oldest first; `None` for a limit that was removed.
fn limits(changes: &[String], feature: &str) -> Vec<Option<MicroUsd>> {
    let slice = format!("/slice:{feature} ");
    let of_slice = changes.iter().filter(|note| note.contains(&slice));
    of_slice.map(|note| note.split_once("set to $").map(|(_, limit)| limit.parse().unwrap())).collect()
}

async fn spent_on(bout: &Bout, feature: &str) -> MicroUsd {
    let (backend, _copy) = bout.sandbox.stores().await;
    let job = backend.events.jobs().await.unwrap()[0].job.clone();
    backend.ledger.balance(&Scope::Slice(job, FeatureId::new(feature).unwrap())).await.unwrap().spent
}

#[tokio::test(flavor = "multi_thread")]
async fn funded_features_have_limits_of_their_own_and_give_back_what_they_do_not_use() {
    let job = job(5, 3);
    let whole = Bout::of(dear(&job), &[ONE_AT_A_TIME, SMALL_CALLS]).await;
    whole.ran.assert_ended(0, &[]);
    assert!(!changes(&whole.sandbox).await.iter().any(|note| note.contains("/slice:")), "enough money needs no limits");
    let budget = MicroUsd(whole.story.balance.spent.0 * 7 / 10);
    let budget_usd = dollars(budget);
    let settings = [ONE_AT_A_TIME, SMALL_CALLS, ("CODESWARM_JOB_BUDGET_USD", budget_usd.as_str())];
    let bout = Bout::of(dear(&job), &settings).await;
    bout.ran.assert_ended(4, &[]);
    let changes = changes(&bout.sandbox).await;
    let complete = bout.story.events.iter().filter_map(|event| match event {
        Event::FeatureCommitted { feature, complete: true, .. } => Some(feature.to_string()),
        _ => None,
    });
    let mut returned = 0;
    for feature in complete {
        let (limits, spent) = (limits(&changes, &feature), spent_on(&bout, &feature).await);
        let most = limits.iter().flatten().max().copied().unwrap_or_default();
        assert!(spent <= most && most <= budget, "{feature} spent {spent} of {limits:?}");
        returned += usize::from(most > spent && limits.contains(&Some(spent)));
    }
    assert!(returned > 0, "a finished feature keeps no more than it spent: {changes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_a_person_has_set_for_a_feature_is_never_touched() {
    let job = job(5, 3);
    let cost = Bout::of(dear(&job), &[ONE_AT_A_TIME, SMALL_CALLS]).await.story.balance.spent;
    let budget = dollars(MicroUsd(cost.0 * 7 / 10));
    let provider = Provider::start(dear(&job)).await;
    let url = provider.base_url();
    let sandbox = Sandbox::new();
    let settings = [
        ONE_AT_A_TIME,
        SMALL_CALLS,
        ("CODESWARM_JOB_BUDGET_USD", budget.as_str()),
        ("CODESWARM_BUDGET_WARN_PERCENT", "1"),
        // It stops before the first file, for the limit to be set.
        ("CODESWARM_BUDGET_PAUSE_PERCENT", "1"),
        ("ANTHROPIC_BASE_URL", &url),
    ];
    sandbox.run_job(&[], &settings).await.assert_ended(4, &["budget.pause_percent"]);
    let id = sandbox.stores().await.0.events.jobs().await.unwrap()[0].job.to_string();
    sandbox.run(&["budget", "set", &format!("{id}/feature:f0001"), "0.000001"], &[]).await.assert_ended(0, &[]);
    sandbox.run(&["resume", "--yes"], &settings).await.assert_ended(4, &[]);
    let changes = changes(&sandbox).await;
    assert!(job.plan.features.iter().any(|feature| !limits(&changes, feature.id.as_str()).is_empty()));
    assert!(changes.iter().filter(|note| note.contains("/slice:")).count() > 1, "the others were limited: {changes:?}");
    assert_eq!(limits(&changes, "f0001"), [Some(MicroUsd(1))], "{changes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_cheaper_model_cannot_answer_the_roles_own_does() {
    let mut job = job_with_options();
    job.plan.features[4].priority = Priority::Normal;
    let twice = dollars(MicroUsd(whole_cost(&job).await.0 * 2));
    let wrong: Wrong = job
        .tasks
        .iter()
        .filter(|task| task.feature.as_str() == "f0003")
        .map(|task| (format!("file {}", task.path), vec![Reply::new("").fault(Fault::Status404)]))
        .collect();
    let settings = [
        ONE_AT_A_TIME,
        SMALL_CALLS,
        ("CODESWARM_JOB_BUDGET_USD", twice.as_str()),
        ("CODESWARM_BUDGET_CHEAPER_MODEL", "claude-haiku-4-5"),
        ("CODESWARM_BUDGET_CHEAPER_MODEL_PERCENT", "5"),
    ];
    let bout = Bout::of(script(&job, wrong, false), &settings).await;
    bout.ran.assert_ended(0, &[]);
    bout.assert_files(&job, &[]);
    assert!(written(&bout).iter().all(|(_, model)| model == "claude-sonnet-5-5"), "{:?}", written(&bout));
    let refused = |model: &str, code: &'static str, part: &'static str| {
        let settings = [("CODESWARM_BUDGET_CHEAPER_MODEL", model.to_owned())];
        let sandbox = Sandbox::new();
        async move {
            let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
            sandbox.run(&["config", "check"], &settings).await.assert_refused(2, code, &[part]);
            let doctor = sandbox.run(&["doctor"], &settings).await;
            assert!(doctor.stdout.contains(code), "{doctor:?}");
            sandbox.run_job(&[], &settings).await.assert_refused(1, code, &[part]);
        }
    };
    refused("nope-model", "CS-FLEET-007", "nope-model").await;
    // Priced, but nobody has a key for its endpoint.
    let sandbox = Sandbox::new();
    let other = [("CODESWARM_BUDGET_CHEAPER_MODEL", "openai/gpt-6.1-sol")];
    sandbox.run_job(&[], &other).await.assert_refused(1, "CS-FLEET-001", &["openai"]);
    let doctor = sandbox.run(&["doctor"], &other).await;
    assert!(doctor.stdout.contains("there is no key for the provider openai"), "{doctor:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_beyond_its_bound_raises_an_alarm_and_thawing_as_advised_lets_the_job_go_on() {
    let job = job(5, 2);
    // The plan of a feature: its files are left to do, whatever the others have done by then.
    let plan = serde_json::to_string(&job.feature_plans[0]).unwrap();
    let over = Reply::new(plan).fault(Fault::UsageOverBound);
    let key = format!("feature-plan {}", job.plan.features[0].id);
    let provider = Provider::start(script(&job, Wrong::from([(key, vec![over])]), false)).await;
    let url = provider.base_url();
    // With calls of full size, twice the output is far more than what was set aside for the input.
    let settings = [("ANTHROPIC_BASE_URL", &*url)];
    let sandbox = Sandbox::new();
    let ran = sandbox.run_job(&[], &settings).await;
    ran.assert_ended(4, &["alarm: a call of", "more than its worst case", "budget thaw", "spending was frozen"]);
    let story = sandbox.story().await;
    let alarms: Vec<_> = story
        .events
        .iter()
        .filter(|event| matches!(event, Event::BudgetOverrun { reserved, charged, .. } if charged > reserved))
        .collect();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    let events = sandbox.run(&["events"], &[]).await;
    events.assert_ended(0, &["alarm: a call of"]);
    let shown = sandbox.run(&["budget", "show"], &[]).await;
    shown.assert_ended(0, &["frozen: `codeswarm budget thaw` allows calls again"]);
    // As advised, and nothing more: job, feature and agent type were frozen as well.
    let thawed = sandbox.run(&["budget", "thaw"], &[]).await;
    thawed.assert_ended(0, &["all spending is allowed again", "thawed: account, job:", "/feature:", "/agent:"]);
    let resumed = sandbox.run(&["resume", "--yes"], &settings).await;
    resumed.assert_ended(0, &["completed", "10 of 10"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thawed_job_is_told_that_everything_is_still_frozen() {
    let job = job(5, 2);
    let bout = Bout::of(script(&job, Wrong::new(), false), &[]).await;
    bout.ran.assert_ended(0, &[]);
    let id = bout.sandbox.stores().await.0.events.jobs().await.unwrap()[0].job.to_string();
    for freeze in [&["budget", "freeze"][..], &["budget", "freeze", &id]] {
        bout.sandbox.run(freeze, &[]).await.assert_ended(0, &["is frozen"]);
    }
    let shown = bout.sandbox.run(&["budget", "show", &id], &[]).await;
    shown.assert_ended(0, &[&format!("frozen: `codeswarm budget thaw {id}` allows calls again")]);
    let thawed = bout.sandbox.run(&["budget", "thaw", &id], &[]).await;
    thawed.assert_ended(0, &["but everything is: `codeswarm budget thaw`"]);
    bout.sandbox.run(&["budget", "thaw"], &[]).await.assert_ended(0, &["thawed: account", "is allowed again"]);
    bout.sandbox.run(&["budget", "thaw"], &[]).await.assert_ended(0, &["nothing of it was frozen"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_asks_once_whether_to_go_on_and_says_why_wherever_it_is_shown() {
    let job = job(5, 2);
    let twice = dollars(MicroUsd(whole_cost(&job).await.0 * 2));
    let provider = Provider::start(script(&job, Wrong::new(), false)).await;
    let url = provider.base_url();
    let sandbox = Sandbox::new();
    let settings = [
        ONE_AT_A_TIME,
        SMALL_CALLS,
        ("CODESWARM_JOB_BUDGET_USD", twice.as_str()),
        ("CODESWARM_BUDGET_WARN_PERCENT", "10"),
        ("CODESWARM_BUDGET_PAUSE_PERCENT", "20"),
        ("ANTHROPIC_BASE_URL", &url),
    ];
    // Nobody can be asked here: what to do is said, and the run ends instead of waiting for ever.
    let why = "(budget.pause_percent): go on?";
    let ran = sandbox.run_job(&[], &settings).await;
    ran.assert_ended(4, &["paused: 2", why, "codeswarm resume", "codeswarm budget top-up"]);
    assert!(ran.stdout.contains("paused") && ran.stdout.contains(why), "the summary says so, too: {ran:?}");
    for arguments in [&["status"][..], &["status", "--json"], &["events"], &["list", "--json"]] {
        sandbox.run(arguments, &[]).await.assert_ended(0, &[why]);
    }
    sandbox.run(&["status"], &[]).await.assert_ended(0, &["paused, asks about money", "codeswarm budget top-up"]);
    sandbox.run(&["list"], &[]).await.assert_ended(0, &["paused, asks about money"]);
    let before = provider.billed();
    // Going on is the answer, for this limit.
    sandbox.run(&["resume", "--yes"], &settings).await.assert_ended(0, &["completed"]);
    assert!(before < provider.billed());
    let pauses = sandbox.story().await.events.iter().filter(|event| matches!(event, Event::JobPaused { .. })).count();
    assert_eq!(pauses, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_the_job_asks_and_an_amount_is_an_answer() {
    let job = job(5, 2);
    let twice = MicroUsd(whole_cost(&job).await.0 * 2);
    let budget = dollars(twice);
    let provider = Provider::start(script(&job, Wrong::new(), false)).await;
    let url = provider.base_url();
    let sandbox = Sandbox::new();
    // A terminal of its own, as `script` of Debian's base makes one.
    let mut command = sandbox.command("script");
    let run = format!("{} run proposal.md --out out --yes", env!("CARGO_BIN_EXE_codeswarm"));
    command.args(["-qfec", &run, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::piped()).envs([
        ONE_AT_A_TIME,
        SMALL_CALLS,
        ("CODESWARM_JOB_BUDGET_USD", budget.as_str()),
        ("CODESWARM_BUDGET_PAUSE_PERCENT", "20"),
        ("CODESWARM_BUDGET_WARN_PERCENT", "10"),
        ("ANTHROPIC_BASE_URL", &url),
    ]);
    let mut child = command.spawn().unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut seen, mut answers) = (String::new(), vec!["perhaps\n", "5\n"].into_iter());
    let mut bytes = [0; 4_096];
    let talking = async {
        while let Ok(read @ 1..) = screen.read(&mut bytes).await {
            seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
            // Asked once more after what is no answer.
            if seen.matches("s to stop here:").count() > 2 - answers.len()
                && let Some(answer) = answers.next()
            {
                keyboard.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), talking).await.expect("the run ends");
    assert_eq!(child.wait().await.unwrap().code(), Some(0), "{seen}");
    let story = sandbox.story().await;
    let raised = MicroUsd(twice.0 + 5_000_000);
    assert!(story.events.contains(&Event::BudgetChanged { limit: raised }), "{seen}");
    assert_eq!(story.balance.limit, Some(raised));
    story.assert_sound_money(provider.billed());
}

#[tokio::test(flavor = "multi_thread")]
async fn freezing_one_job_alone_stops_its_running_calls_within_a_second() {
    let job = job(5, 2);
    let slow: Wrong = job
        .tasks
        .iter()
        .map(|task| (format!("file {}", task.path), vec![Reply::new(file(&task.path)).delay(Duration::from_secs(600))]))
        .collect();
    let provider = Provider::start(script(&job, slow, false)).await;
    let url = provider.base_url();
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(env!("CARGO_BIN_EXE_codeswarm"));
    command.args(["run", "proposal.md", "--out", "out", "--yes"]).env("ANTHROPIC_BASE_URL", &url);
    command.env("CODESWARM_LLM_IDLE_TIMEOUT_SECONDS", "600");
    let running = tokio::spawn(command.spawn().unwrap().wait_with_output());
    let id = loop {
        let status = sandbox.run(&["status", "--json"], &[]).await;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap_or_default();
        let files = status["running"].as_array().into_iter().flatten().filter(|task| task["path"].is_string());
        if files.count() == 10 && status["reserved_micro_usd"].as_u64() > Some(0) {
            break status["job"].as_str().unwrap().to_owned();
        }
    };
    sandbox.run(&["budget", "freeze", &id], &[]).await.assert_ended(0, &["is frozen"]);
    let ended = tokio::time::timeout(Duration::from_secs(60), running).await.expect("the run ends").unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(4), "{}", String::from_utf8_lossy(&ended.stderr));
    let (backend, _copy) = sandbox.stores().await;
    assert!(!backend.ledger.balance(&Scope::Account).await.unwrap().frozen, "the job alone was frozen");
    let entries = backend.ledger.entries(EntryFilter { limit: 100_000, ..EntryFilter::default() }).await.unwrap();
    let frozen = entries.iter().find(|entry| entry.note.ends_with(" frozen")).expect("it was frozen");
    let cut: Vec<_> = entries.iter().filter(|entry| entry.id > frozen.id && entry.kind == EntryKind::Settle).collect();
    assert!(!cut.is_empty(), "calls were running");
    for entry in cut {
        let took = entry.at.since(frozen.at);
        assert!(took < Duration::from_secs(1), "{:?} was stopped {took:?} after the freeze", entry.task);
        assert_eq!(entry.charged, entry.reserved, "what was cut off is charged in full");
    }
}
