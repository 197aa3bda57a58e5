//! The Lua scripts, each one atomic step of a store, and how one is called.
//!
//! A script runs alone on the server, which is what makes compare-and-set over several keys, budgets and locks exact; so it
//! has to be short, and none may loop over an unbounded number of keys. All keys of a script are made from the one prefix
//! in `KEYS[1]`, whose braces put them into one slot, so that a cluster or an ACL rule can be told about them by prefix.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Script, ScriptInvocation};

use crate::clock::Clock;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident: $($file:literal)+;)+) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!($(include_str!($file)),+)));)+
    };
}

scripts! {
    STATE_COMMIT: "lua/now.lua" "lua/state_commit.lua";
    STATE_GET: "lua/state_get.lua";
    STATE_HISTORY: "lua/state_history.lua";
    STATE_SNAPSHOT: "lua/state_snapshot.lua";
    STATE_CHANGES: "lua/state_changes.lua";
    LEDGER_EPOCH: "lua/ledger_epoch.lua";
    LEDGER_CLEAR: "lua/ledger_clear.lua";
    LEDGER_REMOVE: "lua/ledger_marked.lua" "lua/ledger_remove.lua";
    LEDGER_OPEN: "lua/ledger_marked.lua" "lua/ledger_open.lua";
    LEDGER_CARRY: "lua/now.lua" "lua/ledger.lua" "lua/ledger_carry.lua";
    LEDGER_ENTER: "lua/now.lua" "lua/ledger.lua" "lua/ledger_enter.lua";
    LEDGER_REPLAY: "lua/now.lua" "lua/ledger.lua" "lua/ledger_scope.lua" "lua/ledger_replay.lua";
    LEDGER_STEPS: "lua/now.lua" "lua/ledger.lua" "lua/ledger_steps.lua";
    LEDGER_EXPIRE: "lua/now.lua" "lua/ledger.lua" "lua/ledger_expire.lua";
    LEDGER_ADJUST: "lua/now.lua" "lua/ledger.lua" "lua/ledger_scope.lua" "lua/ledger_adjust.lua";
    LEDGER_BALANCE: "lua/now.lua" "lua/ledger.lua" "lua/ledger_scope.lua" "lua/ledger_balance.lua";
    LEDGER_ENTRIES: "lua/now.lua" "lua/ledger.lua" "lua/ledger_entries.lua";
    LEDGER_ORPHAN: "lua/now.lua" "lua/ledger.lua" "lua/ledger_orphan.lua";
    LOCK_ACQUIRE: "lua/now.lua" "lua/locks.lua" "lua/lock_deadlock.lua" "lua/lock_acquire.lua";
    LOCK_RENEW: "lua/now.lua" "lua/locks.lua" "lua/lock_renew.lua";
    LOCK_RELEASE: "lua/now.lua" "lua/locks.lua" "lua/lock_release.lua";
    LOCK_INSPECT: "lua/now.lua" "lua/locks.lua" "lua/lock_inspect.lua";
    LOCK_ORPHAN: "lua/now.lua" "lua/locks.lua" "lua/lock_orphan.lua";
    DELAY_PUT: "lua/now.lua" "lua/delay_put.lua";
    DELAY_TAKE: "lua/now.lua" "lua/delay_take.lua";
    DELAY_REMOVE: "lua/delay_remove.lua";
    DELAY_ORPHAN: "lua/now.lua" "lua/delay_orphan.lua";
    RATES_TAKE: "lua/now.lua" "lua/rates_take.lua";
    RATES_GATE: "lua/now.lua" "lua/rates_gate.lua";
    RATES_LIST: "lua/now.lua" "lua/rates_list.lua";
    PRESENCE_BEAT: "lua/now.lua" "lua/presence_beat.lua";
    PRESENCE_END: "lua/now.lua" "lua/presence_end.lua";
}

/// Longest time a script is asked to add to its clock, in milliseconds: with it, an instant is still exact in a double.
const MAX_MILLIS: u64 = 1 << 50;

/// A call of `script` on the keys below `prefix`, its first argument the time if a test moves the clock.
pub(super) fn call(script: &'static Script, prefix: &str, clock: &Clock) -> ScriptInvocation<'static> {
    let mut call = script.key(prefix);
    if clock.is_manual() {
        call.arg(clock.now().0);
    } else {
        call.arg("");
    }
    call
}

/// A delay as an argument.
pub(super) fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).min(MAX_MILLIS)
}

/// A lease as an argument: at least one millisecond.
pub(super) fn lease_millis(lease: Duration) -> u64 {
    millis(lease).max(1)
}
