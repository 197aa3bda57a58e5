//! What buckets and windows let pass, moment by moment.
//!
//! Time is a value here, so every case is exact: what is granted at one millisecond must not have been granted at the one
//! before.

use super::*;

const START: Timestamp = Timestamp(1_767_225_600_000);

fn limits(requests: u64) -> Limits {
    Limits {
        per_window: [Some(requests), None, None],
        window: Duration::from_secs(60),
        burst_percent: 100,
        sliding: false,
    }
}

fn requests(n: u64) -> Amounts {
    Amounts { requests: n, ..Amounts::default() }
}

fn need(amounts: Amounts) -> Take {
    Take { need: amounts, want: amounts, ..Take::default() }
}

fn at(ms: u64) -> Timestamp {
    START.after(Duration::from_millis(ms))
}

fn granted(taken: Taken) -> u64 {
    match taken {
        Taken::Granted { amounts, .. } => amounts.requests,
        Taken::Wait(_) => 0,
    }
}

#[test]
fn a_bucket_gives_what_it_holds_and_then_as_fast_as_it_fills() {
    let (mut bank, limits) = (Bank::default(), limits(100));
    let passed = (0..150).filter(|_| granted(bank.take(at(0), &limits, &need(requests(1)))) == 1).count();
    assert_eq!(passed, 100);
    assert_eq!(bank.take(at(0), &limits, &need(requests(1))), Taken::Wait(Duration::from_millis(600)));
    assert_eq!(bank.take(at(599), &limits, &need(requests(1))), Taken::Wait(Duration::from_millis(1)));
    assert_eq!(granted(bank.take(at(600), &limits, &need(requests(1)))), 1);
    let passed = (600..60_600).filter(|&ms| granted(bank.take(at(ms), &limits, &need(requests(1)))) == 1).count();
    assert!((98..=100).contains(&passed), "{passed} in a minute");
}

#[test]
fn a_smaller_bucket_holds_less_and_fills_as_fast() {
    let (mut bank, limits) = (Bank::default(), Limits { burst_percent: 10, ..limits(100) });
    let passed = (0..150).filter(|_| granted(bank.take(at(0), &limits, &need(requests(1)))) == 1).count();
    assert_eq!(passed, 10);
    assert_eq!(granted(bank.take(at(600), &limits, &need(requests(1)))), 1);
}

#[test]
fn no_window_wherever_it_begins_sees_more_than_the_limit_when_it_slides() {
    let (mut bank, limits) = (Bank::default(), Limits { sliding: true, ..limits(100) });
    let mut passed = Vec::new();
    for ms in (0..200_000).step_by(50) {
        while granted(bank.take(at(ms), &limits, &need(requests(1)))) == 1 {
            passed.push(ms);
        }
    }
    for (index, start) in passed.iter().enumerate() {
        let within = passed[index..].iter().take_while(|&&ms| ms < start + 60_000).count();
        assert!(within <= 100, "{within} from {start}");
    }
    // A slice counts whole, so a sixtieth is lost at most.
    assert!(passed.len() >= 390, "{}", passed.len());
}

#[test]
fn a_window_names_the_moment_from_which_on_it_has_room() {
    let (mut bank, limits) = (Bank::default(), Limits { sliding: true, ..limits(10) });
    assert_eq!(granted(bank.take(at(0), &limits, &need(requests(10)))), 10);
    let Taken::Wait(wait) = bank.take(at(30_000), &limits, &need(requests(5))) else { panic!("it is full") };
    let due = 30_000 + u64::try_from(wait.as_millis()).unwrap();
    assert!((60_000..=61_000).contains(&due), "{due}");
    assert!(matches!(bank.take(at(due - 1), &limits, &need(requests(5))), Taken::Wait(_)));
    assert_eq!(granted(bank.take(at(due), &limits, &need(requests(5)))), 5);
}

#[test]
fn all_meters_give_or_none() {
    let limits = Limits { per_window: [Some(100), Some(1_000), Some(50)], ..limits(100) };
    let mut bank = Bank::default();
    let call = Amounts { requests: 1, input_tokens: 10, output_tokens: 51 };
    let taken = bank.take(at(0), &limits, &need(Amounts { output_tokens: 50, ..call }));
    assert!(matches!(taken, Taken::Granted { .. }));
    assert!(matches!(bank.take(at(0), &limits, &need(Amounts { output_tokens: 1, ..call })), Taken::Wait(_)));
    assert_eq!(bank.readings(), [Some((100, 99)), Some((1_000, 990)), Some((50, 0))]);
}

