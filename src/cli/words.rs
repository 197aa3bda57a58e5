//! How people read amounts, times and ids. JSON never passes through here: it gets exact values.
//!
//! Rounded for reading, so nothing here may be computed with.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::protocol::{JobId, JobSettings, MicroUsd};

/// Fewest characters of an abbreviated job id.
const MIN_ID: usize = 8;

/// An amount with at most four digits after the point, rounded up, so that nothing paid reads as nothing.
pub(super) fn money(amount: MicroUsd) -> String {
    MicroUsd(amount.0.div_ceil(100).saturating_mul(100)).to_string()
}

/// A text that names scopes as the ledger does, in the words that people use and may type.
pub(super) fn scope(text: &str) -> String {
    text.replace("/slice:", "/feature:")
}

/// Where the files of `job` go, after "files".
pub(super) fn files_go(settings: &JobSettings, job: &JobId) -> String {
    match settings.output() {
        Some(out) => format!("go to {}", out.display()),
        None => format!("stay in the stores (codeswarm fetch {job} --out DIR brings them here)"),
    }
}

/// Where the files of `job` are.
pub(super) fn files_are(settings: &JobSettings, job: &JobId) -> String {
    match settings.output() {
        Some(out) => out.display().to_string(),
        None => format!("the stores (codeswarm fetch {job} --out DIR)"),
    }
}

/// `m:ss` or `h:mm:ss`.
pub(super) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{rest:02}") } else { format!("{minutes}:{rest:02}") }
}

/// Milliseconds as seconds, for display.
#[expect(clippy::cast_precision_loss, reason = "display only")]
pub(super) fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1_000.0
}

/// How long ago `then` was, in one unit.
pub(super) fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(then).as_secs();
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// Date and time to the second, UTC.
pub(super) fn instant(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('.').map_or(text.clone(), |(second, _)| second.replace('T', " "))
}

/// Bytes in one unit.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..10_240 => format!("{count} bytes"),
        10_240..10_485_760 => format!("{} KiB", count >> 10),
        10_485_760..10_737_418_240 => format!("{} MiB", count >> 20),
        _ => format!("{} GiB", count >> 30),
    }
}

/// The shortest common length at which the beginnings of `jobs` differ, for each its beginning.
pub(super) fn short_ids<'a>(jobs: impl Iterator<Item = &'a JobId>) -> BTreeMap<&'a JobId, &'a str> {
    let mut sorted: Vec<&JobId> = jobs.collect();
    sorted.sort_unstable();
    let shared =
        |pair: &[&JobId]| pair[0].as_str().bytes().zip(pair[1].as_str().bytes()).take_while(|(a, b)| a == b).count();
    let needed = sorted.windows(2).map(shared).max().unwrap_or_default() + 1;
    let length = needed.max(MIN_ID);
    sorted.into_iter().map(|id| (id, id.as_str().get(..length).unwrap_or(id.as_str()).trim_end_matches('-'))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_keep_at_most_four_decimals_and_never_vanish() {
        assert_eq!(money(MicroUsd(1)), "$0.0001");
        assert_eq!(money(MicroUsd(123_456)), "$0.1235");
        assert_eq!(money(MicroUsd(5_000_000)), "$5.00");
        assert_eq!(money(MicroUsd::ZERO), "$0.00");
    }

    #[test]
    fn abbreviated_ids_stay_unique() {
        let ids: Vec<JobId> = ["0198c2f1a7b3-9d3c", "0198c2f1a7b3-9d3d", "0298c2f1a7b3-9d3d"]
            .iter()
            .map(|id| JobId::new(id).unwrap())
            .collect();
        let short = short_ids(ids.iter());
        let mut beginnings: Vec<&str> = short.values().copied().collect();
        beginnings.dedup();
        assert_eq!(beginnings.len(), 3);
        assert_eq!(short_ids(ids[1..].iter())[&ids[1]], "0198c2f1");
        assert!(short_ids(std::iter::empty()).is_empty());
    }

    #[test]
    fn times_are_short() {
        assert_eq!(ago(Timestamp(0), Timestamp(59_000)), "59 s ago");
        assert_eq!(ago(Timestamp(0), Timestamp(7_200_000)), "2 h ago");
        assert_eq!(instant(Timestamp(951_782_400_123)), "2000-02-29 00:00:00");
        assert_eq!(clock(Duration::from_secs(3_661)), "1:01:01");
    }
}
