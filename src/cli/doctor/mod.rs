//! `codeswarm doctor`: everything a run needs, checked before money is spent.
//!
//! Each check says what it found and, when that is not good, what to do. Checks never change anything and never send
//! anything to the provider; a key is only ever reported as present. What fails keeps a run from working; what warns
//! may surprise.

mod books;
mod limits;
mod stores;
mod surroundings;

use serde_json::json;

use super::args::{Common, DoctorArgs};
use super::screen::Screen;
use super::table::hang;
use super::{Exit, Failure, opened};
use crate::backend::open::is_distributed;
use crate::config::{Environment, Layers};
use crate::error::Coded;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Good,
    Warning,
    Failure,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warn",
            Self::Failure => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
pub(super) struct Finding {
    check: &'static str,
    level: Level,
    what: String,
    remedy: String,
}

impl Finding {
    fn good(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, level: Level::Good, what: what.into(), remedy: String::new() }
    }

    fn warning(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, what: what.into(), remedy: remedy.into() }
    }

    fn failure(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Failure, what: what.into(), remedy: remedy.into() }
    }

    /// A failure as a room reports it.
    fn of(check: &'static str, error: &dyn Coded) -> Self {
        Self::failure(check, format!("[{}] {error}", error.code()), error.remedy())
    }
}

pub(super) async fn run(screen: &Screen, common: &Common, args: DoctorArgs) -> Result<Exit, Failure> {
    let mut findings = Vec::new();
    let environment = Environment::of_process();
    let flags = opened::backend_flag(common).into_iter().collect();
    let layers = Layers { file: common.config.clone(), environment: environment.clone(), flags };
    let mut servers = None;
    match layers.load() {
        Ok(loaded) => {
            servers = Some(loaded.settings.clone()).filter(is_distributed);
            findings.push(Finding::good("configuration", format!("valid, {} settings", loaded.origins.len())));
            findings.extend(loaded.strange_variables.iter().map(|variable| {
                Finding::warning("environment", variable.to_string(), "correct its name, or remove it")
            }));
            let base = opened::config_base(common);
            findings.extend(surroundings::provider(&loaded.settings, &base, &environment, args.replay.as_deref()));
        }
        Err(error) => findings.push(Finding::of("configuration", &error)),
    }
    findings.extend(surroundings::machine(common).await);
    match servers {
        Some(settings) => findings.extend(stores::check_servers(common, &settings).await),
        None => findings.extend(stores::check(&common.data).await),
    }
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Good);
    if args.output.json {
        screen.result(&as_json(&findings, worst).to_string());
    } else {
        screen.result(&text(screen, &findings, worst));
    }
    Ok(if worst == Level::Failure { Exit::Error } else { Exit::Done })
}

fn as_json(findings: &[Finding], worst: Level) -> serde_json::Value {
    let listed = findings.iter().map(|finding| {
        json!({
            "check": finding.check,
            "level": finding.level.as_str(),
            "found": finding.what,
            "remedy": (finding.level != Level::Good).then_some(&finding.remedy),
        })
    });
    json!({"level": worst.as_str(), "checks": listed.collect::<Vec<_>>()})
}

fn text(screen: &Screen, findings: &[Finding], worst: Level) -> String {
    let mut lines = Vec::with_capacity(findings.len() + 2);
    for finding in findings {
        let what = format!("{}: {}", finding.check, finding.what);
        lines.push(format!("{:<4}  {}", finding.level.as_str(), hang(&what, 6, screen.width)));
        if finding.level != Level::Good {
            lines.push(format!("      remedy: {}", hang(&finding.remedy, 14, screen.width)));
        }
    }
    let verdict = match worst {
        Level::Good => "Everything is in order.",
        Level::Warning => "Nothing failed; the warnings above may matter to you.",
        Level::Failure => "A run will not work before the failures above are remedied.",
    };
    lines.push(format!("\n{}", hang(verdict, 0, screen.width)));
    lines.join("\n")
}
