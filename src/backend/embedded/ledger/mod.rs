//! [`Ledger`] on tables: scopes with counters, reservations with a state, entries that are only ever added.
//!
//! Every ledger operation first turns overdue reservations into spending, so that no balance is ever read or
//! reserved against that a crash has made too good. Closing a reservation, whichever way, goes through one function.

mod entries;
pub(super) mod scopes;

use std::collections::BTreeSet;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use self::entries::{NewEntry, enter, read_entry};
use self::scopes::balance;
use super::Store;
use super::column::{ends, loaded, rows, stored};
use super::fault::Halt;
use super::sql::statement;
use super::step::Step;
use crate::backend::bound::{check_adjustment, check_money, check_reservation};
use crate::backend::{
    Adjustment, BackendError, Balance, Entry, EntryFilter, EntryKind, Ledger, Rebuilt, ReservationState,
    ReserveOutcome, ReserveRequest, Scope, SettleOutcome, Settlement,
};
use crate::protocol::{AgentType, InstanceId, JobId, MicroUsd, Usage};

const SQL: &str = include_str!("../sql/ledger.sql");

/// Entries of one read when the filter names no limit.
const DEFAULT_ENTRIES: usize = 1_000;

/// A reservation as stored.
struct Reservation {
    id: String,
    state: ReservationState,
    amount: u64,
    charged: u64,
    overrun: bool,
    scopes: String,
    about: [String; 4],
    tokens: u64,
    charged_tokens: u64,
}

impl Reservation {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            state: match row.get::<_, i64>(1)? {
                0 => ReservationState::Open,
                1 => ReservationState::Settled,
                2 => ReservationState::Released,
                3 => ReservationState::Expired,
                other => return Err(rusqlite::Error::IntegralValueOutOfRange(1, other)),
            },
            amount: loaded(row.get(2)?),
            charged: loaded(row.get(3)?),
            overrun: row.get(4)?,
            scopes: row.get(5)?,
            about: [row.get(6)?, row.get(7)?, row.get(8)?, row.get(9)?],
            tokens: loaded(row.get(10)?),
            charged_tokens: loaded(row.get(11)?),
        })
    }

    fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<Self>> {
        const RESERVATION: &str = statement(SQL, "reservation");
        db.prepare_cached(RESERVATION)?.query_row([id], Self::read).optional()
    }
}

const fn state_code(state: ReservationState) -> i64 {
    match state {
        ReservationState::Open => 0,
        ReservationState::Settled => 1,
        ReservationState::Released => 2,
        ReservationState::Expired => 3,
    }
}

/// What a reservation ends with.
#[derive(Clone, Copy)]
struct Charge {
    amount: u64,
    tokens: u64,
    usage: Usage,
}

impl Charge {
    const NOTHING: Self = Self { amount: 0, tokens: 0, usage: Usage::ZERO };

    /// Everything that was reserved.
    const fn in_full(reservation: &Reservation) -> Self {
        Self { amount: reservation.amount, tokens: reservation.tokens, usage: Usage::ZERO }
    }

    /// Tokens that nobody has counted are all that were reserved.
    fn of(reservation: &Reservation, settlement: Settlement) -> Self {
        let counted = settlement.usage.total();
        let tokens = if counted == 0 || reservation.tokens == 0 { reservation.tokens } else { counted };
        Self { amount: settlement.amount.0, tokens, usage: settlement.usage }
    }
}

