//! Figures about the stores that only one process should tell: queues, dead letters, the account's money.
//!
//! The leader tells them; every other process shows zeros, so that sums and maxima over all processes are right. Asking is
//! a task of its own beside the leader's loop and must never make it wait.

use std::time::Duration;

use crate::backend::{Backend, BackendError, Queue, Scope};
use crate::coordinator;
use crate::metric;
use crate::protocol::{AgentType, InstanceId, Priority};

/// How often the stores are asked.
const INTERVAL: Duration = Duration::from_secs(5);

/// Rounds after which dead letters are counted anew: that reads them.
const LETTERS_EVERY: u64 = 6;

/// Most dead letters counted.
const MOST_LETTERS: usize = 1_000;

/// Tells the figures while `instance` leads; `agents` are the types whose queues are looked at. Never ends.
pub async fn watch_stores(backend: Backend, instance: InstanceId, agents: Vec<AgentType>) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut round = 0;
    let mut told = false;
    loop {
        tick.tick().await;
        let leads = match coordinator::leader(&backend).await {
            Ok(leader) => leader.is_some_and(|leader| leader == instance.as_str()),
            // Whoever leads goes on leading while the stores are away; the figures stay as they are.
            Err(_) => continue,
        };
        if leads {
            if let Err(error) = tell(&backend, &agents, round % LETTERS_EVERY == 0).await {
                metric::store_failed(error.store());
                tracing::debug!(%error, "queues cannot be looked at");
            }
            round += 1;
        } else if told {
            tell_nothing(&agents);
            round = 0;
        }
        told = leads;
    }
}

async fn tell(backend: &Backend, agents: &[AgentType], with_letters: bool) -> Result<(), BackendError> {
    let of = |agent: &AgentType| Priority::ALL.map(|priority| Queue::Task { agent: agent.clone(), priority });
    let queues: Vec<Queue> = agents.iter().flat_map(of).collect();
    for (queue, depth) in queues.iter().zip(backend.broker.depths(&queues).await?) {
        if let Queue::Task { agent, priority } = queue {
            metric::queue_depth(agent.as_str(), priority.as_str(), depth.waiting, depth.in_flight);
        }
    }
    let balance = backend.ledger.balance(&Scope::Account).await?;
    metric::account(balance.limit.map(|limit| limit.0), balance.spent.0, balance.reserved.0, balance.frozen);
    if with_letters {
        metric::dead_letters(backend.broker.dead_letters(0, MOST_LETTERS).await?.len() as u64);
    }
    Ok(())
}

/// Another process tells them now.
fn tell_nothing(agents: &[AgentType]) {
    for agent in agents {
        for priority in Priority::ALL {
            metric::queue_depth(agent.as_str(), priority.as_str(), 0, 0);
        }
    }
    metric::account(Some(0), 0, 0, false);
    metric::dead_letters(0);
}
