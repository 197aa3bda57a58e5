//! Takes exactly one product out of a reply, or says why there is none.
//!
//! A product is believed only when the model ended by itself, the block is whole and the only one, nothing in it stands
//! for code left out, and it parses where that is cheap to know. A reply that fails is dropped as a whole; no part of it may
//! be kept.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Rejection, block, elision};
use crate::llm::{LlmReply, StopReason};
use crate::protocol::{AgentType, FeaturePlan, FeatureSpec, ProtocolError, StrategicPlan, validate};

/// Most bytes of a plan; ten thousand files stay below.
const MAX_PLAN_BYTES: usize = 2 << 20;
/// Files that may be empty: their existence is their meaning.
const MAY_BE_EMPTY: [&str; 6] = ["__init__.py", ".gitkeep", ".keep", "py.typed", ".nojekyll", "__init__.pyi"];

/// What a reply has to look like.
#[derive(Debug, Clone)]
pub enum ReplyFormat {
    /// A strategic plan as JSON.
    Plan {
        /// Fewest and most features.
        features: (u32, u32),
        /// Fewest and most files per feature.
        tasks: (u32, u32),
    },
    /// The plan of one feature as JSON.
    FeaturePlan {
        /// The feature.
        feature: Box<FeatureSpec>,
        /// The plan it belongs to.
        plan: Arc<StrategicPlan>,
        /// Fewest and most tasks.
        tasks: (u32, u32),
        /// Agent types a task may name; empty when any will do.
        agents: Vec<AgentType>,
    },
    /// One file in a tagged block.
    File {
        /// Its path.
        path: String,
        /// The id of its block.
        id: String,
        /// Most bytes it may have.
        max_bytes: usize,
    },
}

/// What a reply brought, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A valid strategic plan.
    Plan(StrategicPlan),
    /// A valid plan of one feature.
    Feature(FeaturePlan),
    /// A file; its bytes are the product.
    File,
}

/// What is stored as the task's artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// The file's bytes as the model wrote them, or the plan as canonical JSON.
    pub bytes: Bytes,
    /// Names of the checks that ran and passed, for the receipt.
    pub checks: Vec<String>,
    /// The same, understood.
    pub parsed: Parsed,
}

/// Takes the product out of `reply`.
///
/// # Errors
/// The first fault, as a [`Rejection`] whose feedback goes into the next attempt.
pub fn extract(format: &ReplyFormat, reply: &LlmReply) -> Result<Product, Rejection> {
    complete(reply)?;
    match format {
        ReplyFormat::Plan { features, tasks } => {
            let plan: StrategicPlan = parse_plan(&reply.text)?;
            validate::strategic_plan(&plan, *features).map_err(Rejection::Invalid)?;
            validate::tasks_fit(&plan, *tasks).map_err(Rejection::Invalid)?;
            planned(&plan, Parsed::Plan)
        }
        ReplyFormat::FeaturePlan { feature, plan: whole, tasks, agents } => {
            let plan: FeaturePlan = parse_plan(&reply.text)?;
            known_agents(&plan, agents)?;
            validate::feature_plan(&plan, feature, whole, *tasks).map_err(Rejection::Invalid)?;
            planned(&plan, Parsed::Feature)
        }
        ReplyFormat::File { path, id, max_bytes } => file(&reply.text, path, id, *max_bytes),
    }
}

/// Refuses every reply the model did not end by itself, whatever it holds.
fn complete(reply: &LlmReply) -> Result<(), Rejection> {
    let empty = reply.text.trim().is_empty();
    match &reply.stop {
        StopReason::EndTurn if empty => Err(Rejection::Empty),
        StopReason::EndTurn => Ok(()),
        StopReason::MaxTokens if empty => Err(Rejection::ThinkingOnly),
        StopReason::MaxTokens => Err(Rejection::Truncated),
        StopReason::ContextWindow => Err(Rejection::ContextFull),
        StopReason::Refusal(category) => Err(Rejection::Refused { category: category.clone() }),
        StopReason::Other(stop) => Err(Rejection::UnexpectedStop { stop: stop.chars().take(60).collect() }),
    }
}

