//! The money: is it within every limit, does it add up entry by entry, and do counters and journal agree?
//!
//! Every scope that anything was charged to is looked at: the account and its windows, jobs, their features, agent types and
//! tokens. The sums are made again from the entries by a reckoning of its own (`budget/audit.rs`). Nothing here corrects
//! anything: whoever finds a difference has to stop spending first and then to ask why.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::backend::{Backend, BackendError, Balance, EntryFilter, Scope};
use crate::budget::audit::{Audit, Sum};
use crate::job::Job;
use crate::protocol::MicroUsd;

/// Ledger entries read at once.
const PAGE: usize = 5_000;

/// What to do when sums differ.
const STOP: &str = "stop all spending with `codeswarm budget freeze` and report this as a bug";

/// All findings about money. Books that cannot be read are one of them.
pub(super) async fn findings(backend: &Backend, jobs: &[Job]) -> Vec<Finding> {
    let mut findings = journal(backend).await.unwrap_or_else(|error| vec![Finding::of("journal", &error)]);
    let mut of_money = match money(backend, jobs).await {
        Ok(found) if found.is_empty() => {
            vec![Finding::good("budget", "spent and reserved money is within every limit and adds up entry by entry")]
        }
        Ok(found) => found,
        Err(error) => vec![Finding::of("budget", &error)],
    };
    findings.append(&mut of_money);
    findings
}

/// How counters and journal stand to each other, where they are two.
async fn journal(backend: &Backend) -> Result<Vec<Finding>, BackendError> {
    let Some(standing) = backend.ledger.standing().await? else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    if let Some(at) = standing.carried {
        let what = format!("it was empty at {at} beside counters that were used, and was begun anew from them");
        let remedy = "find out how NATS lost its data; what was spent before is known as sums only";
        findings.push(Finding::warning("journal", what, remedy));
    }
    let known = standing.journal.map_or_else(|| "no entry".into(), |entry| format!("entry {entry}"));
    if standing.is_whole {
        let what = format!("the counters are at entry {}, the journal knows of {known}", standing.entry);
        findings.push(Finding::good("journal", what));
    } else {
        let what = format!("the counters (entry {}) are not those of the journal ({known})", standing.entry);
        findings.push(Finding::failure("journal", what, "make the books anew with `codeswarm budget rebuild`"));
    }
    Ok(findings)
}

/// The scopes that calls of these jobs fall in.
fn scopes(backend: &Backend, jobs: &[Job]) -> Vec<Scope> {
    let mut scopes = vec![Scope::Account, Scope::Tokens];
    scopes.extend(Scope::windows(backend.clock.now()));
    for job in jobs {
        let id = job.id();
        scopes.extend([Scope::Job(id.clone()), Scope::JobTokens(id.clone())]);
        scopes.extend(job.features().map(|feature| Scope::Slice(id.clone(), feature.spec.id.clone())));
        let agents: BTreeSet<_> = job.tasks().iter().map(|task| &task.agent).collect();
        scopes.extend(agents.into_iter().map(|agent| Scope::Agent(id.clone(), agent.clone())));
    }
    scopes
}

async fn balances(backend: &Backend, scopes: Vec<Scope>) -> Result<BTreeMap<Scope, Balance>, BackendError> {
    let mut balances = BTreeMap::new();
    for scope in scopes {
        let balance = backend.ledger.balance(&scope).await?;
        balances.insert(scope, balance);
    }
    Ok(balances)
}

async fn money(backend: &Backend, jobs: &[Job]) -> Result<Vec<Finding>, BackendError> {
    let scopes = scopes(backend, jobs);
    let before = balances(backend, scopes.clone()).await?;
    let (mut audit, mut after) = (Audit::default(), 0);
    loop {
        let page = backend.ledger.entries(EntryFilter { after, limit: PAGE, ..EntryFilter::default() }).await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        page.into_iter().for_each(|entry| audit.take(entry));
    }
    let mut findings: Vec<Finding> = before.iter().flat_map(|(scope, balance)| limit(scope, balance)).collect();
    if balances(backend, scopes).await? == before {
        findings.extend(sums(&audit, &before, jobs));
    } else {
        findings.push(Finding::good("ledger", "not added up: money is being spent right now"));
    }
    Ok(findings)
}