/// Moves a reservation from its present state to `state` with `charge`, in all its scopes, and records it.
fn close(
    step: &mut Step<'_>,
    reservation: &Reservation,
    state: ReservationState,
    charge: Charge,
) -> rusqlite::Result<bool> {
    const CLOSE: &str = statement(SQL, "close");
    // What a scope counts: aside, charged before, charged now.
    let counted = |scope: &str| match Scope::is_of_tokens(scope) {
        true => (reservation.tokens, reservation.charged_tokens, charge.tokens),
        false => (reservation.amount, reservation.charged, charge.amount),
    };
    let mut overrun = charge.amount > reservation.amount || charge.tokens > reservation.tokens;
    if reservation.state == ReservationState::Released {
        // The money is no longer set aside, so that even the reserved amount may lead past a limit.
        for scope in reservation.scopes.lines() {
            overrun |= step.scopes.effective(step.db, scope)?.would_exceed(counted(scope).2);
        }
    }
    for scope in reservation.scopes.lines() {
        let is_window = Scope::policy_of(scope).is_some();
        let (reserved, refund, cost) = counted(scope);
        let aside = if reservation.state == ReservationState::Open { reserved } else { 0 };
        step.scopes.load(step.db, scope)?.charge(aside, refund, cost, overrun, is_window);
    }
    let (amount, tokens) = (stored(charge.amount), stored(charge.tokens));
    step.db.prepare_cached(CLOSE)?.execute(params![reservation.id, state_code(state), amount, overrun, tokens])?;
    let (kind, note) = match (state, reservation.state) {
        (ReservationState::Released, _) => (EntryKind::Release, ""),
        (ReservationState::Expired, _) => (EntryKind::Expire, "not settled in time: charged in full"),
        (_, ReservationState::Expired) => (EntryKind::Settle, "late: replaces the charge of the expiry"),
        (_, ReservationState::Released) => (EntryKind::Settle, "charged although it had been released"),
        _ if overrun => (EntryKind::Settle, "cost more than was reserved: scopes frozen"),
        _ => (EntryKind::Settle, ""),
    };
    let about = reservation.about.each_ref().map(|text| Some(text.as_str()));
    let (reserved, reservation) = (reservation.amount, reservation.id.as_str());
    let Charge { amount: charged, usage, .. } = charge;
    enter(step, &NewEntry { kind, reservation, about, reserved, charged, usage, note })?;
    Ok(overrun)
}

/// Turns overdue reservations into spending, once per transaction.
fn expire_due(step: &mut Step<'_>) -> rusqlite::Result<()> {
    const DUE: &str = statement(SQL, "due");
    if step.expired.is_none() {
        let now = step.now.0;
        let ids = expire_found(step, DUE, &[&now])?;
        step.expired = Some(ids);
    }
    Ok(())
}

fn expire_found(step: &mut Step<'_>, select: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Vec<String>> {
    let found: Vec<Reservation> =
        step.db.prepare_cached(select)?.query_map(values, Reservation::read)?.collect::<Result<_, _>>()?;
    for reservation in &found {
        close(step, reservation, ReservationState::Expired, Charge::in_full(reservation))?;
    }
    Ok(found.into_iter().map(|reservation| reservation.id).collect())
}

/// Turns the open reservations of a dead process into spending.
pub(super) fn orphan(step: &mut Step<'_>, instance: &InstanceId) -> rusqlite::Result<()> {
    const OF_THE_DEAD: &str = statement(SQL, "of the dead");
    expire_due(step)?;
    let ids = expire_found(step, OF_THE_DEAD, &[&instance.as_str()])?;
    step.expired.get_or_insert_default().extend(ids);
    Ok(())
}

/// What a request asks of a scope.
const fn asked(request: &ReserveRequest, scope: &Scope) -> MicroUsd {
    if scope.counts_tokens() { MicroUsd(request.tokens) } else { request.amount }
}

