//! [`RateTable`] as one row per provider and model.
//!
//! A step reads the row, lets the shared arithmetic make it, and writes the row back if it has changed, all inside the
//! group commit: atomic, and about as cheap as a look. Nothing is flushed, because nothing here is worth a flush. A row
//! that cannot be read (another program version) is started anew: the state is a hint.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Store;
use super::fault::Halt;
use super::sql::statement;
use crate::backend::rates::gate::Gate;
use crate::backend::rates::meter::Bank;
use crate::backend::rates::{check_key, check_step};
use crate::backend::{BackendError, GatePolicy, GateStep, GateView, Limits, RateState, RateTable, Take, Taken};

const SQL: &str = include_str!("sql/rates.sql");

/// A state out of its column; anything unreadable is the state of a new key.
fn decode<T: DeserializeOwned + Default>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_default()
}

/// Makes one step on the state in a column.
fn step<T, A>(
    db: &Connection,
    (read, keep): (&str, &str),
    key: &str,
    change: impl FnOnce(&mut T) -> A,
) -> Result<A, Halt>
where
    T: DeserializeOwned + Serialize + Default + Clone + PartialEq,
{
    let found: Option<String> = db.prepare_cached(read)?.query_row([key], |row| row.get(0)).optional()?;
    let mut state: T = found.as_deref().map(decode).unwrap_or_default();
    let before = state.clone();
    let answer = change(&mut state);
    if state != before {
        let text = serde_json::to_string(&state)
            .map_err(|error| BackendError::Invalid { field: "rate state", why: error.to_string() })?;
        db.prepare_cached(keep)?.execute(params![key, text])?;
    }
    Ok(answer)
}

#[async_trait]
impl RateTable for Store {
    async fn take(&self, key: &str, limits: &Limits, take: Take) -> Result<Taken, BackendError> {
        const STATEMENTS: (&str, &str) = (statement(SQL, "bank"), statement(SQL, "keep bank"));
        check_key(key)?;
        let (key, limits) = (key.to_owned(), *limits);
        self.inbox
            .write(move |work| {
                let now = work.now;
                step(work.db, STATEMENTS, &key, |bank: &mut Bank| bank.take(now, &limits, &take))
            })
            .await
    }

    async fn gate(&self, key: &str, policy: &GatePolicy, change: GateStep) -> Result<GateView, BackendError> {
        const STATEMENTS: (&str, &str) = (statement(SQL, "gate"), statement(SQL, "keep gate"));
        check_key(key)?;
        check_step(&change)?;
        let (key, policy) = (key.to_owned(), *policy);
        if change == GateStep::Look {
            let now = self.clock.now();
            return self
                .reader
                .read(move |db| step(db, STATEMENTS, &key, |gate: &mut Gate| gate.view(now, &policy)))
                .await;
        }
        self.inbox
            .write(move |work| {
                let now = work.now;
                step(work.db, STATEMENTS, &key, |gate: &mut Gate| gate.step(now, &policy, &change))
            })
            .await
    }

    async fn list(&self) -> Result<Vec<RateState>, BackendError> {
        const LIST: &str = statement(SQL, "list");
        let now = self.clock.now();
        self.reader
            .read(move |db| {
                let mut list = db.prepare_cached(LIST)?;
                let rows = list.query_map([], |row| {
                    let (bank, gate): (String, String) = (row.get(1)?, row.get(2)?);
                    Ok(RateState::of(row.get(0)?, &decode::<Bank>(&bank), &decode::<Gate>(&gate), now))
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }
}
