//! Every promise of the six store traits, stated once and run on every backend.
//!
//! A case is an async function on a [`TestBackend`]; `conformance!` makes one test of each case for one backend. To add
//! a backend, give it a constructor and one line at the end of this file. Nothing here may know which backend it runs
//! on, and nothing may be skipped.

mod ledger;

macro_rules! conformance {
    ($backend:ident, $open:path) => {
        mod $backend {
            conformance!(@room $open, ledger:
                a_reservation_is_granted_exactly_up_to_the_limit,
                a_repeated_reservation_answers_the_recorded_outcome,
                two_hundred_concurrent_reservations_with_room_for_37_grant_37,
                all_scopes_are_charged_or_none,
                a_job_without_a_limit_is_refused_and_an_account_without_one_is_not,
                settling_twice_answers_the_first_charge,
                releasing_gives_back_only_what_is_open,
                settling_what_was_released_still_charges_it,
                expired_reservation_becomes_spent,
                expiring_names_what_it_turned,
                settling_after_expiry_corrects_the_charge_once,
                an_overrun_is_recorded_in_full_and_freezes_all_scopes,
                a_late_overrun_after_expiry_freezes_too,
                a_frozen_scope_refuses_but_still_settles,
                only_verification_and_repair_may_use_what_is_held_back,
                an_adjustment_happens_once_per_request,
                a_limit_may_be_lowered_below_what_is_committed,
                amounts_that_cannot_be_held_exactly_are_refused,
                entries_tell_what_happened_in_order,
                an_unknown_scope_is_all_zero,
            );
        }
    };
    (@room $open:path, $room:ident: $($case:ident),* $(,)?) => {
        mod $room {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let test = $open().await;
                    crate::conformance::$room::$case(&test).await;
                }
            )*
        }
    };
}

conformance!(embedded, crate::support::TestBackend::embedded);
