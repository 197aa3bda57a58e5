//! What a process takes from the fleet's allowances, and when.
//!
//! Time is paused and the store counts its steps, so that both the moments at which calls pass and the price of letting
//! them pass are exact.

use super::*;
use crate::backend::Reading;
use crate::resilience::test_table::TestTable;

const KEY: &str = "test/model";
const PATIENCE: Duration = Duration::from_secs(60);

fn limits(requests: Option<u64>, input: Option<u64>, output: Option<u64>) -> Limits {
    Limits {
        per_window: [requests, input, output],
        window: Duration::from_secs(60),
        burst_percent: 100,
        sliding: false,
    }
}

fn fleet(processes: usize, limits: Limits) -> (Arc<TestTable>, Vec<FleetRates>) {
    let table = Arc::new(TestTable::default());
    let all = (0..processes).map(|_| FleetRates::new(table.clone(), limits)).collect();
    (table, all)
}

fn usage(input: u64, output: u64) -> Used {
    Used::Known(Usage { input, output, ..Usage::default() })
}

async fn take(rates: &FleetRates) -> Result<Ticket, Duration> {
    rates.take(KEY, 3_000, 4_000, PATIENCE).await
}

#[tokio::test(start_paused = true)]
async fn all_processes_together_pass_what_the_limit_allows_and_no_more() {
    let (_, fleet) = fleet(4, limits(Some(100), None, None));
    let start = Instant::now();
    let passed = Arc::new(Mutex::new(Vec::new()));
    let callers: Vec<_> = (0..160)
        .map(|n| {
            let (rates, passed) = (fleet[n % 4].clone(), Arc::clone(&passed));
            tokio::spawn(async move {
                take(&rates).await.unwrap().finish(Used::Unknown, None).await;
                passed.lock().unwrap().push(start.elapsed());
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let passed = passed.lock().unwrap();
    let within = |seconds| passed.iter().filter(|at| at.as_secs() < seconds).count();
    assert_eq!(within(1), 101, "the bucket, and what flows in within a second");
    assert!(within(31) <= 151, "{}", within(31));
    // 60 more at 100 a minute.
    let last = passed.iter().max().unwrap().as_secs_f64();
    assert!((36.0..40.0).contains(&last), "{last}");
}

#[tokio::test(start_paused = true)]
async fn under_load_a_write_serves_many_calls_and_without_limits_a_second_costs_one() {
    let (table, all) = fleet(1, limits(Some(100_000), None, None));
    for _ in 0..1_000 {
        take(&all[0]).await.unwrap().finish(Used::Unknown, None).await;
    }
    assert!(table.takes() <= 30, "{}", table.takes());
    let (table, all) = fleet(1, limits(None, None, None));
    for _ in 0..1_000 {
        take(&all[0]).await.unwrap().finish(Used::Unknown, None).await;
    }
    assert_eq!(table.takes(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_ahead_and_not_used_goes_back() {
    let (table, all) = fleet(1, limits(Some(1_000), None, None));
    for _ in 0..50 {
        take(&all[0]).await.unwrap().finish(Used::Unknown, None).await;
    }
    tokio::time::advance(Duration::from_millis(1_001)).await;
    take(&all[0]).await.unwrap().finish(Used::Unknown, None).await;
    let left = table.list().await.unwrap()[0].meters[0].unwrap().1;
    // 51 used, 16 flowed in; at most one advance is out.
    assert!((1_000 - 51 - 64..=1_000).contains(&left), "{left}");
    assert!(left >= 900);
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_patience_is_handed_to_the_caller_at_once() {
    let (_, all) = fleet(1, limits(Some(1), None, None));
    drop(take(&all[0]).await.unwrap());
    let start = Instant::now();
    let refused = all[0].take(KEY, 3_000, 4_000, Duration::from_secs(30)).await.err().unwrap();
    assert_eq!((refused, start.elapsed()), (PATIENCE, Duration::ZERO));
    assert!(take(&all[0]).await.is_ok());
    assert_eq!(start.elapsed(), PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_never_sent_gives_its_allowance_back() {
    let (_, all) = fleet(1, limits(Some(1), None, None));
    for _ in 0..20 {
        take(&all[0]).await.unwrap().finish(Used::Nothing, None).await;
    }
    assert!(Instant::now().elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn tokens_are_estimated_from_earlier_calls_and_corrected_by_what_was_used() {
    let (table, all) = fleet(1, limits(None, Some(100_000), Some(10_000)));
    // The first guess is 1,000 of each; the call took 2,000 and 100.
    take(&all[0]).await.unwrap().finish(usage(2_000, 100), None).await;
    for _ in 0..40 {
        take(&all[0]).await.unwrap().finish(usage(2_000, 100), None).await;
    }
    tokio::time::advance(Duration::from_millis(1_001)).await;
    drop(take(&all[0]).await.unwrap());
    let state = &table.list().await.unwrap()[0];
    let (input, output) = (state.meters[1].unwrap().1, state.meters[2].unwrap().1);
    assert!((14_000..=20_000).contains(&input), "{input}: 42 times 2,000 of 100,000, and a second's flow");
    assert!((5_700..=6_000).contains(&output), "{output}: 42 times 100 of 10,000");
}

#[tokio::test(start_paused = true)]
async fn what_the_provider_says_to_one_holds_for_all() {
    let (_, all) = fleet(2, limits(None, None, None));
    let reading = Some(Reading { limit: 60, remaining: 0 });
    let said = Headroom { readings: [reading, None, None], ..Headroom::default() };
    take(&all[0]).await.unwrap().finish(Used::NoTokens, Some(said)).await;
    tokio::time::advance(Duration::from_millis(1_001)).await;
    let start = Instant::now();
    for rates in [&all[0], &all[1], &all[0]] {
        take(rates).await.unwrap().finish(Used::Unknown, None).await;
    }
    let elapsed = start.elapsed().as_millis();
    assert!((1_900..=2_100).contains(&elapsed), "a second's worth had flowed in: {elapsed}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_named_by_the_provider_reaches_every_process_at_once() {
    let (_, all) = fleet(2, limits(Some(1_000), None, None));
    let ticket = take(&all[0]).await.unwrap();
    let said = Headroom { pause: Some(Duration::from_secs(20)), ..Headroom::default() };
    ticket.finish(Used::NoTokens, Some(said)).await;
    let start = Instant::now();
    tokio::join!(async { drop(take(&all[0]).await.unwrap()) }, async { drop(take(&all[1]).await.unwrap()) });
    assert_eq!(start.elapsed(), Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_stops_nothing() {
    let (table, all) = fleet(1, limits(Some(1), None, None));
    table.be_away();
    for _ in 0..10 {
        take(&all[0]).await.unwrap().finish(Used::Unknown, None).await;
    }
}
