//! The reply script: what is answered to which request.
//!
//! JSON Lines, so that a recording can be appended to, read with any tool and reviewed in a diff. The first line is a
//! header, every other line one reply. Lines with the same request answer successive calls in their order, and the last
//! of them repeats. Texts are shared, never copied per request; everything read is bounded, and what is wrong is
//! reported with its line number.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::latency::MAX_DELAY;
use super::{Fault, Faults, LineFault, ReplayError};

/// Longest script accepted, in bytes.
pub const MAX_SCRIPT_BYTES: u64 = 64 * 1024 * 1024;
/// How many wrong lines are reported at once.
const MAX_REPORTED: usize = 20;
/// Most tokens a line may claim for a reply; no model writes more.
const MAX_TOKENS: u64 = 1_000_000;
/// Longest `retry_after` a line may ask for: a day, in seconds.
const MAX_RETRY_AFTER: u64 = 86_400;
/// What the per-call id replaces in a text, unless its line names another mark.
const ID_PLACEHOLDER: &str = "{{id}}";

/// Why the scripted model stops, by its name on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// It is done.
    #[default]
    EndTurn,
    /// The cap on output is reached.
    MaxTokens,
    /// A stop sequence is reached.
    StopSequence,
    /// It wants a tool called.
    ToolUse,
    /// It wants to be called again.
    PauseTurn,
    /// It declines.
    Refusal,
    /// The context window is full.
    ModelContextWindowExceeded,
}

/// One scripted reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub(super) text: Arc<str>,
    /// What stands for the call's id in the text.
    pub(super) mark: Arc<str>,
    pub(super) output_tokens: Option<u64>,
    pub(super) thinking_tokens: u64,
    pub(super) delay: Duration,
    pub(super) stop: Stop,
    pub(super) faults: Faults,
    pub(super) retry_after: Option<u64>,
}

impl Reply {
    /// A complete reply of `text`, in which `{{id}}` stands for the id of the call.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        Self {
            mark: ID_PLACEHOLDER.into(),
            text,
            output_tokens: None,
            thinking_tokens: 0,
            delay: Duration::ZERO,
            stop: Stop::EndTurn,
            faults: Faults::default(),
            retry_after: None,
        }
    }

    /// Lets `mark` stand for the id of the call, in texts that hold `{{id}}` for reasons of their own.
    #[must_use]
    pub fn marked(self, mark: &str) -> Self {
        Self { mark: mark.into(), ..self }
    }

    /// Lets the call take so long, at most ten minutes. A streamed reply begins within that time and ends with it.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay: delay.min(MAX_DELAY), ..self }
    }

    /// Bills so many output tokens, thinking included, instead of one for every 3.5 bytes.
    #[must_use]
    pub fn output_tokens(self, tokens: u64) -> Self {
        Self { output_tokens: Some(tokens.min(MAX_TOKENS)), ..self }
    }

    /// Lets the model think for so many tokens first.
    #[must_use]
    pub fn thinking_tokens(self, tokens: u64) -> Self {
        Self { thinking_tokens: tokens.min(MAX_TOKENS), ..self }
    }

    /// Stops for another reason than being done.
    #[must_use]
    pub fn stop(self, stop: Stop) -> Self {
        Self { stop, ..self }
    }

    /// Goes wrong; in several ways when it is said several times.
    #[must_use]
    pub fn fault(self, fault: Fault) -> Self {
        Self { faults: self.faults.with(fault), ..self }
    }

    /// Asks the client to wait so many seconds; only with a status fault.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds.min(MAX_RETRY_AFTER)), ..self }
    }
}

impl<T: Into<Arc<str>>> From<T> for Reply {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// All replies, by request key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    pub(super) replies: HashMap<Arc<str>, Vec<Reply>>,
}

/// First line of a script.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    codeswarm_replay: u32,
    recorded: String,
    note: String,
}

/// Any other line of a script.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    request: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_mark: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<Stop>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Faults>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Line {
    fn check(self) -> Result<(Arc<str>, Reply), String> {
        let known = |prefix| self.request.strip_prefix(prefix).is_some_and(|rest: &str| !rest.trim().is_empty());
        if &*self.request != "plan" && !known("feature-plan ") && !known("file ") {
            return Err(format!("request {:?} is not plan, feature-plan ID or file PATH", self.request));
        }
        let within = |name: &str, value: Option<u64>, most: u64| match value {
            Some(value) if value > most => Err(format!("{name} is {value}, more than {most}")),
            _ => Ok(value),
        };
        let longest = u64::try_from(MAX_DELAY.as_millis()).unwrap_or(u64::MAX);
        let delay = within("delay_ms", self.delay_ms, longest)?.unwrap_or(0);
        let faults = self.fault.unwrap_or_default();
        let text = match self.text {
            Some(text) => text,
            None if faults.iter().any(Fault::needs_no_text) => "".into(),
            None => return Err("text is missing".into()),
        };
        if self.retry_after.is_some() && !faults.iter().any(Fault::takes_retry_after) {
            return Err("retry_after needs a fault status-429, status-500, html-503 or status-529".into());
        }
        let reply = Reply {
            output_tokens: within("output_tokens", self.output_tokens, MAX_TOKENS)?,
            thinking_tokens: within("thinking_tokens", self.thinking_tokens, MAX_TOKENS)?.unwrap_or(0),
            delay: Duration::from_millis(delay),
            stop: self.stop_reason.unwrap_or_default(),
            faults,
            retry_after: within("retry_after", self.retry_after, MAX_RETRY_AFTER)?,
            mark: self.id_mark.filter(|mark| !mark.is_empty()).unwrap_or_else(|| ID_PLACEHOLDER.into()),
            ..Reply::new(text)
        };
        Ok((self.request, reply))
    }
}

