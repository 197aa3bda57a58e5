//! The servers, or the data directory: there, writable, sound, of a known version, and its ledger within every limit.
//!
//! It looks before it opens, and must never create, repair or migrate what it finds.

use std::path::Path;

use super::{Finding, books, limits};
use crate::backend::embedded::{self, Durability};
use crate::backend::{self, Backend, BackendError};
use crate::cli::args::Common;
use crate::cli::live::Watched;
use crate::cli::opened;
use crate::cli::words::bytes;
use crate::clock::{Clock, Timestamp};
use crate::config::Settings;
use crate::coordinator;
use crate::protocol::InstanceId;

/// How far in the future a recorded instant may lie before the clock is suspected, in milliseconds.
const MAX_AHEAD_MS: i64 = 300_000;

/// Free space below which a warning is due, and below which a run is likely to fail, in bytes.
const LITTLE_SPACE: u64 = 1 << 30;
const NO_SPACE: u64 = 50 << 20;

pub(super) async fn check(data: &Path) -> Vec<Finding> {
    let mut findings = vec![space(data)];
    if !embedded::exists(data) {
        findings.push(absent(data));
        return findings;
    }
    match embedded::inspect(data).await {
        Ok(seen) if seen.faults.is_empty() => {
            let what = format!("{}, {}, schema {}, sound", data.display(), bytes(seen.bytes), seen.schema);
            findings.push(Finding::good("data directory", what));
            findings.push(Finding::good("SQLite", format!("{}, part of this program", seen.sqlite)));
        }
        Ok(seen) => {
            let what = format!("{} is damaged: {}", data.display(), seen.faults.join("; "));
            let error = BackendError::Corrupt { what: data.display().to_string(), why: String::new() };
            findings.push(Finding::failure("data directory", what, crate::error::Coded::remedy(&error)));
            return findings;
        }
        Err(error) => {
            findings.push(Finding::of("data directory", &error));
            return findings;
        }
    }
    if !may_write(data) {
        let remedy = "fix its permissions, or name another directory with --data";
        findings.push(Finding::failure("data directory", format!("{} cannot be written", data.display()), remedy));
        return findings;
    }
    match embedded::open(data, &InstanceId::fresh("doctor"), Durability::Full, Clock::system()).await {
        Ok(backend) => {
            findings.extend(contents(&backend).await.unwrap_or_else(|error| vec![Finding::of("stores", &error)]));
        }
        Err(error) => findings.push(Finding::of("stores", &error)),
    }
    findings
}

/// The servers that the settings name: can they be reached, and are they what they have to be?
pub(super) async fn check_servers(common: &Common, settings: &Settings) -> Vec<Finding> {
    let place = opened::place(common, settings);
    let instance = InstanceId::fresh("doctor");
    match backend::open::open(settings, &opened::config_base(common), &common.data, &instance).await {
        Ok(backend) => {
            let mut findings = vec![Finding::good("servers", place)];
            findings.extend(contents(&backend).await.unwrap_or_else(|error| vec![Finding::of("stores", &error)]));
            findings
        }
        Err(error) => vec![Finding::of("servers", &error)],
    }
}

/// There is none yet: can one be made?
fn absent(data: &Path) -> Finding {
    let parent = nearest(data);
    if data.exists() && !data.is_dir() {
        let remedy = "name a directory with --data, or move the file away";
        return Finding::failure("data directory", format!("{} is not a directory", data.display()), remedy);
    }
    if may_write(parent) {
        let what = format!("{} does not exist yet; the first run creates it", data.display());
        return Finding::good("data directory", what);
    }
    let what = format!("{} does not exist, and {} cannot be written", data.display(), parent.display());
    Finding::failure("data directory", what, "fix the permissions, or name another directory with --data")
}

/// `path`, or the nearest directory above it that exists.
fn nearest(path: &Path) -> &Path {
    let there = |at: &&Path| at.is_dir();
    let found = path.ancestors().filter(|at| !at.as_os_str().is_empty()).find(there);
    found.unwrap_or(Path::new("."))
}

pub(super) fn may_write(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

fn space(data: &Path) -> Finding {
    let at = nearest(data);
    let stat = match rustix::fs::statvfs(at) {
        Ok(stat) => stat,
        Err(error) => {
            let remedy = "check that the file system is mounted and healthy";
            return Finding::warning("disk space", format!("unknown below {}: {error}", at.display()), remedy);
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let what = format!("{} free for {}", bytes(free), data.display());
    match free {
        0..NO_SPACE => Finding::failure("disk space", what, "free some space, or name another directory with --data"),
        NO_SPACE..LITTLE_SPACE => Finding::warning("disk space", what, "free some space before a large job"),
        _ => Finding::good("disk space", what),
    }
}

/// What can only be seen from inside.
async fn contents(backend: &Backend) -> Result<Vec<Finding>, BackendError> {
    let mut findings = Vec::new();
    findings.push(match coordinator::leader(backend).await {
        Ok(None) => Finding::good("coordinator", "none is active: a run can start"),
        Ok(Some(holder)) => Finding::warning(
            "coordinator",
            format!("{holder} leads these stores"),
            "submit jobs to it, wait for it to finish before another run, or use another --data directory or namespace",
        ),
        Err(error) => Finding::of("coordinator", &error),
    });
    let jobs = backend.events.jobs().await?;
    let newest = jobs.iter().map(|entry| entry.updated_at).max();
    findings.push(clock(backend.clock.now(), newest));
    let (mut faults, mut readable) = (Vec::new(), Vec::new());
    for entry in &jobs {
        match Watched::load(backend, &entry.job).await {
            Ok(watched) => readable.push(watched.job),
            Err(failure) => faults.push(Finding::failure(
                "jobs",
                failure.report(),
                "start that job anew; the others are not affected",
            )),
        }
    }
    if faults.is_empty() {
        faults.push(Finding::good("jobs", format!("{}, every log can be read", jobs.len())));
    }
    findings.append(&mut faults);
    findings.append(&mut books::findings(backend, &readable).await);
    findings.append(&mut limits::findings(backend).await?);
    Ok(findings)
}

/// A clock that runs behind what was recorded makes leases and times wrong.
fn clock(now: Timestamp, newest: Option<Timestamp>) -> Finding {
    let ahead = newest.map_or(0, |newest| newest.0.saturating_sub(now.0));
    if ahead > MAX_AHEAD_MS {
        let what = format!("it says {now}, but events were recorded {} s later than that", ahead / 1_000);
        return Finding::failure("clock", what, "set the system clock");
    }
    Finding::good("clock", format!("{now}, not behind what is recorded"))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_clock_behind_the_record_is_a_failure() {
        assert_eq!(clock(Timestamp(1_000), Some(Timestamp(2_000))).level, Level::Good);
        assert_eq!(clock(Timestamp(0), Some(Timestamp(MAX_AHEAD_MS + 1))).level, Level::Failure);
        assert_eq!(clock(Timestamp(0), None).level, Level::Good);
    }

    #[test]
    fn a_directory_that_can_be_made_is_in_order() {
        let room = tempfile::tempdir().unwrap();
        assert_eq!(absent(&room.path().join("a/b")).level, Level::Good);
        let file = room.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(absent(&file).level, Level::Failure);
    }
}
