//! Providers at their limits and providers that are down: how close to the possible a fleet comes, and how little it asks
//! in vain.
//!
//! The provider keeps its limits as real ones do, buckets that fill continuously and a cap on calls at once, and tells
//! them in its headers; nothing about them is configured here. The yardstick is computed from the same limits: what a
//! client could do that knew everything and lost no time.

use std::time::{Duration, Instant};

use codeswarm::llm::replay::{FakeOptions, FakeServer, Fault, RateLimits, Reply, Script, Synthetic};
use codeswarm::protocol::{Event, FailureKind, MicroUsd};
use serde_json::Value;

use crate::faults::{Bout, Provider, Wrong, job, script};
use crate::rig::Sandbox;
use crate::support::is_stress;

/// A provider and a job too large for it.
struct Storm {
    /// Calls a minute, and how long a minute is here.
    a_minute: u64,
    minute: Duration,
    at_once: usize,
    features: usize,
    files: usize,
    /// How long every reply takes.
    reply: Duration,
}

impl Storm {
    /// The time of a client without any overhead that sends every call the moment it may: the plan, then the plans of the
    /// features, then the files of each, none of which depend on one another.
    fn ideal(&self) -> Duration {
        let (rate, size) = (self.a_minute as f64 / self.minute.as_secs_f64(), self.a_minute as f64);
        let (mut level, mut at) = (size, 0.0_f64);
        let mut running: Vec<f64> = Vec::new();
        let mut send = |ready: f64| {
            let free = if running.len() < self.at_once {
                0.0
            } else {
                let first = running.iter().copied().fold(f64::INFINITY, f64::min);
                running.retain(|end| *end > first);
                first
            };
            let mut start = ready.max(free).max(at);
            level = (level + (start - at) * rate).min(size);
            if level < 1.0 {
                start += (1.0 - level) / rate;
                level = 1.0;
            }
            (level, at) = (level - 1.0, start);
            running.push(start + self.reply.as_secs_f64());
            start + self.reply.as_secs_f64()
        };
        let planned = send(0.0);
        let features: Vec<f64> = (0..self.features).map(|_| send(planned)).collect();
        let last = features.iter().flat_map(|end| std::iter::repeat_n(*end, self.files)).map(&mut send).last();
        Duration::from_secs_f64(last.unwrap_or(planned))
    }

    fn calls(&self) -> u64 {
        (1 + self.features + self.features * self.files) as u64
    }

