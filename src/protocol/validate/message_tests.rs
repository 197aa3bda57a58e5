//! Promises of message validation: every bound is checked, and every refusal is typed and names its field.
//!
//! One valid value of each type is bent in one place at a time; the table says which field the refusal must name.

use super::*;
use crate::protocol::{
    AgentType, ContextFile, FailureKind, FeatureId, InstanceId, JobId, MessageKind, Priority, Recipient, TaskId,
    TraceContext,
};

const NOW: Timestamp = Timestamp(1_000);

fn digest() -> ArtifactRef {
    ArtifactRef { sha256: "0123456789abcdef".repeat(4), bytes: 7 }
}

fn message() -> TaskMessage {
    TaskMessage {
        job: JobId::new("j").unwrap(),
        task: TaskId::new("file/f/t").unwrap(),
        attempt: 1,
        agent: AgentType::new("coder").unwrap(),
        priority: Priority::Normal,
        kind: TaskKind::File { feature: FeatureId::new("f").unwrap(), path: "src/a.rs".into() },
        proposal: digest(),
        plan: Some(digest()),
        title: "A".into(),
        instructions: "Write it.".into(),
        dependencies: vec![ContextFile { path: "b.rs".into(), artifact: digest() }],
        interfaces: vec![],
        feedback: None,
        estimated_tokens: 100,
        model: None,
        failed_calls: 0,
    }
}

fn result() -> TaskResult {
    TaskResult {
        job: JobId::new("j").unwrap(),
        task: TaskId::plan(),
        attempt: 1,
        worker: InstanceId::new("w").unwrap(),
        started_at: Timestamp(1),
        finished_at: Timestamp(2),
        usage: Usage::default(),
        cost: MicroUsd(1),
        overrun: None,
        outcome: TaskOutcome::Succeeded {
            receipt: Receipt { artifact: digest(), model: "m".into(), checks: vec!["utf-8".into()] },
        },
    }
}

fn envelope() -> Envelope<String> {
    let worker = InstanceId::new("w").unwrap();
    Envelope::new(MessageKind::Command, worker, Recipient::Broadcast, "job", NOW, "hello".to_owned())
}

fn field_of<T: std::fmt::Debug>(outcome: Result<T, ProtocolError>) -> String {
    match outcome {
        Err(ProtocolError::Field { field, why }) => {
            assert!(!why.is_empty());
            field
        }
        other => panic!("expected a refused field, got {other:?}"),
    }
}

fn decode(envelope: &Envelope<String>) -> Result<Envelope<String>, ProtocolError> {
    decode_envelope(&serde_json::to_vec(envelope).unwrap(), NOW)
}

#[test]
fn an_envelope_survives_the_wire() {
    let sent = Envelope { expires_at: Some(Timestamp(NOW.0 + 1)), ..envelope() };
    assert_eq!(decode(&sent), Ok(sent));
}

#[test]
fn unknown_versions_are_refused_as_such_even_when_their_shape_is_unknown_too() {
    for version in [0, 2, 70_000] {
        let bytes = format!("{{\"schema\":{version},\"surprise\":[1]}}");
        let error = decode_envelope::<String>(bytes.as_bytes(), NOW).unwrap_err();
        assert_eq!(error, ProtocolError::UnknownVersion { found: version, known: SCHEMA_VERSION });
    }
}

#[test]
fn oversized_expired_and_malformed_messages_are_refused_with_typed_errors() {
    let bytes = vec![b' '; MAX_MESSAGE_BYTES + 1];
    assert!(matches!(decode_envelope::<String>(&bytes, NOW), Err(ProtocolError::TooLarge { .. })));
    let late = Envelope { expires_at: Some(Timestamp(NOW.0 - 5)), ..envelope() };
    assert_eq!(decode(&late), Err(ProtocolError::Expired { late_ms: 5 }));
    let just = Envelope { expires_at: Some(NOW), ..envelope() };
    assert!(matches!(decode(&just), Err(ProtocolError::Expired { .. })));
    for bytes in ["", "{}", "[]", "{\"schema\":1}", "{\"schema\":-1}", "\u{0}"] {
        let error = decode_envelope::<String>(bytes.as_bytes(), NOW).unwrap_err();
        assert!(matches!(error, ProtocolError::Malformed { .. }), "{bytes:?}");
    }
}

#[test]
fn ids_of_an_envelope_are_bounded() {
    let long = "x".repeat(MAX_ID + 1);
    let trace = |text: &str| Some(TraceContext { traceparent: text.to_owned() });
    for (field, bent) in [
        ("id", Envelope { id: long.clone(), ..envelope() }),
        ("id", Envelope { id: " ".into(), ..envelope() }),
        ("id", Envelope { id: "a\nb".into(), ..envelope() }),
        ("correlation_id", Envelope { correlation_id: String::new(), ..envelope() }),
        ("causation_id", Envelope { causation_id: Some(long.clone()), ..envelope() }),
        ("trace.traceparent", Envelope { trace: trace("\u{1b}[31m"), ..envelope() }),
    ] {
        assert_eq!(field_of(decode(&bent)), field);
    }
}