fn planned<P: serde::Serialize + Clone>(plan: &P, parsed: fn(P) -> Parsed) -> Result<Product, Rejection> {
    let bytes = serde_json::to_vec(plan).map_err(|error| Rejection::NotJson { why: error.to_string() })?;
    Ok(Product {
        bytes: bytes.into(),
        checks: ["complete-reply", "schema", "plan-rules"].map(String::from).to_vec(),
        parsed: parsed(plan.clone()),
    })
}

/// JSON as it is, or inside the only fence of the reply (models without structured output add one).
fn parse_plan<P: DeserializeOwned>(text: &str) -> Result<P, Rejection> {
    if text.len() > MAX_PLAN_BYTES {
        return Err(Rejection::TooLarge { bytes: text.len(), limit: MAX_PLAN_BYTES });
    }
    let json = if text.trim_start().starts_with('{') { text } else { block::only_fence(text).unwrap_or(text) };
    serde_json::from_str(json).map_err(|error| {
        let why = error.to_string().chars().take(300).collect();
        if error.is_data() { Rejection::Schema { why } } else { Rejection::NotJson { why } }
    })
}

fn known_agents(plan: &FeaturePlan, agents: &[AgentType]) -> Result<(), Rejection> {
    let unknown = |name: &str| !agents.is_empty() && !agents.iter().any(|agent| agent.as_str() == name);
    match plan.tasks.iter().position(|task| unknown(&task.agent)) {
        None => Ok(()),
        Some(index) => {
            let shown: String = plan.tasks[index].agent.chars().take(60).collect();
            let known = agents.iter().map(AgentType::as_str).collect::<Vec<_>>().join(", ");
            let why = format!("{shown:?} is not an agent type of this fleet; use one of {known}");
            Err(Rejection::Invalid(ProtocolError::field(format!("tasks[{index}].agent"), why)))
        }
    }
}

fn file(text: &str, path: &str, id: &str, max_bytes: usize) -> Result<Product, Rejection> {
    let contents = block::file_contents(text, path, id)?;
    if contents.len() > max_bytes {
        return Err(Rejection::TooLarge { bytes: contents.len(), limit: max_bytes });
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    if contents.trim().is_empty() && !MAY_BE_EMPTY.contains(&name) {
        return Err(Rejection::EmptyFile { path: path.to_owned() });
    }
    is_text(contents)?;
    if let Some((line, text)) = elision::find(path, contents) {
        return Err(Rejection::Elided { line, text: text.trim().chars().take(120).collect() });
    }
    let mut checks = ["complete-reply", "one-file", "text", "nothing-left-out"].map(String::from).to_vec();
    checks.extend(syntax(path, name, contents)?);
    Ok(Product { bytes: Bytes::copy_from_slice(contents.as_bytes()), checks, parsed: Parsed::File })
}

/// Tab, line feed, form feed, carriage return and escape occur in sources; other C0 controls only by accident.
fn is_text(contents: &str) -> Result<(), Rejection> {
    let allowed = |byte: u8| byte >= 0x20 || matches!(byte, b'\t' | b'\n' | 0x0c | b'\r' | 0x1b);
    match contents.bytes().position(|byte| !allowed(byte)) {
        None => Ok(()),
        Some(at) => {
            let before = &contents.as_bytes()[..at];
            let line = 1 + before.split(|byte| *byte == b'\n').count().saturating_sub(1);
            Err(Rejection::NotText { line, code: u32::from(contents.as_bytes()[at]) })
        }
    }
}

/// Parses formats that are cheap to parse here; every other language waits for verification.
fn syntax(path: &str, name: &str, contents: &str) -> Result<Option<String>, Rejection> {
    let why = |error: &dyn std::fmt::Display| error.to_string().chars().take(300).collect::<String>();
    match name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).as_deref() {
        Some("json") if !has_comments(path, name) => serde_json::from_str::<IgnoredAny>(contents)
            .map(|_| Some("parses-json".to_owned()))
            .map_err(|error| Rejection::Syntax { format: "JSON", why: why(&error) }),
        Some("toml") => toml::from_str::<toml::Table>(contents)
            .map(|_| Some("parses-toml".to_owned()))
            .map_err(|error| Rejection::Syntax { format: "TOML", why: why(&error) }),
        _ => Ok(None),
    }
}

/// `.json` files whose readers allow comments and trailing commas.
fn has_comments(path: &str, name: &str) -> bool {
    let known = ["tsconfig", "jsconfig", "devcontainer", ".eslintrc"];
    path.starts_with(".vscode/") || known.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
