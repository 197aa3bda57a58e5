//! `codeswarm budget` as people and spreadsheets meet it: the tree adds up, limits bind where they are set, the ledger can
//! be filtered.

use serde_json::Value;

use super::{Room, finished};

fn spent(balance: &Value) -> u64 {
    balance["spent_micro_usd"].as_u64().unwrap()
}

#[test]
fn the_tree_of_scopes_adds_up() {
    let room = finished();
    let all = room.run(&["budget", "show", "--json"]).expect(0).json();
    let jobs: Vec<&Value> = all["jobs"].as_array().unwrap().iter().collect();
    let of_jobs: u64 = jobs.iter().map(|job| spent(&job["balance"])).sum();
    assert!(of_jobs > 0);
    for whole in ["account", "month"] {
        assert_eq!(spent(&all[whole]), of_jobs, "{whole}");
    }
    let id = jobs[0]["job"].as_str().unwrap();
    let job = room.run(&["budget", "show", id, "--json"]).expect(0).json();
    let sum = |parts: &str| job[parts].as_array().unwrap().iter().map(|part| spent(&part["balance"])).sum::<u64>();
    assert_eq!(sum("agents"), spent(&job["balance"]));
    let plan = room.run(&["budget", "entries", id, "--agent", "coordinator-planner", "--json"]).expect(0).json();
    let charged = |entries: &Value| -> u64 {
        entries["entries"].as_array().unwrap().iter().map(|entry| entry["charged_micro_usd"].as_u64().unwrap()).sum()
    };
    assert_eq!(
        sum("features") + charged(&plan),
        spent(&job["balance"]),
        "all but the strategic plan is some feature's"
    );
    let text = room.run(&["budget", "show", id]).expect(0).out;
    assert!(text.contains("feature http-api") && text.contains("agent backend"), "{text}");
    assert!(room.narrow(&["budget", "show", id]).expect(0).out.lines().all(|line| line.chars().count() <= 40));
}

#[test]
fn entries_can_be_filtered_and_read_by_a_spreadsheet() {
    let room = finished();
    let csv = room.run(&["budget", "entries", "--format", "csv", "--agent", "backend"]).expect(0).out;
    let raw = room.command(&["budget", "entries", "--format", "csv"]).output().unwrap().stdout;
    let raw = String::from_utf8(raw).unwrap();
    assert!(raw.ends_with("\r\n") && raw.matches('\n').count() == raw.matches("\r\n").count(), "RFC 4180: {raw:?}");
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header = reader.headers().unwrap().clone();
    let agent = header.iter().position(|name| name == "agent").unwrap();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert!(!rows.is_empty() && rows.iter().all(|row| &row[agent] == "backend" && row.len() == header.len()));
    let none = |arguments: &[&str]| {
        let all = [&["budget", "entries", "--json"], arguments].concat();
        room.run(&all).expect(0).json()["entries"].as_array().unwrap().is_empty()
    };
    assert!(none(&["--before", "2020-01-01"]) && !none(&["--since", "2020-01-01T00:00:00Z"]));
    assert!(none(&["--model", "nobody"]));
    assert!(!none(&["--model", "claude-sonnet-5-5"]) && !none(&["--model", "anthropic/claude-sonnet-5-5"]));
    assert!(!none(&["--job", room.status()["job"].as_str().unwrap()]));
    for (arguments, part) in [
        (["--since", "yesterday"], "2026-11-21T09:30:00Z"),
        (["--agent", "No Such"], "--agent"),
        (["--since=2026-11-22", "--before=2026-11-21"], "exchange the two"),
        (["--format", "xml"], "possible values"),
    ] {
        let refused = room.run(&[&["budget", "entries"], &arguments[..]].concat()).expect(2);
        assert!(refused.err.contains(part), "{}", refused.err);
    }
}

#[test]
fn a_limit_binds_where_it_is_set() {
    let room = Room::new();
    room.finish_job(&["--out", "one"]).expect(0);
    let id = room.status()["job"].as_str().unwrap().to_owned();
    for (scope, part) in [("account", "account"), ("day", "account/day"), ("month", "account/month")] {
        let said = room.run(&["budget", "set", scope, "100"]).expect(0).out;
        assert!(said.contains(part) && said.contains("$100"), "{said}");
    }
    let part = format!("{id}/feature:http-api");
    assert!(room.run(&["budget", "set", &part, "3"]).expect(0).out.contains("/feature:http-api has a limit of $3"));
    assert!(room.run(&["budget", "set", &part, "none"]).expect(0).out.contains("has no limit"));
    for wrong in [format!("{id}/feature:nope"), format!("{id}/agent:nope"), format!("{id}/nope")] {
        assert!(room.run(&["budget", "set", &wrong, "3"]).expect(2).err.contains("it has "));
    }
    room.run(&["budget", "set", &id, "none"]).expect(2);
    // A day that is spent already: the next job does not begin.
    for window in ["month", "day"] {
        let set = room.run(&["budget", "set", window, "0.01"]).expect(0);
        assert!(
            !set.out.contains("$0.00 spent") && set.err.contains("that is less than what is spent"),
            "{}{}",
            set.out,
            set.err
        );
    }
    room.run(&["budget", "set", "month", "100"]).expect(0);
    let stopped = room.finish_job(&["--out", "two"]).expect(4);
    assert!(stopped.out.contains("account/day"), "{}", stopped.out);
    assert!(room.run(&["doctor"]).out.contains("account/day"), "doctor names what stops everything");
}

