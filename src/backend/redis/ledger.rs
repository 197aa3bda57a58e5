//! [`Ledger`] on counters: a hash of scopes, a string per reservation, and a stream of entries that is only ever added to.
//!
//! | Key below `<namespace>:{budget}:` | What |
//! |---|---|
//! | `epoch` | names these data; each rebuild gives them another. Who has seen one and finds another, a mark or none refuses: data were lost |
//! | `scopes` | hash by scope: `limit hold_back frozen spent reserved`, `-` for no limit; one, because a call falls into half a dozen |
//! | `reservation:<id>` | string: `state amount tokens charged charged-tokens overrun until`, then instance, process, job, task, agent type, model and scopes, a line each |
//! | `open` | sorted set of the open reservations by the end of their lease |
//! | `adjustment:<request>` | hash: the balance that the request was answered with, and the number of its entry |
//! | `entry`, `entries`, `entries:<job>` | number of the newest entry, which never falls, the stream of all (an item holds those written together and has the number of the first), and the ids of each job's |
//!
//! A step that many callers make (reserve, settle, release) shares its script with theirs, see `steps.rs`.
//!
//! No key expires; a call leaves about 1.5 KB for good, its entries included. Every operation first turns a bounded number of overdue reservations into spending; those that have
//! to wait still count as reserved, so that no limit is ever judged too kindly. Amounts stay exact up to 2⁵³ micro-dollars,
//! nine billion dollars, and are held at that.

use async_trait::async_trait;
use redis::{ScriptInvocation, Value};

use super::Store;
use super::fault::unexpected;
use super::reply::{Reply, entry, parsed, revision, text};
use super::script::{LEDGER_ADJUST, LEDGER_BALANCE, LEDGER_ENTRIES, LEDGER_EXPIRE, LEDGER_ORPHAN, lease_millis};
use crate::backend::bound::{check_adjustment, check_money, check_reservation};
use crate::backend::journal::Counters;
use crate::backend::{
    Adjustment, BackendError, Balance, Entry, EntryFilter, EntryKind, Ledger, Rebuilt, ReserveOutcome, ReserveRequest,
    Scope, SettleOutcome, Settlement,
};
use crate::clock::Timestamp;
use crate::protocol::{AgentType, InstanceId, JobId, MicroUsd, Usage};

/// Entries of one read when the filter names no limit.
const DEFAULT_ENTRIES: usize = 1_000;

/// Entries that one script looks at.
const PAGE: usize = 1_000;

/// What changes and by how much.
const fn adjustment_parts(adjustment: Adjustment) -> (&'static str, Option<MicroUsd>) {
    match adjustment {
        Adjustment::SetLimit(limit) => ("limit", limit),
        Adjustment::TopUp(more) => ("top-up", Some(more)),
        Adjustment::HoldBack(amount) => ("hold-back", Some(amount)),
        Adjustment::Freeze => ("freeze", None),
        Adjustment::Thaw => ("thaw", None),
    }
}

fn balance(reply: &mut Reply) -> Result<Balance, BackendError> {
    let limit = reply.text()?;
    Ok(Balance {
        limit: if limit.is_empty() { None } else { Some(MicroUsd(parsed(&limit)?)) },
        spent: reply.money()?,
        reserved: reply.money()?,
        hold_back: reply.money()?,
        frozen: reply.number()? == 1,
    })
}

fn kind(text: &str) -> Result<EntryKind, BackendError> {
    match text {
        "reserve" => Ok(EntryKind::Reserve),
        "settle" => Ok(EntryKind::Settle),
        "release" => Ok(EntryKind::Release),
        "expire" => Ok(EntryKind::Expire),
        "adjust" => Ok(EntryKind::Adjust),
        other => Err(unexpected(&Value::SimpleString(other.to_owned()))),
    }
}