    /// Runs the job, and answers how long it took and how many calls were turned away.
    async fn run(&self, settings: &[(&str, &str)]) -> (Duration, u64) {
        let made_up = Synthetic::new(self.features, self.files, 11).durations(self.reply, self.reply);
        let job = made_up.planning(self.reply).build().unwrap();
        let limits = RateLimits {
            requests_per_minute: Some(self.a_minute),
            concurrent_calls: Some(self.at_once),
            minute: Some(self.minute),
            ..RateLimits::default()
        };
        let server = FakeServer::start(job.script, FakeOptions { limits, ..FakeOptions::default() }).await.unwrap();
        let (url, window) = (server.base_url(), self.minute.as_secs().to_string());
        let sandbox = Sandbox::new();
        let base = [
            ("ANTHROPIC_BASE_URL", &*url),
            ("CODESWARM_LIMITS_WINDOW_SECONDS", &*window),
            ("CODESWARM_FLEET_CONCURRENCY", "40"),
            ("CODESWARM_LIMITS_START_CONCURRENCY", "8"),
            ("CODESWARM_JOB_MAX_FEATURES", "100"),
            ("CODESWARM_JOB_MAX_TASKS_PER_FEATURE", "100"),
        ];
        let began = Instant::now();
        let ran = sandbox.run_job(&[], &[&base[..], settings].concat()).await;
        let took = began.elapsed();
        ran.assert_ended(0, &["completed"]);
        let story = sandbox.story().await;
        story.assert_sound_money(server.bill().cost_micros);
        let burnt = story
            .events
            .iter()
            .filter(|event| matches!(event, Event::TaskFailed { failure, .. } if failure.kind != FailureKind::Parked));
        assert_eq!(burnt.count(), 0, "no task may lose an attempt to a provider that is only busy");
        (took, server.rejected())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_too_large_for_its_provider_takes_little_longer_than_it_must_and_is_seldom_turned_away() {
    let storm = Storm {
        a_minute: 60,
        minute: Duration::from_secs(10),
        at_once: 12,
        features: 5,
        files: 20,
        reply: Duration::from_millis(250),
    };
    // More room than in the long form: this one shares the machine with all other tests, and finding out costs a short job
    // as many refusals as a long one.
    judge(&storm, 1.6, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stress_two_hundred_tasks_with_twenty_at_once_and_a_hundred_a_minute() {
    if !is_stress() {
        return;
    }
    let storm = Storm {
        a_minute: 100,
        minute: Duration::from_secs(60),
        at_once: 20,
        features: 10,
        files: 20,
        reply: Duration::from_secs(2),
    };
    judge(&storm, 1.15, 3).await;
}

#[expect(clippy::print_stderr, reason = "the figures of a stress run are worth reading")]
async fn judge(storm: &Storm, most: f64, percent: u64) {
    let (took, rejected) = storm.run(&[]).await;
    let (ideal, calls) = (storm.ideal(), storm.calls());
    let ratio = took.as_secs_f64() / ideal.as_secs_f64();
    eprintln!("{took:.2?} of ideally {ideal:.2?} ({ratio:.3}); {rejected} of {calls} calls turned away");
    assert!(ratio < most, "{took:.2?} of ideally {ideal:.2?}");
    assert!(rejected * 100 < calls * percent, "{rejected} of {calls} calls were turned away");
}

/// No breaker: what is counted here are the loops alone.
const NO_BREAKER: [(&str, &str); 2] =
    [("CODESWARM_BREAKER_CONSECUTIVE_FAILURES", "0"), ("CODESWARM_BREAKER_FAILURE_PERCENT", "0")];

#[tokio::test(flavor = "multi_thread")]
async fn the_loops_of_calls_and_of_tasks_never_multiply() {
    let job = job(5, 2);
    for (calls, attempts) in [("1", "1"), ("3", "1"), ("1", "3"), ("3", "2"), ("2", "5")] {
        let wrong = Wrong::from([("plan".to_owned(), vec![Reply::new("").fault(Fault::Status500)])]);
        let (sandbox, provider) = (Sandbox::new(), Provider::start(script(&job, wrong, true)).await);
        let url = provider.base_url();
        let settings = [
            ("ANTHROPIC_BASE_URL", &*url),
            ("CODESWARM_LLM_ATTEMPTS", calls),
            ("CODESWARM_JOB_MAX_ATTEMPTS", attempts),
        ];
        sandbox.run_job(&[], &[&settings[..], &NO_BREAKER].concat()).await.assert_ended(1, &["failed", "500"]);
        let most = calls.parse::<u64>().unwrap();
        assert_eq!(provider.requests(), most, "{calls} calls an attempt, {attempts} attempts");
        sandbox.story().await.assert_sound_money(provider.billed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_replies_use_attempts_and_failed_calls_between_them_use_up_calls() {
    let job = job(5, 2);
    let path = job.tasks[3].path.clone();
    let (fails, refused) = (|| Reply::new("").fault(Fault::Status500), || Reply::new("no file at all"));
    let key = format!("file {path}");
    for (replies, requests) in [
        // A fault before every refused reply: the third one is the last of llm.attempts, although attempts are left.
        (vec![fails(), refused(), fails(), refused(), fails(), fails(), fails(), fails()], 5),
        // No fault: one call for each of job.max_attempts.
        (vec![refused()], 9),
    ] {
        let script = script(&job, Wrong::from([(key.clone(), replies)]), true);
        let (sandbox, provider) = (Sandbox::new(), Provider::start(script).await);
        let url = provider.base_url();
        let settings =
            [("ANTHROPIC_BASE_URL", &*url), ("CODESWARM_LLM_ATTEMPTS", "3"), ("CODESWARM_JOB_MAX_ATTEMPTS", "9")];
        let ran = sandbox.run_job(&[], &[&settings[..], &NO_BREAKER].concat()).await;
        ran.assert_ended(3, &["9 of 10", &path]);
        assert_eq!(provider.prompts(&key).len(), requests);
        sandbox.story().await.assert_sound_money(provider.billed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_after_a_call_that_may_be_billed_burns_attempts_and_a_free_one_does_not() {
    let job = job(5, 2);
    let of = |fault| Wrong::from([("plan".to_owned(), vec![Reply::new("").fault(fault).retry_after(1)])]);
    let settings = [
        ("CODESWARM_LLM_LONGEST_WAIT_SECONDS", "0"),
        ("CODESWARM_LLM_ATTEMPTS", "5"),
        ("CODESWARM_JOB_MAX_ATTEMPTS", "2"),
        ("CODESWARM_JOB_LONGEST_PARKING_SECONDS", "4"),
    ];
    let began = Instant::now();
    let bout = Bout::of(script(&job, of(Fault::Html503), true), &settings).await;
    bout.ran.assert_ended(1, &["failed", "503", "plan is missing"]);
    assert_eq!(bout.provider.requests(), 2, "as many calls as attempts");
    assert!(began.elapsed() >= Duration::from_secs(1), "waited as asked");
    let costs = |bout: &Bout| bout.story.failures("plan").iter().map(|(_, _, cost)| cost.0).sum::<u64>();
    assert!(costs(&bout) > 0 && bout.story.balance.spent.0 == costs(&bout), "each call was charged");

    let bout = Bout::of(script(&job, of(Fault::Status529), true), &settings).await;
    bout.ran.assert_ended(1, &["failed", "job.longest_parking_seconds = 4", "plan is missing"]);
    assert!(bout.provider.requests() > 2, "no attempt was burnt before that");
    assert_eq!((costs(&bout), bout.story.balance.spent), (0, MicroUsd::ZERO));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_nothing_is_asked_for_again_after_pauses_that_grow() {
    let job = job(5, 2);
    let wrong = Wrong::from([("plan".to_owned(), vec![Reply::new("").fault(Fault::Status529)])]);
    let (sandbox, provider) = (Sandbox::new(), Provider::start(script(&job, wrong, true)).await);
    let url = provider.base_url();
    let settings = [
        ("ANTHROPIC_BASE_URL", &*url),
        ("CODESWARM_LLM_ATTEMPTS", "2"),
        ("CODESWARM_JOB_MAX_ATTEMPTS", "1"),
        ("CODESWARM_JOB_LONGEST_PARKING_SECONDS", "1"),
    ];
    let ran = sandbox.run_job(&[], &[&settings[..], &NO_BREAKER].concat()).await;
    ran.assert_ended(1, &["failed", "529", "job.longest_parking_seconds = 1", "plan is missing"]);
    // Two calls a round; pauses that double from 5 ms leave room for about eight rounds in a second.
    assert!((4..=32).contains(&provider.requests()), "{} calls", provider.requests());
    let story = sandbox.story().await;
    story.assert_sound_money(MicroUsd::ZERO);
    assert_eq!(story.balance.spent, MicroUsd::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_stays_down_is_asked_now_and_then_and_given_up_after_the_longest_parking() {
    let job = job(5, 2);
    let wrong = Wrong::from([("plan".to_owned(), vec![Reply::new("").fault(Fault::Status529)])]);
    let (sandbox, provider) = (Sandbox::new(), Provider::start(script(&job, wrong, true)).await);
    let url = provider.base_url();
    let settings = [
        ("ANTHROPIC_BASE_URL", &*url),
        ("CODESWARM_LLM_ATTEMPTS", "2"),
        ("CODESWARM_JOB_MAX_ATTEMPTS", "2"),
        ("CODESWARM_BREAKER_CONSECUTIVE_FAILURES", "3"),
        ("CODESWARM_BREAKER_OPEN_SECONDS", "1"),
        ("CODESWARM_BREAKER_LONGEST_OPEN_SECONDS", "1"),
        ("CODESWARM_BREAKER_TRIALS", "1"),
        ("CODESWARM_JOB_LONGEST_PARKING_SECONDS", "4"),
    ];
    let began = Instant::now();
    let ran = sandbox.run_job(&[], &settings).await;
    ran.assert_ended(1, &["failed", "job.longest_parking_seconds = 4", "plan is missing"]);
    assert!(began.elapsed() >= Duration::from_secs(4));
    // Two calls of the first attempt and one of the second open it; then one trial a second.
    let (asked, waited) = (provider.requests(), began.elapsed().as_secs());
    assert!((4..=4 + waited).contains(&asked), "{asked} calls in {waited} s");
    let story = sandbox.story().await;
    story.assert_sound_money(MicroUsd::ZERO);
    let parked = story.events.iter().filter(|event| {
        matches!(event, Event::TaskFailed { failure, retry_at: Some(_), .. } if failure.kind == FailureKind::Parked)
    });
    assert!(parked.count() >= 3, "it waited in its queue: {:?}", story.failures("plan"));
}

/// Runs a command until the events of the only job are such that `is_enough`, then kills it.
async fn killed_once(
    sandbox: &Sandbox,
    arguments: &[&str],
    url: &str,
    is_enough: &dyn Fn(&[Value]) -> bool,
) -> Vec<Value> {
    let mut command = sandbox.command(env!("CARGO_BIN_EXE_codeswarm"));
    let mut child = command.args(arguments).env("ANTHROPIC_BASE_URL", url).spawn().unwrap();
    let began = Instant::now();
    loop {
        let ran = sandbox.run(&["events", "--json"], &[]).await;
        let events: Vec<Value> = ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if is_enough(&events) {
            child.kill().await.unwrap();
            return events;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{events:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_resumes_a_job_that_its_provider_keeps_waiting_has_it_tried_at_once() {
    let job = job(5, 2);
    let wrong = Wrong::from([("plan".to_owned(), vec![Reply::new("").fault(Fault::Status429).retry_after(3_600)])]);
    let (sandbox, provider) = (Sandbox::new(), Provider::start(script(&job, wrong, true)).await);
    let url = provider.base_url();
    let run = ["run", "proposal.md", "--out", "out", "--yes"];
    let failed = |events: &[Value], attempt: u64| {
        events.iter().any(|event| event["event"] == "task-failed" && event["attempt"] == attempt)
    };
    killed_once(&sandbox, &run, &url, &|events| failed(events, 1)).await;
    let asked = provider.requests();
    let events = killed_once(&sandbox, &["resume", "--yes"], &url, &|events| failed(events, 2)).await;
    assert!(events.iter().any(|event| event["event"] == "job-resumed"), "{events:?}");
    // The whole fleet still leaves the model alone for as long as it asked.
    assert_eq!(provider.requests(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_passes_costs_no_task_its_attempts() {
    let job = job(5, 4);
    // Everybody's first two calls fail: more in a row than the breaker bears, and one attempt is all a task has.
    let wrong: Wrong = job
        .tasks
        .iter()
        .map(|task| (format!("file {}", task.path), vec![Reply::new("").fault(Fault::Status529)]))
        .collect();
    let script: Script = script(&job, wrong, false);
    let (sandbox, provider) = (Sandbox::new(), Provider::start(script).await);
    let url = provider.base_url();
    let settings = [
        ("ANTHROPIC_BASE_URL", &*url),
        ("CODESWARM_JOB_MAX_ATTEMPTS", "1"),
        ("CODESWARM_LLM_ATTEMPTS", "2"),
        ("CODESWARM_BREAKER_CONSECUTIVE_FAILURES", "4"),
        ("CODESWARM_BREAKER_OPEN_SECONDS", "1"),
        ("CODESWARM_BREAKER_LONGEST_OPEN_SECONDS", "1"),
    ];
    let ran = sandbox.run_job(&[], &settings).await;
    ran.assert_ended(0, &["completed", "20 of 20"]);
    let story = sandbox.story().await;
    story.assert_sound_money(provider.billed());
    let parked = story.events.iter().filter(|event| matches!(event, Event::TaskFailed { .. })).count();
    assert!(parked > 0, "the breaker never opened");
}
