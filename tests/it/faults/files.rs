//! Replies that hold no usable file: never written, retried with the reason within bounds, every attempt paid for.
//!
//! One row per way to be wrong, with the code it must be refused by: refused for another reason is not good enough. No
//! content of a refused reply may ever be found in the output.

use codeswarm::llm::replay::{Fault, Reply, Stop, SyntheticJob};

use super::{Bout, Wrong, job, script};

/// A wrong reply to `file PATH`, the code of its refusal and a part of what is said about it.
type Row = (Reply, &'static str, &'static str);

/// One wrong reply of every kind for the file `path`; contents of wrong files begin with `EVIL`.
fn wrong_replies(path: &str) -> Vec<Row> {
    let block =
        |path: &str, id: &str, body: &str| format!("<file path=\"{path}\" id=\"{id}\">\n{body}\n</file-{id}>\n");
    let own = |body: &str| Reply::new(block(path, "{{id}}", body));
    let evil = own(&"EVIL = 1\n".repeat(50));
    let many = || Reply::new(block(path, "{{id}}", "EVIL = 1") + &block("f0000/extra.py", "{{id}}", "EVIL = 2"));
    vec![
        (Reply::new("Here is the file you asked for: EVIL"), "CS-REPLY-007", "held no file"),
        (many(), "CS-REPLY-008", "more than one block"),
        (Reply::new("```python\nEVIL = 1\n```\nor\n```python\nEVIL = 2\n```\n"), "CS-REPLY-008", "more than one block"),
        (Reply::new(block("../../outside.py", "{{id}}", "EVIL = 1")), "CS-REPLY-009", "../../outside.py"),
        (Reply::new(block("/etc/cron.d/evil", "{{id}}", "EVIL = 1")), "CS-REPLY-009", "/etc/cron.d/evil"),
        (Reply::new(block("f0000/t0000.py.bak", "{{id}}", "EVIL = 1")), "CS-REPLY-009", "t0000.py.bak"),
        (Reply::new(block(path, "0123456789ab", "EVIL = 1")), "CS-REPLY-010", "wrong id"),
        (Reply::new(format!("<file path=\"{path}\" id=\"{{{{id}}}}\">\nEVIL = 1\n")), "CS-REPLY-011", "never closed"),
        (own("EVIL = 1\n# ... rest of the code unchanged ..."), "CS-REPLY-012", "left out"),
        (own("EVIL = 1\0"), "CS-REPLY-013", "U+0000"),
        (own("EVIL = 1\n\u{7}"), "CS-REPLY-013", "U+0007"),
        (own(&"EVIL = 1 # and so on\n".repeat(60_000)).output_tokens(10), "CS-REPLY-014", "Write less"),
        (own(""), "CS-REPLY-015", "is empty"),
        (evil.clone().fault(Fault::MaxTokens), "CS-REPLY-001", "truncated"),
        (evil.clone().stop(Stop::ModelContextWindowExceeded), "CS-REPLY-002", "truncated"),
        (evil.clone().fault(Fault::Refusal), "CS-REPLY-003", "no complete answer"),
        (evil.clone().stop(Stop::ToolUse), "CS-REPLY-004", "no complete answer"),
        (evil.clone().fault(Fault::ThinkingOnly), "CS-REPLY-005", "before its first word"),
        (Reply::new("  \n"), "CS-REPLY-006", "no complete answer"),
        (evil.clone().fault(Fault::InvalidUtf8), "CS-LLM-008", "malformed"),
        (evil.fault(Fault::Huge), "CS-LLM-008", "4194304"),
    ]
}

/// A file for every wrong reply, and one more per feature that is always right.
fn rows() -> (SyntheticJob, Vec<(usize, Row)>) {
    let count = wrong_replies("x").len();
    let job = job(count.div_ceil(3), 4);
    let at = |row: usize| row / 3 * 4 + row % 3;
    let rows = (0..count).map(|row| (at(row), wrong_replies(&job.tasks[at(row)].path).swap_remove(row))).collect();
    (job, rows)
}

fn wrong(job: &SyntheticJob, rows: &[(usize, Row)]) -> Wrong {
    rows.iter().map(|(at, row)| (format!("file {}", job.tasks[*at].path), vec![row.0.clone()])).collect()
}

