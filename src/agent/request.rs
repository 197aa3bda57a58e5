//! From a task message to the one request that answers it.
//!
//! The system prompt is the job's contract head (cached, the same for all roles) and then the role's own prompt; the user
//! message is one of three templates. Its last line names what is asked for in a fixed form, which recorded replies and
//! the local test server key on. Building must stay pure: the same input gives the same bytes.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::context::{ContextLimits, TaskContext, pack};
use super::head::{contract_head, one_line};
use super::reply::ReplyFormat;
use super::role::Role;
use super::template::{fence, fill};
use super::{AgentChoice, AgentError};
use crate::llm::{Effort, LlmRequest, Message, Role as Speaker, SystemBlock};
use crate::protocol::{FeatureSpec, StrategicPlan, TaskKind, TaskMessage};

const PLAN: &str = include_str!("../../prompts/plan.md");
const FEATURE_PLAN: &str = include_str!("../../prompts/feature_plan.md");
const FILE_TASK: &str = include_str!("../../prompts/file_task.md");

static PLAN_SCHEMA: LazyLock<Arc<Value>> =
    LazyLock::new(|| parse(include_str!("../../prompts/strategic_plan.schema.json")));
static FEATURE_SCHEMA: LazyLock<Arc<Value>> =
    LazyLock::new(|| parse(include_str!("../../prompts/feature_plan.schema.json")));

#[expect(clippy::expect_used, reason = "the schemas are compiled in and a test parses them")]
fn parse(schema: &str) -> Arc<Value> {
    Arc::new(serde_json::from_str(schema).expect("a compiled-in schema is valid JSON"))
}

/// Output a feature plan or a file is expected to need when the planner gave no estimate, in tokens.
const DEFAULT_FILE_TOKENS: u32 = 4_000;
/// The same for the plan of one feature: eight tasks with a page of instructions each.
const DEFAULT_FEATURE_PLAN_TOKENS: u32 = 4_000;
/// The same for the strategic plan: fifteen features and their contract.
const DEFAULT_PLAN_TOKENS: u32 = 8_000;
/// Estimates above this are a planner's fault and do not size anything, in tokens.
const MAX_ESTIMATE: u32 = 64_000;
/// Least room for thinking under which a call is still worth its money, in tokens.
const MINIMUM_THINKING: u32 = 2_000;

/// Builds the request for one attempt and the format its reply has to follow. `call_id` is a fresh random token of 6 to
/// 40 letters and digits; it fences all foreign text and names the reply's block.
///
/// # Errors
/// [`AgentError`] when the message does not fit the plan or what may not be cut does not fit into the limits.
pub fn build_request(
    role: &Role,
    message: &TaskMessage,
    context: &TaskContext,
    limits: &ContextLimits,
    call_id: &str,
) -> Result<(LlmRequest, ReplyFormat), AgentError> {
    if !(6..=40).contains(&call_id.len()) || !call_id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(AgentError::BadCallId);
    }
    refuse_known_id(message, context, call_id)?;
    let head = match (&context.head, &context.plan) {
        (Some(head), Some(_)) => Some(head.clone()),
        (_, plan) => plan.as_deref().map(contract_head),
    };
    let used = role.prompt.len() + head.as_ref().map_or(0, |head| head.len());
    let room = limits.max_bytes.saturating_sub(used);
    let (text, format, schema) = match &message.kind {
        TaskKind::Plan { features, tasks } => {
            let text = plan_text(message, context, *features, *tasks, call_id);
            (text, ReplyFormat::Plan { features: *features, tasks: *tasks }, Some(PLAN_SCHEMA.clone()))
        }
        TaskKind::FeaturePlan { feature, tasks } => {
            let (plan, spec) = feature_of(context, feature.as_str())?;
            let text = feature_text(message, context, plan, spec, *tasks, call_id);
            let agents = context.agents.iter().map(|choice| choice.agent.clone()).collect();
            let format =
                ReplyFormat::FeaturePlan { feature: Box::new(spec.clone()), plan: plan.clone(), tasks: *tasks, agents };
            (text, format, Some(feature_schema(&context.agents)))
        }
        TaskKind::File { feature, path } => {
            let (_, spec) = feature_of(context, feature.as_str())?;
            let text = file_text(message, context, spec, path, room, call_id);
            let format =
                ReplyFormat::File { path: path.clone(), id: call_id.to_owned(), max_bytes: limits.max_file_bytes };
            (text, format, None)
        }
    };
    if text.len() > room {
        return Err(AgentError::TooLarge { what: "the prompt", bytes: used + text.len(), limit: limits.max_bytes });
    }
    let mut system: Vec<SystemBlock> = head.into_iter().map(|text| SystemBlock { text, cache: true }).collect();
    system.push(SystemBlock { text: role.prompt.clone(), cache: false });
    let request = LlmRequest {
        model: role.model.clone(),
        fallbacks: role.fallback.clone(),
        system,
        messages: vec![Message { role: Speaker::User, text }],
        max_tokens: max_tokens(role, message),
        schema,
        effort: role.effort,
        thinking: role.thinking,
    };
    Ok((request, format))
}

