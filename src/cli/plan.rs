//! Showing the plan and asking for approval.

use std::io::BufRead;

use super::Failure;
use super::live::Watched;
use super::screen::Screen;

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
        text.push_str(&format!("\n{}\n{}\n", screen.bold(&plan.name), plan.summary));
        for feature in &plan.features {
            let needs: Vec<&str> =
                feature.depends_on.iter().map(super::super::protocol::ids::FeatureId::as_str).collect();
            let after = if needs.is_empty() { String::new() } else { format!(", after {}", needs.join(", ")) };
            text.push_str(&format!("\n{} ({}{after})\n", screen.bold(feature.id.as_str()), feature.priority.as_str()));
            for task in job.feature_tasks(&feature.id) {
                text.push_str(&format!(
                    "  {:<40} {:<12} {}\n",
                    task.path().unwrap_or_default(),
                    task.agent,
                    task.title
                ));
            }
        }
    }
    let estimate = watched.estimate();
    let spent = job.cost();
    text.push_str(&format!("\nSpent on planning: {spent}. Expected for the rest: about {estimate}. "));
    text.push_str(&format!("Never more than the budget: {}.\n", watched.limit()));
    if spent.saturating_add(estimate) > watched.limit() {
        text.push_str("The budget will probably not suffice for all files; what is finished is kept, and the job can be topped up.\n");
    }
    text
}
