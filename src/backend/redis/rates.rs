//! [`RateTable`] on hashes: the meters and the breaker of each provider and model.
//!
//! | Key below `<namespace>:{rates}:` | What |
//! |---|---|
//! | `bank:<key>` | hash: window, pause; per meter its limits, level, when that was true, and slices `number=amount` |
//! | `gate:<key>` | hash: open until, how often, failures in a row, slices `number=well,badly`, trials `id=end`, passed |
//! | `keys` | set of all keys |
//!
//! The arithmetic of `backend::rates` is repeated in Lua, because only a script is atomic here; the conformance suite
//! compares the two step by step. A lost answer is asked for again and may count twice, which the trait allows. Nothing
//! here is money, so a server that has forgotten it only costs rejected calls.

use std::time::Duration;

use async_trait::async_trait;
use redis::Value;

use super::Store;
use super::fault::unexpected;
use super::reply::{Reply, parsed};
use super::script::{RATES_GATE, RATES_LIST, RATES_TAKE, lease_millis, millis};
use crate::backend::rates::{check_key, check_step};
use crate::backend::{
    Amounts, BackendError, GatePolicy, GateStep, GateView, Limits, RateState, RateTable, Take, Taken,
};

/// A number, or nothing.
fn optional(number: Option<u64>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

fn wait(reply: &mut Reply) -> Result<Duration, BackendError> {
    Ok(Duration::from_millis(reply.number()?))
}

fn view(reply: &mut Reply) -> Result<GateView, BackendError> {
    let (state, wait, clean) = (reply.text()?, wait(reply)?, reply.number()? == 1);
    match state.as_str() {
        "closed" => Ok(GateView::Closed { clean }),
        "open" => Ok(GateView::Open { wait }),
        "half-open" => Ok(GateView::HalfOpen { wait }),
        "trial" => Ok(GateView::Trial),
        _ => Err(unexpected(&Value::SimpleString(state))),
    }
}

fn state(value: Value) -> Result<RateState, BackendError> {
    let mut reply = Reply::of(value)?;
    let (key, paused) = (reply.text()?, wait(&mut reply)?);
    let mut meters = [None; 3];
    for meter in &mut meters {
        let (limit, rest) = (reply.text()?, reply.text()?);
        if !limit.is_empty() {
            *meter = Some((parsed(&limit)?, parsed(&rest)?));
        }
    }
    Ok(RateState { key, meters, paused, gate: view(&mut reply)? })
}

#[async_trait]
impl RateTable for Store {
    async fn take(&self, key: &str, limits: &Limits, take: Take) -> Result<Taken, BackendError> {
        check_key(key)?;
        let headroom = take.headroom.unwrap_or_default();
        let mut call = self.call(&RATES_TAKE, &self.space.rates);
        call.arg(key).arg(lease_millis(limits.window)).arg(limits.burst_percent).arg(u8::from(limits.sliding));
        call.arg(millis(headroom.age)).arg(optional(headroom.pause.map(millis)));
        for meter in 0..3 {
            let reading = headroom.readings[meter];
            call.arg(optional(limits.per_window[meter])).arg(take.need.by_meter()[meter]);
            call.arg(take.want.by_meter()[meter]).arg(take.correction[meter]);
            call.arg(optional(reading.map(|reading| reading.limit)));
            call.arg(optional(reading.map(|reading| reading.remaining)));
        }
        let mut reply = Reply::of(self.links.ask(call).await?)?;
        let outcome = reply.text()?;
        match outcome.as_str() {
            "granted" => {
                let limited = reply.number()? == 1;
                let amounts = Amounts::of_meters([reply.number()?, reply.number()?, reply.number()?]);
                Ok(Taken::Granted { amounts, limited })
            }
            "wait" => Ok(Taken::Wait(wait(&mut reply)?)),
            _ => Err(unexpected(&Value::SimpleString(outcome))),
        }
    }

    async fn gate(&self, key: &str, policy: &GatePolicy, step: GateStep) -> Result<GateView, BackendError> {
        check_key(key)?;
        check_step(&step)?;
        let (name, trial, succeeded, failed) = match step {
            GateStep::Look => ("look", String::new(), 0, 0),
            GateStep::Enter { id } => ("enter", id, 0, 0),
            GateStep::Renew { id } => ("renew", id, 0, 0),
            GateStep::Report { succeeded, failed, trial } => ("report", trial.unwrap_or_default(), succeeded, failed),
        };
        let mut call = self.call(&RATES_GATE, &self.space.rates);
        call.arg(key).arg(name).arg(trial).arg(succeeded).arg(failed);
        call.arg(policy.consecutive).arg(policy.ratio_percent).arg(policy.least_calls);
        call.arg(lease_millis(policy.window)).arg(millis(policy.open)).arg(millis(policy.longest_open));
        call.arg(policy.trials).arg(millis(policy.trial_lease));
        view(&mut Reply::of(self.links.ask(call).await?)?)
    }

    async fn list(&self) -> Result<Vec<RateState>, BackendError> {
        let call = self.call(&RATES_LIST, &self.space.rates);
        let found = Reply::of(self.links.ask(call).await?)?;
        let mut all: Vec<RateState> = found.rest().map(state).collect::<Result<_, _>>()?;
        // The server keeps no order.
        all.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(all)
    }
}
