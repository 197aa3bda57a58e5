//! Every promise of the seven store traits, stated once and run on every backend.
//!
//! A case is an async function on a [`TestBackend`](crate::support::stores::TestBackend); `conformance!` makes one test of each
//! case for the rooms that one backend has. To add a backend, give it a constructor and one line at the end of this file.
//! Nothing here may know which backend it runs on, and nothing may be skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod artifacts;
mod broker;
mod cases;
mod embedded_only;
mod events;
mod expiry;
pub(crate) mod ledger;
mod locks;
mod model;
mod rates;
mod state;
mod twins;

use codeswarm::backend::{BackendError, Ledger, ReserveOutcome, Scope};

pub(crate) use ledger::request as reservation;

/// Waits until the ledger's journal, if it has one, holds every step of this process: a record that is waited for is written
/// after all that were noted before it.
pub(crate) async fn write_down(ledger: &dyn Ledger) -> Result<(), BackendError> {
    let unknown = Scope::Job(crate::support::stores::job("unknown"));
    let outcome = ledger.reserve(reservation("nobody's", &[unknown], 1)).await?;
    assert!(matches!(outcome, ReserveOutcome::Refused { .. }), "{outcome:?}");
    Ok(())
}

macro_rules! conformance {
    ($backend:ident, $open:path: $($room:ident)+) => {
        mod $backend {
            $(conformance!(@room $room $open);)+
        }
    };
    (@room broker $open:path) => {
        conformance!(@tests $open, broker:
            messages_come_out_in_publishing_order,
            an_acked_message_is_gone_and_acking_twice_changes_nothing,
            publishing_an_id_again_changes_nothing_even_after_the_ack,
            repeating_a_call_completes_it,
            earlier_queues_of_the_slice_are_served_first,
            a_waiting_pull_gets_what_is_published_meanwhile,
            each_message_goes_to_exactly_one_of_many_waiting_pulls,
            a_dropped_pull_loses_nothing,
            a_lease_that_ends_makes_the_message_available_again,
            a_waiting_pull_gets_what_a_lease_gives_up,
            progress_starts_the_lease_anew,
            a_lost_lease_cannot_touch_the_next_holders_delivery,
            a_lost_delivery_is_reported_after_the_others_were_processed,
            a_retry_comes_back_after_its_delay,
            a_waiting_pull_gets_a_retry_when_its_time_comes,
            many_queues_are_as_full_as_each_of_them,
            dead_letters_are_kept_in_order_and_never_delivered,
            bodies_up_to_the_limit_arrive_unchanged,
            an_own_signal_arrives_exactly_once,
        );
    };
    (@room events $open:path) => {
        conformance!(@tests $open, events:
            sequences_start_at_one_and_have_no_gaps,
            an_append_that_expects_another_sequence_conflicts_and_names_the_actual_one,
            of_two_appenders_exactly_one_succeeds_each_time,
            waiting_ends_when_an_event_comes,
            jobs_are_listed_oldest_first,
            every_kind_of_field_survives_the_log,
        );
    };
    (@room artifacts $open:path) => {
        conformance!(@tests $open, artifacts:
            what_is_put_can_be_got_byte_for_byte,
            the_reference_is_the_sha_256_of_the_bytes,
            an_unknown_or_wrong_reference_never_yields_bytes,
        );
    };
    (@room state $open:path) => {
        conformance!(@tests $open, state:
            versions_grow_by_one_per_write_deletions_included,
            a_failed_condition_names_key_and_actual_version,
            a_commit_applies_all_its_writes_or_none,
            of_many_racing_commits_each_version_is_won_once,
            values_come_in_the_order_asked_for,
            history_is_newest_first_and_remembers_writer_and_time,
            a_snapshot_holds_the_living_keys_under_a_prefix_in_order,
            snapshot_and_then_changes_miss_nothing_and_repeat_nothing,
            changes_show_deletions_and_only_the_prefix,
            a_waiting_feed_wakes_for_its_prefix_only,
            keys_and_values_are_bounded,
            a_commit_can_depend_on_keys_that_it_does_not_write,
            a_condition_that_fails_is_named_before_any_write_and_nothing_is_written,
        );
    };
    (@room ledger $open:path) => {
        conformance!(@tests $open, ledger:
            a_reservation_is_granted_exactly_up_to_the_limit,
            case_03_a_repeated_reservation_answers_the_recorded_outcome,
            case_01_two_hundred_concurrent_reservations_with_room_for_37_grant_37,
            case_02_all_scopes_are_charged_or_none,
            a_job_without_a_limit_is_refused_and_an_account_without_one_is_not,
            case_11_settling_twice_answers_the_first_charge,
            releasing_gives_back_only_what_is_open,
            settling_what_was_released_still_charges_it,
            case_10_a_reservation_that_nobody_ended_becomes_spent,
            expiring_names_what_it_turned,
            case_11_settling_after_expiry_corrects_the_charge_once,
            case_12_an_overrun_is_recorded_in_full_and_freezes_all_scopes,
            a_late_overrun_after_expiry_freezes_too,
            a_frozen_scope_refuses_but_still_settles,
            only_verification_and_repair_may_use_what_is_held_back,
            an_adjustment_happens_once_per_request,
            a_limit_may_be_lowered_below_what_is_committed,
            amounts_that_cannot_be_held_exactly_are_refused,
            entries_tell_what_happened_in_order,
            an_unknown_scope_is_all_zero,
            case_23_a_charge_stays_in_the_window_of_its_reservation,
            an_overrun_in_a_window_leaves_tomorrow_open,
            slices_and_agent_types_have_limits_of_their_own,
            entries_can_be_picked_by_agent_model_and_time,
        );
    };
    (@room cases $open:path) => {
        conformance!(@tests $open, cases:
            case_01_two_busy_processes_share_one_budget,
            case_11_in_whatever_order_it_ends_a_reservation_is_charged_what_was_settled_first,
            case_04_tokens_are_set_aside_and_charged_beside_money_each_in_its_own_scopes,
            case_25_at_rest_nothing_is_reserved_and_the_entries_add_up_to_what_is_spent,
        );
    };
    (@room expiry $open:path) => {
        conformance!(@tests $open, expiry:
            any_number_of_reservations_expires_at_once,
            expiring_names_all_of_them,
        );
    };
    (@room model $open:path) => {
        mod model {
            // Changes the backend itself: every sequence has books of its own, and some of them a crash.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn stress_random_sequences_agree_with_a_naive_model_and_keep_the_invariant() {
                let mut test = $open().await;
                crate::conformance::model::stress_random_sequences_agree_with_a_naive_model_and_keep_the_invariant(&mut test)
                    .await;
            }
        }
    };
    (@room locks $open:path) => {
        conformance!(@tests $open, locks:
            an_exclusive_lease_excludes_everyone_until_it_is_given_back,
            asking_again_in_the_same_mode_answers_the_same_fence,
            fences_grow_with_every_grant_and_survive_release,
            a_lease_ends_by_the_clock_and_its_fence_is_stale,
            a_request_that_does_not_queue_is_told_who_holds,
            equal_requests_are_served_in_order_of_arrival,
            urgent_requests_go_first_and_waiting_makes_urgent,
            an_abandoned_waiter_is_gone_at_its_own_deadline,
            a_waiter_that_gives_up_frees_its_place,
            shared_leases_are_held_together_and_do_not_starve_a_writer,
            permits_are_held_by_as_many_as_there_are,
            a_cycle_of_two_is_a_deadlock_for_the_one_who_closes_it,
            a_cycle_through_a_queued_waiter_is_a_deadlock,
            waiting_without_a_cycle_is_no_deadlock,
            changing_the_mode_of_a_held_lease_is_waiting_for_oneself,
            a_permit_deadlock_needs_every_holder_to_be_stuck,
            holders_and_waiters_can_be_inspected_by_prefix,
            racing_owners_never_hold_together_and_never_hang,
        );
    };
    (@room rates $open:path) => {
        conformance!(@tests $open, rates:
            a_key_without_limits_grants_everything,
            a_limit_grants_the_bucket_and_then_as_fast_as_it_fills,
            a_sliding_window_never_sees_more_than_the_limit,
            all_meters_are_taken_from_or_none,
            racing_takers_are_never_granted_more_than_there_is,
            what_the_provider_said_holds_for_every_taker,
            a_pause_holds_everybody_until_it_is_over,
            corrections_count_even_when_nothing_is_taken,
            keys_do_not_share_anything_and_are_listed_in_order,
            a_breaker_opens_lets_trials_through_and_closes,
            of_many_racing_for_trials_only_as_many_pass_as_there_are,
            a_trial_whose_process_died_ends_with_its_lease,
            a_renewal_prolongs_a_trial_that_is_there_and_sets_none_up,
            stress_random_steps_agree_with_the_shared_arithmetic,
            what_is_no_key_is_refused,
        );
    };
    (@tests $open:path, $room:ident: $($case:ident),* $(,)?) => {
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

conformance!(embedded, crate::support::stores::TestBackend::embedded: broker events artifacts state ledger cases expiry model locks rates);
conformance!(redis, crate::support::stores::TestBackend::redis: state ledger cases expiry model locks rates);
conformance!(distributed, crate::support::stores::TestBackend::distributed: broker events artifacts);
conformance!(journaled, crate::support::stores::TestBackend::journaled: ledger cases expiry model);
