//! Environment variables that look like ours and are none: a misspelt setting must not be ignored without a word.
//!
//! They are told as warnings, never as faults: another program may use the prefix as well, and Kubernetes puts the addresses of
//! services into the environment under such names. Only names are ever told, for a value may be a secret.

use std::collections::BTreeSet;
use std::fmt;

use super::Environment;

/// What every variable of ours begins with.
const PREFIX: &str = "CODESWARM_";

/// Variables that are no settings: what the command line reads, and what the files around the program do.
const OTHERS: [&str; 5] =
    ["CODESWARM_DATA", "CODESWARM_CONFIG", "CODESWARM_REPLAY", "CODESWARM_IMAGE", "CODESWARM_STRESS"];

/// The share of a name that may be mistyped before another one is no longer what was meant: a third.
const LEAST_LIKENESS: f64 = 2.0 / 3.0;

/// A variable that begins with `CODESWARM_` and means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrangeVariable {
    /// Its name.
    pub name: String,
    /// The known name that is most like it, if one is.
    pub nearest: Option<String>,
}

impl fmt::Display for StrangeVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the environment variable {} means nothing", self.name)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}

/// The variable that sets the setting `key`.
pub(super) fn of_setting(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// Variables of `environment` that look like ours and are neither for a setting among `keys` nor `well_known`.
pub(super) fn strange(environment: &Environment, keys: &[String], well_known: &[&str]) -> Vec<StrangeVariable> {
    let known: BTreeSet<String> = keys
        .iter()
        .map(|key| of_setting(key))
        .chain(well_known.iter().chain(&OTHERS).map(|name| (*name).to_owned()))
        .collect();
    let ours = environment.names().filter(|name| name.starts_with(PREFIX) && !is_of_a_service(name));
    let unknown = ours.filter(|name| !known.contains(*name));
    unknown.map(|name| StrangeVariable { name: name.to_owned(), nearest: nearest(name, &known) }).collect()
}

/// What Kubernetes and Docker say about a service whose name begins like ours: `…_SERVICE_PORT`, `…_PORT_4222_TCP_ADDR`.
fn is_of_a_service(name: &str) -> bool {
    let is_port_of = |(_, rest): (&str, &str)| rest.is_empty() || rest.starts_with('_');
    name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.split_once("_PORT").is_some_and(is_port_of)
}

fn nearest(name: &str, known: &BTreeSet<String>) -> Option<String> {
    // Without the prefix, which all have in common and which would make any two names alike.
    let own = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let likeness = |other: &str| strsim::normalized_damerau_levenshtein(&own(name), &own(other));
    let ours = known.iter().filter(|other| other.starts_with(PREFIX));
    let best = ours.map(|other| (likeness(other), other)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(likeness, _)| *likeness >= LEAST_LIKENESS).map(|(_, other)| other.clone())
}

#[cfg(test)]
mod tests {
    use super::super::Layers;
    use super::*;

    fn told(pairs: [(&str, &str); 1]) -> Vec<String> {
        let environment = Environment::from_pairs(pairs);
        let loaded = Layers { file: Some("/dev/null".into()), environment, flags: Vec::new() }.load().unwrap();
        loaded.strange_variables.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_name_that_was_meant_and_without_its_value() {
        for (wrong, meant) in [
            ("CODESWARM_FLEET_CONCURENCY", "CODESWARM_FLEET_CONCURRENCY"),
            ("CODESWARM_NATS_URLS", "CODESWARM_NATS_URL"),
            ("CODESWARM_BUDGET_ACCOUNT_LIMIT", "CODESWARM_BUDGET_ACCOUNT_LIMIT_USD"),
            ("CODESWARM_CONFG", "CODESWARM_CONFIG"),
        ] {
            let told = told([(wrong, "hidden")]);
            assert_eq!(told, [format!("the environment variable {wrong} means nothing; did you mean {meant}?")]);
        }
        let told = told([("CODESWARM_SOMETHING_ELSE_ENTIRELY", "hidden")]);
        assert!(told[0].ends_with("means nothing"), "{told:?}");
    }

    #[test]
    fn what_is_known_or_of_others_is_not_told() {
        for name in [
            "CODESWARM_JOB_BUDGET_USD",
            "CODESWARM_BACKEND",
            "CODESWARM_DATA",
            "CODESWARM_NATS_SERVICE_HOST",
            "CODESWARM_REDIS_SERVICE_PORT_REDIS",
            "CODESWARM_NATS_PORT",
            "CODESWARM_NATS_PORT_4222_TCP_ADDR",
            "MY_CODESWARM_FLAG",
        ] {
            let value = if name.ends_with("BACKEND") { "embedded" } else { "7" };
            assert_eq!(told([(name, value)]), [""; 0], "{name}");
        }
    }
}
