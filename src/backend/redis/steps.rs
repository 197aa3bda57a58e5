//! Steps of the money, one script for all callers of this process that wait at the same time.
//!
//! A script costs the server far more than one more step within it: finding the scopes, which those callers share, and
//! writing them down. So while one script is under way, whoever comes gathers, and the next script serves all of them; a
//! caller who is alone asks at once and by itself. Nobody may ever wait for company, and no caller's step may be lost or
//! answered because of another's: each is idempotent by its id, so a script that is repeated does nothing twice.

use std::sync::{Arc, Weak};

use redis::{ScriptInvocation, Value};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::Store;
use super::fault::unexpected;
use super::reply::Reply;
use super::script::LEDGER_STEPS;
use crate::backend::BackendError;

/// Most steps of one script: one or two milliseconds of the server's time.
const MOST_STEPS: usize = 64;

/// Steps that may gather; callers wait for a place beyond that.
const GATHERING: usize = 4_096;

/// What one step is called and needs, in the order in which the script reads it.
pub(super) type Step = Vec<String>;

type Answer = Result<Value, BackendError>;

/// A step and who waits for its answer.
struct Order {
    step: Step,
    answer: oneshot::Sender<Answer>,
}

/// Where steps go.
pub(super) struct Steps {
    orders: mpsc::Sender<Order>,
    /// Held while a script is under way.
    turn: Arc<Semaphore>,
}

/// The other end of [`Steps`], to be served by [`run`].
pub(super) struct Gathered {
    orders: mpsc::Receiver<Order>,
    turn: Arc<Semaphore>,
}

impl Steps {
    /// Both ends.
    pub(super) fn new() -> (Self, Gathered) {
        let (sender, orders) = mpsc::channel(GATHERING);
        let turn = Arc::new(Semaphore::new(1));
        (Self { orders: sender, turn: Arc::clone(&turn) }, Gathered { orders, turn })
    }
}

impl Store {
    /// Makes one step and answers what the script says to it.
    pub(super) async fn step(&self, step: Step) -> Result<Reply, BackendError> {
        let answer = if let Ok(_turn) = self.steps.turn.try_acquire() {
            self.make(&[step.as_slice()]).await?.pop()
        } else {
            Some(self.gather(step).await?)
        };
        Reply::of(answer.ok_or_else(|| unexpected(&Value::Nil))?)
    }

    /// Waits with others for the script that is under way, and then for that which makes their steps.
    async fn gather(&self, step: Step) -> Result<Value, BackendError> {
        let (answer, outcome) = oneshot::channel();
        let waiting = async {
            self.steps.orders.send(Order { step, answer }).await.ok()?;
            outcome.await.ok()
        };
        // No longer than for a script of its own. A step whose caller is gone is not made if it has not begun.
        match timeout(self.links.patience(), waiting).await {
            Ok(Some(answer)) => answer,
            _ => Err(self.links.silent()),
        }
    }

    /// Makes steps in one script; as many answers as steps.
    async fn make(&self, steps: &[&[String]]) -> Result<Vec<Value>, BackendError> {
        let fill = |call: &mut ScriptInvocation<'static>| {
            for step in steps {
                call.arg(step);
            }
        };
        let answers: Vec<Value> = Reply::of(self.ledger_script(&LEDGER_STEPS, fill).await?)?.rest().collect();
        if answers.len() == steps.len() { Ok(answers) } else { Err(unexpected(&Value::Array(answers))) }
    }
}

/// Makes the steps that gather, until the stores are dropped.
pub(super) async fn run(store: Weak<Store>, gathered: Gathered) {
    let Gathered { mut orders, turn } = gathered;
    let mut gathered = Vec::with_capacity(MOST_STEPS);
    while orders.recv_many(&mut gathered, MOST_STEPS).await > 0 {
        // Never closed.
        let Ok(_turn) = turn.acquire().await else { return };
        while gathered.len() < MOST_STEPS
            && let Ok(order) = orders.try_recv()
        {
            gathered.push(order);
        }
        gathered.retain(|order| !order.answer.is_closed());
        let Some(store) = store.upgrade() else { return };
        let steps: Vec<&[String]> = gathered.iter().map(|order| order.step.as_slice()).collect();
        if steps.is_empty() {
            continue;
        }
        let answers: Vec<Answer> = match store.make(&steps).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); gathered.len()],
        };
        for (order, answer) in gathered.drain(..).zip(answers) {
            // Whoever no longer waits asks again under the same id, or has its lease decide.
            let _ = order.answer.send(answer);
        }
    }
}
