//! The twenty-five cases that a budget has to get right, and which tests show each: read from the names of the tests.
//!
//! A list kept by hand would praise tests that were renamed or removed long ago. Here a case counts as shown only while a
//! test carries its number, as in `case_07_…` or `case_05_and_17_…`; the table in `docs/cases.md` is made from the names.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proc_macro2::{TokenStream, TokenTree};

use super::source::Source;

/// What each case demands, in the order of their numbers.
const CASES: [&str; 25] = [
    "of many reservations at once exactly as many are granted as there is room for, over all processes",
    "all scopes of a call are reserved in one step, or none",
    "a store that is down, slow, restarted without its scripts or failed over refuses; a step repeated after a lost answer happens once",
    "an unknown, missing or zero price refuses; a free model has to be declared free",
    "a cap on output is always sent, in the field that the server obeys",
    "every HTTP attempt has a reservation of its own; nothing repeats a call in secret",
    "only a well-formed refusal before any body, or a request never written, is free; whatever is unclear is charged in full",
    "a stream that is cut is charged its known input and all of the allowed output",
    "a dropped call is charged in full",
    "the reservation of a crashed worker becomes spent, never free",
    "settling is idempotent, in whatever order and however late",
    "more than was reserved is recorded as it is and stops all spending",
    "both kinds of cache writes are told apart, and taken for the dearer one where they are not",
    "counters of each provider are read as they are meant: disjoint or inclusive, of cumulative ones the highest",
    "usage of zero is not absent usage; absent usage is charged in full",
    "a price tier holds for the whole request, from one token above its threshold",
    "region and service tier are pinned, and what the reply reports is priced",
    "another model in the reply is priced by the dearest of all that were named; an unknown one stops all spending",
    "prices that depend on the time count at the dearest that can hold before the call ends",
    "a refusal is charged what it reports",
    "cache warm-ups, repeats and continuations are ordinary calls with reservations of their own",
    "cancelling closes the stream and still settles; no call outlives its reservation",
    "a charge stays in the window of its reservation when day or month turn",
    "nothing of the budget expires or is evicted; after a loss nothing is spent until the books are rebuilt",
    "after every step spent and reserved are within the limit, and never less than the provider's own bill",
];

/// The cases that a test of this name shows.
fn numbers(name: &str) -> Vec<usize> {
    let Some(rest) = name.strip_prefix("stress_").unwrap_or(name).strip_prefix("case_") else { return Vec::new() };
    let mut words = rest.split('_');
    let mut found = Vec::new();
    while let Some(number) = words.next().filter(|word| word.len() == 2).and_then(|word| word.parse().ok()) {
        found.push(number);
        if words.next() != Some("and") {
            break;
        }
    }
    found
}

/// Names of all functions, with their lines.
fn functions(tokens: &TokenStream, found: &mut Vec<(usize, String)>) {
    let mut after_fn = false;
    for token in tokens.clone() {
        match token {
            TokenTree::Ident(name) => {
                if after_fn {
                    found.push((name.span().start().line, name.to_string()));
                }
                after_fn = name == "fn";
            }
            TokenTree::Group(group) => {
                after_fn = false;
                functions(&group.stream(), found);
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => after_fn = false,
        }
    }
}

/// The tests of each case, as `file: name`.
fn shown(sources: &[Source]) -> BTreeMap<usize, Vec<(String, String)>> {
    let mut shown: BTreeMap<usize, Vec<(String, String)>> = BTreeMap::new();
    for source in sources {
        let mut found = Vec::new();
        functions(&source.tokens, &mut found);
        for (_, name) in found.into_iter().filter(|(line, _)| source.is_test(*line)) {
            for number in numbers(&name) {
                shown.entry(number).or_default().push((source.path.clone(), name.clone()));
            }
        }
    }
    shown
}

/// Cases that no test names, and numbers that are no case's.
pub(super) fn faults(sources: &[Source]) -> Vec<String> {
    let shown = shown(sources);
    let missing = (1..=CASES.len()).filter(|number| !shown.contains_key(number));
    let missing = missing.map(|number| format!("no test is called case_{number:02}_…: {}", CASES[number - 1]));
    let unknown = shown.keys().filter(|number| !(1..=CASES.len()).contains(*number));
    missing.chain(unknown.map(|number| format!("there is no case {number}"))).collect()
}

const HEAD: &str = "\
# The cases that a budget has to get right

Made from the names of the tests (`tests/it/architecture/cases.rs`), never written by hand. Tests in `tests/it/conformance/`
run on every ledger there is (SQLite, Redis, and Redis with its journal on NATS), those in `tests/it/llm.rs` and `tests/it/llm/` on
SQLite and on Redis with its journal on NATS. Tests in `src/` use no store or one in memory.

To write the file anew: `CODESWARM_CASES=write cargo nextest run -E 'test(every_case_of_the_budget)'`.

| Case | What is demanded | Shown by |
|---|---|---|
";

/// The whole of `docs/cases.md`.
pub(super) fn table(sources: &[Source]) -> String {
    let shown = shown(sources);
    let mut text = HEAD.to_owned();
    for (number, demand) in (1..).zip(CASES) {
        let tests = shown.get(&number).map_or(&[][..], Vec::as_slice);
        let tests: Vec<String> = tests.iter().map(|(path, name)| format!("`{path}`: {}", in_words(name))).collect();
        let _ = writeln!(text, "| {number} | {demand} | {} |", tests.join("<br>"));
    }
    text
}

/// A test's name without its numbers, as a sentence.
fn in_words(name: &str) -> String {
    let is_number = |word: &str| word.len() == 2 && word.bytes().all(|byte| byte.is_ascii_digit());
    let mut words = name.split('_').skip_while(|word| *word != "case").skip(1).peekable();
    while words.next_if(|word| is_number(word)).is_some() {
        let mut ahead = words.clone();
        if ahead.next() == Some("and") && ahead.next().is_some_and(is_number) {
            words.next();
        }
    }
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_names() {
        for (name, expected) in [
            ("case_07_x", &[7][..]),
            ("stress_case_01_two", &[1]),
            ("case_05_and_17_the_request", &[5, 17]),
            ("case_13_and_more", &[13]),
            ("a_case_07", &[]),
            ("case_x", &[]),
        ] {
            assert_eq!(numbers(name), expected, "{name}");
        }
        assert_eq!(in_words("stress_case_05_and_17_the_request_is_this"), "the request is this");
    }

    #[test]
    fn a_case_without_a_test_and_a_test_without_a_case_are_found() {
        let all: String = (1..=25).map(|number| format!("fn case_{number:02}_a() {{}}\n")).collect();
        assert_eq!(faults(&[Source::parse("tests/it/x.rs", &all)]), Vec::<String>::new());
        let wrong = all.replace("case_09_a", "case_26_a");
        assert_eq!(faults(&[Source::parse("tests/it/x.rs", &wrong)]).len(), 2);
        assert_eq!(faults(&[Source::parse("src/x.rs", &all)]).len(), 25, "code is no test");
    }
}
