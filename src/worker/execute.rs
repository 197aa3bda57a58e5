//! Running the agent of one attempt: gather the context, call the model within the budget, extract, store.
//!
//! Everything a task may read arrives as artifact references in its message; nothing is looked up anywhere else, so the
//! same message gives the same prompt on every machine. Texts that all tasks of a job share are kept for a while, because
//! the head of every prompt must be byte-identical for the provider's cache to hold it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::attempt::Ran;
use super::texts::Texts;
use crate::agent::{self, AgentChoice, AgentError, ContextLimits, Product, Rejection, Role, RoleBook, TaskContext};
use crate::backend::{Artifacts, Backend, BackendError};
use crate::budget::CallContext;
use crate::clock;
use crate::error::{Coded, Retry};
use crate::llm::{Charge, LlmError, Metered};
use crate::protocol::{
    ArtifactRef, FailureKind, InstanceId, MicroUsd, Receipt, StrategicPlan, TaskFailure, TaskMessage, TaskOutcome,
};

/// Shared texts of this many jobs are kept; more jobs at once only cost reading them again.
const KEPT_JOBS: usize = 16;

/// When a task is tried again whose reservation the ledger did not answer.
const LEDGER_PAUSE: Duration = Duration::from_secs(2);

/// What all tasks of a job share.
#[derive(Clone)]
struct JobTexts {
    proposal: Arc<str>,
    plan: Option<Arc<StrategicPlan>>,
    /// The contract as it stands at the head of every prompt.
    head: Option<Arc<str>>,
}

/// Names the shared texts of a job: its proposal and its plan.
type TextsKey = (ArtifactRef, Option<ArtifactRef>);

/// Runs attempts for a worker.
pub struct Executor {
    artifacts: Arc<dyn Artifacts>,
    metered: Metered,
    roles: RoleBook,
    /// The agent types planners may choose from.
    choices: Arc<[AgentChoice]>,
    limits: ContextLimits,
    /// Files that tasks depend on.
    file_texts: Texts,
    /// Shared texts by (proposal, plan), most recent last. Tokio mutex: held while they are read from the store, so that a
    /// fan-out of a hundred tasks reads them once.
    kept: Mutex<Vec<(TextsKey, JobTexts)>>,
}

impl Executor {
    /// An executor that calls models through `metered` in the roles of `roles`.
    #[must_use]
    pub fn new(backend: &Backend, metered: Metered, roles: RoleBook, limits: ContextLimits) -> Self {
        let choices = roles.choices();
        Self {
            artifacts: Arc::clone(&backend.artifacts),
            metered,
            roles,
            choices,
            limits,
            file_texts: Texts::default(),
            kept: Mutex::new(Vec::new()),
        }
    }

    /// Runs one attempt. Never fails: what goes wrong is an outcome too.
    pub(super) async fn execute(
        &self,
        message: &TaskMessage,
        instance: &InstanceId,
        claims: u32,
        cancel: &CancellationToken,
    ) -> Ran {
        let role = match self.roles.get(&message.agent) {
            Ok(role) => match &message.model {
                Some(model) if self.metered.treasurer().prices().get(model).is_some() => {
                    Arc::new(role.on(model.clone()))
                }
                // A coordinator with another configuration knows a price that nobody knows here.
                Some(_) | None => Arc::clone(role),
            },
            Err(error) => return unusable(FailureKind::Fatal, &error),
        };
        let context = match self.context(message).await {
            Ok(context) => context,
            Err(error) => return Ran::failed(FailureKind::Transient, error.code(), &error.to_string()),
        };
        self.call(&role, message, &context, instance, claims, cancel).await
    }

    async fn call(
        &self,
        role: &Role,
        message: &TaskMessage,
        context: &TaskContext,
        instance: &InstanceId,
        claims: u32,
        cancel: &CancellationToken,
    ) -> Ran {
        let call_id = clock::random_token(12);
        let (request, format) = match agent::build_request(role, message, context, &self.limits, &call_id) {
            Ok(built) => built,
            Err(error) => return unusable(FailureKind::Rejected, &error),
        };
        let call_context = CallContext::new(
            message.job.clone(),
            message.task.clone(),
            message.agent.clone(),
            instance.clone(),
            message.attempt,
            u64::from(claims),
        );
        let call_context = match message.kind.feature() {
            Some(feature) => call_context.for_feature(feature),
            None => call_context,
        };
        // A repair of what was refused may use what the budget keeps for repairs.
        let call_context = if message.feedback.is_some() { call_context.with_hold_back() } else { call_context };
        let call_context = call_context.after_failed_calls(message.failed_calls);
        let minimum = agent::minimum_output_tokens(message).min(request.max_tokens);
        let called = self.metered.call(request, &call_context, minimum, cancel).await;
        let (failed_calls, most) = (called.failed, self.metered.most_attempts());
        let is_used_up = failed_calls > 0 && message.failed_calls.saturating_add(failed_calls) >= most;
        let mut outcome = match called.result {
            Ok(reply) => match agent::extract(&format, &reply) {
                Ok(product) => self.keep(product, called.model).await,
                Err(rejection) => failed(FailureKind::Rejected, rejection.code(), &refusal(&rejection)),
            },
            Err(error) => TaskOutcome::Failed { failure: classify(&error, is_used_up) },
        };
        if let TaskOutcome::Failed { failure } = &mut outcome {
            failure.failed_calls = failed_calls;
        }
        Ran { outcome, cost: called.cost, usage: called.usage, overrun: called.overrun }
    }

