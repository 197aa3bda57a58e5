//! The local server as a program: what it says at its start, and what it says to options that cannot be meant.
//!
//! A wrong option must end it at once with one message that names option, value and remedy; a server that starts and then
//! never answers would be worse than none.

use crate::support::{Running, Sandbox};

fn fake_claude(sandbox: &Sandbox, arguments: &[&str]) -> Running {
    Running::start(&mut sandbox.command(env!("CARGO_BIN_EXE_fake-claude"), arguments))
}

#[test]
fn an_option_that_cannot_be_meant_ends_the_program_with_one_message() {
    let sandbox = Sandbox::new();
    for (option, value, remedy) in [
        ("--sigma", "nan", "say a number from 0 to 3"),
        ("--sigma", "1e9", "say a number from 0 to 3"),
        ("--sigma", "-0.1", "say a number from 0 to 3"),
        ("--latency-ms", "99999999999999", "say a whole number from 0 to 600000"),
        ("--requests-per-minute", "0", "say a whole number from 1 to 1000000000"),
        ("--input-tokens-per-minute", "0", "say a whole number from 1 to 1000000000"),
        ("--output-tokens-per-minute", "1e6", "say a whole number from 1 to 1000000000"),
        ("--concurrency-limit", "0", "say a whole number from 1 to 1000000"),
        ("--edges", "99999999", "say a whole number from 0 to 100000"),
        ("--file-bytes", "0", "say a whole number from 1 to 100000"),
        ("--synthetic", "5000x5000", "at most 10000 files"),
        ("--synthetic", "0x4", "at most 10000 files"),
        ("--count-fault", "status-492", "the nearest is status-429; `fake-claude --faults` lists them"),
    ] {
        let needs = if matches!(option, "--edges" | "--file-bytes") { &["--synthetic"][..] } else { &[] };
        let argument = format!("{option}={value}");
        let ended = fake_claude(&sandbox, &[&[argument.as_str()], needs].concat()).end().expect_code(2);
        let said = ended.stderr.lines().next().unwrap_or_default();
        assert!(said.contains(option) && said.contains(value) && said.contains(remedy), "{argument}: {}", ended.stderr);
        assert_eq!((ended.stderr.matches("error:").count(), ended.stdout.as_str()), (1, ""), "{argument}");
    }
}

#[test]
fn it_says_what_it_will_answer_and_which_faults_there_are() {
    let sandbox = Sandbox::new();
    let script =
        "{\"codeswarm_replay\":1,\"recorded\":\"2026-11-21\",\"note\":\"t\"}\n{\"request\":\"plan\",\"text\":\"x\"}\n";
    std::fs::write(sandbox.work().join("replies.jsonl"), script).unwrap();
    for (arguments, said) in [
        (&[][..], "replies: 0; every request is answered 400; start with --script FILE or --synthetic for more"),
        (&["--script", "replies.jsonl"], "replies: 1; those of replies.jsonl; any other request is answered 400"),
        (&["--synthetic", "15x8"], "replies: 136; a made-up job of 15x8 files, and a valid one to everything else"),
        (
            &["--synthetic", "2x3"],
            "replies: 9; a made-up job of 2x3 files (codeswarm refuses this plan unless its limits under [job] are changed), and a \
             valid one to everything else",
        ),
    ] {
        let mut server = fake_claude(&sandbox, arguments);
        let line = server.wait_for(|line| line.starts_with("replies:"));
        assert_eq!(line.as_deref(), Some(said));
        server.signal("TERM");
        server.end().expect_code(0);
    }
    let listed = fake_claude(&sandbox, &["--faults"]).end().expect_code(0).stdout;
    for fault in codeswarm::llm::replay::Fault::ALL {
        assert!(listed.lines().any(|line| line.split_whitespace().next() == Some(fault.name())), "{fault:?}");
    }
    std::fs::write(sandbox.work().join("wrong.jsonl"), script.replace("\"text\"", "\"fault\":\"crfl\",\"text\""))
        .unwrap();
    let ended = fake_claude(&sandbox, &["--script", "wrong.jsonl"]).end().expect_code(1);
    assert!(ended.stderr.contains("no fault is called \"crfl\"; the nearest is crlf"), "{}", ended.stderr);
}
