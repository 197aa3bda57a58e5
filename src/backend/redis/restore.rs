//! [`Counters`]: going by the right counters, and making lost ones anew from the journal.
//!
//! The counters have a name, their epoch, which the journal knows as well. A server that holds another name, or none, has
//! lost them, and every ledger script refuses. While they are made anew the epoch is a mark with a token of its own, so that
//! nothing can be counted in between and no step of one rebuild can change what another one writes: each is a script that
//! looks at the mark first. Only the last step gives them a name again.

use std::sync::Arc;

use async_trait::async_trait;
use redis::{Script, ScriptInvocation, Value};
use tokio::sync::Notify;

use super::Store;
use super::fault::unexpected;
use super::reply::{Reply, number, text};
use super::script::{
    self, LEDGER_CARRY, LEDGER_CLEAR, LEDGER_ENTER, LEDGER_EPOCH, LEDGER_OPEN, LEDGER_REMOVE, LEDGER_REPLAY,
};
use crate::backend::journal::{Counters, Found, Record};
use crate::backend::{Adjustment, BackendError, Balance, ReserveRequest, Scope};
use crate::clock::{Timestamp, random_token};
use crate::protocol::MicroUsd;

/// Records that one script does again: it must not keep the server from others for long.
const STEP: usize = 100;

/// Keys that one script removes.
const KEYS: usize = 1_000;

/// A scope as it is carried over into a new journal.
struct Carried {
    scope: String,
    limit: Option<MicroUsd>,
    hold_back: MicroUsd,
    frozen: bool,
    spent: MicroUsd,
}

impl Carried {
    /// The job and the agent type that it is named after, empty if it is not.
    fn about(&self) -> (&str, &str) {
        let Some(rest) = self.scope.strip_prefix("job:") else { return ("", "") };
        let (job, part) = rest.split_once('/').unwrap_or((rest, ""));
        (job, part.strip_prefix("agent:").unwrap_or_default())
    }

    /// How much of what was spent its own entry has to tell: calls are entered by agent type, what those do not tell by
    /// job, and the rest for the account.
    fn charged(&self, all: &[Self]) -> MicroUsd {
        let spent = |is_part: &dyn Fn(&Self) -> bool| all.iter().filter(|one| is_part(one)).map(|one| one.spent).sum();
        let is_agent = |one: &Self| !one.about().1.is_empty();
        let is_job = |one: &Self| one.scope.starts_with("job:") && !one.scope.contains('/');
        let parts: MicroUsd = if is_agent(self) {
            MicroUsd::ZERO
        } else if is_job(self) {
            spent(&|one| is_agent(one) && one.about().0 == self.about().0)
        } else if self.scope == "account" {
            spent(&is_job)
        } else {
            return MicroUsd::ZERO;
        };
        self.spent.saturating_sub(parts)
    }
}

impl Store {
    /// Runs a script of a rebuild, whose first argument is the mark that the counters have to have.
    async fn under(
        &self,
        mark: &str,
        script: &'static Script,
        fill: impl FnOnce(&mut ScriptInvocation<'static>) + Send,
    ) -> Result<Value, BackendError> {
        let mut call = script::call(script, &self.space.budget, &self.clock);
        call.arg(format!("{mark} 0"));
        fill(&mut call);
        self.links.ask(call).await
    }

    fn carried(epoch: &str, reply: Value, at: Timestamp, entry: u64) -> Result<Vec<Record>, BackendError> {
        let mut reply = Reply::of(reply)?;
        let (mut scopes, mut records) = (Vec::new(), Vec::new());
        for scope in reply.list()?.rest() {
            let mut scope = Reply::of(scope)?;
            let (name, limit) = (scope.text()?, scope.text()?);
            scopes.push(Carried {
                scope: name,
                limit: if limit.is_empty() { None } else { Some(MicroUsd(super::reply::parsed(&limit)?)) },
                hold_back: scope.money()?,
                frozen: scope.number()? == 1,
                spent: scope.money()?,
            });
        }
        let epoch = epoch.to_owned();
        records.push(Record::Seed { epoch: epoch.clone(), at, entry });
        for one in &scopes {
            let (job, agent) = one.about();
            records.push(Record::Carry {
                epoch: epoch.clone(),
                scope: one.scope.clone(),
                limit: one.limit,
                hold_back: one.hold_back,
                frozen: one.frozen,
                spent: one.spent,
                charged: one.charged(&scopes),
                job: job.to_owned(),
                agent: agent.to_owned(),
                at,
                entry,
            });
        }
        for held in reply.list()?.rest() {
            let mut held = Reply::of(held)?;
            let (id, amount, tokens, until) = (held.text()?, held.money()?, held.number()?, held.time()?);
            let rest = held.text()?;
            let mut lines = rest.split('\n').map(str::to_owned);
            let mut line = || lines.next().unwrap_or_default();
            let (instance, _process) = (line(), line());
            let (job, task, agent, model) = (line(), line(), line(), line());
            let scopes = lines.collect();
            records.push(Record::Reserve {
                id,
                scopes,
                amount,
                tokens,
                at,
                until,
                instance,
                job,
                task,
                agent,
                model,
                entry,
            });
        }
        Ok(records)
    }
}

#[async_trait]
impl Counters for Store {
    async fn look(&self) -> Result<Found, BackendError> {
        let mut get = redis::cmd("MGET");
        get.arg(format!("{}:epoch", self.space.budget)).arg(format!("{}:entry", self.space.budget));
        let mut reply = Reply::of(self.links.ask(get).await?)?;
        let epoch = Some(reply.value()?).filter(|value| *value != Value::Nil).map(text).transpose()?;
        let entry = Some(reply.value()?).filter(|value| *value != Value::Nil).map(number).transpose()?;
        Ok(Found { epoch, entry: entry.unwrap_or_default() })
    }

