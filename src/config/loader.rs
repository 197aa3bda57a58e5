//! The layers, merged key by key so that the origin of every value is known.
//!
//! Defaults, file, environment, flags: later wins. Values are read as the type their default has, and an unknown key is a
//! fault that names a known one, never ignored. No other file reads the environment, and this one hands it out as a value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::settings::Settings;
use super::validate::{self, Fault};
use super::validate_stores;
use super::variables::{self, StrangeVariable};
use crate::error::Coded;

/// Longest configuration file read, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Settings whose values may hold credentials.
pub(super) const SERVERS: [&str; 2] = ["nats.url", "redis.url"];

/// Variables that other programs know as well, or that are short for a setting everybody changes.
const WELL_KNOWN: [(&str, &str); 6] = [
    ("ANTHROPIC_BASE_URL", "llm.base_url"),
    ("OPENAI_BASE_URL", "llm.openai_base_url"),
    ("CODESWARM_RECORD", "llm.record"),
    ("CODESWARM_BACKEND", "storage.backend"),
    ("NATS_URL", "nats.url"),
    ("REDIS_URL", "redis.url"),
];

/// Environment variables as a value, so that nothing depends on global state.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process environment; values that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        Self(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect())
    }

    /// An environment made of `variables`.
    #[must_use]
    pub const fn from_map(variables: BTreeMap<String, String>) -> Self {
        Self(variables)
    }

    /// An environment made of `pairs`, for tests.
    #[must_use]
    pub fn from_pairs<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The names of all variables.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Which layer a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// What is to be merged over the defaults.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// A configuration file; without one, `codeswarm.toml` in the current directory is used if it exists.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Environment,
    /// Flags as (flag, dotted key, value).
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// Settings with the origin of each dotted key.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Dotted key to value (as TOML) and origin, in key order.
    pub origins: BTreeMap<String, (String, Origin)>,
    /// Variables of the environment that look like settings and are none.
    pub strange_variables: Vec<StrangeVariable>,
}

/// The configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or is not TOML.
    #[error("configuration file {path}: {why}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// One or more values are wrong; all of them are listed.
    #[error("the configuration has {} fault(s):\n{}", faults.len(), list(faults))]
    Invalid {
        /// Every fault.
        faults: Vec<Fault>,
    },
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|f| format!("  - {}: {}", f.key, f.why)).collect::<Vec<_>>().join("\n")
}

impl ConfigError {
    /// A single fault.
    pub(super) fn one(key: &str, why: String) -> Self {
        Self::Invalid { faults: vec![Fault { key: key.to_owned(), why }] }
    }
}

impl Coded for ConfigError {
    fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "CS-CONFIG-001",
            Self::Invalid { .. } => "CS-CONFIG-002",
        }
    }

    fn remedy(&self) -> String {
        "correct what is listed; `codeswarm config show --origin` tells where each value comes from".into()
    }
}

