//! A provider that answers at once, from memory: what is left of a call is ours.
//!
//! It is called like any other, through guards and budget, with a reservation it cannot do without. Its replies are those of
//! a made-up job, so the whole path behind the call (extraction, checks, artifacts) has real work to do. It never
//! serialises a request: that is the work of the providers that need it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use codeswarm::budget::{Reservation, WorstCaseInput};
use codeswarm::llm::replay::SyntheticJob;
use codeswarm::llm::{LlmError, LlmReply, LlmRequest, Prepared, Provider, StopReason};
use codeswarm::protocol::Usage;
use tokio_util::sync::CancellationToken;

/// The model everybody asks.
pub(crate) const MODEL: &str = "claude-haiku-4-5";

/// Bytes of a file.
const FILE_BYTES: usize = 400;

/// Answers the calls of made-up jobs.
#[derive(Default)]
pub(crate) struct NoOp {
    /// Plans by request key.
    plans: HashMap<String, String>,
    /// When each file was asked for, if anybody wants to know.
    asked: Option<Arc<Mutex<HashMap<String, Instant>>>>,
}

impl NoOp {
    /// A provider for jobs of this shape.
    pub(crate) fn of(job: &SyntheticJob) -> Self {
        let json = |plan: serde_json::Result<String>| plan.expect("serialises");
        let mut plans = HashMap::from([("plan".to_owned(), json(serde_json::to_string(&job.plan)))]);
        for (feature, plan) in job.plan.features.iter().zip(&job.feature_plans) {
            plans.insert(format!("feature-plan {}", feature.id), json(serde_json::to_string(plan)));
        }
        Self { plans, ..Self::default() }
    }

    /// The same, noting when each file was asked for.
    pub(crate) fn noting(self, asked: Arc<Mutex<HashMap<String, Instant>>>) -> Self {
        Self { asked: Some(asked), ..self }
    }

    fn reply(&self, key: &str) -> String {
        let Some(file) = key.strip_prefix("file ") else { return self.plans[key].clone() };
        let (path, id) = file.split_once(" (id ").expect("a path and an id");
        let id = id.trim_end_matches(')');
        let filling = "x = 1  # as long as a small file\n".repeat(FILE_BYTES / 33);
        format!("<file path=\"{path}\" id=\"{id}\">\nNAME = \"{path}\"\n{filling}</file-{id}>\n")
    }
}

#[async_trait]
impl Provider for NoOp {
    fn prepare(&self, request: &LlmRequest) -> Result<Prepared, LlmError> {
        let text = request.messages.last().map_or("", |message| message.text.as_str());
        let key = text.lines().rev().find_map(|line| line.strip_prefix("Request: ")).unwrap_or_default().to_owned();
        if let Some(asked) = &self.asked
            && let Some(path) = key.strip_prefix("file ").and_then(|file| file.split(' ').next())
        {
            asked.lock().expect("unpoisoned").entry(path.to_owned()).or_insert_with(Instant::now);
        }
        let worst_case = WorstCaseInput::from_body(&request.model, &key, request.max_tokens);
        Ok(Prepared::new(key, worst_case))
    }

    async fn send(&self, prepared: &Prepared, _: &Reservation, _: &CancellationToken) -> Result<LlmReply, LlmError> {
        Ok(LlmReply {
            text: self.reply(std::str::from_utf8(&prepared.body).expect("text")),
            stop: StopReason::EndTurn,
            usage: Some(Usage { input: 100, output: 100, ..Usage::default() }),
            model: MODEL.into(),
            request_id: None,
        })
    }
}