#[test]
fn one_call_larger_than_the_bucket_passes_a_full_one_and_is_paid_off() {
    let limits = Limits { per_window: [None, Some(600), None], burst_percent: 50, ..limits(1) };
    let mut bank = Bank::default();
    let tokens = |n| need(Amounts { requests: 1, input_tokens: n, ..Amounts::default() });
    assert!(matches!(bank.take(at(0), &limits, &tokens(900)), Taken::Granted { .. }));
    assert_eq!(bank.take(at(0), &limits, &tokens(10)), Taken::Wait(Duration::from_millis(61_000)));
    assert!(matches!(bank.take(at(61_000), &limits, &tokens(10)), Taken::Granted { .. }));
}

#[test]
fn an_advance_is_given_only_while_half_is_left_for_others() {
    let (mut bank, limits) = (Bank::default(), limits(100));
    let ahead = Take { need: requests(1), want: requests(30), ..Take::default() };
    assert_eq!(granted(bank.take(at(0), &limits, &ahead)), 30);
    assert_eq!(granted(bank.take(at(0), &limits, &ahead)), 1);
}

#[test]
fn corrections_give_back_and_take_more() {
    let (mut bank, limits) = (Bank::default(), Limits { sliding: true, ..limits(100) });
    assert_eq!(granted(bank.take(at(0), &limits, &need(requests(100)))), 100);
    let give = Take { correction: [-30, 0, 0], ..need(requests(30)) };
    assert_eq!(granted(bank.take(at(10), &limits, &give)), 30);
    let report = Take { correction: [-50, 0, 0], ..Take::default() };
    assert!(matches!(bank.take(at(20), &limits, &report), Taken::Granted { .. }));
    let more = Take { correction: [20, 0, 0], ..need(requests(31)) };
    assert!(matches!(bank.take(at(30), &limits, &more), Taken::Wait(_)));
    assert_eq!(granted(bank.take(at(30), &limits, &need(requests(30)))), 30);
}

#[test]
fn what_the_provider_says_sets_a_limit_lowers_the_rest_and_never_fills_it() {
    let limits = Limits { per_window: [None; 3], ..limits(1) };
    let mut bank = Bank::default();
    let taken = bank.take(at(0), &limits, &need(requests(1_000)));
    assert_eq!(taken, Taken::Granted { amounts: requests(1_000), limited: false });
    let said = |limit, remaining, age| {
        let reading = Some(Reading { limit, remaining });
        let headroom = Headroom { readings: [reading, None, None], age: Duration::from_secs(age), pause: None };
        Take { headroom: Some(headroom), ..Take::default() }
    };
    let taken = bank.take(at(0), &limits, &said(60, 20, 5));
    assert!(matches!(taken, Taken::Granted { limited: true, .. }));
    assert_eq!(bank.readings()[0], Some((60, 25)), "five seconds brought five more");
    bank.take(at(0), &limits, &said(60, 50, 0));
    assert_eq!(bank.readings()[0], Some((60, 25)));
    bank.take(at(0), &Limits { per_window: [Some(30), None, None], ..limits }, &Take::default());
    assert_eq!(bank.readings()[0], Some((30, 25)), "the smaller limit holds");
}

#[test]
fn a_pause_holds_everybody_until_it_is_over_even_without_limits() {
    let (mut bank, limits) = (Bank::default(), Limits { per_window: [None; 3], ..limits(1) });
    let pause = Headroom { pause: Some(Duration::from_secs(7)), ..Headroom::default() };
    bank.take(at(0), &limits, &Take { headroom: Some(pause), ..Take::default() });
    assert_eq!(bank.take(at(1_000), &limits, &need(requests(1))), Taken::Wait(Duration::from_secs(6)));
    assert_eq!(bank.paused(at(1_000)), Duration::from_secs(6));
    assert_eq!(granted(bank.take(at(7_000), &limits, &need(requests(1)))), 1);
}
