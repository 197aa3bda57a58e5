//! Configuration: every setting, where it came from, and whether the whole makes sense.
//!
//! `config/default.toml` is embedded and *is* the list of settings: a key that is not in it does not exist. Layers are
//! merged as dotted keys (defaults < file < environment < flags), so that the origin of each value is known, then
//! read into plain structs and checked as a whole; all faults are reported at once. The environment arrives as a value, so
//! tests change nothing global. Secrets are read here too and never printed. This room must never be a global.

mod loader;
mod secret;
mod settings;
mod validate;
mod validate_limits;
mod validate_llm;
mod validate_stores;
mod variables;

pub use loader::{ConfigError, Environment, Layers, Loaded, Origin};
pub use secret::{ApiKey, Secret};
pub use settings::{
    BreakerSettings, BudgetSettings, EndpointPrice, FleetSettings, HttpSettings, JobDefaults, LimitSettings,
    LlmSettings, LogSettings, ModelSettings, NatsSettings, PresenceSettings, ProviderSettings, RedisSettings,
    RoleSettings, Settings, StorageSettings,
};
pub use validate::Fault;
pub use validate_llm::KINDS;
pub use variables::StrangeVariable;

/// The embedded defaults, commented for people.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");
