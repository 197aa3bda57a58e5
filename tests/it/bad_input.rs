//! What people get wrong: proposals, budgets, directories, settings. Refused at once, by name, without leaving a trace.
//!
//! The recording would answer anything, so a run that is wrongly accepted goes on and is found out. Each case also looks
//! for traces: whoever is refused finds neither output nor data directory afterwards.

use codeswarm::llm::replay::Synthetic;

use crate::rig::{KEY, Ran, Sandbox, listing};

/// A recording that answers everything, so that a run which is wrongly accepted goes on and is found out.
fn recording(sandbox: &Sandbox) {
    let job = Synthetic::new(5, 2, 1).build().unwrap();
    sandbox.write("replay.jsonl", job.script.to_json_lines("2026-11-21", "made up").unwrap());
}

/// A sandbox with a recording.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    recording(&sandbox);
    sandbox
}

fn assert_traceless(sandbox: &Sandbox) {
    for name in ["out", "data"] {
        assert!(!sandbox.at(name).exists(), "{name} was made by a run that was refused");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_is_none_is_refused_by_name() {
    let binary: Vec<u8> = (0..=255).cycle().take(4_096).collect();
    let huge = vec![b'x'; 10 << 20];
    #[rustfmt::skip]
    let contents: [(&str, &[u8], &[&str]); 7] = [
        ("empty.md", b"", &["it is empty"]),
        ("blank.md", b" \n\t \r\n\n", &["it is empty"]),
        ("bom-only.md", "\u{feff}\n".as_bytes(), &["it is empty"]),
        ("huge.md", &huge, &["10485760 bytes", "1048576", "job.max_proposal_bytes"]),
        ("binary.md", &binary, &["not UTF-8"]),
        ("nul.md", b"# Title\n\0\n", &["NUL"]),
        ("utf16.md", b"\xff\xfe#\0 \0T\0", &["not UTF-8"]),
    ];
    let sandbox = sandbox();
    for (name, bytes, parts) in contents {
        sandbox.write(name, bytes);
        refuse_proposal(&sandbox, name, parts).await;
    }
    std::fs::create_dir(sandbox.at("directory.md")).unwrap();
    for (name, part) in [
        ("missing.md", "No such file"),
        ("directory.md", "not a file"),
        ("proposal.md/below-a-file.md", "Not a directory"),
        ("/dev/zero", "not a file"),
        ("/proc/self/task", "not a file"),
    ] {
        refuse_proposal(&sandbox, name, &[part]).await;
    }
}

async fn refuse_proposal(sandbox: &Sandbox, name: &str, parts: &[&str]) {
    let ran = sandbox.run(&["run", name, "--replay", "replay.jsonl", "--out", "out", "--yes"], &[]).await;
    ran.assert_refused(2, "CS-CLI-004", &[&["proposal", name], parts].concat());
    assert_traceless(sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_no_amount_is_refused_with_what_was_typed() {
    let sandbox = sandbox();
    for (budget, part) in [
        ("0", "$0.00"),
        ("0.000000", "$0.00"),
        ("-1", "negative"),
        ("NaN", "digits"),
        ("inf", "digits"),
        ("1e3", "digits"),
        ("", "digits"),
        ("5 dollars", "digits"),
        ("0,25", "digits"),
        ("0.0000001", "micro-dollar"),
        ("1000001", "1000000"),
        ("99999999999999999999999999", "1000000"),
    ] {
        let ran = sandbox.run_job(&["--replay", "replay.jsonl", "--budget", budget], &[]).await;
        ran.assert_refused(2, "CS-CLI-003", &["--budget", part, "--budget 0.25"]);
        let shown: String = budget.chars().take(10).collect();
        assert!(budget.starts_with('0') && part.starts_with('$') || ran.stderr.contains(&shown), "{ran:?}");
        assert_traceless(&sandbox);
    }
    let ran = sandbox.run_job(&["--replay", "replay.jsonl"], &[("CODESWARM_JOB_BUDGET_USD", "lots")]).await;
    ran.assert_refused(2, "CS-CONFIG-002", &["job.budget_usd", "lots"]);
    assert_traceless(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_below_the_first_call_says_what_it_would_need() {
    let sandbox = sandbox();
    let ran =
        sandbox.run_job(&["--replay", "replay.jsonl", "--replay-bill", "bill.jsonl", "--budget", "0.000001"], &[]);
    let ran = ran.await;
    ran.assert_ended(
        4,
        &["budget exhausted", "the budget has $0.000001 left in job:", "this call may need $0.", "budget top-up"],
    );
    let story = sandbox.story().await;
    assert_eq!((story.balance.spent.0, story.balance.reserved.0), (0, 0));
    assert_eq!(std::fs::read(sandbox.at("bill.jsonl")).unwrap(), b"", "a call was made");
    assert!(sandbox.output().is_empty());
    // What it says it needs is enough for that call, and one micro-dollar less is not.
    let text = story.failures("plan")[0].1;
    let needed: f64 = text.split("may need $").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    for (amount, calls) in [(needed, true), (needed - 0.000_001, false)] {
        let sandbox = self::sandbox();
        let budget = format!("{amount:.6}");
        let arguments = ["--replay", "replay.jsonl", "--replay-bill", "bill.jsonl", "--budget", &budget];
        let ran = sandbox.run_job(&arguments, &[]).await;
        // Planning costs less than its worst case: what is left may suffice for the rest.
        assert!(ran.code == Some(4) || calls && ran.code == Some(0), "{ran:?}");
        let bill = std::fs::read(sandbox.at("bill.jsonl")).unwrap();
        assert_eq!(!bill.is_empty(), calls, "{budget}");
    }
}

async fn refuse_output(sandbox: &Sandbox, out: &str, code: &str, parts: &[&str]) -> Ran {
    let before = listing(sandbox.root());
    let ran = sandbox.run(&["run", "proposal.md", "--replay", "replay.jsonl", "--yes", "--out", out], &[]).await;
    ran.assert_refused(if code.starts_with("CS-CLI") { 2 } else { 1 }, code, parts);
    assert_eq!(listing(sandbox.root()), before, "{out} left something behind");
    ran
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_cannot_be_used_is_refused_and_left_as_it_is() {
    let sandbox = sandbox();
    std::fs::create_dir_all(sandbox.at("theirs/src")).unwrap();
    sandbox.write("theirs/thesis.txt", "years of work");
    std::fs::create_dir(sandbox.at("foreign")).unwrap();
    sandbox.write("foreign/.codeswarm-output.json", r#"{"schema":1,"job":"job-of-others"}"#);
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere/at/all", sandbox.at("dangling")).unwrap();
    for (out, code, parts) in [
        ("theirs", "CS-OUTPUT-001", ["theirs", "not empty", "--out"]),
        ("foreign", "CS-OUTPUT-002", ["foreign", "job-of-others", "--out"]),
        ("proposal.md", "CS-OUTPUT-004", ["proposal.md", "not a directory", "--out"]),
        ("proposal.md/out", "CS-OUTPUT-004", ["proposal.md/out", "not a directory", "--out"]),
        ("/proc/sys/codeswarm-out", "CS-OUTPUT-005", ["/proc/sys/codeswarm-out", "cause: ", "--out"]),
        ("dangling", "CS-OUTPUT-005", ["dangling", "cause: ", "--out"]),
        (&"x".repeat(300), "CS-OUTPUT-005", ["xxx", "too long", "--out"]),
        ("data", "CS-CLI-007", ["data", "are the same", "--data"]),
        ("data/out", "CS-CLI-007", ["data/out", "part of the program's data", "--data"]),
    ] {
        refuse_output(&sandbox, out, code, &parts).await;
    }
    for empty in [["run", "", "--out", "out", "--yes"], ["run", "proposal.md", "--out", "", "--yes"]] {
        let ran = sandbox.run(&empty, &[]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains("a value is required"), "{ran:?}");
    }
    let ran = sandbox.run_job(&["--replay", "replay.jsonl", "--data", "out/inner"], &[]).await;
    ran.assert_refused(2, "CS-CLI-007", &["out", "out/inner", "part of the output", "--data"]);
    assert_traceless(&sandbox);
    assert_eq!(std::fs::read(sandbox.at("theirs/thesis.txt")).unwrap(), b"years of work");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_recorded_over_no_file_of_somebody_elses() {
    let sandbox = sandbox();
    for (record, code) in [("proposal.md", "CS-REPLAY-007"), ("./replay.jsonl", "CS-REPLAY-008")] {
        let before = std::fs::read(sandbox.at(record)).unwrap();
        let ran = sandbox.run_job(&["--replay", "replay.jsonl", "--record", record], &[]).await;
        ran.assert_refused(1, code, &[record, "--record"]);
        assert_eq!(std::fs::read(sandbox.at(record)).unwrap(), before);
        assert_traceless(&sandbox);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_faults_of_a_configuration_are_listed_at_once() {
    let sandbox = sandbox();
    sandbox.write(
        "wrong.toml",
        "[job]\nmax_atempts = 2\nmin_features = -4\nbudget_usd = \"-1\"\n[fleet]\nconcurrency = \"many\"\n[llm]\neffort = \"huge\"\n\
         attempts = 0\nbase_url = \"ftp://x\"\n[roles.mine]\neffort = \"low\"\n[nonsense]\nx = 1\n",
    );
    let environment =
        [("CODESWARM_JOB_MAX_FEATURES", "few"), ("CODESWARM_JOB_BUDGET_USD", "-1"), ("ANTHROPIC_BASE_URL", "")];
    let ran = sandbox.run_job(&["--replay", "replay.jsonl", "--config", "wrong.toml"], &environment).await;
    let keys = [
        "job.max_atempts: there is no such setting; did you mean",
        "job.min_features: -4 (from wrong.toml)",
        "job.budget_usd: ",
        "fleet.concurrency: \"many\" (from wrong.toml)",
        "llm.effort: \"huge\"",
        "llm.attempts: 0 is not between 1 and 10",
        "llm.base_url: \"ftp://x\"",
        "roles.mine: ",
        "nonsense.x: there is no such setting",
        "job.max_features: \"few\" (from $CODESWARM_JOB_MAX_FEATURES)",
        "10 fault(s)",
    ];
    ran.assert_refused(2, "CS-CONFIG-002", &keys);
    assert_traceless(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn config_check_lists_what_other_rooms_find_wrong_beside_the_faults_of_the_settings() {
    let sandbox = sandbox();
    let own = "[llm]\nmodel = \"gpt-9\"\n[budget]\ncheaper_model = \"nope\"\ncheaper_model_percent = 50\n\
               [roles.coder]\nprompt_file = \"gone.txt\"\n";
    let environment = [("ANTHROPIC_API_KEY", ""), ("ANTHROPIC_API_KEY_FILE", "gone-key")];
    let of_rooms = ["\"gpt-9\", which has no price", "budget.cheaper_model is \"nope\"", "gone.txt", "gone-key"];
    for (more, of_settings) in [("", None), ("[fleet]\nconcurrency = 0\n", Some("fleet.concurrency: 0"))] {
        sandbox.write("wrong.toml", format!("{own}{more}"));
        let ran = sandbox.run(&["config", "check", "--config", "wrong.toml"], &environment).await;
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert_eq!(ran.stderr.matches("gpt-9").count(), 1, "a model of all roles is named once: {}", ran.stderr);
        for part in of_rooms.into_iter().chain(of_settings) {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_file_that_cannot_be_read_is_named() {
    let sandbox = sandbox();
    std::fs::create_dir(sandbox.at("folder.toml")).unwrap();
    sandbox.write("broken.toml", "[job\nmax_attempts = ");
    sandbox.write("binary.toml", b"\xff\xfe\0");
    sandbox.write("huge.toml", vec![b'#'; 300 * 1024]);
    for (file, part) in [
        ("missing.toml", "No such file"),
        ("folder.toml", "directory"),
        ("broken.toml", "line 1"),
        ("binary.toml", "UTF-8"),
        ("huge.toml", "307200 bytes"),
    ] {
        let ran = sandbox.run_job(&["--replay", "replay.jsonl", "--config", file], &[]).await;
        ran.assert_refused(2, "CS-CONFIG-001", &[file, part]);
        assert_traceless(&sandbox);
    }
    for (text, code, part) in [
        ("[roles.coder]\nprompt_file = \"gone.md\"\n", "CS-FLEET-002", "gone.md"),
        ("[roles.coder]\nmodel = \"gpt-0\"\n", "CS-FLEET-003", "\"gpt-0\""),
        ("[log]\nfilter = \"no=such=level\"\n", "CS-CLI-010", "no=such=level"),
    ] {
        sandbox.write("role.toml", text);
        let ran = sandbox.run_job(&["--replay", "replay.jsonl", "--config", "role.toml"], &[]).await;
        assert!(matches!(ran.code, Some(1 | 2)), "{ran:?}");
        ran.assert_refused(ran.code.unwrap(), code, &[part]);
        assert_traceless(&sandbox);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_price_is_never_called_and_cannot_write_on_the_terminal() {
    let sandbox = sandbox();
    for (model, shown) in [
        ("gpt-9", "\"gpt-9\""),
        ("claude-sonnet-5-5\u{1b}[2J\u{7}", r#""claude-sonnet-5-5\u{1b}[2J\u{7}""#),
        ("claude-sonnet-5-5\nerror: gone", r#""claude-sonnet-5-5\nerror: gone""#),
        ("", "\"\""),
    ] {
        let ran = sandbox.run_job(&["--replay", "replay.jsonl", "--model", model], &[]).await;
        ran.assert_refused(1, "CS-FLEET-003", &[shown, "price"]);
        assert_traceless(&sandbox);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_missing_or_wrong_is_named_and_never_shown() {
    let sandbox = sandbox();
    sandbox.write("key-file", format!("{KEY}\n"));
    sandbox.write("empty", " \n");
    sandbox.write("long", "x".repeat(5_000));
    #[rustfmt::skip]
    let rows: [(&str, &str, &str, &[&str]); 8] = [
        ("", "", "CS-FLEET-001", &["there is no key", "ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY_FILE", "--replay"]),
        (KEY, "key-file", "CS-CONFIG-002", &["ANTHROPIC_API_KEY", "together with ANTHROPIC_API_KEY_FILE"]),
        ("", "gone", "CS-CONFIG-002", &["gone", "No such file"]),
        ("", "home", "CS-CONFIG-002", &["home", "not a file"]),
        ("", "long", "CS-CONFIG-002", &["long", "4096"]),
        ("", "empty", "CS-CONFIG-002", &["the file empty is empty"]),
        ("sk with\nbreaks-5ecret", "", "CS-CONFIG-002", &["cannot be sent"]),
        ("   ", "", "CS-CONFIG-002", &["the key is empty"]),
    ];
    for (key, file, code, parts) in rows {
        let environment = [("ANTHROPIC_API_KEY", key), ("ANTHROPIC_API_KEY_FILE", file)];
        let ran = sandbox.run_job(&[], &environment).await;
        assert!(matches!(ran.code, Some(1 | 2)), "{ran:?}");
        ran.assert_refused(ran.code.unwrap(), code, parts);
        assert!(!ran.stderr.contains("5ecret"), "{ran:?}");
        assert_traceless(&sandbox);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_cannot_be_used_is_named_with_its_lines() {
    let sandbox = sandbox();
    sandbox.write(
        "broken.jsonl",
        "{\"codeswarm_replay\":1,\"recorded\":\"x\",\"note\":\"x\"}\nnonsense\n{\"request\":\"plan\"}\n",
    );
    sandbox.write("other.jsonl", "{\"codeswarm_replay\":7,\"recorded\":\"x\",\"note\":\"x\"}\n");
    for (file, parts) in [
        ("gone.jsonl", ["gone.jsonl", "No such file"]),
        ("home", ["home", "directory"]),
        ("broken.jsonl", ["line 2", "line 3"]),
        ("other.jsonl", ["version 7", "line 1"]),
    ] {
        let ran = sandbox.run_job(&["--replay", file], &[]).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.starts_with("error[CS-") && ran.stderr.contains("remedy: "), "{ran:?}");
        for part in parts {
            assert!(ran.stderr.contains(part), "{part}: {ran:?}");
        }
        assert_traceless(&sandbox);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_file_that_cannot_be_right_is_refused_with_one_error_and_one_remedy() {
    let sandbox = sandbox();
    let model = r#"{"input": 1, "output": 1, "context": 9, "source": "t", "as_of": "2026-11-21"}"#;
    for (prices, part) in [
        (format!("{{\"m\": {model}, \"m\": {model}}}"), "\"m\" is listed twice"),
        (format!("{{\"m\": {}}}", model.replace("2026-11-21", "soon")), "as_of is no day: \"soon\""),
        ("{".to_owned(), "the price table cannot be read: EOF"),
    ] {
        sandbox.write("prices.json", prices);
        sandbox.write("codeswarm.toml", "[llm]\nprices_file = \"prices.json\"\n");
        let ran = sandbox.run_job(&["--replay", "replay.jsonl"], &[]).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("CS-FLEET-005") && ran.stderr.contains(part), "{part}: {ran:?}");
        assert_eq!((ran.stderr.matches("error[").count(), ran.stderr.matches("remedy:").count()), (1, 1), "{ran:?}");
        assert_traceless(&sandbox);
    }
}