/// An entry as the script writes it: kind, time, reserved, charged and the counts of its usage in one line, then a line each
/// of reservation, job, task, agent type, model and note. What is unknown or nothing is empty.
fn read_entry(value: Value) -> Result<Entry, BackendError> {
    let (id, fields) = entry(value)?;
    let damaged = |what: &str| unexpected(&Value::SimpleString(format!("entry {id} without {what}")));
    let (_, packed) = fields.into_iter().next().ok_or_else(|| damaged("text"))?;
    let packed = text(Value::BulkString(packed.to_vec()))?;
    let mut lines = packed.splitn(7, '\n');
    let mut numbers = lines.next().unwrap_or_default().split(' ');
    let kind = kind(numbers.next().unwrap_or_default())?;
    let at = Timestamp(parsed(numbers.next().ok_or_else(|| damaged("its time"))?)?);
    let mut number = || numbers.next().filter(|number| !number.is_empty()).map_or(Ok(0), parsed::<u64>);
    let (reserved, charged) = (MicroUsd(number()?), MicroUsd(number()?));
    let usage = Usage {
        input: number()?,
        cache_write_5m: number()?,
        cache_write_1h: number()?,
        cache_read: number()?,
        output: number()?,
    };
    let mut line = || lines.next().ok_or_else(|| damaged("all its lines")).map(str::to_owned);
    let reservation = line()?;
    let mut told = || line().map(|text| Some(text).filter(|text| !text.is_empty()));
    let (job, task, agent, model) = (told()?, told()?, told()?, told()?);
    let note = line()?;
    Ok(Entry { id, at, kind, reservation, job, task, agent, model, reserved, charged, usage, note })
}

/// Adds what entries are wanted, at most `wanted` of them.
fn pick(call: &mut ScriptInvocation<'_>, filter: &EntryFilter, wanted: usize) {
    let is_picky =
        filter.agent.is_some() || filter.model.is_some() || filter.since.is_some() || filter.before.is_some();
    let instant = |at: Option<Timestamp>| at.map(|at| at.0.to_string()).unwrap_or_default();
    call.arg(wanted).arg(if is_picky { PAGE } else { wanted });
    call.arg(filter.job.as_ref().map(JobId::as_str).unwrap_or_default());
    call.arg(filter.agent.as_ref().map(AgentType::as_str).unwrap_or_default());
    call.arg(filter.model.as_deref().unwrap_or_default()).arg(instant(filter.since)).arg(instant(filter.before));
}

impl Store {
    /// Turns all overdue reservations into spending and answers their ids.
    async fn expire_all(&self) -> Result<Vec<String>, BackendError> {
        let mut turned = Vec::new();
        loop {
            let mut reply = Reply::of(self.ledger_script(&LEDGER_EXPIRE, |_| {}).await?)?;
            let more = reply.number()? == 1;
            turned.extend(reply.texts()?);
            if !more {
                return Ok(turned);
            }
        }
    }

    /// Turns the open reservations of a dead process among `ids` into spending.
    pub(super) async fn orphan_reservations(&self, dead: &InstanceId, ids: &[String]) -> Result<(), BackendError> {
        let fill = |call: &mut ScriptInvocation<'static>| {
            call.arg(dead.as_str()).arg(ids);
        };
        self.ledger_script(&LEDGER_ORPHAN, fill).await.map(drop)
    }

    /// [`Ledger::adjust`], with the number that its entry has.
    pub(super) async fn adjust_numbered(
        &self,
        request: &str,
        scope: &Scope,
        adjustment: Adjustment,
    ) -> Result<(Balance, u64), BackendError> {
        check_adjustment(request, adjustment)?;
        // All of them, because the answer is a balance that is recorded for good.
        self.expire_all().await?;
        let (what, amount) = adjustment_parts(adjustment);
        let fill = |call: &mut ScriptInvocation<'static>| {
            call.arg(request).arg(scope.to_string()).arg(what);
            call.arg(amount.map(|amount| amount.0.to_string()).unwrap_or_default()).arg(adjustment.note(scope));
            call.arg(scope.job().map(JobId::as_str).unwrap_or_default()).arg(u8::from(scope.needs_limit()));
        };
        let mut reply = Reply::of(self.ledger_script(&LEDGER_ADJUST, fill).await?)?;
        let entry = reply.number()?;
        if entry == 0 {
            let limit = reply.money()?;
            check_money("limit", limit)?;
            return Err(unexpected(&Value::SimpleString(limit.to_string())));
        }
        Ok((balance(&mut reply)?, entry))
    }
}