#[test]
fn an_empty_name_is_no_job_wherever_a_job_is_named() {
    let room = Room::new();
    room.finish_job(&["--out", "one"]).expect(0);
    let id = room.status()["job"].as_str().unwrap().to_owned();
    let before = room.run(&["budget", "show", "--json"]).expect(0).json();
    for blank in ["", " "] {
        for args in [
            &["budget", "set", blank, "5"][..],
            &["budget", "top-up", blank, "5"],
            &["budget", "freeze", blank],
            &["budget", "thaw", blank],
            &["budget", "show", blank],
            &["budget", "entries", blank],
            &["cancel", blank],
            &["pause", blank],
            &["approve", blank],
            &["retry", blank, "plan"],
            &["resume", blank],
            &["status", blank],
            &["events", blank],
            &["watch", blank],
            &["fetch", blank, "--out", "fetched"],
        ] {
            let refused = room.run(args).expect(2);
            assert!(refused.err.contains("CS-CLI-038"), "{args:?}: {}", refused.err);
        }
    }
    for part in ["/feature:http-api", "/agent:backend", "/tokens"] {
        assert!(room.run(&["budget", "set", part, "5"]).expect(2).err.contains("CS-CLI-038"), "{part}");
    }
    let after = room.run(&["budget", "show", "--json"]).expect(0).json();
    assert_eq!(before, after, "job {id} and the account are as they were");
}

#[test]
fn a_configured_limit_never_undoes_what_a_person_has_set_since() {
    let room = Room::new();
    let config = |day: &str| {
        let text = format!("[budget]\naccount_day_limit_usd = \"{day}\"\n");
        std::fs::write(room.path().join("codeswarm.toml"), text).unwrap();
    };
    let day = || room.run(&["budget", "show", "--json"]).expect(0).json()["day"]["limit_micro_usd"].as_u64();
    let run = |out: &str| room.finish_job(&["--config", "codeswarm.toml", "--out", out]);
    config("100");
    run("one").expect(0);
    assert_eq!(day(), Some(100_000_000));
    room.run(&["budget", "set", "day", "0.01"]).expect(0);
    let stopped = run("two").expect(4);
    assert!(stopped.out.contains("account/day"), "{}", stopped.out);
    assert_eq!(day(), Some(10_000), "starting a process is no decision about money");
    config("200");
    room.run(&["resume", "--config", "codeswarm.toml", "--yes"]).expect(0);
    assert_eq!(day(), Some(200_000_000), "a changed configuration is");
    config("100");
    run("three").expect(0);
    assert_eq!(day(), Some(100_000_000), "and so is changing it back");
}

#[test]
fn what_is_held_back_stays_the_same_share_of_a_limit_that_changes() {
    let room = Room::new();
    std::fs::write(room.path().join("codeswarm.toml"), "[budget]\nhold_back_percent = 10\n").unwrap();
    room.finish_job(&["--config", "codeswarm.toml", "--out", "one", "--budget", "0.01"]).expect(4);
    let id = room.status()["job"].as_str().unwrap().to_owned();
    let held = || {
        let shown = room.run(&["budget", "show", &id, "--json"]).expect(0).json();
        shown["balance"]["hold_back_micro_usd"].as_u64().unwrap()
    };
    assert_eq!(held(), 1_000);
    room.run(&["budget", "top-up", &id, "0.99"]).expect(0);
    assert_eq!(held(), 100_000, "a tenth of $1.00");
    room.run(&["budget", "set", &id, "0.50"]).expect(0);
    assert_eq!(held(), 50_000, "a tenth of $0.50");
    let shown = room.run(&["budget", "show", &id]).expect(0).out;
    assert!(shown.contains("$0.05 held back for verification and repair (10 % of the limit)"), "{shown}");
}

#[test]
fn scopes_are_named_as_they_are_printed_and_amounts_that_are_none_are_named() {
    let room = Room::new();
    room.finish_job(&["--out", "one"]).expect(0);
    let id = room.status()["job"].as_str().unwrap().to_owned();
    for printed in ["account/day", "account/month", "account/day:2026-11-21"] {
        assert!(room.run(&["budget", "set", printed, "100"]).expect(0).out.contains("a limit of $100"), "{printed}");
    }
    for part in ["slice:http-api", "agent:backend"] {
        let printed = format!("job:{id}/{part}");
        let said = room.run(&["budget", "set", &printed, "3"]).expect(0).out;
        assert!(said.starts_with(&printed.replace("slice:", "feature:")), "{said}");
    }
    room.run(&["budget", "freeze", &format!("job:{id}")]).expect(0);
    room.run(&["budget", "thaw", &format!("job:{id}")]).expect(0);
    assert!(room.run(&["budget", "freeze", "job:"]).expect(2).err.contains("CS-CLI-038"));
    for (amount, part) in [
        ("1.5", "\"1.5\" is not a whole number of tokens"),
        ("-3", "\"-3\" is not a whole number of tokens"),
        ("18446744073709551615", "18446744073709551615 tokens are more than"),
        ("99999999999999999999999", "99999999999999999999999 tokens are more than"),
    ] {
        let refused = room.run(&["budget", "set", "tokens", amount]).expect(2).err;
        assert!(refused.contains(part) && !refused.contains("USD"), "{refused}");
    }
    let refused = room.run(&["budget", "top-up", &format!("{id}/agent:docs"), "1"]).expect(1).err;
    assert!(refused.contains("CS-CLI-039") && refused.contains("has no limit"), "{refused}");
    assert!(room.run(&["budget", "top-up", "tokens", "5"]).expect(1).err.contains("CS-CLI-039"));
}
