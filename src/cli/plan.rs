//! Showing the plan and asking for approval.
//!
//! Anything but a clear yes spends nothing, and a question that nobody can answer is never taken for a no.

use std::io::BufRead;
use std::time::Duration;

use super::Failure;
use super::interrupts::Interrupts;
use super::live::Watched;
use super::screen::Screen;
use super::table::{Fit, Table, hang};
use super::words::money;
use crate::backend::Backend;
use crate::job::JobStatus;
use crate::protocol::FeatureId;

/// Longest wait for an event before asking again.
const WAIT: Duration = Duration::from_secs(60);

/// What came of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Accepted.
    Yes,
    /// Refused: anything that is not yes.
    No,
    /// Nobody can be asked here, or whoever was asked left. The plan keeps waiting.
    Nobody,
    /// Somebody has answered from another process meanwhile.
    Elsewhere,
}

/// Shows the plan with its expected cost and asks.
pub(super) async fn ask(
    screen: &Screen,
    backend: &Backend,
    watched: &Watched,
    interrupts: &mut Interrupts,
) -> Result<Answer, Failure> {
    screen.note(&render(screen, watched));
    if !screen.interactive {
        return Ok(Answer::Nobody);
    }
    screen.note("Start the work? [y/N]");
    tokio::select! {
        answer = read_line() => answer,
        () = interrupts.next() => Ok(Answer::Nobody),
        decided = left(backend, watched, JobStatus::AwaitingApproval) => decided.map(|()| Answer::Elsewhere),
    }
}

/// Reads a yes or no.
pub(super) async fn read_line() -> Result<Answer, Failure> {
    let line = read_text().await?;
    Ok(match line.trim().to_ascii_lowercase().as_str() {
        _ if line.is_empty() => Answer::Nobody,
        "y" | "yes" => Answer::Yes,
        _ => Answer::No,
    })
}

/// Reads a line, empty at the end of input, on a thread of its own: it may block for ever, and the process ends all the same.
pub(super) async fn read_text() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = read.await.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string()));
    line.map_err(|error| {
        let what = format!("cannot read the answer: {error}");
        Failure::error("CS-CLI-006", what, "add --yes to answer yes")
    })
}

/// Waits until the job is no longer in this state.
pub(super) async fn left(backend: &Backend, watched: &Watched, state: JobStatus) -> Result<(), Failure> {
    let id = watched.job.id();
    let mut seen = watched.seq();
    loop {
        backend.events.wait(id, seen, WAIT).await?;
        let now = Watched::load(backend, id).await?;
        if now.job.status() != state {
            return Ok(());
        }
        seen = now.seq();
    }
}

/// The plan as text: features, files, agents, cost.
pub(super) fn render(screen: &Screen, watched: &Watched) -> String {
    let job = &watched.job;
    let mut text = String::new();
    if let Some(plan) = job.plan() {
        text.push_str(&format!("\n{}\n{}\n", screen.bold(&plan.name), hang(&plan.summary, 0, screen.width)));
        for feature in &plan.features {
            let needs: Vec<&str> = feature.depends_on.iter().map(FeatureId::as_str).collect();
            let after = if needs.is_empty() { String::new() } else { format!(", after {}", needs.join(", ")) };
            text.push_str(&format!("\n{} ({}{after})\n", screen.bold(feature.id.as_str()), feature.priority.as_str()));
            let mut files = Table::new(&[("file", Fit::Shrink), ("agent", Fit::Left), ("task", Fit::Shrink)]);
            for task in job.feature_tasks(&feature.id) {
                files.row([task.path().unwrap_or_default().to_owned(), task.agent.to_string(), task.title.clone()]);
            }
            text.push_str(&files.render(screen.width));
            text.push('\n');
        }
    }
    let (spent, estimate, limit) = (job.cost(), watched.estimate(), watched.limit());
    let mut cost = format!("Planning has cost {}. ", money(spent));
    cost.push_str(&format!("The files are expected to cost about {} more. ", money(estimate)));
    cost.push_str(&format!("In all, never more than the budget of {limit}."));
    text.push_str(&format!("\n{}\n", hang(&cost, 0, screen.width)));
    if spent.saturating_add(estimate) > limit {
        let warning = "The budget will probably not suffice for all files. What is finished is kept, and the job can be \
                       topped up and resumed.";
        text.push_str(&format!("{}\n", hang(warning, 0, screen.width)));
    }
    text
}
