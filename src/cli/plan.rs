//! Showing the plan and asking for approval.
//!
//! Planning is the cheap part; a person sees files, agents and the expected cost before the dear part begins. Only an
//! explicit yes is one: where nobody can be asked, nothing is accepted.

use std::io::BufRead;

use super::Failure;
use super::live::Watched;
use super::screen::Screen;
use super::table::{Fit, Table, hang};
use super::words::money;
use crate::protocol::FeatureId;

/// Shows the plan with its expected cost and asks. Anything but yes means no.
pub(super) async fn ask(screen: &Screen, watched: &Watched) -> Result<bool, Failure> {
    screen.note(&render(screen, watched));
    if !screen.interactive {
        return Ok(false);
    }
    screen.note("Start the work? [y/N]");
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    match answer.await {
        Ok(Ok(line)) => Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")),
        Ok(Err(error)) => Err(Failure::error(
            "CS-CLI-006",
            format!("cannot read the answer: {error}"),
            "add --yes to accept the plan",
        )),
        Err(error) => Err(Failure::error(
            "CS-CLI-006",
            format!("cannot read the answer: {error}"),
            "add --yes to accept the plan",
        )),
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
