//! The settings as plain structs, one per room. What each means is written in `config/default.toml`.
//!
//! Values only, without defaults and without logic: the defaults are the file, the checks are in `validate`. A key that
//! no struct names is refused, so a misspelt setting is never silently the default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What holds for a job unless its submission says otherwise.
    pub job: JobDefaults,
    /// The workers of this process.
    pub fleet: FleetSettings,
    /// Money.
    pub budget: BudgetSettings,
    /// The provider.
    pub llm: LlmSettings,
    /// The stores.
    pub storage: StorageSettings,
    /// Log lines.
    pub log: LogSettings,
    /// Differences per agent type, and agent types of the user's own.
    #[serde(default)]
    pub roles: BTreeMap<String, RoleSettings>,
}

/// `[job]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct JobDefaults {
    pub budget_usd: String,
    pub min_features: u32,
    pub max_features: u32,
    pub min_tasks_per_feature: u32,
    pub max_tasks_per_feature: u32,
    pub max_attempts: u32,
    pub retry_first_delay_ms: u64,
    pub retry_longest_delay_ms: u64,
    pub max_proposal_bytes: u64,
    pub max_file_bytes: u64,
}

/// `[fleet]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct FleetSettings {
    pub concurrency: u32,
    pub prefetch_percent: u32,
}

/// `[budget]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct BudgetSettings {
    pub warn_percent: u64,
    pub hold_back_percent: u64,
    pub account_limit_usd: String,
}

/// `[llm]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct LlmSettings {
    pub provider: String,
    pub base_url: String,
    pub model: String,
    pub effort: String,
    pub max_output_tokens: u32,
    pub attempts: u32,
    pub retry_first_delay_ms: u64,
    pub retry_longest_delay_ms: u64,
    pub longest_wait_seconds: u64,
    pub idle_timeout_seconds: u64,
    pub total_timeout_seconds: u64,
    pub connect_timeout_seconds: u64,
    pub max_reply_bytes: u64,
    pub max_context_bytes: u64,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct StorageSettings {
    pub durability: String,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct LogSettings {
    pub filter: String,
    pub json: bool,
}

/// `[roles.<agent type>]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct RoleSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_file: Option<PathBuf>,
}
