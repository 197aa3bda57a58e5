//! Recording: every complete reply becomes a line of a script that `--replay` plays again.
//!
//! What is recorded is what the model said, under the name of the request that it answered, with the id of the call taken
//! out again, because the next run will have others. Attempts of one task follow one another, so their lines stand in order
//! however many tasks run at once. Only replies are written, never requests, so no key can get in. A recording that cannot
//! be written must not spoil a call that is paid for: it is reported and the call goes on.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::replay::{ReplayError, Reply, Script, Stop, request_key};
use super::{LlmError, LlmReply, LlmRequest, Prepared, Provider, StopReason};
use crate::budget::Reservation;
use crate::clock::Clock;

/// Marks tried for the call's id; a text that has all of them in it is not recorded.
const MARKS: [&str; 3] = ["{{id}}", "{{call-id}}", "{{id-of-this-call}}"];

/// Longest first line of a recording, in bytes; ours have less than a hundred.
const MAX_HEADER_BYTES: u64 = 4096;

/// A provider whose replies are written down.
pub struct Recorder {
    inner: Arc<dyn Provider>,
    path: PathBuf,
    file: File,
}

impl Recorder {
    /// Records what `inner` answers, at the end of the file at `path`, which is a new one, an empty one or a recording.
    /// Several processes may share it.
    ///
    /// # Errors
    /// [`ReplayError::NotARecording`] when something else is in the file; [`ReplayError::File`] when it cannot be written.
    pub fn open(inner: Arc<dyn Provider>, path: &Path, clock: &Clock) -> Result<Self, ReplayError> {
        let file = open_recording(path, clock)?;
        Ok(Self { inner, path: path.to_owned(), file })
    }

    /// One line in one write, so that lines of several processes never mix.
    fn write(&self, body: &[u8], reply: &LlmReply) {
        let Some(line) = line(body, reply) else {
            tracing::warn!(path = %self.path.display(), "a reply cannot be recorded: its request has no name");
            return;
        };
        if let Err(error) = (&self.file).write_all(line.as_bytes()) {
            tracing::error!(path = %self.path.display(), %error, "a reply could not be recorded");
        }
    }
}

/// The file, behind a header of its own or of whoever began it.
fn open_recording(path: &Path, clock: &Clock) -> Result<File, ReplayError> {
    let failed = |source| ReplayError::File { path: path.to_owned(), source };
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(failed)?;
    // Held by whoever looks, so that of several processes one writes the header.
    file.lock().map_err(failed)?;
    if file.metadata().map_err(failed)?.len() == 0 {
        let day: String = clock.now().to_string().chars().take(10).collect();
        let header = Script::new().to_json_lines(&day, "recorded by codeswarm").map_err(std::io::Error::from);
        header.and_then(|header| file.write_all(header.as_bytes())).map_err(failed)?;
    } else {
        let mut head = Vec::new();
        (&file).take(MAX_HEADER_BYTES).read_to_end(&mut head).map_err(failed)?;
        let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if !Script::begins_with(&String::from_utf8_lossy(first)) {
            return Err(ReplayError::NotARecording { path: path.to_owned() });
        }
    }
    file.unlock().map_err(failed)?;
    Ok(file)
}

/// The line of a script that plays `reply` to the request with this body.
fn line(body: &[u8], reply: &LlmReply) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let prompt = body["messages"].as_array()?.last()?["content"].as_str()?;
    let (key, id) = request_key(prompt)?;
    let mark = MARKS.iter().find(|mark| !reply.text.contains(**mark))?;
    let text = if id.is_empty() { reply.text.clone() } else { reply.text.replace(id, mark) };
    let mut recorded = Reply::new(text).marked(mark).stop(match &reply.stop {
        StopReason::EndTurn => Stop::EndTurn,
        StopReason::MaxTokens => Stop::MaxTokens,
        StopReason::Refusal(_) => Stop::Refusal,
        StopReason::ContextWindow => Stop::ModelContextWindowExceeded,
        StopReason::Other(_) => Stop::PauseTurn,
    });
    if let Some(usage) = reply.usage {
        recorded = recorded.output_tokens(usage.output);
    }
    Script::line(key, &recorded).ok()
}

#[async_trait]
impl Provider for Recorder {
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError> {
        self.inner.prepare(request)
    }

    async fn count_input(&self, prepared: &Prepared) -> Result<Option<u64>, LlmError> {
        self.inner.count_input(prepared).await
    }

    async fn send(
        &self,
        prepared: &Prepared,
        reservation: &Reservation,
        cancel: &CancellationToken,
    ) -> Result<LlmReply, LlmError> {
        let reply = self.inner.send(prepared, reservation, cancel).await?;
        self.write(&prepared.body, &reply);
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_file_an_empty_one_or_a_recording_is_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| open_recording(&directory.path().join(name), &Clock::system());
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        std::fs::write(directory.path().join("empty.jsonl"), "").unwrap();
        for name in ["new.jsonl", "empty.jsonl", "new.jsonl"] {
            open(name).map(drop).unwrap();
            assert_eq!(Script::parse(&read(name)).unwrap(), Script::new(), "one header");
        }
        for text in ["# A proposal\n", "{\"request\":\"plan\"}\n", "\n"] {
            std::fs::write(directory.path().join("theirs"), text).unwrap();
            let refused = open("theirs").map(drop).unwrap_err();
            assert!(matches!(refused, ReplayError::NotARecording { .. }), "{refused}");
            assert_eq!(read("theirs"), text, "nothing is added to it");
        }
    }

    #[test]
    fn a_reply_is_recorded_under_its_requests_name_without_the_calls_id() {
        let body = r#"{"messages":[{"role":"user","content":"Write.\nRequest: file a.py (id 7f3a9c)"}]}"#;
        let reply = |text: &str| LlmReply {
            text: text.into(),
            stop: StopReason::EndTurn,
            usage: None,
            model: "m".into(),
            request_id: None,
        };
        let file = "<file path=\"a.py\" id=\"7f3a9c\">\nX = \"{{id}}\"\n</file-7f3a9c>";
        let line = line(body.as_bytes(), &reply(file)).unwrap();
        assert!(!line.contains("7f3a9c"), "{line}");
        let script = Script::new().to_json_lines("2026-11-21", "t").unwrap() + &line;
        let expected = Reply::new(file.replace("7f3a9c", "{{call-id}}")).marked("{{call-id}}");
        assert_eq!(Script::parse(&script).unwrap(), Script::new().reply("file a.py", expected));
        assert_eq!(super::line(br#"{"messages":[{"content":"hello"}]}"#, &reply("x")), None);
    }
}
