//! Property tests over stores: how many cases, and how a failing one is told.
//!
//! `proptest!` cannot be used where a case is asynchronous and borrows a backend, so the runner is driven here, the same for
//! all. Whoever reads a failure must be able to have it again: the seed is always one that was chosen, and is printed.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestError, TestRunner};

use super::share;

/// Runs of a case that fails, while it is cut down to what matters.
const MOST_SHRINKS: u32 = 1_000;

/// How many cases: what `PROPTEST_CASES` says, otherwise `few`, or `many` under `make stress`.
pub(crate) fn cases(few: u32, many: u32) -> u32 {
    let wanted = std::env::var_os("PROPTEST_CASES").and_then(|cases| cases.into_string().ok());
    wanted.map_or_else(|| share(few, many), |cases| cases.parse().expect("PROPTEST_CASES is a number"))
}

/// Runs `cases` random cases.
///
/// # Panics
/// With the smallest case that fails and the seed that leads to it.
#[track_caller]
pub(crate) fn check<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> TestCaseResult) {
    let mut config = Config { cases, max_shrink_iters: MOST_SHRINKS, failure_persistence: None, ..Config::default() };
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => u64::from_str_radix(&codeswarm::clock::random_token(16), 16).expect("hexadecimal"),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    match TestRunner::new(config).run(strategy, test) {
        Ok(()) => {}
        Err(TestError::Fail(why, least)) => {
            panic!(
                "{why}\nsmallest case: {least:#?}\nto have it again: PROPTEST_CASES={cases} PROPTEST_RNG_SEED={seed}"
            )
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