impl Script {
    /// A script that answers nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a reply (a text, or a [`Reply`]) to the request `key`: `plan`, `feature-plan ID` or `file PATH`.
    #[must_use]
    pub fn reply(mut self, key: &str, reply: impl Into<Reply>) -> Self {
        self.push(key, reply);
        self
    }

    /// As [`Script::reply`], for loops.
    pub fn push(&mut self, key: &str, reply: impl Into<Reply>) {
        match self.replies.get_mut(key) {
            Some(replies) => replies.push(reply.into()),
            None => {
                self.replies.insert(key.into(), vec![reply.into()]);
            }
        }
    }

    /// This script, with a reply to the request `key` before those that are there.
    #[must_use]
    pub fn preceded(mut self, key: &str, reply: impl Into<Reply>) -> Self {
        self.replies.entry(key.into()).or_default().insert(0, reply.into());
        self
    }

    /// This script, with the replies of `other` instead of its own where both answer a request.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.replies.extend(other.replies);
        self
    }

    /// How many replies there are in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.replies.values().map(Vec::len).sum()
    }

    /// True when nothing can be answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Whether a file whose first line is `line` is a script of the known version.
    #[must_use]
    pub fn begins_with(line: &str) -> bool {
        serde_json::from_str::<Header>(line).is_ok_and(|header| header.codeswarm_replay == 1)
    }

    /// Reads a script.
    ///
    /// # Errors
    /// [`ReplayError::TooLong`], or [`ReplayError::Script`] with the first wrong lines.
    pub fn parse(text: &str) -> Result<Self, ReplayError> {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if bytes > MAX_SCRIPT_BYTES {
            return Err(ReplayError::TooLong { bytes });
        }
        let mut script = Self::new();
        let mut faults = Vec::new();
        let mut lines = text.lines().enumerate();
        let header = lines.next().map_or("", |(_, line)| line);
        match serde_json::from_str::<Header>(header) {
            Ok(header) if header.codeswarm_replay == 1 => {}
            Ok(header) => faults.push((0, format!("version {} is unknown, use 1", header.codeswarm_replay))),
            Err(error) => faults.push((0, format!("the header is wrong: {error}"))),
        }
        for (index, line) in lines {
            if line.trim().is_empty() {
                continue;
            }
            match serde_json::from_str::<Line>(line).map_err(|error| error.to_string()).and_then(Line::check) {
                Ok((key, reply)) => script.replies.entry(key).or_default().push(reply),
                Err(why) => faults.push((index, why)),
            }
            if faults.len() >= MAX_REPORTED {
                break;
            }
        }
        if faults.is_empty() {
            return Ok(script);
        }
        Err(ReplayError::Script(faults.into_iter().map(|(index, why)| LineFault { line: index + 1, why }).collect()))
    }

    /// Reads a script from a file.
    ///
    /// # Errors
    /// [`ReplayError::File`], and what [`Script::parse`] finds.
    pub fn load(path: &Path) -> Result<Self, ReplayError> {
        let failed = |source| ReplayError::File { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        // One byte more than allowed tells a script that is too long from one that just fits.
        file.take(MAX_SCRIPT_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text)
    }

    /// One reply as a line of a script, line end included.
    ///
    /// # Errors
    /// As for [`Script::to_json_lines`].
    pub fn line(key: &str, reply: &Reply) -> serde_json::Result<String> {
        let line = Line {
            request: key.into(),
            text: Some(reply.text.clone()),
            id_mark: Some(reply.mark.clone()).filter(|mark| &**mark != ID_PLACEHOLDER),
            output_tokens: reply.output_tokens,
            thinking_tokens: Some(reply.thinking_tokens).filter(|tokens| *tokens > 0),
            delay_ms: u64::try_from(reply.delay.as_millis()).ok().filter(|delay| *delay > 0),
            stop_reason: Some(reply.stop).filter(|stop| *stop != Stop::EndTurn),
            fault: Some(reply.faults).filter(|faults| !faults.is_empty()),
            retry_after: reply.retry_after,
        };
        Ok(serde_json::to_string(&line)? + "\n")
    }

    /// The script as a file: what [`Script::parse`] reads, requests in alphabetical order.
    ///
    /// # Errors
    /// Never for what this type can hold; the serializer's signature asks for it.
    pub fn to_json_lines(&self, recorded: &str, note: &str) -> serde_json::Result<String> {
        let header = Header { codeswarm_replay: 1, recorded: recorded.into(), note: note.into() };
        let mut text = serde_json::to_string(&header)? + "\n";
        let mut keys: Vec<&Arc<str>> = self.replies.keys().collect();
        keys.sort();
        for key in keys {
            for reply in &self.replies[key] {
                text.push_str(&Self::line(key, reply)?);
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"codeswarm_replay":1,"recorded":"2026-11-21","note":"test"}"#;

    #[test]
    fn lines_with_the_same_request_keep_their_order() {
        let script = Script::parse(&format!(
            "{HEADER}\n{}\n\n{}\n{}\n",
            r#"{"request":"plan","text":"one","delay_ms":5,"output_tokens":7,"thinking_tokens":3}"#,
            r#"{"request":"file a b.py","text":"{{id}}","stop_reason":"max_tokens"}"#,
            r#"{"request":"plan","fault":"status-429","retry_after":2}"#
        ))
        .expect("valid");
        let expected = Script::new()
            .reply("plan", Reply::new("one").delay(Duration::from_millis(5)).output_tokens(7).thinking_tokens(3))
            .reply("plan", Reply::new("").fault(Fault::Status429).retry_after(2))
            .reply("file a b.py", Reply::new("{{id}}").stop(Stop::MaxTokens));
        assert_eq!(script, expected);
        assert_eq!(script.len(), 3);
        let written = script.to_json_lines("2026-11-21", "test").expect("serializes");
        assert_eq!(Script::parse(&written).expect("valid"), script);
    }

    #[test]
    fn every_fault_has_a_name_that_reads_back() {
        for fault in Fault::ALL {
            let name = format!("{:?}", fault.name());
            let line = format!("{HEADER}\n{{\"request\":\"plan\",\"text\":\"x\",\"fault\":{name}}}\n");
            assert_eq!(Script::parse(&line).expect("valid").replies["plan"][0].faults, fault.into(), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_reported_with_its_line() {
        for (line, part) in [
            (r#"{"request":"plan"}"#, "text is missing"),
            (r#"{"request":"plan","fault":"cut-mid-stream"}"#, "text is missing"),
            (r#"{"text":"x"}"#, "request"),
            (r#"{"request":"","text":"x"}"#, "is not plan"),
            (r#"{"request":"file ","text":"x"}"#, "is not plan"),
            (r#"{"request":"verify","text":"x"}"#, "is not plan"),
            (r#"{"request":"plan","text":"x","delay_ms":600001}"#, "delay_ms"),
            (r#"{"request":"plan","text":"x","output_tokens":1000001}"#, "output_tokens"),
            (r#"{"request":"plan","text":"x","thinking_tokens":-1}"#, "thinking_tokens"),
            (r#"{"request":"plan","text":"x","stop_reason":"tired"}"#, "tired"),
            (r#"{"request":"plan","text":"x","fault":"earthquake"}"#, "no fault is called \"earthquake\""),
            (r#"{"request":"plan","text":"x","fault":"crlf+status-429"}"#, "cannot strike the same reply"),
            (r#"{"request":"plan","text":"x","retry_after":1}"#, "retry_after"),
            (r#"{"request":"plan","text":"x","fault":"status-429","retry_after":86401}"#, "retry_after"),
            (r#"{"request":"plan","text":"x","sleep":1}"#, "sleep"),
            ("not json", "expected"),
        ] {
            let text = format!("{HEADER}\n{{\"request\":\"plan\",\"text\":\"x\"}}\n{line}\n");
            let Err(ReplayError::Script(faults)) = Script::parse(&text) else { panic!("accepted: {line}") };
            assert_eq!(faults.len(), 1, "{line}");
            assert_eq!(faults[0].line, 3, "{line}");
            // serde names a wrong type, not the field, for a negative number.
            assert!(faults[0].why.contains(part) || faults[0].why.contains("-1"), "{line}: {}", faults[0].why);
        }
    }

    #[test]
    fn a_missing_or_foreign_header_is_refused() {
        for text in ["", "\n", r#"{"request":"plan","text":"x"}"#, r#"{"codeswarm_replay":2,"recorded":"","note":""}"#]
        {
            let Err(ReplayError::Script(faults)) = Script::parse(text) else { panic!("accepted: {text:?}") };
            assert_eq!(faults[0].line, 1);
        }
    }

    #[test]
    fn all_wrong_lines_are_reported_at_once_up_to_a_limit() {
        let text = format!("{HEADER}\n{}", "nonsense\n".repeat(100));
        let Err(ReplayError::Script(faults)) = Script::parse(&text) else { panic!("accepted") };
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), (2..=21).collect::<Vec<_>>());
    }
}
