//! What too little money is spent on: the most urgent first, and what a killed run has spent counts.
//!
//! Runs of the real program against a scripted provider, as in the tests beside it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn no_less_urgent_feature_is_finished_while_a_more_urgent_one_is_missing_for_want_of_money() {
    let mut job = job(6, 2);
    // The most urgent come last in the plan, so that nothing but their priority brings them first.
    let priorities =
        [Priority::Low, Priority::Low, Priority::Normal, Priority::Normal, Priority::Critical, Priority::Critical];
    for (feature, priority) in job.plan.features.iter_mut().zip(priorities) {
        feature.priority = priority;
    }
    let whole = Bout::of(dear(&job), &[ONE_AT_A_TIME, SMALL_CALLS]).await.story.balance.spent;
    for (percent, concurrency) in [(45, "1"), (45, "6"), (65, "6"), (80, "6")] {
        let budget = dollars(MicroUsd(whole.0 * percent / 100));
        let settings =
            [("CODESWARM_FLEET_CONCURRENCY", concurrency), SMALL_CALLS, ("CODESWARM_JOB_BUDGET_USD", budget.as_str())];
        let bout = Bout::of(dear(&job), &settings).await;
        bout.ran.assert_ended(4, &[]);
        let is_done = |id: &FeatureId| {
            let of = |event: &Event| matches!(event, Event::FeatureCommitted { feature, complete: true, .. } if feature == id);
            bout.story.events.iter().any(of)
        };
        let done: Vec<Priority> =
            job.plan.features.iter().filter(|feature| is_done(&feature.id)).map(|feature| feature.priority).collect();
        let missing = job.plan.features.iter().filter(|feature| !is_done(&feature.id)).map(|feature| feature.priority);
        let (missing, last) = (missing.min(), done.iter().max().copied());
        assert!(last <= missing || last.is_none(), "{percent} %, {concurrency}: done {done:?}, missing {missing:?}");
        assert!(!done.is_empty(), "{percent} %, {concurrency}: {:?}", written(&bout));
    }
}

/// What a killed run has set aside for the planning call that it waits for.
async fn killed_while_planning(sandbox: &Sandbox, settings: &[(&str, &str)]) -> MicroUsd {
    let mut command = sandbox.command(env!("CARGO_BIN_EXE_codeswarm"));
    command.args(["run", "proposal.md", "--out", "out", "--yes"]).envs(settings.iter().copied());
    let mut child = command.spawn().unwrap();
    loop {
        let status = sandbox.run(&["status", "--json"], &[]).await;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap_or_default();
        if let Some(reserved @ 1..) = status["reserved_micro_usd"].as_u64() {
            child.kill().await.unwrap();
            return MicroUsd(reserved);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_call_was_charged_with_counts_as_soon_as_the_job_is_taken_up() {
    let job = job(5, 2);
    let slow = Reply::new(serde_json::to_string(&job.plan).unwrap()).delay(Duration::from_secs(600));
    let wrong = || Wrong::from([("plan".to_owned(), vec![slow.clone()])]);
    let learned = Provider::start(script(&job, wrong(), false)).await;
    let reserved =
        killed_while_planning(&Sandbox::new(), &[SMALL_CALLS, ("ANTHROPIC_BASE_URL", &learned.base_url())]).await;
    let budget = dollars(MicroUsd(reserved.0 * 5 / 2));
    let provider = Provider::start(script(&job, wrong(), false)).await;
    let url = provider.base_url();
    let settings = [
        ONE_AT_A_TIME,
        SMALL_CALLS,
        ("CODESWARM_JOB_BUDGET_USD", budget.as_str()),
        ("CODESWARM_BUDGET_WARN_PERCENT", "35"),
        ("ANTHROPIC_BASE_URL", &url),
    ];
    let sandbox = Sandbox::new();
    killed_while_planning(&sandbox, &settings).await;
    let _ = sandbox.run(&["resume", "--yes"], &settings).await;
    let story = sandbox.story().await;
    let at = |of: fn(&Event) -> bool| story.events.iter().position(of);
    let warned = at(|event| matches!(event, Event::BudgetWarning { .. })).expect("it is warned of what is spent");
    let planned = at(|event| matches!(event, Event::FeaturePlanned { .. })).unwrap_or(usize::MAX);
    assert!(warned < planned, "{:?}", story.events);
}
