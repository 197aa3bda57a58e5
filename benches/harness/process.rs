//! What a process has used: processor time and memory, as procfs tells.
//!
//! Servers are children of the benchmark, so they are found by name among them and never mixed up with those of somebody
//! else. Figures are sums since the start of a process; whoever measures takes a difference.

use std::time::Duration;

/// Length of a tick of procfs.
const TICK: Duration = Duration::from_millis(10);

/// Fields of `/proc/<pid>/stat` behind the name, the state first.
fn stat(process: &str) -> Option<(String, Vec<String>)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(") ")?;
    let name = head.split_once('(')?.1.to_owned();
    Some((name, tail.split_whitespace().map(str::to_owned).collect()))
}

/// User and system time of a process so far.
pub(crate) fn cpu(process: &str) -> Duration {
    let (_, fields) = stat(process).expect("a living process");
    let ticks = |at: usize| fields[at].parse::<u32>().expect("a number");
    TICK * (ticks(11) + ticks(12))
}

/// The same of this process.
pub(crate) fn own_cpu() -> Duration {
    cpu("self")
}

/// The youngest child of this process with this name.
pub(crate) fn child(name: &str) -> String {
    let own = std::process::id().to_string();
    let all = std::fs::read_dir("/proc").expect("procfs").flatten();
    let of = |entry: std::fs::DirEntry| {
        let process = entry.file_name().into_string().ok()?;
        let (found, fields) = stat(&process)?;
        (found == name && fields[1] == own).then_some(process)
    };
    all.filter_map(of).max_by_key(|process| process.parse::<u32>().unwrap_or(0)).expect("a running server")
}

/// A figure of `/proc/<pid>/status` in MiB, for example `VmRSS:`.
pub(crate) fn memory_mib(process: &str, figure: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("procfs");
    let line = status.lines().find(|line| line.starts_with(figure)).expect("the figure");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).expect("a number") / 1_024.0
}