    /// Stores what the agent made.
    async fn keep(&self, product: Product, model: String) -> TaskOutcome {
        let bytes = product.bytes.clone();
        let stored = match self.artifacts.put(bytes.clone()).await {
            // The reply is paid for: one more try is cheaper than another call. Same bytes, same reference.
            Err(error) if error.retry().is_retryable() => self.artifacts.put(bytes).await,
            other => other,
        };
        match stored {
            Ok(artifact) => TaskOutcome::Succeeded { receipt: Receipt { artifact, model, checks: product.checks } },
            Err(error) => failed(FailureKind::Transient, error.code(), &error.to_string()),
        }
    }

    async fn context(&self, message: &TaskMessage) -> Result<TaskContext, BackendError> {
        let texts = self.job_texts(message).await?;
        Ok(TaskContext {
            proposal: texts.proposal,
            plan: texts.plan,
            head: texts.head,
            agents: Arc::clone(&self.choices),
            dependencies: self.file_texts.read(self.artifacts.as_ref(), &message.dependencies).await?,
            interfaces: self.file_texts.read(self.artifacts.as_ref(), &message.interfaces).await?,
        })
    }

    /// The proposal and the plan of the message's job, read once per job.
    async fn job_texts(&self, message: &TaskMessage) -> Result<JobTexts, BackendError> {
        let key = (message.proposal.clone(), message.plan.clone());
        let mut kept = self.kept.lock().await;
        if let Some((_, texts)) = kept.iter().find(|(known, _)| *known == key) {
            return Ok(texts.clone());
        }
        let proposal = self.artifacts.get(&message.proposal).await?;
        let plan = match &message.plan {
            None => None,
            Some(artifact) => Some(Arc::new(self.plan(artifact).await?)),
        };
        let texts = JobTexts {
            proposal: String::from_utf8_lossy(&proposal).into(),
            head: plan.as_deref().map(agent::contract_head),
            plan,
        };
        if kept.len() >= KEPT_JOBS {
            kept.remove(0);
        }
        kept.push((key, texts.clone()));
        Ok(texts)
    }

    async fn plan(&self, artifact: &ArtifactRef) -> Result<StrategicPlan, BackendError> {
        let bytes = self.artifacts.get(artifact).await?;
        serde_json::from_slice(&bytes).map_err(|error| BackendError::Corrupt {
            what: format!("plan artifact {}", artifact.sha256),
            why: error.to_string(),
        })
    }
}

fn unusable(kind: FailureKind, error: &AgentError) -> Ran {
    Ran::failed(kind, error.code(), &format!("{error} ({})", error.remedy()))
}

fn failed(kind: FailureKind, code: &str, message: &str) -> TaskOutcome {
    TaskOutcome::Failed { failure: TaskFailure::new(kind, code, message) }
}

/// What was wrong with a reply in one line for people, and below it what the model is told.
fn refusal(rejection: &Rejection) -> String {
    let told = rejection.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{told}\n{}", rejection.feedback())
}

/// What a failed call means for the task (ARCHITECTURE, "The way of a call"). `is_used_up` says that so many calls of this task
/// have failed at the provider and may have been billed that no further one is made by itself.
fn classify(error: &LlmError, is_used_up: bool) -> TaskFailure {
    let mut failure = TaskFailure::new(FailureKind::Parked, error.code(), &describe(error));
    let milliseconds = |wait: Duration| Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    match (error, error.retry()) {
        (LlmError::BudgetRefused { needed, .. }, _) => {
            failure.kind = FailureKind::Budget;
            failure.needed = Some(*needed);
        }
        (LlmError::TokensRefused { .. }, _) => {
            failure.kind = FailureKind::Budget;
            // Tokens are what it lacks; money it needs none.
            failure.needed = Some(MicroUsd::ZERO);
        }
        (LlmError::Frozen { .. }, _) => failure.kind = FailureKind::Budget,
        (LlmError::Cancelled, _) => failure.kind = FailureKind::Cancelled,
        // Nothing was called, and the task is not to blame: it waits until the books answer again.
        (LlmError::Ledger(cause), _) if cause.retry().is_retryable() => {
            failure.retry_after_ms = milliseconds(LEDGER_PAUSE);
        }
        (LlmError::Ledger(_), _) => failure.kind = FailureKind::Transient,
        // What is wrong with this request: too large is the task's alone, and the same again would be; the rest is everybody's.
        (LlmError::Status { status: 413, .. }, Retry::Never) => failure.kind = FailureKind::Exhausted,
        (_, Retry::Never) => failure.kind = FailureKind::Fatal,
        // From here on the provider is to blame. Whoever has tried often enough does not begin again in the next attempt.
        _ if is_used_up => failure.kind = FailureKind::Exhausted,
        (_, Retry::After(wait)) => {
            failure.retry_after_ms = milliseconds(wait);
            // Waiting for what may have been billed is no waiting for nothing: it must not go on for ever.
            if error.charge() == Charge::Everything {
                failure.kind = FailureKind::Transient;
            }
        }
        // The task comes back by itself after a pause that grows.
        (_, Retry::Now | Retry::Exhausted) => {}
    }
    failure
}

/// The error with its causes and remedy on one line, as it enters the event log.
fn describe(error: &LlmError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    format!("{text} ({})", error.remedy())
}

#[cfg(test)]
#[path = "execute_tests.rs"]
mod tests;
