//! What a failed call means for its task: every row of the table in ARCHITECTURE, "The way of a call".
//!
//! The errors are made by hand here; that real faults become these errors is shown by the fault table.

use super::*;

fn status(status: u16, retry_after: Option<u64>, well_formed: bool) -> LlmError {
    let retry_after = retry_after.map(Duration::from_secs);
    LlmError::Status { status, kind: "unknown".into(), message: "no".into(), retry_after, well_formed }
}

fn exhausted(last: LlmError) -> LlmError {
    LlmError::Exhausted { attempts: 3, last: Box::new(last) }
}

#[test]
fn every_end_of_a_call_has_its_consequence() {
    let connect = || LlmError::Connect { reason: "refused".into() };
    let parked = |wait: Option<u64>| (FailureKind::Parked, wait.map(|seconds| seconds * 1_000));
    let plain = |kind| (kind, None);
    for (error, is_used_up, expected) in [
        // Free of charge: the task waits, and nothing is burnt.
        (status(429, Some(90), true), false, parked(Some(90))),
        (status(529, Some(90), true), false, parked(Some(90))),
        (exhausted(status(429, None, true)), false, parked(None)),
        (exhausted(status(529, None, true)), false, parked(None)),
        (exhausted(connect()), false, parked(None)),
        // Perhaps paid for: waited as asked, with an attempt burnt, until the calls are used up.
        (status(503, Some(90), false), false, (FailureKind::Transient, Some(90_000))),
        (status(503, Some(90), false), true, plain(FailureKind::Exhausted)),
        (exhausted(status(500, None, true)), true, plain(FailureKind::Exhausted)),
        (exhausted(status(529, None, true)), true, plain(FailureKind::Exhausted)),
        // A call or two of several were paid for: the rest of them is left for later.
        (exhausted(status(529, None, true)), false, parked(None)),
        // Nothing to do with how often.
        (status(413, None, true), false, plain(FailureKind::Exhausted)),
        (status(413, None, false), false, plain(FailureKind::Exhausted)),
        (status(401, None, true), true, plain(FailureKind::Fatal)),
        (LlmError::Cancelled, true, plain(FailureKind::Cancelled)),
        (LlmError::Frozen { scope: "account".into() }, true, plain(FailureKind::Budget)),
    ] {
        let failure = classify(&error, is_used_up);
        assert_eq!((failure.kind, failure.retry_after_ms), expected, "{error:?}, used up: {is_used_up}");
    }
}

#[test]
fn people_are_told_what_was_wrong_and_the_model_what_to_do_about_it() {
    let rejection = Rejection::Refused { category: Some("cyber".into()) };
    let message = refusal(&rejection);
    let (people, model) = message.split_once('\n').unwrap();
    assert_eq!(people, "the model refused to answer (cyber)");
    assert_eq!(model, rejection.feedback());
    let parsed = Rejection::NotJson { why: "expected a value\nat line 1".into() };
    assert_eq!(refusal(&parsed).lines().next(), Some("the plan is not JSON: expected a value at line 1"));
}
