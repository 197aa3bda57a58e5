//! `codeswarm dlq`: messages that nobody could process, and tasks that were given up.
//!
//! Replaying a task never puts its old message back: its job decides, and dispatches a new attempt. Only a message that is no
//! task goes back to its queue as it is. A letter is removed after its replay is on its way, so that a crash in between
//! leaves a letter too many and never one too few.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::args::{Common, DlqCommand, DlqListArgs, DlqPurgeArgs, DlqSelection, DlqShowArgs};
use super::control::{self, Asked, Reply};
use super::live::Watched;
use super::plan::{self, Answer};
use super::screen::Screen;
use super::table::{Fit, Table, facts};
use super::words::instant;
use super::{Exit, Failure, opened};
use crate::backend::{Backend, BackendError, DeadLetter, Outgoing, Queue};
use crate::clock;
use crate::job::JobStatus;
use crate::protocol::{AgentType, InstanceId, JobId, JobOutcome, Priority, TaskId, TaskMessage, validate};

/// Letters read at once.
const PAGE: usize = 200;

/// Most characters of a body shown to people.
const MAX_SHOWN: usize = 64 * 1024;

pub(super) async fn run(screen: &Screen, common: &Common, command: DlqCommand) -> Result<Exit, Failure> {
    let (backend, instance) = opened::open_existing(common, "dlq").await?;
    match command {
        DlqCommand::List(args) => list(screen, &backend, &args).await,
        DlqCommand::Show(args) => show(screen, &backend, &args).await,
        DlqCommand::Replay(args) => replay(screen, &backend, &instance, &args).await,
        DlqCommand::Purge(args) => purge(screen, &backend, &args).await,
    }
}

async fn list(screen: &Screen, backend: &Backend, args: &DlqListArgs) -> Result<Exit, Failure> {
    let letters = read(backend, args.limit as usize).await?;
    if args.output.json {
        let listed: Vec<Value> = letters.iter().map(heading).collect();
        screen.result(&json!({ "dead_letters": listed }).to_string());
        return Ok(Exit::Done);
    }
    if letters.is_empty() {
        screen.result("there are no dead letters");
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[
        ("id", Fit::Right),
        ("time", Fit::Left),
        ("queue", Fit::Left),
        ("job", Fit::Shrink),
        ("task", Fit::Left),
        ("reason", Fit::Shrink),
    ]);
    for letter in &letters {
        let about = About::of(letter);
        let (job, task) = (about.job.unwrap_or_default(), about.task.unwrap_or_default());
        table.row([letter.id.to_string(), instant(letter.at), letter.queue.clone(), job, task, letter.reason.clone()]);
    }
    screen.result(&table.render(screen.width));
    Ok(Exit::Done)
}

async fn show(screen: &Screen, backend: &Backend, args: &DlqShowArgs) -> Result<Exit, Failure> {
    let letter = one(backend, args.id).await?;
    let body: Result<Value, _> = serde_json::from_slice(&letter.body);
    if args.output.json {
        let mut whole = heading(&letter);
        whole["body"] = body.unwrap_or_else(|_| String::from_utf8_lossy(&letter.body).into_owned().into());
        screen.result(&whole.to_string());
        return Ok(Exit::Done);
    }
    let about = About::of(&letter);
    let mut pairs = vec![
        ("letter", letter.id.to_string()),
        ("time", letter.at.to_string()),
        ("queue", letter.queue.clone()),
        ("reason", letter.reason.clone()),
        ("message", letter.dedupe.clone()),
        ("bytes", letter.body.len().to_string()),
    ];
    pairs.extend(about.job.map(|job| ("job", job)));
    pairs.extend(about.task.map(|task| ("task", task)));
    pairs.extend(about.attempt.map(|attempt| ("attempt", attempt.to_string())));
    let text = match body.ok().and_then(|body| serde_json::to_string_pretty(&body).ok()) {
        Some(pretty) => pretty,
        None => String::from_utf8_lossy(&letter.body).into_owned(),
    };
    let shown: String = text.chars().take(MAX_SHOWN).collect();
    screen.result(&format!("{}\n\n{shown}", facts(&pairs, screen.width)));
    if shown.len() < text.len() {
        screen.note("the rest is left out; --json shows all of it");
    }
    Ok(Exit::Done)
}

