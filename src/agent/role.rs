//! Roles: one prompt file, one model and a few capabilities per agent type.
//!
//! The fourteen types that ship with the program are prompt files under `prompts/roles/`; configuration may change any
//! of their settings or add types of its own with nothing but a prompt. The first line of a prompt, `# type: what it is for`,
//! is what planners read when they choose. This file must never read the file system: configuration hands texts in.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::AgentError;
use crate::llm::{Effort, Thinking};
use crate::protocol::AgentType;

/// Output cap of builtin roles, in tokens, thinking included; within what every priced model allows.
const DEFAULT_MAX_OUTPUT_TOKENS: u32 = 32_000;

macro_rules! builtin {
    ($($name:literal, [$($capability:literal),*];)*) => {
        [$(Builtin {
            name: $name,
            prompt: include_str!(concat!("../../prompts/roles/", $name, ".md")),
            capabilities: &[$($capability),*],
        }),*]
    };
}

struct Builtin {
    name: &'static str,
    prompt: &'static str,
    capabilities: &'static [&'static str],
}

/// Capabilities are what work stealing compares: a type may take over tasks of a type whose capabilities it covers.
const BUILTIN: [Builtin; 14] = builtin! {
    "coordinator-planner", ["plan"];
    "feature-coordinator", ["plan-feature"];
    "architect", ["code", "design", "docs"];
    "backend", ["code", "api"];
    "frontend", ["code", "ui"];
    "database", ["code", "sql"];
    "devops", ["code", "deploy"];
    "docs", ["docs"];
    "testing", ["code", "test"];
    "researcher", ["docs", "research"];
    "coder", ["code", "api", "ui", "sql", "deploy", "test", "docs"];
    "reviewer", ["docs", "review"];
    "security", ["code", "review", "security"];
    "integrator", ["code", "wire"];
};

/// One agent type, ready to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The type, which is also its queue.
    pub agent: AgentType,
    /// The role's own instructions.
    pub prompt: Arc<str>,
    /// Model name as in the price table.
    pub model: String,
    /// Models to try when that one cannot answer, in this order.
    pub fallback: Vec<String>,
    /// How hard to think.
    pub effort: Effort,
    /// Whether to think.
    pub thinking: Thinking,
    /// What the type can do.
    pub capabilities: Vec<String>,
    /// Hard cap on output per call, in tokens, thinking included.
    pub max_output_tokens: u32,
}

impl Role {
    /// The same role on another model; its own one, and then its fallbacks, stand in where that one cannot answer.
    #[must_use]
    pub fn on(&self, model: String) -> Self {
        let own = std::iter::once(&self.model).chain(&self.fallback).filter(|own| **own != model).cloned().collect();
        Self { model, fallback: own, ..self.clone() }
    }

    /// What the type is for, in one line of at most 200 characters.
    #[must_use]
    pub fn summary(&self) -> String {
        let line = self.prompt.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let line = line.trim_start_matches('#').trim();
        let line = line.strip_prefix(self.agent.as_str()).map_or(line, |rest| rest.trim_start_matches(':').trim());
        line.chars().take(200).collect()
    }
}

/// Changes to a builtin role, or a whole custom one. Absent fields keep what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleOverride {
    /// Which type.
    pub agent: AgentType,
    /// The text of its prompt; required for a custom type.
    pub prompt: Option<Arc<str>>,
    /// Model name as in the price table.
    pub model: Option<String>,
    /// Models to try when that one cannot answer.
    pub fallback: Option<Vec<String>>,
    /// How hard to think.
    pub effort: Option<Effort>,
    /// Whether to think.
    pub thinking: Option<Thinking>,
    /// What the type can do.
    pub capabilities: Option<Vec<String>>,
    /// Hard cap on output per call, in tokens.
    pub max_output_tokens: Option<u32>,
}

impl RoleOverride {
    /// An override of `agent` that changes nothing yet.
    #[must_use]
    pub const fn of(agent: AgentType) -> Self {
        Self {
            agent,
            prompt: None,
            model: None,
            fallback: None,
            effort: None,
            thinking: None,
            capabilities: None,
            max_output_tokens: None,
        }
    }
}

/// An agent type as planners see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentChoice {
    /// The type.
    pub agent: AgentType,
    /// What it is for, one line.
    pub summary: String,
}

/// All roles of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleBook {
    roles: BTreeMap<AgentType, Arc<Role>>,
    default_model: String,
}

impl RoleBook {
    /// The fourteen builtin roles, all on `default_model`.
    #[must_use]
    pub fn builtin(default_model: &str) -> Self {
        let roles = AgentType::builtin().into_iter().filter_map(|agent| {
            let builtin = BUILTIN.iter().find(|builtin| builtin.name == agent.as_str())?;
            let planner = agent == AgentType::planner();
            let role = Role {
                prompt: builtin.prompt.into(),
                model: default_model.to_owned(),
                fallback: Vec::new(),
                thinking: Thinking::default(),
                effort: if planner { Effort::High } else { Effort::Medium },
                capabilities: builtin.capabilities.iter().map(|name| (*name).to_owned()).collect(),
                max_output_tokens: DEFAULT_MAX_OUTPUT_TOKENS,
                agent: agent.clone(),
            };
            Some((agent, Arc::new(role)))
        });
        Self { roles: roles.collect(), default_model: default_model.to_owned() }
    }