#[test]
fn a_task_message_is_bounded_in_every_field() {
    assert_eq!(task_message(&message()), Ok(()));
    let bad = ArtifactRef { sha256: "ABC".into(), bytes: 1 };
    let file = |path: &str, artifact: &ArtifactRef| ContextFile { path: path.into(), artifact: artifact.clone() };
    let feature = FeatureId::new("f").unwrap();
    for (field, bent) in [
        ("attempt", TaskMessage { attempt: 0, ..message() }),
        ("proposal.sha256", TaskMessage { proposal: bad.clone(), ..message() }),
        ("plan", TaskMessage { plan: None, ..message() }),
        ("plan.sha256", TaskMessage { plan: Some(bad.clone()), ..message() }),
        ("features", TaskMessage { kind: TaskKind::Plan { features: (5, 2), tasks: (2, 8) }, ..message() }),
        ("path", TaskMessage { kind: TaskKind::File { feature, path: "../x".into() }, ..message() }),
        ("instructions", TaskMessage { instructions: String::new(), ..message() }),
        ("title", TaskMessage { title: "x".repeat(MAX_TITLE + 1), ..message() }),
        ("dependencies[0].path", TaskMessage { dependencies: vec![file("/x", &digest())], ..message() }),
        ("interfaces[0].artifact.sha256", TaskMessage { interfaces: vec![file("x", &bad)], ..message() }),
        ("interfaces", TaskMessage { interfaces: vec![file("x", &digest()); MAX_CONTEXT_FILES + 1], ..message() }),
        ("feedback", TaskMessage { feedback: Some("x".repeat(MAX_REASON + 1)), ..message() }),
    ] {
        assert_eq!(field_of(task_message(&bent)), field);
    }
}

#[test]
fn a_task_result_is_bounded_in_every_field() {
    assert_eq!(task_result(&result()), Ok(()));
    let receipt = Receipt { artifact: digest(), model: "m".into(), checks: vec![] };
    let done = |receipt| TaskResult { outcome: TaskOutcome::Succeeded { receipt }, ..result() };
    let failure = TaskFailure {
        kind: FailureKind::Budget,
        code: "CS-BUDGET-001".into(),
        message: "too dear".into(),
        retry_after_ms: None,
        needed: None,
        failed_calls: 0,
    };
    let failed = |failure| TaskResult { outcome: TaskOutcome::Failed { failure }, ..result() };
    assert_eq!(task_result(&failed(failure.clone())), Ok(()));
    let over = MicroUsd(MAX_AMOUNT.0 + 1);
    for (field, bent) in [
        ("attempt", TaskResult { attempt: 0, ..result() }),
        ("finished_at", TaskResult { finished_at: Timestamp(0), ..result() }),
        ("usage", TaskResult { usage: Usage { output: u64::MAX, ..Usage::default() }, ..result() }),
        ("cost", TaskResult { cost: over, ..result() }),
        ("receipt.model", done(Receipt { model: String::new(), ..receipt.clone() })),
        ("receipt.checks", done(Receipt { checks: vec!["x".into(); MAX_CHECKS + 1], ..receipt })),
        ("failure.code", failed(TaskFailure { code: String::new(), ..failure.clone() })),
        ("failure.message", failed(TaskFailure { message: "x".repeat(MAX_REASON + 1), ..failure.clone() })),
        ("failure.needed", failed(TaskFailure { needed: Some(over), ..failure })),
    ] {
        assert_eq!(field_of(task_result(&bent)), field);
    }
}

#[test]
fn a_command_is_bounded_in_every_field() {
    let with = |command| CommandMessage { request: "r".into(), job: JobId::new("j").unwrap(), command };
    for fine in [Command::Start, Command::Cancel { reason: "enough".into() }] {
        assert_eq!(command(&with(fine)), Ok(()));
    }
    assert_eq!(field_of(command(&with(Command::Cancel { reason: " ".into() }))), "reason");
    let limit = MicroUsd(MAX_AMOUNT.0 + 1);
    assert_eq!(field_of(command(&with(Command::BudgetChanged { limit }))), "limit");
    let nameless = CommandMessage { request: String::new(), ..with(Command::Start) };
    assert_eq!(field_of(command(&nameless)), "request");
}

#[test]
fn a_failure_made_of_any_text_is_valid() {
    let long = "\u{fc}".repeat(3 * MAX_REASON);
    for text in ["", " \n", "\u{1b}[2J\u{7}\0 gone", "\u{9b}31m\u{7f}", "a\r\nb\tc", &long] {
        let failure = TaskFailure::new(FailureKind::Rejected, "CS-X-001", text);
        let result = TaskResult { outcome: TaskOutcome::Failed { failure: failure.clone() }, ..result() };
        assert_eq!(task_result(&result), Ok(()), "{text:?}");
        assert_eq!(task_message(&TaskMessage { feedback: Some(failure.message), ..message() }), Ok(()), "{text:?}");
    }
    assert_eq!(TaskFailure::new(FailureKind::Lost, "CS-X-001", "a\r\nb\tc").message, "a\r\nb\tc");
}