/// What became of one letter.
enum Replayed {
    /// It is on its way, and so this is said.
    Sent(String),
    /// The task cannot be given new attempts; the letter stays.
    Kept(String),
}

async fn replay(
    screen: &Screen,
    backend: &Backend,
    instance: &InstanceId,
    args: &DlqSelection,
) -> Result<Exit, Failure> {
    let letters = selected(backend, args).await?;
    let mut revived: HashSet<(JobId, TaskId)> = HashSet::new();
    let mut exit = Exit::Done;
    for letter in letters {
        let replayed = match task_of(backend, &letter) {
            Some(message) => {
                let key = (message.job.clone(), message.task.clone());
                if revived.contains(&key) {
                    Replayed::Sent(format!("task {} of job {} has its new attempts already", key.1, key.0))
                } else {
                    let replayed = revive(backend, instance, &message).await?;
                    if matches!(replayed, Replayed::Sent(_)) {
                        revived.insert(key);
                    }
                    replayed
                }
            }
            None => put_back(backend, &letter).await?,
        };
        match replayed {
            Replayed::Sent(text) => {
                backend.broker.purge_dead_letters(&[letter.id]).await?;
                screen.result(&format!("letter {}: {text}", letter.id));
            }
            Replayed::Kept(why) => {
                exit = Exit::Error;
                screen.error(&format!("letter {} stays: {why}", letter.id));
            }
        }
    }
    Ok(exit)
}

/// The task a letter is about, if it is a task's message that a worker could read.
fn task_of(backend: &Backend, letter: &DeadLetter) -> Option<TaskMessage> {
    if !letter.queue.starts_with("task.") {
        return None;
    }
    let envelope = validate::decode_envelope::<TaskMessage>(&letter.body, backend.clock.now()).ok()?;
    validate::task_message(&envelope.payload).ok()?;
    Some(envelope.payload)
}

/// Gives a task new attempts, and lets its job go on if that had ended.
async fn revive(backend: &Backend, instance: &InstanceId, message: &TaskMessage) -> Result<Replayed, Failure> {
    let (job, task) = (&message.job, &message.task);
    let mut watched = Watched::load(backend, job).await?;
    if watched.seq() == 0 {
        return Ok(Replayed::Kept(format!("its job {job} does not exist; `codeswarm dlq purge` removes the letter")));
    }
    let had_ended = match watched.job.status() {
        JobStatus::Ended(JobOutcome::Completed) => {
            return Ok(Replayed::Kept(format!("its job {job} is completed; `codeswarm dlq purge` removes the letter")));
        }
        status => matches!(status, JobStatus::Ended(_)),
    };
    let reply = match control::request(backend, instance, &mut watched, Asked::retry(task.clone())).await {
        Ok(reply) => reply,
        // A task that is at work, or done, needs no new attempt.
        Err(refused) => return Ok(Replayed::Kept(first_line(&refused.report()))),
    };
    if had_ended {
        control::request(backend, instance, &mut watched, Asked::resume()).await?;
    }
    Ok(Replayed::Sent(match reply {
        Reply::Recorded => format!("task {task} gets new attempts as soon as somebody leads job {job}"),
        _ => format!("task {task} of job {job} gets new attempts"),
    }))
}

/// Puts a message that is no readable task back where it came from, as a new one.
async fn put_back(backend: &Backend, letter: &DeadLetter) -> Result<Replayed, Failure> {
    let Some(queue) = queue_of(&letter.queue) else {
        return Ok(Replayed::Kept(format!("there is no queue {:?} any more", letter.queue)));
    };
    let dedupe = format!("replay:{}", clock::unique_id());
    backend.broker.publish(vec![Outgoing { queue, dedupe, body: letter.body.clone() }]).await?;
    Ok(Replayed::Sent(format!("back in queue {} as it was", letter.queue)))
}

/// The queue that prints as `name`.
fn queue_of(name: &str) -> Option<Queue> {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        ["task", agent, priority] => Some(Queue::Task {
            agent: AgentType::new(agent).ok()?,
            priority: *Priority::ALL.iter().find(|known| known.as_str() == *priority)?,
        }),
        ["result", shard] => Some(Queue::Result { shard: shard.parse().ok()? }),
        ["command", shard] => Some(Queue::Command { shard: shard.parse().ok()? }),
        _ => None,
    }
}