fn task(job: &SyntheticJob, at: usize) -> (String, String) {
    let task = &job.tasks[at];
    (format!("file/{}/{}", task.feature, task.id), format!("file {}", task.path))
}

/// One attempt per call, so that what is wrong with the transport is seen by the job, too.
const SINGLE: (&str, &str) = ("CODESWARM_LLM_ATTEMPTS", "1");

/// What is wrong with the transport is not the model's fault: it counts as a failed call, not as a rejected reply.
fn is_of_transport(code: &str) -> bool {
    code == "CS-LLM-008"
}

#[tokio::test(flavor = "multi_thread")]
async fn every_unusable_reply_is_told_to_the_model_and_mended() {
    let (job, rows) = rows();
    let bout = Bout::of(script(&job, wrong(&job, &rows), false), &[]).await;
    bout.ran.assert_ended(0, &["completed"]);
    bout.assert_files(&job, &[]);
    for (at, (_, code, part)) in &rows {
        let (task, key) = task(&job, *at);
        if is_of_transport(code) {
            assert!(bout.story.failures(&task).is_empty(), "asked for again within the attempt");
        } else {
            bout.assert_told(&task, &key, &[(code, part)]);
        }
        assert_eq!(bout.provider.calls_of(&key), 2, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_stay_unusable_are_left_out_and_all_others_are_delivered() {
    let (job, rows) = rows();
    let settings = [SINGLE, ("CODESWARM_JOB_MAX_ATTEMPTS", "2")];
    let bout = Bout::of(script(&job, wrong(&job, &rows), true), &settings).await;
    let done = format!("{} of {}", job.tasks.len() - rows.len(), job.tasks.len());
    bout.ran.assert_ended(3, &["completed with warnings", &done]);
    let missing: Vec<&str> = rows.iter().map(|(at, _)| job.tasks[*at].path.as_str()).collect();
    bout.assert_files(&job, &missing);
    for (at, (_, code, _)) in &rows {
        let (task, key) = task(&job, *at);
        let failures = bout.story.failures(&task);
        // The calls that llm.attempts allows, or the attempts of the job: never one times the other.
        let most = if is_of_transport(code) { 1 } else { 2 };
        assert!(failures.len() == most && failures.iter().all(|failure| failure.0 == *code), "{task}: {failures:?}");
        assert!(bout.story.is_dead(&task));
        assert_eq!(bout.provider.calls_of(&key), most as u64, "{key}");
        bout.ran.assert_ended(3, &[&format!("warning        {}", job.tasks[*at].path)]);
    }
    for (_, bytes) in bout.sandbox.output() {
        assert!(!String::from_utf8(bytes).unwrap().contains("EVIL"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_missing_takes_only_what_needs_it_along_and_a_resumption_brings_both() {
    let job = job(5, 2);
    let (broken, needs) = (job.tasks[0].path.clone(), job.tasks[3].path.clone());
    let mut plan = serde_json::to_value(&job.feature_plans[1]).unwrap();
    plan["tasks"][1]["depends_on"] = serde_json::json!([broken]);
    let wrong = Wrong::from([
        ("feature-plan f0001".to_owned(), vec![Reply::new(plan.to_string())]),
        (format!("file {broken}"), vec![Reply::new("no"), Reply::new("no"), Reply::new("no")]),
    ]);
    let bout = Bout::of(script(&job, wrong, false), &[]).await;
    bout.ran.assert_ended(
        3,
        &["completed with warnings", "8 of 10", "skipped file/f0001/t0001: it needs file/f0000/t0000"],
    );
    bout.assert_files(&job, &[&broken, &needs]);
    let paid = bout.provider.requests();
    let url = bout.provider.base_url();
    let ran = bout.sandbox.run(&["resume", "--yes"], &[("ANTHROPIC_BASE_URL", &url)]).await;
    ran.assert_ended(0, &["completed", "10 of 10"]);
    bout.assert_files(&job, &[]);
    assert_eq!(bout.provider.requests(), paid + 2, "only what was missing is asked for again");
    bout.sandbox.story().await.assert_sound_money(bout.provider.billed());
}
