//! The head that all prompts of a job share: contract, rules and project tree.
//!
//! It is a function of the plan alone and therefore byte-identical for every call of the job, whatever the role or the
//! file, so that the provider's prompt cache holds it once. Its fence is made from the plan's own digest: equal for all
//! calls, yet impossible to write into the plan beforehand. It must never contain anything of a single task.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::template::{fence, fill};
use crate::protocol::StrategicPlan;

const TEMPLATE: &str = include_str!("../../prompts/contract_head.md");

/// The cacheable first block of every system prompt of a job.
#[must_use]
pub fn contract_head(plan: &StrategicPlan) -> Arc<str> {
    let id = digest(plan);
    fill(
        TEMPLATE,
        &[
            ("name", &one_line(&plan.name)),
            ("summary", &fence(&id, "summary", &plan.summary)),
            ("language", &fence(&id, "language", &plan.contract.language)),
            ("identifiers", &fence(&id, "identifiers", &identifiers(plan))),
            ("rules", &fence(&id, "rules", &rules(plan))),
            ("tree", &fence(&id, "tree", &tree(plan))),
            ("fence", &id),
        ],
    )
    .into()
}

fn digest(plan: &StrategicPlan) -> String {
    let bytes = serde_json::to_vec(plan).unwrap_or_default();
    Sha256::digest(&bytes).iter().take(6).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn identifiers(plan: &StrategicPlan) -> String {
    let mut text = String::new();
    for identifier in &plan.contract.identifiers {
        let _ = write!(text, "- {} `{}`: {}", identifier.kind, identifier.name, one_line(&identifier.definition));
        if !identifier.path.is_empty() {
            let _ = write!(text, " (in {})", identifier.path);
        }
        text.push('\n');
    }
    text
}

fn rules(plan: &StrategicPlan) -> String {
    plan.contract.rules.iter().fold(String::new(), |mut text, rule| {
        let _ = writeln!(text, "- {}", one_line(rule));
        text
    })
}

/// Most bytes of tree that every single prompt carries. A larger project is listed by directory: a task is given the files
/// it needs anyway, and a thousand names would cost more than the file that is to be written.
const MAX_TREE_BYTES: usize = 24 * 1024;

fn tree(plan: &StrategicPlan) -> String {
    let mut files = BTreeMap::new();
    for feature in &plan.features {
        for file in &feature.files {
            files.insert(file.path.as_str(), (file.purpose.as_str(), feature.id.as_str()));
        }
    }
    let mut text = String::new();
    for (path, (purpose, feature)) in &files {
        let _ = writeln!(text, "{path}: {} [{feature}]", one_line(purpose));
        if text.len() > MAX_TREE_BYTES {
            return directories(files.keys().copied());
        }
    }
    text
}

/// The directories of `paths` with the number of files in each.
fn directories<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for path in paths {
        *counts.entry(path.rsplit_once('/').map_or(".", |(directory, _)| directory)).or_default() += 1;
    }
    let total: usize = counts.values().sum();
    let mut text = format!("{total} files, too many to be listed one by one. By directory:\n");
    for (listed, (directory, count)) in counts.iter().enumerate() {
        if text.len() > MAX_TREE_BYTES {
            let _ = writeln!(text, "and {} more directories", counts.len() - listed);
            break;
        }
        let _ = writeln!(text, "{directory}/: {count} files");
    }
    text
}

/// `text` with every run of white space as one blank.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
