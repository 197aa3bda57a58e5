//! Steps of the money, one script for all callers of this process that wait at the same time.
//!
//! A script costs the server far more than one more step within it: finding the scopes, which those callers share, and
//! writing them down. So while a script is under way, whoever comes gathers, and the next script serves all of them; a
//! caller who is alone asks at once and by itself. When enough have gathered to be worth a script of their own, it follows
//! the one that is under way without waiting for its answers, so that the server works while this process does, and both
//! share the server's flush. Nobody may ever wait for company, and no
//! caller's step may be lost or answered because of another's: each is idempotent by its id, so a script that is repeated
//! does nothing twice. Steps are made in the order in which they came.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;

use redis::{ScriptInvocation, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::unconstrained;
use tokio::time::timeout;

use super::Store;
use super::fault::unexpected;
use super::reply::Reply;
use super::script::LEDGER_STEPS;
use crate::backend::BackendError;

/// Most steps of one script: one or two milliseconds of the server's time.
const MOST_STEPS: usize = 64;

/// Steps that are worth a script while another one is under way: with fewer the server spends more on scripts, with many more
/// it waits for this process between them (`benches/budget.rs`, 10 to 250 callers).
const ENOUGH_STEPS: usize = 8;

/// How often in a row nobody may come while those who have just been answered are let go first.
const IDLE_TURNS: u32 = 2;

/// Most scripts under way at once; together they hold as many steps as a process has calls at most, by default.
const MOST_SCRIPTS: u32 = 4;

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
    /// One per script that may be under way.
    ways: Arc<Semaphore>,
    /// How many wait: while anybody does, nobody goes first.
    waiting: AtomicUsize,
}

/// One who waits.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn of(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The other end of [`Steps`], to be served by [`run`].
pub(super) struct Gathered {
    orders: mpsc::Receiver<Order>,
    ways: Arc<Semaphore>,
}

impl Steps {
    /// Both ends.
    pub(super) fn new() -> (Self, Gathered) {
        let (sender, orders) = mpsc::channel(GATHERING);
        let ways = Arc::new(Semaphore::new(MOST_SCRIPTS as usize));
        (Self { orders: sender, ways: Arc::clone(&ways), waiting: AtomicUsize::new(0) }, Gathered { orders, ways })
    }
}

impl Store {
    /// Makes one step and answers what the script says to it.
    pub(super) async fn step(&self, step: Step) -> Result<Reply, BackendError> {
        let answer = if self.steps.waiting.load(Ordering::Relaxed) == 0
            && let Ok(all) = Arc::clone(&self.steps.ways).try_acquire_many_owned(MOST_SCRIPTS)
        {
            let _way = one_of(all);
            self.make(&[step.as_slice()]).await?.pop()
        } else {
            Some(self.gather(step).await?)
        };
        Reply::of(answer.ok_or_else(|| unexpected(&Value::Nil))?)
    }

    /// Waits with others for the script that is under way, and then for that which makes their steps.
    async fn gather(&self, step: Step) -> Result<Value, BackendError> {
        let _waiter = Waiter::of(&self.steps.waiting);
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

    /// Makes each step in a script of its own.
    async fn make_each(&self, steps: &[&[String]]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(steps.len());
        for step in steps {
            let answer = self.make(&[step]).await;
            answers.push(answer.and_then(|mut answer| answer.pop().ok_or_else(|| unexpected(&Value::Nil))));
        }
        answers
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

/// Keeps one way of all.
fn one_of(mut all: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
    all.split(1)
}

/// Makes the steps that gather, until the stores are dropped.
pub(super) async fn run(store: Weak<Store>, gathered: Gathered) {
    let Gathered { mut orders, ways } = gathered;
    loop {
        let mut batch = Vec::with_capacity(MOST_STEPS);
        if orders.recv_many(&mut batch, MOST_STEPS).await == 0 {
            return;
        }
        let Some(way) = fill(&mut batch, &mut orders, &ways).await else { return };
        let Some(store) = store.upgrade() else { return };
        // What is polled here first is sent here: tasks begin in any order, but scripts have to arrive in that of their steps.
        let mut making = Box::pin(unconstrained(make_all(store, batch, way)));
        if poll_fn(|context| Poll::Ready(making.as_mut().poll(context))).await.is_pending() {
            tokio::spawn(making);
        }
    }
}

/// Waits until a script may go: a large one as soon as there is a way, any other one once none is under way.
async fn fill(
    batch: &mut Vec<Order>,
    orders: &mut mpsc::Receiver<Order>,
    ways: &Arc<Semaphore>,
) -> Option<OwnedSemaphorePermit> {
    let mut none_under_way = pin!(Arc::clone(ways).acquire_many_owned(MOST_SCRIPTS));
    while batch.len() < ENOUGH_STEPS {
        let room = MOST_STEPS - batch.len();
        tokio::select! {
            biased;
            all = &mut none_under_way => {
                let way = one_of(all.ok()?);
                top_up(batch, orders).await;
                return way;
            }
            count = orders.recv_many(batch, room) => if count == 0 { break },
        }
    }
    none_under_way.set(Arc::clone(ways).acquire_many_owned(1));
    let way = none_under_way.await.ok();
    take_gathered(batch, orders);
    way
}

/// Takes those who come at once: whoever has just been answered often comes with the next step.
async fn top_up(batch: &mut Vec<Order>, orders: &mut mpsc::Receiver<Order>) {
    let mut idle_turns = 0;
    while idle_turns < IDLE_TURNS && batch.len() < MOST_STEPS {
        tokio::task::yield_now().await;
        let before = batch.len();
        take_gathered(batch, orders);
        idle_turns = if batch.len() == before { idle_turns + 1 } else { 0 };
    }
}

/// Takes those who have come, as many as a script may serve.
fn take_gathered(batch: &mut Vec<Order>, orders: &mut mpsc::Receiver<Order>) {
    while batch.len() < MOST_STEPS
        && let Ok(order) = orders.try_recv()
    {
        batch.push(order);
    }
}

async fn make_all(store: Arc<Store>, mut batch: Vec<Order>, _way: OwnedSemaphorePermit) {
    batch.retain(|order| !order.answer.is_closed());
    if batch.is_empty() {
        return;
    }
    let steps: Vec<&[String]> = batch.iter().map(|order| order.step.as_slice()).collect();
    let answers: Vec<Answer> = match store.make(&steps).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        // What is damaged may be what one of them is about, and the script has made none.
        Err(BackendError::Corrupt { .. }) if steps.len() > 1 => store.make_each(&steps).await,
        Err(error) => vec![Err(error); steps.len()],
    };
    for (order, answer) in batch.into_iter().zip(answers) {
        // Whoever no longer waits asks again under the same id, or has its lease decide.
        let _ = order.answer.send(answer);
    }
}