fn reserve(step: &mut Step<'_>, request: &ReserveRequest) -> Result<ReserveOutcome, Halt> {
    const IS_RESERVED: &str = statement(SQL, "is reserved");
    const RESERVE: &str = statement(SQL, "reserve");
    step.must_not_be_undone();
    expire_due(step)?;
    if step.db.prepare_cached(IS_RESERVED)?.exists([&request.id])? {
        return Ok(ReserveOutcome::Granted);
    }
    let scopes: BTreeSet<&Scope> = request.scopes.iter().collect();
    for scope in &request.scopes {
        if step.scopes.effective(step.db, &scope.to_string())?.balance.frozen {
            return Ok(ReserveOutcome::Frozen { scope: scope.clone() });
        }
    }
    for scope in &request.scopes {
        let available = step.scopes.effective(step.db, &scope.to_string())?.available(request.may_use_hold_back);
        let refused = match available {
            Some(available) => (asked(request, scope) > available).then_some(available),
            None => scope.needs_limit().then_some(MicroUsd::ZERO),
        };
        if let Some(available) = refused {
            return Ok(ReserveOutcome::Refused { scope: scope.clone(), available });
        }
    }
    let mut names = String::new();
    for scope in scopes {
        let name = scope.to_string();
        step.scopes.load(step.db, &name)?.set_aside(asked(request, scope).0);
        names.push_str(&name);
        names.push('\n');
    }
    let (job, task, agent) = (request.job.as_str(), request.task.as_str(), request.agent.as_str());
    step.db.prepare_cached(RESERVE)?.execute(params![
        request.id,
        stored(request.amount.0),
        ends(step.now, request.lease),
        names,
        request.instance.as_str(),
        step.process.as_str(),
        job,
        task,
        agent,
        request.model,
        stored(request.tokens),
    ])?;
    enter(
        step,
        &NewEntry {
            kind: EntryKind::Reserve,
            reservation: &request.id,
            about: [Some(job), Some(task), Some(agent), Some(&request.model)],
            reserved: request.amount.0,
            charged: 0,
            usage: Usage::default(),
            note: "",
        },
    )?;
    Ok(ReserveOutcome::Granted)
}

fn settle(step: &mut Step<'_>, id: &str, settlement: Settlement) -> Result<SettleOutcome, Halt> {
    expire_due(step)?;
    let Some(reservation) = Reservation::find(step.db, id)? else {
        return Err(BackendError::NotFound { what: format!("reservation {id}") }.into());
    };
    if reservation.state == ReservationState::Settled {
        return Ok(SettleOutcome { charged: MicroUsd(reservation.charged), overrun: reservation.overrun });
    }
    let charge = Charge::of(&reservation, settlement);
    let overrun = close(step, &reservation, ReservationState::Settled, charge)?;
    Ok(SettleOutcome { charged: settlement.amount, overrun })
}

fn release(step: &mut Step<'_>, id: &str) -> Result<(), Halt> {
    expire_due(step)?;
    if let Some(reservation) = Reservation::find(step.db, id)?
        && reservation.state == ReservationState::Open
    {
        close(step, &reservation, ReservationState::Released, Charge::NOTHING)?;
    }
    Ok(())
}

fn adjust(step: &mut Step<'_>, request: &str, scope: &Scope, adjustment: Adjustment) -> Result<Balance, Halt> {
    const ADJUSTMENT: &str = statement(SQL, "adjustment");
    const ADJUST: &str = statement(SQL, "adjust");
    step.must_not_be_undone();
    expire_due(step)?;
    if let Some(recorded) = step.db.prepare_cached(ADJUSTMENT)?.query_row([request], balance).optional()? {
        return Ok(recorded);
    }
    let row = step.scopes.load(step.db, &scope.to_string())?;
    let limit = match (row.balance.limit, adjustment, scope) {
        (_, Adjustment::SetLimit(limit), _) => limit,
        // Raising no limit leaves none; a job without a limit may spend nothing, so it starts from there.
        (None, Adjustment::TopUp(_), scope) if !scope.needs_limit() => None,
        (limit, Adjustment::TopUp(more), _) => Some(limit.unwrap_or_default().saturating_add(more)),
        (limit, ..) => limit,
    };
    check_money("limit", limit.unwrap_or_default())?;
    row.adjust(|balance| {
        balance.limit = limit;
        match adjustment {
            Adjustment::HoldBack(amount) => balance.hold_back = amount,
            Adjustment::Freeze => balance.frozen = true,
            Adjustment::Thaw => balance.frozen = false,
            Adjustment::SetLimit(_) | Adjustment::TopUp(_) => {}
        }
    });
    let Balance { limit, spent, reserved, hold_back, frozen } = row.balance;
    let outcome = row.balance;
    step.db.prepare_cached(ADJUST)?.execute(params![
        request,
        limit.map(|limit| stored(limit.0)),
        stored(spent.0),
        stored(reserved.0),
        stored(hold_back.0),
        frozen
    ])?;
    let note = adjustment.note(scope);
    let about = [scope.job().map(JobId::as_str), None, None, None];
    let (kind, usage) = (EntryKind::Adjust, Usage::default());
    enter(step, &NewEntry { kind, reservation: request, about, reserved: 0, charged: 0, usage, note: &note })?;
    Ok(outcome)
}