/// The smallest `max_tokens` under which the task's answer can be expected to be whole, in tokens. When the budget has
/// no room even for this (or for the request's own `max_tokens`, if that is smaller), the call must not be made.
#[must_use]
pub fn minimum_output_tokens(message: &TaskMessage) -> u32 {
    estimate(message) + MINIMUM_THINKING
}

/// Twice the estimate and room to think, more on every further attempt, capped by the role.
fn max_tokens(role: &Role, message: &TaskMessage) -> u32 {
    let thinking = match role.effort {
        Effort::Low => 4_000,
        Effort::Medium => 8_000,
        Effort::High => 16_000,
    };
    let factor = message.attempt.clamp(1, 4) + 1;
    estimate(message).saturating_mul(factor).saturating_add(thinking).min(role.max_output_tokens)
}

fn estimate(message: &TaskMessage) -> u32 {
    match (message.estimated_tokens, &message.kind) {
        (0, TaskKind::Plan { .. }) => DEFAULT_PLAN_TOKENS,
        (0, TaskKind::FeaturePlan { .. }) => DEFAULT_FEATURE_PLAN_TOKENS,
        (0, TaskKind::File { .. }) => DEFAULT_FILE_TOKENS,
        (tokens, _) => tokens.min(MAX_ESTIMATE),
    }
}

/// A fence holds only if the text inside has never seen its id.
fn refuse_known_id(message: &TaskMessage, context: &TaskContext, id: &str) -> Result<(), AgentError> {
    let texts = [&*context.proposal, &message.instructions, &message.title, message.feedback.as_deref().unwrap_or("")];
    let needle = id.as_bytes();
    let files = context.dependencies.iter().chain(&context.interfaces).map(|file| &file.bytes[..]);
    let known = texts.iter().any(|text| text.contains(id))
        || files.into_iter().any(|bytes| bytes.windows(needle.len()).any(|window| window == needle));
    if known { Err(AgentError::CallIdInContent) } else { Ok(()) }
}

fn feature_of<'a>(
    context: &'a TaskContext,
    feature: &str,
) -> Result<(&'a Arc<StrategicPlan>, &'a FeatureSpec), AgentError> {
    let plan = context.plan.as_ref().ok_or(AgentError::MissingPlan)?;
    let spec = plan.features.iter().find(|spec| spec.id.as_str() == feature);
    Ok((plan, spec.ok_or_else(|| AgentError::UnknownFeature { feature: feature.to_owned() })?))
}

fn plan_text(
    message: &TaskMessage,
    context: &TaskContext,
    (min, max): (u32, u32),
    (fewest, most): (u32, u32),
    id: &str,
) -> String {
    fill(
        PLAN,
        &[
            ("id", id),
            ("proposal", &fence(id, "proposal", &context.proposal)),
            ("min", &min.to_string()),
            ("max", &max.to_string()),
            ("fewest_files", &fewest.to_string()),
            ("most_files", &most.to_string()),
            ("agents", &roster(&context.agents)),
            ("feedback", &feedback(message, id)),
        ],
    )
}

