//! `Ledger`: money. The one place where `spent + reserved ≤ limit` is enforced.
//!
//! Money is set aside for the worst case before a call and settled after it, over all of its scopes in one step, because
//! checking first and writing later overspends as soon as two workers do it. A reservation that nobody ends becomes
//! spent, never free: the provider may have billed the call.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::BackendError;
use crate::clock::Timestamp;
use crate::protocol::{AgentType, FeatureId, InstanceId, JobId, MicroUsd, TaskId, Usage};

/// Something with a limit of its own.
///
/// Windows of the account (a day, a month, in UTC) have counters of their own and share one limit: that of
/// [`Scope::PerDay`] and [`Scope::PerMonth`]. A reservation stays in the window in which it was made, however late it is
/// settled, so that the turn of a day can neither lose nor double a charge.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Everything this deployment spends.
    Account,
    /// Holds the limit of every day; nothing is charged to it.
    PerDay,
    /// Holds the limit of every month; nothing is charged to it.
    PerMonth,
    /// One day of the account, for example `2026-11-21`.
    Day(String),
    /// One month of the account, for example `2026-11`.
    Month(String),
    /// One job.
    Job(JobId),
    /// The part of a job's money that is meant for one feature.
    Slice(JobId, FeatureId),
    /// What one agent type spends in a job.
    Agent(JobId, AgentType),
    /// Tokens of models that cost nothing, over everything. It counts tokens, not money.
    Tokens,
    /// The same within one job.
    JobTokens(JobId),
}

/// Name of the scope that holds the limit of every day.
const PER_DAY: &str = "account/day";

/// Name of the scope that holds the limit of every month.
const PER_MONTH: &str = "account/month";

/// Name of the scope of all tokens, and the end of the names of its parts.
const TOKENS: &str = "tokens";

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account => f.write_str("account"),
            Self::PerDay => f.write_str(PER_DAY),
            Self::PerMonth => f.write_str(PER_MONTH),
            Self::Day(day) => write!(f, "{PER_DAY}:{day}"),
            Self::Month(month) => write!(f, "{PER_MONTH}:{month}"),
            Self::Job(job) => write!(f, "job:{job}"),
            Self::Slice(job, feature) => write!(f, "job:{job}/slice:{feature}"),
            Self::Agent(job, agent) => write!(f, "job:{job}/agent:{agent}"),
            Self::Tokens => f.write_str(TOKENS),
            Self::JobTokens(job) => write!(f, "job:{job}/{TOKENS}"),
        }
    }
}

impl Scope {
    /// The windows of the account that hold `now`.
    #[must_use]
    pub fn windows(now: Timestamp) -> [Self; 2] {
        // RFC 3339 begins with year, month and day.
        let (mut day, mut month) = (now.to_string(), now.to_string());
        day.truncate("2026-11-21".len());
        month.truncate("2026-11".len());
        [Self::Day(day), Self::Month(month)]
    }

    /// The job it belongs to, if it belongs to one.
    #[must_use]
    pub const fn job(&self) -> Option<&JobId> {
        match self {
            Self::Job(job) | Self::Slice(job, _) | Self::Agent(job, _) | Self::JobTokens(job) => Some(job),
            _ => None,
        }
    }

    /// True when nothing may be spent in it before somebody has set a limit.
    #[must_use]
    pub const fn needs_limit(&self) -> bool {
        matches!(self, Self::Job(_))
    }

    /// True when its limit and counters are tokens instead of micro-dollars.
    #[must_use]
    pub const fn counts_tokens(&self) -> bool {
        matches!(self, Self::Tokens | Self::JobTokens(_))
    }

    /// The same by its name.
    pub(super) fn is_of_tokens(name: &str) -> bool {
        name.strip_suffix(TOKENS).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
    }

    /// An amount of this scope, for people.
    #[must_use]
    pub fn show(&self, amount: MicroUsd) -> String {
        if self.counts_tokens() { format!("{} tokens", amount.0) } else { amount.to_string() }
    }

    /// The scope that holds the limit of the window called `name`; `None` for scopes with a limit of their own.
    pub(super) fn policy_of(name: &str) -> Option<&'static str> {
        [PER_DAY, PER_MONTH]
            .into_iter()
            .find(|policy| name.strip_prefix(policy).is_some_and(|rest| rest.starts_with(':')))
    }
}

