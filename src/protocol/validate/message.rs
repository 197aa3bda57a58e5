//! Bounds of the messages that processes exchange: envelope, task message, task result, command.
//!
//! The order of checks in [`decode_envelope`] matters: size before parsing, version before shape (a newer shape must be
//! refused as "unknown version", not as "malformed"), expiry last. It must never log or echo a payload: it may be large.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ProtocolError, bounded, line, prose};
use crate::clock::Timestamp;
use crate::protocol::money::MAX_AMOUNT;
use crate::protocol::{
    ArtifactRef, Command, CommandMessage, Envelope, MicroUsd, Receipt, SCHEMA_VERSION, TaskFailure, TaskKind,
    TaskMessage, TaskOutcome, TaskResult, Usage, path,
};

/// Largest message body in bytes (REQUIREMENTS B2); larger payloads travel as artifacts.
pub const MAX_MESSAGE_BYTES: usize = 10 * 1024 * 1024;

/// Longest message id, correlation id, request id or trace parent, in characters.
const MAX_ID: usize = 128;
/// Longest title, model name, check name or error code, in characters.
const MAX_TITLE: usize = 200;
/// Longest instructions of a task, in characters; twice what a plan may say, as the coordinator may add to them.
const MAX_INSTRUCTIONS: usize = 16_000;
/// Longest reason, feedback or failure message, in characters.
pub(crate) const MAX_REASON: usize = 8_000;
/// Most files named by one task message, per list.
const MAX_CONTEXT_FILES: usize = 1_000;
/// Most checks named by one receipt.
const MAX_CHECKS: usize = 100;
/// Highest attempt number; far above any configured limit, as parked attempts count too.
const MAX_ATTEMPT: u32 = 1_000_000;
/// Most tokens of one kind in one result: far above any context window, far below overflow of a sum.
const MAX_TOKENS: u64 = 1_000_000_000_000;

/// Reads only what decides whether the rest can be read.
#[derive(Deserialize)]
struct Header {
    schema: u64,
}

/// Reads an envelope as it came from a broker.
///
/// # Errors
/// Typed: too large, unknown version, malformed, out of bounds, expired.
pub fn decode_envelope<P: DeserializeOwned>(bytes: &[u8], now: Timestamp) -> Result<Envelope<P>, ProtocolError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(ProtocolError::TooLarge { bytes: bytes.len(), limit: MAX_MESSAGE_BYTES });
    }
    let header: Header = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    if header.schema != u64::from(SCHEMA_VERSION) {
        return Err(ProtocolError::UnknownVersion { found: header.schema, known: SCHEMA_VERSION });
    }
    let envelope: Envelope<P> = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    line("id", &envelope.id, MAX_ID)?;
    line("correlation_id", &envelope.correlation_id, MAX_ID)?;
    if let Some(cause) = &envelope.causation_id {
        line("causation_id", cause, MAX_ID)?;
    }
    if let Some(trace) = &envelope.trace {
        line("trace.traceparent", &trace.traceparent, MAX_ID)?;
    }
    match envelope.expires_at {
        Some(end) if now >= end => {
            let late_ms = u64::try_from(now.since(end).as_millis()).unwrap_or(u64::MAX);
            Err(ProtocolError::Expired { late_ms })
        }
        _ => Ok(envelope),
    }
}

fn malformed(error: &serde_json::Error) -> ProtocolError {
    ProtocolError::Malformed { why: error.to_string().chars().take(300).collect() }
}

/// Checks a task message.
///
/// # Errors
/// The first field out of bounds.
pub fn task_message(message: &TaskMessage) -> Result<(), ProtocolError> {
    attempt(message.attempt)?;
    artifact("proposal", &message.proposal)?;
    match (&message.plan, &message.kind) {
        (Some(plan), _) => artifact("plan", plan)?,
        (None, TaskKind::Plan { .. }) => {}
        (None, _) => {
            return Err(ProtocolError::field("plan", "is missing; only the plan task may come without a plan"));
        }
    }
    match &message.kind {
        TaskKind::Plan { features, tasks } => {
            range("features", *features)?;
            range("tasks", *tasks)?;
        }
        TaskKind::FeaturePlan { tasks, .. } => range("tasks", *tasks)?,
        TaskKind::File { path, .. } => {
            path::check(path)?;
            prose("instructions", &message.instructions, MAX_INSTRUCTIONS)?;
        }
    }
    bounded("title", &message.title, MAX_TITLE)?;
    bounded("instructions", &message.instructions, MAX_INSTRUCTIONS)?;
    for (field, files) in [("dependencies", &message.dependencies), ("interfaces", &message.interfaces)] {
        if files.len() > MAX_CONTEXT_FILES {
            let why = format!("names {} files; the limit is {MAX_CONTEXT_FILES}", files.len());
            return Err(ProtocolError::field(field, why));
        }
        for (i, file) in files.iter().enumerate() {
            let inside = |error: ProtocolError| error.within(&format!("{field}[{i}]"));
            path::check(&file.path).map_err(inside)?;
            artifact("artifact", &file.artifact).map_err(inside)?;
        }
    }
    if let Some(model) = &message.model {
        line("model", model, MAX_ID)?;
    }
    match &message.feedback {
        Some(feedback) => bounded("feedback", feedback, MAX_REASON),
        None => Ok(()),
    }
}

