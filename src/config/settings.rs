//! The settings as plain structs, one per room. What each means is written in `config/default.toml`.
//!
//! Values only, without defaults and without logic: the defaults are the file, the checks are in `validate`. A key that
//! no struct names is refused, so a misspelt setting is never silently the default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::validate_stores::without_credentials;

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
    /// How much is asked of the provider.
    pub limits: LimitSettings,
    /// When it is left alone.
    pub breaker: BreakerSettings,
    /// The stores.
    pub storage: StorageSettings,
    /// The NATS servers of a distributed fleet.
    pub nats: NatsSettings,
    /// The Redis server of a distributed fleet.
    pub redis: RedisSettings,
    /// How processes of a distributed fleet notice one another's death.
    pub presence: PresenceSettings,
    /// Health and metrics over HTTP.
    pub http: HttpSettings,
    /// Log lines.
    pub log: LogSettings,
    /// Differences per agent type, and agent types of the user's own.
    #[serde(default)]
    pub roles: BTreeMap<String, RoleSettings>,
    /// Endpoints that models can be asked at, besides the usual ones.
    #[serde(default)]
    pub providers: BTreeMap<String, ProviderSettings>,
}

impl Settings {
    /// The settings as people may see them: without the credentials that server URLs may hold.
    #[must_use]
    pub fn shown(&self) -> Self {
        let without = |urls: &str| urls.split(',').map(without_credentials).collect::<Vec<_>>().join(",");
        let mut shown = self.clone();
        shown.nats.url = without(&self.nats.url);
        shown.redis.url = without(&self.redis.url);
        shown
    }
}

/// `[job]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct JobDefaults {
    pub budget_usd: String,
    pub free_tokens: u64,
    pub min_features: u32,
    pub max_features: u32,
    pub min_tasks_per_feature: u32,
    pub max_tasks_per_feature: u32,
    pub max_attempts: u32,
    pub retry_first_delay_ms: u64,
    pub retry_longest_delay_ms: u64,
    pub longest_parking_seconds: u64,
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
    pub drain_seconds: u64,
}

/// `[budget]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct BudgetSettings {
    pub warn_percent: u64,
    pub hold_back_percent: u64,
    pub account_limit_usd: String,
    pub account_day_limit_usd: String,
    pub account_month_limit_usd: String,
    pub account_free_tokens: u64,
    pub cheaper_model: String,
    pub cheaper_model_percent: u64,
    pub drop_optional_percent: u64,
    pub pause_percent: u64,
    pub slices: bool,
}

/// `[llm]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct LlmSettings {
    pub provider: String,
    pub base_url: String,
    pub openai_base_url: String,
    pub model: String,
    pub fallback: Vec<String>,
    pub effort: String,
    pub thinking: String,
    pub prices_file: String,
    pub record: String,
    pub max_output_tokens: u32,
    pub count_tokens: bool,
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

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct LimitSettings {
    pub requests_per_window: u64,
    pub input_tokens_per_window: u64,
    pub output_tokens_per_window: u64,
    pub window_seconds: u64,
    pub burst_percent: u32,
    pub sliding_window: bool,
    pub start_concurrency: u32,
    pub max_concurrency: u32,
    pub slowdown_factor: u32,
    pub agent_share_percent: u32,
}

/// `[breaker]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct BreakerSettings {
    pub consecutive_failures: u32,
    pub failure_percent: u32,
    pub least_calls: u32,
    pub window_seconds: u64,
    pub open_seconds: u64,
    pub longest_open_seconds: u64,
    pub trials: u32,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct StorageSettings {
    pub backend: String,
    pub namespace: String,
    pub durability: String,
}

/// `[nats]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct NatsSettings {
    pub url: String,
    pub user: String,
    pub password_file: String,
    pub token_file: String,
    pub nkey_file: String,
    pub credentials_file: String,
    pub ca_file: String,
    pub certificate_file: String,
    pub key_file: String,
    pub replicas: u32,
    pub max_queue_bytes: u64,
    pub ack_wait_ms: u64,
    pub request_timeout_ms: u64,
}

/// `[redis]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct RedisSettings {
    pub url: String,
    pub user: String,
    pub password_file: String,
    pub ca_file: String,
    pub certificate_file: String,
    pub key_file: String,
    pub connections: u32,
    pub request_timeout_ms: u64,
}

/// `[presence]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct PresenceSettings {
    pub beat_ms: u64,
    pub dead_after_ms: u64,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct HttpSettings {
    pub listen: String,
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
    pub fallback: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_file: Option<PathBuf>,
}

/// `[providers.<name>]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml, which users read")]
pub struct ProviderSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_variable: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_field: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_in_stream: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_style: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<EndpointPrice>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_window: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens_per_window: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_per_window: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelSettings>,
}

/// An entry of `providers.<name>.models`; a list, because names of models hold dots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// The model as its endpoint knows it.
    pub name: String,
    /// As in `[limits]`, of this model; 0 for what the headers say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_window: Option<u64>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens_per_window: Option<u64>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_per_window: Option<u64>,
}

/// What calls of an endpoint cost; a number is accepted for the one amount there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EndpointPrice {
    /// `0`: its models are free.
    Number(u64),
    /// `"list"`, `"own"` or `"0"`.
    Text(String),
}

impl ModelSettings {
    /// Requests, input tokens and output tokens per window, as far as they are its own.
    #[must_use]
    pub const fn per_window(&self) -> [Option<u64>; 3] {
        [self.requests_per_window, self.input_tokens_per_window, self.output_tokens_per_window]
    }
}

impl ProviderSettings {
    /// The same for each of its models.
    #[must_use]
    pub const fn per_window(&self) -> [Option<u64>; 3] {
        [self.requests_per_window, self.input_tokens_per_window, self.output_tokens_per_window]
    }

    /// The wire format and habits of the endpoint `name`: its own `kind`, else its name.
    #[must_use]
    pub fn kind<'a>(&'a self, name: &'a str) -> &'a str {
        self.kind.as_deref().unwrap_or(name)
    }
}