async fn purge(screen: &Screen, backend: &Backend, args: &DlqPurgeArgs) -> Result<Exit, Failure> {
    let letters = selected(backend, &args.letters).await?;
    if letters.is_empty() {
        screen.result("there are no dead letters");
        return Ok(Exit::Done);
    }
    if !args.yes {
        let question = format!("remove {} dead letters for good", letters.len());
        if !screen.interactive {
            let remedy = "add --yes to remove them without being asked";
            return Err(Failure::usage("CS-CLI-001", format!("{question}: nobody can be asked here"), remedy));
        }
        screen.note(&format!("{question}? [y/N]"));
        if plan::read_line().await? != Answer::Yes {
            screen.note("nothing is removed");
            return Ok(Exit::Cancelled);
        }
    }
    let ids: Vec<u64> = letters.iter().map(|letter| letter.id).collect();
    let removed = backend.broker.purge_dead_letters(&ids).await?;
    screen.result(&format!("{removed} dead letters removed"));
    Ok(Exit::Done)
}

/// The letters that were asked for; a number without a letter is a failure before anything is done.
async fn selected(backend: &Backend, args: &DlqSelection) -> Result<Vec<DeadLetter>, Failure> {
    if args.all {
        return Ok(read(backend, usize::MAX).await?);
    }
    let mut letters = Vec::with_capacity(args.ids.len());
    for id in &args.ids {
        letters.push(one(backend, *id).await?);
    }
    Ok(letters)
}

async fn one(backend: &Backend, id: u64) -> Result<DeadLetter, Failure> {
    let found = match id.checked_sub(1) {
        Some(before) => backend.broker.dead_letters(before, 1).await?.pop(),
        None => None,
    };
    found.filter(|letter| letter.id == id).ok_or_else(|| {
        let what = format!("there is no dead letter {id}");
        Failure::usage("CS-CLI-029", what, "`codeswarm dlq list` shows the letters there are")
    })
}

/// The oldest letters, at most `limit`.
async fn read(backend: &Backend, limit: usize) -> Result<Vec<DeadLetter>, BackendError> {
    let mut letters: Vec<DeadLetter> = Vec::new();
    while letters.len() < limit {
        let after = letters.last().map_or(0, |letter| letter.id);
        let page = backend.broker.dead_letters(after, PAGE.min(limit - letters.len())).await?;
        if page.is_empty() {
            break;
        }
        letters.extend(page);
    }
    Ok(letters)
}

/// What a letter is about, as far as its body can be read.
#[derive(Default)]
struct About {
    job: Option<String>,
    task: Option<String>,
    attempt: Option<u64>,
}

impl About {
    fn of(letter: &DeadLetter) -> Self {
        let Ok(body) = serde_json::from_slice::<Value>(&letter.body) else { return Self::default() };
        let payload = &body["payload"];
        let text = |key: &str| payload[key].as_str().map(|text| text.chars().take(200).collect());
        Self { job: text("job"), task: text("task"), attempt: payload["attempt"].as_u64() }
    }
}

fn heading(letter: &DeadLetter) -> Value {
    let about = About::of(letter);
    json!({
        "id": letter.id,
        "at": letter.at.to_string(),
        "queue": letter.queue,
        "job": about.job,
        "task": about.task,
        "attempt": about.attempt,
        "reason": letter.reason,
        "message": letter.dedupe,
        "bytes": letter.body.len(),
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_read_as_they_are_printed() {
        for agent in ["backend", "my-own"] {
            for priority in Priority::ALL {
                let queue = Queue::Task { agent: AgentType::new(agent).unwrap(), priority };
                assert_eq!(queue_of(&queue.to_string()), Some(queue));
            }
        }
        assert_eq!(queue_of("result.0"), Some(Queue::Result { shard: 0 }));
        assert_eq!(queue_of("command.7"), Some(Queue::Command { shard: 7 }));
        for wrong in ["", "task", "task.backend", "task.backend.urgent", "task.Back End.low", "result.x", "result.0.1"]
        {
            assert_eq!(queue_of(wrong), None, "{wrong}");
        }
    }
}
