//! What surrounds the program: the provider's key and address, prices, tools, the output's place, the time.
//!
//! Nothing here calls the provider or spends anything, and no secret is ever part of a finding.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use super::Finding;
use super::stores::may_write;
use crate::cli::args::Common;
use crate::clock::{Clock, Timestamp};
use crate::config::{ApiKey, Environment, Settings};
use crate::fleet::{self, Endpoint};
use crate::llm::replay::Script;

/// How long a tool may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// 2026-01-01: no computer that runs this program lives earlier.
const EARLIEST: Timestamp = Timestamp(1_767_225_600_000);

/// Prices, roles, key and address.
pub(super) fn provider(
    settings: &Settings,
    base: &Path,
    environment: &Environment,
    replay: Option<&Path>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    match fleet::prices(settings, base) {
        Ok(prices) => {
            let what = format!("{} models, as of {}", prices.models().count(), prices.as_of());
            findings.push(Finding::good("prices", what));
        }
        Err(error) => findings.push(Finding::of("prices", &error)),
    }
    findings.push(match fleet::check_roles(settings, base) {
        Ok(roles) => Finding::good("roles", format!("{} roles, every model has a price", roles.len())),
        Err(error) => Finding::of("roles", &error),
    });
    match replay {
        Some(script) => findings.push(match Script::load(script) {
            Ok(_) => Finding::good("replies", format!("recorded in {}; no key is needed", script.display())),
            Err(error) => Finding::of("replies", &error),
        }),
        // A fault of the roles is a finding already.
        None => {
            for endpoint in fleet::endpoints(settings, base).unwrap_or_default() {
                findings.push(key(&endpoint, environment));
                findings.push(address(&endpoint.base_url));
            }
        }
    }
    findings
}

fn key(endpoint: &Endpoint, environment: &Environment) -> Finding {
    let name = &endpoint.name;
    let Some(variable) = &endpoint.key_variable else {
        return Finding::good("key", format!("{name} wants none"));
    };
    match ApiKey::named(environment, variable) {
        Ok(Some(_)) => Finding::good("key", format!("present for {name} (not shown, not tried)")),
        Ok(None) => Finding::warning(
            "key",
            format!("there is no key for the provider {name}: only recorded replies can be used"),
            format!("set {variable}, or {variable}_FILE to a file that holds it; or run with --replay"),
        ),
        Err(error) => Finding::of("key", &error),
    }
}

fn address(url: &str) -> Finding {
    match reqwest::Url::parse(url) {
        Ok(parsed) if parsed.host_str().is_some() => {
            let host = parsed.host_str().unwrap_or_default();
            let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
            if parsed.scheme() == "http" && !local {
                let remedy = "use https://, unless the way to that host is trusted";
                return Finding::warning(
                    "provider",
                    format!("{url} is not encrypted: the key is sent in the clear"),
                    remedy,
                );
            }
            Finding::good("provider", url)
        }
        Ok(_) => Finding::failure(
            "provider",
            format!("{url} names no host"),
            "correct llm.base_url, ANTHROPIC_BASE_URL or the base_url of [providers]",
        ),
        Err(error) => {
            let what = format!("{url} is not an address: {error}");
            Finding::failure(
                "provider",
                what,
                "correct llm.base_url, ANTHROPIC_BASE_URL or the base_url of [providers]",
            )
        }
    }
}

/// Tools, the place of the output, the time.
pub(super) async fn machine(common: &Common) -> Vec<Finding> {
    let mut findings = vec![
        tool("git", "install it to use --git; plain directories work without it").await,
        tool("python3", "install it to run generated Python programs and their tests; writing files works without it")
            .await,
    ];
    let here = Path::new(".");
    findings.push(if may_write(here) {
        Finding::good("output", "the current directory can be written; --out chooses another")
    } else {
        Finding::warning("output", "the current directory cannot be written", "name an output directory with --out")
    });
    let now = Clock::system().now();
    if now < EARLIEST {
        findings.push(Finding::failure("clock", format!("it says {now}, which is long past"), "set the system clock"));
    }
    if let Some(file) = &common.config {
        findings.push(Finding::good("configuration file", file.display().to_string()));
    }
    findings
}

async fn tool(name: &'static str, remedy: &str) -> Finding {
    let mut command = Command::new(name);
    command.arg("--version").stdin(std::process::Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let version = text.lines().next().unwrap_or_default();
            Finding::good(name, version.strip_prefix(name).unwrap_or(version).trim())
        }
        Ok(Ok(output)) => Finding::warning(name, format!("it does not work ({})", output.status), remedy),
        Ok(Err(error)) => Finding::warning(name, format!("not found: {error}"), remedy),
        Err(_) => Finding::warning(name, "it does not answer", remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let endpoint = Endpoint {
            name: "anthropic".into(),
            base_url: "https://x".into(),
            key_variable: Some("ANTHROPIC_API_KEY".into()),
        };
        let finding = key(&endpoint, &Environment::from_pairs([("ANTHROPIC_API_KEY", "sk-hidden")]));
        assert_eq!(finding.level, Level::Good);
        assert!(!format!("{finding:?}").contains("hidden"));
        assert_eq!(key(&endpoint, &Environment::default()).level, Level::Warning);
    }

    #[test]
    fn addresses_are_checked_without_being_called() {
        assert_eq!(address("https://api.anthropic.com").level, Level::Good);
        assert_eq!(address("http://localhost:1234").level, Level::Good);
        assert_eq!(address("http://example.com").level, Level::Warning);
        assert_eq!(address("https://").level, Level::Failure);
    }
}