fn feature_text(
    message: &TaskMessage,
    context: &TaskContext,
    plan: &StrategicPlan,
    spec: &FeatureSpec,
    (min, max): (u32, u32),
    id: &str,
) -> String {
    let mut before = String::new();
    for other in plan.features.iter().filter(|other| spec.depends_on.contains(&other.id)) {
        let _ = writeln!(before, "- `{}`: {}", other.id, paths(other));
    }
    fill(
        FEATURE_PLAN,
        &[
            ("id", id),
            ("feature", spec.id.as_str()),
            ("proposal", &fence(id, "proposal", &context.proposal)),
            ("description", &described(spec, id)),
            ("files", &listed(spec)),
            ("before", if before.is_empty() { "None.\n" } else { &before }),
            ("min", &min.to_string()),
            ("max", &max.to_string()),
            ("agents", &roster(&context.agents)),
            ("feedback", &feedback(message, id)),
        ],
    )
}

fn file_text(
    message: &TaskMessage,
    context: &TaskContext,
    spec: &FeatureSpec,
    path: &str,
    room: usize,
    id: &str,
) -> String {
    let instructions = if message.instructions.is_empty() {
        spec.files.iter().find(|file| file.path == path).map_or("", |file| file.purpose.as_str())
    } else {
        &message.instructions
    };
    let (title, description) = (one_line(&message.title), described(spec, id));
    let (instructions, feedback) = (fence(id, "instructions", instructions), feedback(message, id));
    let fixed = FILE_TASK.len()
        + description.len()
        + title.len()
        + instructions.len()
        + feedback.len()
        + 4 * (path.len() + id.len());
    let packed = pack(context, id, room.saturating_sub(fixed));
    fill(
        FILE_TASK,
        &[
            ("id", id),
            ("path", path),
            ("feature", spec.id.as_str()),
            ("title", &title),
            ("description", &description),
            ("instructions", &instructions),
            ("dependencies", &packed.dependencies),
            ("interfaces", &packed.interfaces),
            ("feedback", &feedback),
        ],
    )
}

fn described(spec: &FeatureSpec, id: &str) -> String {
    fence(id, "feature", &format!("{}\n\n{}", one_line(&spec.name), spec.description))
}

fn listed(spec: &FeatureSpec) -> String {
    spec.files.iter().fold(String::new(), |mut text, file| {
        let _ = writeln!(text, "- `{}`: {}", file.path, one_line(&file.purpose));
        text
    })
}

fn paths(spec: &FeatureSpec) -> String {
    spec.files.iter().map(|file| format!("`{}`", file.path)).collect::<Vec<_>>().join(", ")
}

fn roster(agents: &[AgentChoice]) -> String {
    agents.iter().fold(String::new(), |mut text, choice| {
        let _ = writeln!(text, "- `{}`: {}", choice.agent, one_line(&choice.summary));
        text
    })
}

/// The section about the refused attempt before this one, or nothing.
fn feedback(message: &TaskMessage, id: &str) -> String {
    message.feedback.as_ref().map_or_else(String::new, |why| {
        format!(
            "## Your last answer was refused\n\n{}\nAnswer again, without that fault.\n\n",
            fence(id, "refusal", why)
        )
    })
}

/// The schema of a feature plan, its agent types narrowed to those of this fleet.
fn feature_schema(agents: &[AgentChoice]) -> Arc<Value> {
    if agents.is_empty() {
        return FEATURE_SCHEMA.clone();
    }
    let mut schema = Value::clone(&FEATURE_SCHEMA);
    if let Some(names) = schema.pointer_mut("/properties/tasks/items/properties/agent/enum") {
        *names = agents.iter().map(|choice| Value::from(choice.agent.as_str())).collect();
    }
    Arc::new(schema)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