#[async_trait]
impl Ledger for Store {
    async fn reserve(&self, request: ReserveRequest) -> Result<ReserveOutcome, BackendError> {
        check_reservation(&request)?;
        let mut scopes: Vec<&Scope> = Vec::with_capacity(request.scopes.len());
        for scope in &request.scopes {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        let names: Vec<String> = scopes.iter().map(ToString::to_string).collect();
        let mut reply = self
            .step(vec![
                "reserve".to_owned(),
                request.id,
                request.amount.0.to_string(),
                request.tokens.to_string(),
                lease_millis(request.lease).to_string(),
                u8::from(request.may_use_hold_back).to_string(),
                format!("{}\n{}", request.instance, self.process),
                format!("{}\n{}\n{}\n{}", request.job, request.task, request.agent, request.model),
                names.join("\n"),
                scopes.iter().map(|scope| if scope.needs_limit() { '!' } else { '-' }).collect(),
            ])
            .await?;
        let outcome = reply.number()?;
        if outcome == 1 {
            return Ok(ReserveOutcome::Granted);
        }
        let place = usize::try_from(reply.number()?).unwrap_or(usize::MAX);
        let scope = scopes.get(place).map(|scope| (*scope).clone()).ok_or_else(|| unexpected(&Value::Nil))?;
        Ok(match outcome {
            2 => ReserveOutcome::Refused { scope, available: reply.money()? },
            _ => ReserveOutcome::Frozen { scope },
        })
    }

    async fn settle(&self, id: &str, settlement: Settlement) -> Result<SettleOutcome, BackendError> {
        check_money("amount", settlement.amount)?;
        let Usage { input, cache_write_5m, cache_write_1h, cache_read, output } = settlement.usage;
        let usage = format!("{input} {cache_write_5m} {cache_write_1h} {cache_read} {output}");
        let step = vec!["settle".to_owned(), id.to_owned(), settlement.amount.0.to_string(), usage];
        let mut reply = self.step(step).await?;
        if reply.is_empty() {
            return Err(BackendError::NotFound { what: format!("reservation {id}") });
        }
        Ok(SettleOutcome { charged: reply.money()?, overrun: reply.number()? == 1 })
    }

    async fn release(&self, id: &str) -> Result<(), BackendError> {
        self.give_back(id).await.map(drop)
    }

    async fn expire(&self) -> Result<Vec<String>, BackendError> {
        self.expire_all().await
    }

    async fn adjust(&self, request: &str, scope: &Scope, adjustment: Adjustment) -> Result<Balance, BackendError> {
        self.adjust_numbered(request, scope, adjustment).await.map(|(balance, _)| balance)
    }

    async fn balance(&self, scope: &Scope) -> Result<Balance, BackendError> {
        loop {
            let fill = |call: &mut ScriptInvocation<'static>| {
                call.arg(scope.to_string());
            };
            let mut reply = Reply::of(self.ledger_script(&LEDGER_BALANCE, fill).await?)?;
            if reply.number()? == 0 {
                return balance(&mut reply);
            }
        }
    }

    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, BackendError> {
        self.expire_all().await?;
        let limit = if filter.limit == 0 { DEFAULT_ENTRIES } else { filter.limit };
        let mut entries: Vec<Entry> = Vec::new();
        let mut after = filter.after;
        loop {
            let wanted = PAGE.min(limit - entries.len());
            let fill = |call: &mut ScriptInvocation<'static>| {
                call.arg(after.saturating_add(1));
                pick(call, &filter, wanted);
            };
            let mut reply = Reply::of(self.ledger_script(&LEDGER_ENTRIES, fill).await?)?;
            reply.number()?;
            let last = reply.text()?;
            for entry in reply.rest() {
                entries.push(read_entry(entry)?);
            }
            if last.is_empty() || entries.len() >= limit {
                return Ok(entries);
            }
            after = revision(&last)?;
        }
    }

    async fn rebuild(&self, _even_if_whole: bool) -> Result<Option<Rebuilt>, BackendError> {
        // Counters alone have nothing to be rebuilt from; whoever keeps the journal beside them does it.
        Ok(None)
    }
}
