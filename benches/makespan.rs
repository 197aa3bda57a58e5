//! How close a whole job comes to the best schedule, how many tasks a second the engine moves, and what it weighs.
//!
//! Every scenario runs in a process of its own (this program calls itself), through the same coordinator, worker,
//! embedded stores and HTTP client as `codeswarm run`, against `fake-claude` in the same process. The yardstick is
//! computed from the same graph and durations: an ideal list scheduler without any overhead, critical path first, and
//! the plain lower bound. Nothing here asserts a time: machines are noisy, ratios of one run are not.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark prints, and fails by panicking"
)]

#[path = "harness/ideal.rs"]
mod ideal;
#[path = "harness/job.rs"]
mod job;
#[path = "harness/scenario.rs"]
mod scenario;

use std::process::Command;

use scenario::{Measured, SCENARIOS, Scenario};

/// Runs of each scenario; the median of each figure is shown.
const RUNS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(name) = arguments.iter().skip_while(|a| *a != "--scenario").nth(1) {
        let scenario = SCENARIOS.iter().find(|s| s.name == name).expect("known scenario");
        println!("{}", serde_json::to_string(&job::run(scenario, None)).expect("serialises"));
        return;
    }
    let wanted: Vec<&String> = arguments.iter().skip(1).filter(|a| !a.starts_with("--")).collect();
    println!(
        "| scenario | tasks | slots | makespan s | ideal s | ÷ ideal | ÷ lower bound | tasks/s | CPU µs/task | peak MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for scenario in SCENARIOS.iter().filter(|s| wanted.is_empty() || wanted.iter().any(|w| s.name.contains(w.as_str())))
    {
        let mut runs: Vec<Measured> = (0..RUNS).map(|_| in_own_process(scenario)).collect();
        runs.sort_by(|a, b| a.makespan_s.total_cmp(&b.makespan_s));
        show(scenario, &runs[RUNS / 2]);
    }
}

fn in_own_process(scenario: &Scenario) -> Measured {
    let program = std::env::current_exe().expect("own path");
    let output = Command::new(program).args(["--scenario", scenario.name]).output().expect("starts");
    assert!(output.status.success(), "{}: {}", scenario.name, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a measurement")
}

fn show(scenario: &Scenario, m: &Measured) {
    let ratio = |against: f64| if against > 0.0 { format!("{:.3}", m.makespan_s / against) } else { "-".into() };
    println!(
        "| {} | {} | {} | {:.3} | {:.3} | {} | {} | {:.0} | {:.0} | {:.0} |",
        scenario.name,
        m.tasks,
        scenario.slots,
        m.makespan_s,
        m.ideal_s,
        ratio(m.ideal_s),
        ratio(m.lower_bound_s),
        m.tasks as f64 / m.makespan_s,
        m.cpu_us_per_task,
        m.peak_mib
    );
}