/// Whether a scope is past its limit, or frozen.
fn limit(scope: &Scope, balance: &Balance) -> Vec<Finding> {
    let mut findings = Vec::new();
    let committed = balance.spent.saturating_add(balance.reserved);
    if let Some(limit) = balance.limit.filter(|limit| committed > *limit) {
        let (committed, limit) = (scope.show(committed), scope.show(limit));
        findings.push(Finding::failure(
            "budget",
            format!("{scope} has {committed} spent and reserved, over its limit of {limit}"),
            "look at `codeswarm budget entries`: the limit was lowered, or a call cost more than its worst case",
        ));
    }
    if balance.frozen {
        let remedy = "allow calls again with `codeswarm budget thaw`";
        findings.push(Finding::warning("budget", format!("{scope} is frozen"), remedy));
    }
    findings
}

/// Compares balances with the sums of the entries.
fn sums(audit: &Audit, balances: &BTreeMap<Scope, Balance>, jobs: &[Job]) -> Vec<Finding> {
    let (of_jobs, of_agents, of_features) = (audit.jobs(), audit.agents(), features(audit, jobs));
    let mut faults = Vec::new();
    for (scope, balance) in balances {
        let sum = match scope {
            Scope::Account => Some(audit.account()),
            Scope::Job(job) => of_jobs.get(job.as_str()).copied(),
            Scope::Agent(job, agent) => of_agents.get(&(job.as_str(), agent.as_str())).copied(),
            // Of calls that are only known as a sum nobody can tell the feature.
            Scope::Slice(job, _) if audit.tasks().contains_key(&(job.as_str(), "")) => continue,
            Scope::Slice(..) => of_features.get(scope).copied(),
            // Windows that are over hold the rest; tokens are compared below.
            _ => continue,
        };
        let sum = sum.unwrap_or_default();
        if (balance.spent, balance.reserved) != (sum.spent, sum.reserved) {
            let what = format!(
                "{scope}: the balance says {} spent and {} reserved, the entries say {} and {}",
                balance.spent, balance.reserved, sum.spent, sum.reserved
            );
            faults.push(Finding::failure("ledger", what, STOP));
        }
    }
    faults.extend(tokens(audit, balances));
    faults
}

/// What the entries say about each feature: the sum of its tasks.
fn features(audit: &Audit, jobs: &[Job]) -> BTreeMap<Scope, Sum> {
    let of_tasks = audit.tasks();
    let mut features: BTreeMap<Scope, Sum> = BTreeMap::new();
    for job in jobs {
        for task in job.tasks() {
            let (Some(feature), Some(sum)) =
                (task.kind.feature(), of_tasks.get(&(job.id().as_str(), task.id.as_str())))
            else {
                continue;
            };
            let of = features.entry(Scope::Slice(job.id().clone(), feature.clone())).or_default();
            *of = of.plus(*sum);
        }
    }
    features
}

/// Entries do not tell how many tokens were set aside, but each is charged to its job and to everything, and what was counted is
/// charged.
fn tokens(audit: &Audit, balances: &BTreeMap<Scope, Balance>) -> Vec<Finding> {
    let mut faults = Vec::new();
    let (counted, mut sum) = (audit.free_tokens(), Sum::default());
    for (scope, balance) in balances {
        let Scope::JobTokens(job) = scope else { continue };
        sum = sum.plus(Sum { spent: balance.spent, reserved: balance.reserved });
        let counted = counted.get(job.as_str()).copied().unwrap_or_default();
        if balance.spent < MicroUsd(counted) {
            let spent = scope.show(balance.spent);
            let what = format!("{scope}: the balance says {spent} spent, the entries have counted {counted}");
            faults.push(Finding::failure("ledger", what, STOP));
        }
    }
    let all = balances.get(&Scope::Tokens).copied().unwrap_or_default();
    // Jobs whose logs cannot be read may have used the rest.
    if all.spent < sum.spent || all.reserved < sum.reserved {
        let show = |amount| Scope::Tokens.show(amount);
        let what = format!(
            "tokens: the balance says {} spent and {} reserved, the jobs' say {} and {}",
            show(all.spent),
            show(all.reserved),
            show(sum.spent),
            show(sum.reserved)
        );
        faults.push(Finding::failure("ledger", what, STOP));
    }
    faults
}