impl Store {
    /// Lets the writer expire what is overdue, if anything is, so that a reader sees it as spent.
    async fn expire_before_reading(&self) -> Result<(), BackendError> {
        const IS_DUE: &str = statement(SQL, "is due");
        let now = self.clock.now();
        let due = self.reader.read(move |db| Ok(db.prepare_cached(IS_DUE)?.exists([now.0])?)).await?;
        if due { self.inbox.write(|step| Ok(expire_due(step)?)).await } else { Ok(()) }
    }
}

#[async_trait]
impl Ledger for Store {
    async fn reserve(&self, request: ReserveRequest) -> Result<ReserveOutcome, BackendError> {
        check_reservation(&request)?;
        self.inbox.write(move |step| reserve(step, &request)).await
    }

    async fn settle(&self, id: &str, settlement: Settlement) -> Result<SettleOutcome, BackendError> {
        check_money("amount", settlement.amount)?;
        let id = id.to_owned();
        self.inbox.write(move |step| settle(step, &id, settlement)).await
    }

    async fn release(&self, id: &str) -> Result<(), BackendError> {
        let id = id.to_owned();
        self.inbox.write(move |step| release(step, &id)).await
    }

    async fn expire(&self) -> Result<Vec<String>, BackendError> {
        self.inbox
            .write(|step| {
                expire_due(step)?;
                // The transaction has looked; whoever asks next in it finds nothing new.
                Ok(step.expired.replace(Vec::new()).unwrap_or_default())
            })
            .await
    }

    async fn adjust(&self, request: &str, scope: &Scope, adjustment: Adjustment) -> Result<Balance, BackendError> {
        check_adjustment(request, adjustment)?;
        let (request, scope) = (request.to_owned(), scope.clone());
        self.inbox.write(move |step| adjust(step, &request, &scope, adjustment)).await
    }

    async fn balance(&self, scope: &Scope) -> Result<Balance, BackendError> {
        self.expire_before_reading().await?;
        let name = scope.to_string();
        self.reader
            .read(move |db| {
                let policy = Scope::policy_of(&name).map(|policy| scopes::read(db, policy)).transpose()?;
                Ok(scopes::read(db, &name)?.under(policy.map(|row| row.balance)).balance)
            })
            .await
    }

    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, BackendError> {
        const ENTRIES: &str = statement(SQL, "entries");
        self.expire_before_reading().await?;
        let limit = if filter.limit == 0 { DEFAULT_ENTRIES } else { filter.limit };
        self.reader
            .read(move |db| {
                let values = params![
                    stored(filter.after),
                    rows(limit),
                    filter.job.as_ref().map(JobId::as_str),
                    filter.agent.as_ref().map(AgentType::as_str),
                    filter.model,
                    filter.since.map(|at| at.0),
                    filter.before.map(|at| at.0),
                ];
                let mut select = db.prepare_cached(ENTRIES)?;
                let entries = select.query_map(values, read_entry)?.collect::<Result<_, _>>()?;
                Ok(entries)
            })
            .await
    }

    async fn rebuild(&self, _even_if_whole: bool) -> Result<Option<Rebuilt>, BackendError> {
        // One file, one transaction: whatever loses the counters has lost the entries as well.
        Ok(None)
    }
}
