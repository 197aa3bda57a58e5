//! Asking whether a job that has spent much of its budget is to go on.
//!
//! The job waits meanwhile and spends nothing. Only a clear answer lets it go on; where nobody can be asked, what to do is
//! said and the run ends, because a process that waits for an answer which cannot come looks like one that hangs.

use super::Failure;
use super::budget;
use super::interrupts::Interrupts;
use super::live::Watched;
use super::plan;
use super::screen::Screen;
use crate::backend::Backend;
use crate::coordinator;
use crate::job::JobStatus;
use crate::protocol::{Command, InstanceId, JobId, MicroUsd};

/// What came of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Add this much to the budget and go on.
    TopUp(MicroUsd),
    /// Go on with what is left.
    GoOn,
    /// Leave the job as it is.
    Stop,
    /// Somebody has answered from another process meanwhile.
    Elsewhere,
}

/// What a person can do about a job that asks.
pub(super) fn remedy(id: &JobId) -> String {
    format!(
        "codeswarm resume {id} to go on with what is left; codeswarm budget top-up {id} USD before it for more; or codeswarm cancel {id}"
    )
}

/// Asks, and answers whether the job goes on.
pub(super) async fn settle(
    screen: &Screen,
    backend: &Backend,
    instance: &InstanceId,
    watched: &Watched,
    interrupts: &mut Interrupts,
) -> Result<bool, Failure> {
    let id = watched.job.id();
    match ask(screen, backend, watched, interrupts).await? {
        Choice::TopUp(amount) => budget::raise(screen, backend, instance, watched, amount).await?,
        Choice::GoOn => {}
        Choice::Elsewhere => return Ok(true),
        Choice::Stop => return Ok(false),
    }
    coordinator::command(backend, instance, id, Command::Resume).await?;
    Ok(true)
}

async fn ask(
    screen: &Screen,
    backend: &Backend,
    watched: &Watched,
    interrupts: &mut Interrupts,
) -> Result<Choice, Failure> {
    if !screen.interactive {
        return Ok(Choice::Stop);
    }
    loop {
        screen.note("US dollars to add to the budget, g to go on with what is left, s to stop here:");
        let line = tokio::select! {
            line = plan::read_text() => line?,
            () = interrupts.next() => return Ok(Choice::Stop),
            decided = plan::left(backend, watched, JobStatus::Paused) => return decided.map(|()| Choice::Elsewhere),
        };
        if let Some(choice) = choice(&line) {
            return Ok(choice);
        }
    }
}

/// The answer that a line is; an end of input is nobody's, and what is no answer is asked for again.
fn choice(line: &str) -> Option<Choice> {
    match line.trim().trim_start_matches('$').to_ascii_lowercase().as_str() {
        "" if line.is_empty() => Some(Choice::Stop),
        "g" | "go" | "go on" => Some(Choice::GoOn),
        "s" | "stop" => Some(Choice::Stop),
        text => text.parse::<MicroUsd>().ok().filter(|amount| *amount > MicroUsd::ZERO).map(Choice::TopUp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clear_answers_count() {
        for (line, expected) in [
            ("2.50\n", Some(Choice::TopUp(MicroUsd(2_500_000)))),
            (" $3 \n", Some(Choice::TopUp(MicroUsd(3_000_000)))),
            ("G\n", Some(Choice::GoOn)),
            ("stop\n", Some(Choice::Stop)),
            ("", Some(Choice::Stop)),
            ("\n", None),
            ("0\n", None),
            ("y\n", None),
            ("-1\n", None),
        ] {
            assert_eq!(choice(line), expected, "{line:?}");
        }
    }
}