/// Checks a task result.
///
/// # Errors
/// The first field out of bounds.
pub fn task_result(result: &TaskResult) -> Result<(), ProtocolError> {
    attempt(result.attempt)?;
    if result.finished_at < result.started_at {
        let why = format!("{} is before started_at {}; send the later instant", result.finished_at, result.started_at);
        return Err(ProtocolError::field("finished_at", why));
    }
    usage(&result.usage)?;
    amount("cost", result.cost)?;
    if let Some(overrun) = &result.overrun {
        amount("overrun.reserved", overrun.reserved)?;
        amount("overrun.charged", overrun.charged)?;
    }
    match &result.outcome {
        TaskOutcome::Succeeded { receipt } => self::receipt(receipt).map_err(|error| error.within("receipt")),
        TaskOutcome::Failed { failure } => self::failure(failure).map_err(|error| error.within("failure")),
    }
}

/// Checks a command.
///
/// # Errors
/// The first field out of bounds.
pub fn command(message: &CommandMessage) -> Result<(), ProtocolError> {
    line("request", &message.request, MAX_ID)?;
    match &message.command {
        Command::Cancel { reason } => prose("reason", reason, MAX_REASON),
        Command::BudgetChanged { limit } => amount("limit", *limit),
        Command::Start | Command::Approve | Command::Pause | Command::Resume | Command::RetryTask { .. } => Ok(()),
    }
}

fn receipt(receipt: &Receipt) -> Result<(), ProtocolError> {
    artifact("artifact", &receipt.artifact)?;
    line("model", &receipt.model, MAX_TITLE)?;
    if receipt.checks.len() > MAX_CHECKS {
        let why = format!("names {} checks; the limit is {MAX_CHECKS}", receipt.checks.len());
        return Err(ProtocolError::field("checks", why));
    }
    receipt.checks.iter().try_for_each(|check| line("checks", check, MAX_TITLE))
}

fn failure(failure: &TaskFailure) -> Result<(), ProtocolError> {
    line("code", &failure.code, MAX_TITLE)?;
    prose("message", &failure.message, MAX_REASON)?;
    failure.needed.map_or(Ok(()), |needed| amount("needed", needed))
}

fn artifact(field: &str, artifact: &ArtifactRef) -> Result<(), ProtocolError> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if artifact.sha256.len() == 64 && artifact.sha256.bytes().all(is_hex) {
        return Ok(());
    }
    let shown: String = artifact.sha256.chars().take(80).collect();
    let why = format!("{shown:?} is not a SHA-256 digest; give 64 lower-case hexadecimal digits");
    Err(ProtocolError::field(format!("{field}.sha256"), why))
}

fn attempt(attempt: u32) -> Result<(), ProtocolError> {
    if (1..=MAX_ATTEMPT).contains(&attempt) {
        Ok(())
    } else {
        Err(ProtocolError::field("attempt", format!("is {attempt}; give 1 to {MAX_ATTEMPT}")))
    }
}

fn amount(field: &str, amount: MicroUsd) -> Result<(), ProtocolError> {
    if amount <= MAX_AMOUNT {
        Ok(())
    } else {
        Err(ProtocolError::field(field, format!("is {amount}; the limit is {MAX_AMOUNT}")))
    }
}

fn range(field: &str, (fewest, most): (u32, u32)) -> Result<(), ProtocolError> {
    if 1 <= fewest && fewest <= most {
        Ok(())
    } else {
        Err(ProtocolError::field(field, format!("is {fewest} to {most}; give at least 1 and first the smaller")))
    }
}

fn usage(usage: &Usage) -> Result<(), ProtocolError> {
    let Usage { input, cache_write_5m, cache_write_1h, cache_read, output } = *usage;
    match [input, cache_write_5m, cache_write_1h, cache_read, output].into_iter().find(|&tokens| tokens > MAX_TOKENS) {
        Some(tokens) => {
            Err(ProtocolError::field("usage", format!("counts {tokens} tokens; the limit is {MAX_TOKENS}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