/// A request to set money aside before a call.
#[derive(Debug, Clone)]
pub struct ReserveRequest {
    /// Unique per provider call attempt; repeating it answers the recorded outcome.
    pub id: String,
    /// Every scope the call falls in. All of them are charged, or none.
    pub scopes: Vec<Scope>,
    /// The worst case of the call.
    pub amount: MicroUsd,
    /// The most tokens it can use, input and output together; set aside in the scopes that count tokens. 0 without such.
    pub tokens: u64,
    /// After this time without settle or release the reservation becomes spent.
    pub lease: Duration,
    /// True for verification and repair, which may use what a scope holds back.
    pub may_use_hold_back: bool,
    /// Instance that makes the call; when it is known to be dead its open reservations become spent.
    pub instance: InstanceId,
    /// For the record: the job.
    pub job: JobId,
    /// For the record: the task.
    pub task: TaskId,
    /// For the record: the agent type.
    pub agent: AgentType,
    /// For the record: the model.
    pub model: String,
}

/// Answer to a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReserveOutcome {
    /// The money is set aside.
    Granted,
    /// It does not fit. Nothing was changed.
    Refused {
        /// The first scope that had too little.
        scope: Scope,
        /// What that scope could still give; tokens where it counts them.
        available: MicroUsd,
    },
    /// Spending is frozen in this scope.
    Frozen {
        /// Which scope.
        scope: Scope,
    },
}

/// What a call really cost. In scopes that count tokens it is charged those of its usage, or, when there are none, all that
/// were reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settlement {
    /// The charge.
    pub amount: MicroUsd,
    /// The tokens behind it.
    pub usage: Usage,
}

/// Answer to a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleOutcome {
    /// What is now charged for the reservation.
    pub charged: MicroUsd,
    /// True when the charge exceeds what was reserved: the scopes were frozen in the same step.
    pub overrun: bool,
}

/// Where a reservation is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReservationState {
    /// Set aside.
    Open,
    /// Charged with what the call cost.
    Settled,
    /// Given back: the call cost nothing.
    Released,
    /// Charged in full because nobody settled it in time.
    Expired,
}

/// A change by a person or by policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adjustment {
    /// Set the limit; `None` removes it.
    SetLimit(Option<MicroUsd>),
    /// Raise the limit. No limit stays none, but a scope that [needs one](Scope::needs_limit) starts from zero.
    TopUp(MicroUsd),
    /// Hold back this much of the limit for verification and repair.
    HoldBack(MicroUsd),
    /// Refuse every reservation from now on.
    Freeze,
    /// Allow reservations again.
    Thaw,
}

impl Adjustment {
    /// What changes in `scope`, for the record.
    #[must_use]
    pub fn note(self, scope: &Scope) -> String {
        match self {
            Self::SetLimit(Some(limit)) => format!("limit of {scope} set to {}", scope.show(limit)),
            Self::SetLimit(None) => format!("limit of {scope} removed"),
            Self::TopUp(more) => format!("limit of {scope} raised by {}", scope.show(more)),
            Self::HoldBack(amount) => format!("{} of {scope} held back", scope.show(amount)),
            Self::Freeze => format!("{scope} frozen"),
            Self::Thaw => format!("{scope} thawed"),
        }
    }
}

/// A scope's state. Where the scope [counts tokens](Scope::counts_tokens), so do all amounts here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Balance {
    /// The limit, if there is one.
    pub limit: Option<MicroUsd>,
    /// Charged.
    pub spent: MicroUsd,
    /// Set aside.
    pub reserved: MicroUsd,
    /// Part of the limit kept for verification and repair.
    pub hold_back: MicroUsd,
    /// True while reservations are refused.
    pub frozen: bool,
}

impl Balance {
    /// What an ordinary reservation could still get; `None` without a limit.
    #[must_use]
    pub fn available(&self) -> Option<MicroUsd> {
        self.limit
            .map(|limit| limit.saturating_sub(self.spent).saturating_sub(self.reserved).saturating_sub(self.hold_back))
    }
}

/// What an entry records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// Money was set aside.
    Reserve,
    /// A call was charged. After an `Expire` of the same reservation it replaces that charge, so whoever sums charges
    /// counts only the newest entry of each reservation.
    Settle,
    /// Money was given back.
    Release,
    /// A reservation ran out and was charged in full.
    Expire,
    /// A limit, hold-back or freeze changed.
    Adjust,
}