    /// The book with one role changed or added.
    ///
    /// # Errors
    /// [`AgentError::MissingPrompt`] when a type that does not exist yet comes without a prompt.
    pub fn with(mut self, change: RoleOverride) -> Result<Self, AgentError> {
        let mut role = match (self.roles.get(&change.agent), &change.prompt) {
            (Some(role), _) => Role::clone(role),
            (None, Some(prompt)) if !prompt.trim().is_empty() => Role {
                agent: change.agent.clone(),
                prompt: prompt.clone(),
                model: self.default_model.clone(),
                fallback: Vec::new(),
                thinking: Thinking::default(),
                effort: Effort::Medium,
                capabilities: Vec::new(),
                max_output_tokens: DEFAULT_MAX_OUTPUT_TOKENS,
            },
            (None, _) => return Err(AgentError::MissingPrompt { agent: change.agent.to_string() }),
        };
        role.prompt = change.prompt.unwrap_or(role.prompt);
        role.model = change.model.unwrap_or(role.model);
        role.fallback = change.fallback.unwrap_or(role.fallback);
        role.effort = change.effort.unwrap_or(role.effort);
        role.thinking = change.thinking.unwrap_or(role.thinking);
        role.capabilities = change.capabilities.unwrap_or(role.capabilities);
        role.max_output_tokens = change.max_output_tokens.unwrap_or(role.max_output_tokens);
        self.roles.insert(change.agent, Arc::new(role));
        Ok(self)
    }

    /// The role of one agent type.
    ///
    /// # Errors
    /// [`AgentError::UnknownAgent`].
    pub fn get(&self, agent: &AgentType) -> Result<&Arc<Role>, AgentError> {
        self.roles.get(agent).ok_or_else(|| AgentError::UnknownAgent { agent: agent.to_string() })
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.roles.values()
    }

    /// The types a feature plan may give a file to: all but the two planners.
    #[must_use]
    pub fn choices(&self) -> Arc<[AgentChoice]> {
        self.roles
            .values()
            .filter(|role| role.agent != AgentType::planner() && role.agent != AgentType::feature_coordinator())
            .map(|role| AgentChoice { agent: role.agent.clone(), summary: role.summary() })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::BUILTIN_AGENT_TYPES;

    #[test]
    fn every_builtin_type_has_a_prompt_that_names_it_and_says_what_it_is_for() {
        let book = RoleBook::builtin("m");
        assert_eq!(book.roles().count(), BUILTIN_AGENT_TYPES.len());
        for role in book.roles() {
            assert!(role.prompt.starts_with(&format!("# {}: ", role.agent)), "{}", role.agent);
            assert!(role.summary().len() > 20, "{}", role.agent);
            let lines = role.prompt.lines().count();
            assert!((20..=50).contains(&lines), "{} has {lines} lines", role.agent);
            assert!(!role.capabilities.is_empty());
        }
        assert_eq!(book.choices().len(), 12);
    }

    #[test]
    fn configuration_changes_a_role_and_adds_one_but_never_one_without_a_prompt() {
        let custom = AgentType::new("game-design").unwrap();
        let book = RoleBook::builtin("m");
        let error = book.clone().with(RoleOverride::of(custom.clone())).unwrap_err();
        assert_eq!(error, AgentError::MissingPrompt { agent: "game-design".into() });

        let change = RoleOverride { prompt: Some("# Rules of games\n".into()), ..RoleOverride::of(custom.clone()) };
        let coder = AgentType::new("coder").unwrap();
        let cheap = RoleOverride { model: Some("small".into()), ..RoleOverride::of(coder.clone()) };
        let book = book.with(change).and_then(|book| book.with(cheap)).unwrap();
        assert_eq!(book.get(&custom).unwrap().summary(), "Rules of games");
        assert_eq!(book.get(&custom).unwrap().model, "m");
        assert_eq!(book.get(&coder).unwrap().model, "small");
        assert!(book.get(&coder).unwrap().prompt.starts_with("# coder: "));
        assert_eq!(book.choices().len(), 13);
        assert!(book.get(&AgentType::new("nobody").unwrap()).is_err());
    }
    #[test]
    fn a_role_on_another_model_falls_back_on_its_own() {
        let book = RoleBook::builtin("own");
        let role = book.get(&AgentType::planner()).unwrap();
        let role = Role { fallback: vec!["cheap".into(), "third".into()], ..Role::clone(role) };
        let on = role.on("cheap".into());
        assert_eq!((on.model.as_str(), &on.fallback[..]), ("cheap", &["own".to_owned(), "third".to_owned()][..]));
    }
}
