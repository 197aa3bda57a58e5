//! Which waiting tasks a resumption has tried at once, and which keep their pause.
//!
//! Apart from the walks and scenarios of the whole job: this follows what people expect of `resume` while a provider is down.

use std::time::Duration;

use super::fixtures::*;
use super::*;
use crate::protocol::{Event, FailureKind, TaskFailure, TaskOutcome};

#[test]
fn a_resumption_has_tasks_tried_at_once_that_their_provider_keeps_waiting() {
    let far = 3_600_000;
    let asked = |kind, retry_after_ms| TaskFailure { retry_after_ms, ..fault(kind) };
    let (parked, transient) = (FailureKind::Parked, FailureKind::Transient);
    for failure in [asked(parked, Some(far)), asked(parked, None), asked(transient, Some(far))] {
        for pause in [false, true] {
            let mut bench = Bench::submitted(false, 3);
            bench.dispatch("plan");
            let mut result = bench.result("plan", Err(failure.kind));
            result.outcome = TaskOutcome::Failed { failure: failure.clone() };
            let retry_at = Some(bench.now.after(Duration::from_millis(far)));
            bench.wish(Decision::Accept { result, product: None, retry_at }).unwrap();
            assert!(bench.dispatchable().is_empty());
            if pause {
                bench.wish(Decision::Pause { reason: None }).unwrap();
            }
            assert_eq!(bench.wish(Decision::Resume), Ok(vec![Event::JobResumed]), "{failure:?}");
            assert_eq!(bench.dispatchable(), ["plan"], "{failure:?}, {pause}");
            assert_eq!((bench.job.next_retry_at(), bench.wish(Decision::Resume)), (None, Ok(vec![])));
            bench.dispatch("plan");
            assert_eq!(bench.status("plan"), TaskStatus::Dispatched { attempt: 2 });
            bench.check();
        }
    }
    // What failed by itself keeps its pause, and nothing is there to resume.
    let mut bench = Bench::submitted(false, 3);
    bench.dispatch("plan");
    let result = bench.result("plan", Err(FailureKind::Rejected));
    let retry_at = Some(bench.now.after(Duration::from_secs(5)));
    bench.wish(Decision::Accept { result, product: None, retry_at }).unwrap();
    assert_eq!((bench.wish(Decision::Resume), bench.job.next_retry_at()), (Ok(vec![]), retry_at));
}