    async fn first_name(&self) -> Result<String, BackendError> {
        let mut call = script::call(&LEDGER_EPOCH, &self.space.budget, &self.clock);
        call.arg(format!("{}-{}", self.clock.now().0, random_token(16)));
        text(self.links.ask(call).await?)
    }

    fn go_by(&self, epoch: &str, entry: u64) {
        self.known.go_by(epoch, entry);
    }

    fn known(&self) -> (String, u64) {
        let seen = self.known.seen();
        seen.map(|seen| (seen.epoch.clone(), seen.entry())).unwrap_or_default()
    }

    fn losses(&self) -> Arc<Notify> {
        Arc::clone(&self.known.losses)
    }

    async fn give_back(&self, id: &str) -> Result<bool, BackendError> {
        let mut reply = self.step(vec!["release".to_owned(), id.to_owned()]).await?;
        Ok(reply.number()? == 1)
    }

    async fn change(
        &self,
        request: &str,
        scope: &Scope,
        adjustment: Adjustment,
    ) -> Result<(Balance, u64), BackendError> {
        self.adjust_numbered(request, scope, adjustment).await
    }

    async fn enter(&self, request: &ReserveRequest) -> Result<(), BackendError> {
        let fill = |call: &mut ScriptInvocation<'static>| {
            let mut names: Vec<String> = Vec::with_capacity(request.scopes.len());
            for name in request.scopes.iter().map(ToString::to_string) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            call.arg(&request.id).arg(request.amount.0).arg(request.tokens);
            call.arg(format!("{}\n{}", request.instance, self.process));
            call.arg(format!("{}\n{}\n{}\n{}", request.job, request.task, request.agent, request.model));
            call.arg(names.join("\n"));
        };
        self.ledger_script(&LEDGER_ENTER, fill).await.map(drop)
    }

    async fn carry(&self, found: &str, mark: &str, epoch: &str) -> Result<Vec<Record>, BackendError> {
        let answer = self
            .under(found, &LEDGER_CARRY, |call| {
                call.arg(mark);
            })
            .await?;
        let mut reply = Reply::of(answer)?;
        let entry = reply.number()?;
        Self::carried(epoch, reply.value()?, self.clock.now(), entry)
    }

    async fn mark(&self, mark: &str, must_be_lost: bool) -> Result<bool, BackendError> {
        let (epoch, entry) = Counters::known(self);
        let mut call = script::call(&LEDGER_CLEAR, &self.space.budget, &self.clock);
        call.arg(epoch).arg(entry).arg(mark).arg(u8::from(must_be_lost));
        Ok(number(self.links.ask(call).await?)? == 1)
    }

    async fn remove(&self, mark: &str) -> Result<(), BackendError> {
        let prefix = &self.space.budget;
        let epoch = format!("{prefix}:epoch");
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            // Braces mean nothing in a pattern; the namespace holds no special characters.
            scan.arg(&cursor).arg("MATCH").arg(format!("{prefix}:*")).arg("COUNT").arg(KEYS);
            let mut reply = Reply::of(self.links.ask(scan).await?)?;
            cursor = reply.text()?;
            let keys: Vec<String> = reply.list()?.texts()?.into_iter().filter(|key| *key != epoch).collect();
            for keys in keys.chunks(KEYS) {
                self.under(mark, &LEDGER_REMOVE, |call| {
                    call.arg(keys);
                })
                .await?;
            }
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    async fn replay(&self, mark: &str, records: &[Record]) -> Result<(), BackendError> {
        for step in records.chunks(STEP) {
            let json = serde_json::to_string(step)
                .map_err(|error| BackendError::Invalid { field: "journal record", why: error.to_string() })?;
            let answer = self
                .under(mark, &LEDGER_REPLAY, |call| {
                    call.arg(json);
                })
                .await?;
            if Reply::of(answer.clone()).is_err() {
                return Err(unexpected(&answer));
            }
        }
        Ok(())
    }

    async fn open(&self, mark: &str, epoch: &str, above: u64) -> Result<(), BackendError> {
        self.under(mark, &LEDGER_OPEN, |call| {
            call.arg(epoch).arg(above);
        })
        .await
        .map(drop)
    }
}