impl Layers {
    /// Merges, reads and checks.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault at once.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let (loaded, faults) = self.examine()?;
        if faults.is_empty() { Ok(loaded) } else { Err(ConfigError::Invalid { faults }) }
    }

    /// Merges all layers and answers every fault beside them, for whoever lists what other rooms find wrong as well. Settings
    /// with a fault must not be used for anything else.
    ///
    /// # Errors
    /// [`ConfigError`] when there are no settings at all, because a file cannot be read.
    pub fn examine(&self) -> Result<(Loaded, Vec<Fault>), ConfigError> {
        let defaults: Table = super::DEFAULTS.parse().map_err(|error: toml::de::Error| ConfigError::File {
            path: "config/default.toml".into(),
            why: error.to_string(),
        })?;
        let mut values = Values::new();
        flatten("", &defaults, &Origin::Default, &mut values);
        let known: Vec<String> = values.keys().cloned().collect();
        let mut faults = Vec::new();
        if let Some((path, table)) = self.read_file()? {
            let mut from_file = BTreeMap::new();
            flatten("", &table, &Origin::File(path), &mut from_file);
            for (key, (value, origin)) in from_file {
                let value = (whole_dollars(&key, value), origin);
                if key.starts_with("roles.") || key.starts_with("providers.") || known.contains(&key) {
                    values.insert(key, value);
                } else {
                    faults.push(unknown(&key, &known));
                }
            }
        }
        for key in &known {
            let variable = variables::of_setting(key);
            if let Some(text) = self.environment.get(&variable) {
                set(&mut values, &mut faults, key, text, Origin::Environment(variable));
            }
        }
        for (variable, key) in WELL_KNOWN {
            if let Some(text) = self.environment.get(variable).filter(|text| !text.is_empty()) {
                set(&mut values, &mut faults, key, text, Origin::Environment(variable.into()));
            }
        }
        for (flag, key, text) in &self.flags {
            set(&mut values, &mut faults, key, text, Origin::Flag(flag));
        }
        let well_known = WELL_KNOWN.map(|(variable, _)| variable);
        let strange_variables = variables::strange(&self.environment, &known, &well_known);
        let (loaded, faults) = finish(values, faults, &defaults)?;
        Ok((Loaded { strange_variables, ..loaded }, faults))
    }

    fn read_file(&self) -> Result<Option<(PathBuf, Table)>, ConfigError> {
        let fallback = Path::new("codeswarm.toml");
        let path = match &self.file {
            Some(path) => path.as_path(),
            None if fallback.is_file() => fallback,
            None => return Ok(None),
        };
        let fault = |why: String| ConfigError::File { path: path.to_owned(), why };
        let size = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?.len();
        if size > MAX_FILE_BYTES {
            return Err(fault(format!("it has {size} bytes, over the limit of {MAX_FILE_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        let table = text.parse().map_err(|error: toml::de::Error| fault(error.to_string()))?;
        Ok(Some((path.to_owned(), table)))
    }
}

/// Writes the leaves of `table` into `into` under dotted keys.
fn flatten(prefix: &str, table: &Table, origin: &Origin, into: &mut Values) {
    for (key, value) in table {
        let dotted = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(&dotted, inner, origin, into),
            leaf => {
                into.insert(dotted, (leaf.clone(), origin.clone()));
            }
        }
    }
}

/// An amount of money, which is a text, also where it is written as a whole number. Fractions stay refused: they are inexact.
fn whole_dollars(key: &str, value: Value) -> Value {
    match value {
        Value::Integer(dollars) if key.ends_with("_usd") => Value::String(dollars.to_string()),
        other => other,
    }
}

/// How alike two names of one table are, from 0 to 1, for one to be suggested for the other.
const LEAST_LIKENESS: f64 = 0.6;

fn unknown(key: &str, known: &[String]) -> Fault {
    let (table, last) = key.rsplit_once('.').unwrap_or(("", key));
    let of_table = known.iter().filter_map(|other| {
        let (own, name) = other.rsplit_once('.').unwrap_or(("", other));
        (own == table).then(|| (strsim::normalized_damerau_levenshtein(name, last), other))
    });
    let nearest = of_table.max_by(|one, other| one.0.total_cmp(&other.0));
    let near = nearest.filter(|(likeness, _)| *likeness >= LEAST_LIKENESS).map(|(_, other)| other);
    // The right name in the wrong table is meant just as surely.
    let near = near.or_else(|| known.iter().find(|other| other.rsplit('.').next() == Some(last)));
    let hint = near.map(|other| format!("; did you mean {other}?")).unwrap_or_default();
    Fault { key: key.to_owned(), why: format!("there is no such setting{hint}") }
}

/// Replaces the value of `key` by `text`, read as the type the default has.
fn set(values: &mut Values, faults: &mut Vec<Fault>, key: &str, text: &str, origin: Origin) {
    let parsed = match values.get(key).map(|(value, _)| value) {
        Some(Value::Integer(_)) => text.parse().map(Value::Integer).map_err(|_| "a whole number"),
        Some(Value::Array(_)) => {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            Ok(Value::Array(names.map(|name| Value::String(name.to_owned())).collect()))
        }
        Some(Value::Boolean(_)) => text.parse().map(Value::Boolean).map_err(|_| "true or false"),
        _ => Ok(Value::String(text.to_owned())),
    };
    match parsed {
        Ok(value) => {
            values.insert(key.to_owned(), (value, origin));
        }
        Err(wanted) => {
            let shown: String = text.chars().take(60).collect();
            faults.push(Fault { key: key.to_owned(), why: format!("{shown:?} (from {origin}) is not {wanted}") });
        }
    }
}

/// Values and origins by dotted key.
type Values = BTreeMap<String, (Value, Origin)>;

fn finish(mut values: Values, mut faults: Vec<Fault>, defaults: &Table) -> Result<(Loaded, Vec<Fault>), ConfigError> {
    let settings = match read(&values) {
        Ok(settings) => settings,
        Err(error) => {
            blame(&mut values, &mut faults, defaults);
            // What is left after the blamed values are gone is checked as well: all faults are listed at once.
            let Ok(settings) = read(&values) else {
                faults.push(Fault { key: "configuration".into(), why: one_line(&error) });
                return Err(ConfigError::Invalid { faults });
            };
            settings
        }
    };
    faults.extend(validate::faults(&settings));
    let origins =
        values.into_iter().map(|(key, (value, origin))| (key.clone(), (shown(&key, &value), origin))).collect();
    Ok((Loaded { settings, origins, strange_variables: Vec::new() }, faults))
}

/// The value as people may see it: server URLs may hold a password.
fn shown(key: &str, value: &Value) -> String {
    match value {
        Value::String(url) if SERVERS.contains(&key) => {
            let each: Vec<_> = url.split(',').map(validate_stores::without_credentials).collect();
            Value::String(each.join(",")).to_string()
        }
        other => other.to_string(),
    }
}

fn read(values: &Values) -> Result<Settings, toml::de::Error> {
    let mut whole = Table::new();
    for (key, (value, _)) in values {
        insert(&mut whole, key, value);
    }
    Value::Table(whole).try_into()
}

/// Removes every value that cannot be read even by itself among the defaults, and says so.
fn blame(values: &mut Values, faults: &mut Vec<Fault>, defaults: &Table) {
    values.retain(|key, (value, origin)| {
        if *origin == Origin::Default {
            return true;
        }
        let mut alone = defaults.clone();
        insert(&mut alone, key, value);
        let Err(error) = Value::Table(alone).try_into::<Settings>() else { return true };
        let shown: String = value.to_string().chars().take(60).collect();
        faults.push(Fault { key: key.clone(), why: format!("{shown} (from {origin}): {}", one_line(&error)) });
        false
    });
    let mut missing = Values::new();
    flatten("", defaults, &Origin::Default, &mut missing);
    missing.append(values);
    *values = missing;
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().next().unwrap_or_default().to_owned()
}

/// Puts `value` under the dotted `key`.
fn insert(whole: &mut Table, key: &str, value: &Value) {
    let mut table = whole;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            table.insert(part.to_owned(), value.clone());
            break;
        }
        let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = entry else { break };
        table = inner;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: Environment) -> Result<Loaded, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        Layers { file: Some(file), environment, flags: vec![("--concurrency", "fleet.concurrency", "7".into())] }.load()
    }

    #[test]
    fn later_layers_win_and_origins_are_known() {
        let environment =
            Environment::from_pairs([("CODESWARM_JOB_MAX_ATTEMPTS", "5"), ("ANTHROPIC_BASE_URL", "http://x")]);
        let loaded =
            load("[job]\nmax_attempts = 4\nmin_features = 1\n[fleet]\nconcurrency = 3\n", environment).unwrap();
        assert_eq!(loaded.settings.job.max_attempts, 5);
        assert_eq!(loaded.settings.job.min_features, 1);
        assert_eq!(loaded.settings.fleet.concurrency, 7);
        assert_eq!(loaded.settings.llm.base_url, "http://x");
        assert_eq!(loaded.origins["fleet.concurrency"].1, Origin::Flag("--concurrency"));
        assert_eq!(loaded.origins["job.max_features"].1, Origin::Default);
        assert!(matches!(loaded.origins["job.min_features"].1, Origin::File(_)));
    }

    #[test]
    fn only_a_name_that_is_close_or_in_another_table_is_suggested() {
        let text = "[job]\nmax_atempts = 2\ncolour = \"red\"\neffort = \"low\"\n";
        let Err(ConfigError::Invalid { faults }) = load(text, Environment::default()) else { panic!("accepted") };
        let why = |key: &str| faults.iter().find(|fault| fault.key == key).unwrap().why.clone();
        assert!(why("job.max_atempts").ends_with("did you mean job.max_attempts?"), "{faults:?}");
        assert!(why("job.effort").ends_with("did you mean llm.effort?"), "{faults:?}");
        assert_eq!(why("job.colour"), "there is no such setting");
    }

    #[test]
    fn a_budget_of_nothing_is_no_budget() {
        let refused = load("[job]\nbudget_usd = \"0.00\"\n", Environment::default());
        let Err(ConfigError::Invalid { faults }) = refused else { panic!("accepted") };
        assert_eq!(faults[0].key, "job.budget_usd");
        assert!(faults[0].why.contains("allows no call"), "{faults:?}");
    }

    #[test]
    fn whole_dollars_may_be_written_as_a_number() {
        let loaded = load("[budget]\naccount_limit_usd = 5\n[job]\nbudget_usd = 2\n", Environment::default()).unwrap();
        assert_eq!(loaded.settings.budget.account_limit_usd, "5");
        assert_eq!(loaded.settings.job.budget_usd, "2");
        assert!(load("[budget]\naccount_limit_usd = -5\n", Environment::default()).is_err());
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let text = "[job]\nbudget_usd = \"-1\"\nmax_atempts = 2\n[llm]\neffort = \"huge\"\nidle_timeout_seconds = 700\n[roles.mine]\neffort = \"low\"\n";
        let environment = Environment::from_pairs([("CODESWARM_FLEET_CONCURRENCY", "many")]);
        let Err(ConfigError::Invalid { faults }) = load(text, environment) else { panic!("accepted") };
        let keys: Vec<&str> = faults.iter().map(|f| f.key.as_str()).collect();
        for key in [
            "job.budget_usd",
            "job.max_atempts",
            "llm.effort",
            "llm.idle_timeout_seconds",
            "roles.mine",
            "fleet.concurrency",
        ] {
            assert!(keys.contains(&key), "{key} missing in {keys:?}");
        }
    }

    #[test]
    fn values_of_a_wrong_type_hide_no_other_fault() {
        let text = "[job]\nmax_attempts = \"three\"\nmin_features = -1\nmax_features = true\n[llm]\nattempts = 99\n[log]\nlevel = 1\n\
                    [roles.coder]\ntemperature = 1\n";
        let Err(ConfigError::Invalid { faults }) = load(text, Environment::default()) else { panic!("accepted") };
        let keys: Vec<&str> = faults.iter().map(|f| f.key.as_str()).collect();
        let wrong = [
            "job.max_attempts",
            "job.min_features",
            "job.max_features",
            "llm.attempts",
            "log.level",
            "roles.coder.temperature",
        ];
        for key in wrong {
            assert_eq!(keys.iter().filter(|found| **found == key).count(), 1, "{key} in {keys:?}");
        }
        assert_eq!(keys.len(), wrong.len(), "{keys:?}");
        assert!(faults.iter().all(|fault| !fault.why.contains('\n')), "{faults:?}");
    }

    #[test]
    fn the_defaults_are_valid() {
        Layers { file: Some("/dev/null".into()), ..Layers::default() }.load().unwrap();
    }

    #[test]
    fn the_shipped_files_are_valid() {
        for name in ["development", "production"] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name).with_extension("toml");
            let loaded = Layers { file: Some(file), ..Layers::default() }.load().unwrap();
            assert_eq!(loaded.settings.storage.backend, "nats", "{name}");
        }
    }
}
