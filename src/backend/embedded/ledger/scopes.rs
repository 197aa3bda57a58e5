//! Budget scopes during one transaction: read once, changed in memory, written back once.
//!
//! A full group commit holds hundreds of operations on the same two scopes; without this each would rewrite both rows.
//! The cache never outlives its transaction, so another process's changes cannot be missed. Only what is written here
//! may change a scope, and every change keeps `spent + reserved ≤ ceiling + overdraft`, which the table checks again.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::backend::embedded::column::{loaded, stored};
use crate::backend::embedded::sql::statement;
use crate::backend::{Balance, Scope};
use crate::protocol::MicroUsd;

const SQL: &str = include_str!("../sql/ledger.sql");

/// One scope.
#[derive(Debug, Clone, Default)]
pub(in crate::backend::embedded) struct ScopeRow {
    pub(super) balance: Balance,
    /// How far past the limit a recorded overrun or a lowered limit has gone.
    overdraft: u64,
    changed: bool,
}

impl ScopeRow {
    /// The same counters under the limit of `policy`, if there is one.
    pub(super) fn under(mut self, policy: Option<Balance>) -> Self {
        if let Some(policy) = policy {
            self.balance = Balance { spent: self.balance.spent, reserved: self.balance.reserved, ..policy };
        }
        self
    }

    /// What a reservation could get; `None` without a limit.
    pub(super) fn available(&self, may_use_hold_back: bool) -> Option<MicroUsd> {
        let mut balance = self.balance;
        if may_use_hold_back {
            balance.hold_back = MicroUsd::ZERO;
        }
        balance.available()
    }

    /// Sets `amount` aside; the caller has checked that it fits.
    pub(super) fn set_aside(&mut self, amount: u64) {
        self.balance.reserved = self.balance.reserved.saturating_add(MicroUsd(amount));
        self.changed = true;
    }

    /// Takes `aside` out of what is set aside and `refund` out of what is spent, and charges `charge`. Past the limit,
    /// only an `overrun` is allowed to lead, and it freezes the scope unless it is a window: tomorrow's is another one.
    pub(super) fn charge(&mut self, aside: u64, refund: u64, charge: u64, overrun: bool, is_window: bool) {
        let balance = &mut self.balance;
        balance.reserved = balance.reserved.saturating_sub(MicroUsd(aside));
        balance.spent = balance.spent.saturating_sub(MicroUsd(refund)).saturating_add(MicroUsd(charge));
        balance.frozen |= overrun && !is_window;
        if overrun {
            self.excuse();
        }
        self.overdraft = self.overdraft.min(self.excess());
        self.changed = true;
    }

    /// Applies a person's decision.
    pub(super) fn adjust(&mut self, change: impl FnOnce(&mut Balance)) {
        change(&mut self.balance);
        self.excuse();
        self.changed = true;
    }

    /// Whether `charge` more would lead past the limit.
    pub(super) fn would_exceed(&self, charge: u64) -> bool {
        self.balance.limit.is_some_and(|limit| self.committed().saturating_add(charge) > limit.0)
    }

    fn committed(&self) -> u64 {
        self.balance.spent.saturating_add(self.balance.reserved).0
    }

    fn excess(&self) -> u64 {
        self.balance.limit.map_or(0, |limit| self.committed().saturating_sub(limit.0))
    }

    fn excuse(&mut self) {
        self.overdraft = self.excess();
    }
}

/// The scopes of one transaction.
#[derive(Debug, Default)]
pub(in crate::backend::embedded) struct ScopeCache {
    rows: HashMap<String, ScopeRow>,
}

impl ScopeCache {
    /// The scope called `name`, all zero if it is unknown.
    pub(super) fn load(&mut self, db: &Connection, name: &str) -> rusqlite::Result<&mut ScopeRow> {
        if !self.rows.contains_key(name) {
            let row = read(db, name)?;
            self.rows.insert(name.to_owned(), row);
        }
        Ok(self.rows.entry(name.to_owned()).or_default())
    }

    /// The scope called `name` with the limit that holds for it: a window's is its policy's.
    pub(super) fn effective(&mut self, db: &Connection, name: &str) -> rusqlite::Result<ScopeRow> {
        let policy = match Scope::policy_of(name) {
            Some(policy) => Some(self.load(db, policy)?.balance),
            None => None,
        };
        Ok(self.load(db, name)?.clone().under(policy))
    }

    /// Writes back what was changed.
    pub(in crate::backend::embedded) fn write_back(&mut self, db: &Connection) -> rusqlite::Result<()> {
        const WRITE: &str = statement(SQL, "write scope");
        for (name, row) in self.rows.iter().filter(|(_, row)| row.changed) {
            let Balance { limit, spent, reserved, hold_back, frozen } = row.balance;
            db.prepare_cached(WRITE)?.execute(params![
                name,
                limit.map(|limit| stored(limit.0)),
                stored(spent.0),
                stored(reserved.0),
                stored(hold_back.0),
                frozen,
                stored(row.overdraft),
            ])?;
        }
        Ok(())
    }
}

/// The scope called `name` as the database has it.
pub(super) fn read(db: &Connection, name: &str) -> rusqlite::Result<ScopeRow> {
    const SCOPE: &str = statement(SQL, "scope");
    let read = |row: &Row<'_>| Ok(ScopeRow { balance: balance(row)?, overdraft: loaded(row.get(5)?), changed: false });
    Ok(db.prepare_cached(SCOPE)?.query_row([name], read).optional()?.unwrap_or_default())
}

/// Reads a balance from the first five columns of `row`.
pub(super) fn balance(row: &Row<'_>) -> rusqlite::Result<Balance> {
    let money = |column| row.get(column).map(loaded).map(MicroUsd);
    Ok(Balance {
        limit: row.get::<_, Option<i64>>(0)?.map(loaded).map(MicroUsd),
        spent: money(1)?,
        reserved: money(2)?,
        hold_back: money(3)?,
        frozen: row.get(4)?,
    })
}
