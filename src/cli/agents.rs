//! `codeswarm agents`: the workers of the fleet, as they announced themselves.
//!
//! A card without a living process is one of a worker that died; it is shown only when asked for. Reading never removes one.

use serde_json::json;

use super::args::{AgentsArgs, Common};
use super::screen::Screen;
use super::table::{Fit, Table};
use super::words::{ago, instant};
use super::{Exit, Failure, opened};
use crate::backend::{Backend, BackendError, presence};
use crate::coordinator;
use crate::protocol::AgentType;
use crate::worker::{CARD_PREFIX, WorkerCard};

/// A worker and whether its process lives.
struct Seen {
    card: WorkerCard,
    alive: bool,
}

pub(super) async fn run(screen: &Screen, common: &Common, args: AgentsArgs) -> Result<Exit, Failure> {
    let (backend, _) = opened::open_existing(common, "agents").await?;
    let seen = workers(&backend).await?;
    let leader = coordinator::leader(&backend).await?;
    let shown: Vec<&Seen> = seen.iter().filter(|worker| args.all || worker.alive).collect();
    if args.output.json {
        let workers: Vec<_> = shown.iter().map(|worker| as_json(worker)).collect();
        screen.result(&json!({"leader": leader, "workers": workers}).to_string());
        return Ok(Exit::Done);
    }
    if shown.is_empty() {
        screen.result("no worker is there: start one with codeswarm-worker --all, or a job with `codeswarm run`");
    } else {
        screen.result(&table(&shown, backend.clock.now()).render(screen.width));
    }
    let dead = seen.len() - seen.iter().filter(|worker| worker.alive).count();
    if dead > 0 && !args.all {
        screen.note(&format!("{dead} workers that died are not shown; add --all"));
    }
    screen.note(&leader.map_or_else(|| "no coordinator leads".to_owned(), |leader| format!("{leader} leads")));
    Ok(Exit::Done)
}

/// Every worker that has a card, oldest first.
async fn workers(backend: &Backend) -> Result<Vec<Seen>, BackendError> {
    let cards = backend.state.snapshot(CARD_PREFIX).await?;
    let values = cards.entries.into_iter().filter_map(|entry| entry.value);
    // What is no card is somebody else's; the leader warns of it.
    let cards: Vec<WorkerCard> = values.filter_map(|value| serde_json::from_slice(&value).ok()).collect();
    let keys: Vec<String> = cards.iter().map(|card| presence::key(&card.instance)).collect();
    let found = backend.state.get(&keys).await?;
    let is_dead = |entry: Option<crate::backend::Versioned>| {
        entry.and_then(|entry| entry.value).is_some_and(|value| presence::is_dead(&value))
    };
    let mut seen: Vec<Seen> =
        cards.into_iter().zip(found).map(|(card, entry)| Seen { card, alive: !is_dead(entry) }).collect();
    seen.sort_by(|a, b| (a.card.since, &a.card.instance).cmp(&(b.card.since, &b.card.instance)));
    Ok(seen)
}

fn as_json(worker: &Seen) -> serde_json::Value {
    json!({
        "instance": worker.card.instance,
        "agent_types": worker.card.agents,
        "slots": worker.card.slots,
        "since": worker.card.since.to_string(),
        "state": state(worker),
    })
}

const fn state(worker: &Seen) -> &'static str {
    if worker.alive { "alive" } else { "dead" }
}

fn table(shown: &[&Seen], now: crate::clock::Timestamp) -> Table {
    let mut table = Table::new(&[
        ("instance", Fit::Left),
        ("state", Fit::Left),
        ("slots", Fit::Right),
        ("since", Fit::Left),
        ("agent types", Fit::Shrink),
    ]);
    for worker in shown {
        let card = &worker.card;
        let since = format!("{} ({})", instant(card.since), ago(card.since, now));
        let types = card.agents.iter().map(AgentType::as_str).collect::<Vec<_>>().join(", ");
        table.row([card.instance.to_string(), state(worker).to_owned(), card.slots.to_string(), since, types]);
    }
    table
}