/// One line of the ledger. Entries are never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Ascending.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EntryKind,
    /// The reservation, or the request of an adjustment.
    pub reservation: String,
    /// The job, if it concerns one.
    pub job: Option<String>,
    /// The task, if it concerns one.
    pub task: Option<String>,
    /// The agent type, if it concerns one.
    pub agent: Option<String>,
    /// The model, if it concerns one.
    pub model: Option<String>,
    /// What had been reserved.
    pub reserved: MicroUsd,
    /// What was charged.
    pub charged: MicroUsd,
    /// Tokens of a settled call.
    pub usage: Usage,
    /// For adjustments: what changed.
    pub note: String,
}

/// What a rebuild of the books has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Rebuilt {
    /// Records of the journal that were done again.
    pub records: u64,
}

/// How counters and the journal beside them stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Whether both have the same name, and the counters all entries that the journal knows of.
    pub is_whole: bool,
    /// Number of the counters' newest entry.
    pub entry: u64,
    /// The newest entry that the journal knows of; `None` when it holds no records.
    pub journal: Option<u64>,
    /// When the journal was begun anew from the counters, because it had been lost; `None` if it never was.
    pub carried: Option<Timestamp>,
}

/// Which entries to read: those that meet every condition it names.
#[derive(Debug, Clone, Default)]
pub struct EntryFilter {
    /// Only this job's.
    pub job: Option<JobId>,
    /// Only this agent type's.
    pub agent: Option<AgentType>,
    /// Only calls of this model.
    pub model: Option<String>,
    /// Only from this instant on.
    pub since: Option<Timestamp>,
    /// Only before this instant.
    pub before: Option<Timestamp>,
    /// Only after this entry id.
    pub after: u64,
    /// At most this many; 0 means 1,000.
    pub limit: usize,
}

/// Atomic budget counters.
///
/// Promises:
/// - After every operation, in every scope with a limit: `spent + reserved ≤ limit`, unless a call cost more than was
///   reserved (recorded in full, scopes frozen) or a person lowered the limit below what was already committed.
/// - `reserve` charges all scopes in one step or none. A repeated id answers the recorded outcome and changes nothing; a
///   refused id may be tried again.
/// - `settle` is idempotent. Settling an expired reservation corrects the charge once (late proof may lower or raise it).
///   Settling a released one charges it all the same; where that leads past a limit it is an overrun.
/// - `release` of anything but an open reservation changes nothing.
/// - An open reservation whose lease is over counts as spent from the next operation on: crashes cost money, never
///   free it.
/// - A scope that was never adjusted has no limit; a job without a limit is refused.
/// - Money and tokens of one reservation are set aside and charged in the same step, each in the scopes that count it.
/// - A charge stays in the windows of its reservation. A window is never frozen by itself, only its policy is.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Sets the worst case of a call aside.
    async fn reserve(&self, request: ReserveRequest) -> Result<ReserveOutcome, BackendError>;

    /// Charges what the call cost; [`BackendError::NotFound`] for an id that was never granted.
    async fn settle(&self, id: &str, settlement: Settlement) -> Result<SettleOutcome, BackendError>;

    /// Gives the money back, because the call provably cost nothing.
    async fn release(&self, id: &str) -> Result<(), BackendError>;

    /// Turns open reservations whose lease is over into spending; answers their ids, without those that an earlier
    /// operation has turned already.
    async fn expire(&self) -> Result<Vec<String>, BackendError>;

    /// Changes a scope, once per `request` id. Answers the new balance.
    async fn adjust(&self, request: &str, scope: &Scope, adjustment: Adjustment) -> Result<Balance, BackendError>;

    /// A scope's present state; all zero for an unknown one.
    async fn balance(&self, scope: &Scope) -> Result<Balance, BackendError>;

    /// The record, oldest first.
    async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, BackendError>;

    /// Makes lost books anew from their journal; `None` where books and journal are one, so that neither is lost alone.
    ///
    /// Books that are not lost are refused unless `even_if_whole`, and so is a journal that is empty or lacks its beginning.
    /// Until it is done every other operation answers [`BackendError::DataLost`]; of several at once the last to begin is
    /// done, the others answer [`BackendError::Overtaken`].
    async fn rebuild(&self, even_if_whole: bool) -> Result<Option<Rebuilt>, BackendError>;

    /// How books and journal stand to each other; `None` where they are one.
    async fn standing(&self) -> Result<Option<Standing>, BackendError> {
        Ok(None)
    }
}
