//! Promises of the price table.
//!
//! Expected amounts are worked out by hand from the published prices, not with the code under test; properties cover what
//! no table of cases can: no charge is ever above the bound that was reserved for it.

use proptest::prelude::*;

use super::*;

fn table() -> PriceTable {
    PriceTable::builtin().expect("the built-in table is valid")
}

/// A table of one model with the given members besides the required ones.
fn one(members: &str) -> Result<PriceTable, PriceError> {
    PriceTable::parse(&format!(r#"{{"m": {{"context": 1000, "source": "test", "as_of": "2026-11-21", {members}}}}}"#))
}

fn call(model: &str, body_bytes: u64, max_tokens: u32) -> WorstCaseInput {
    WorstCaseInput {
        model: model.into(),
        body_bytes,
        messages: 1,
        tools: 0,
        schema_bytes: 0,
        max_tokens,
        writes_5m: false,
        writes_1h: false,
        counted_input: None,
        unpinned: Unpinned::default(),
    }
}

#[test]
fn the_built_in_table_prices_every_model_it_lists() {
    let table = table();
    assert!(table.models().count() >= 29);
    for model in table.models() {
        assert!(table.worst_case(&call(model, 1, 1)).expect("listed") > MicroUsd::ZERO, "{model}");
    }
}

#[test]
fn decimals_are_exact_and_rounded_up_once() {
    let table = one(r#""input": 0.1, "output": 0.000001"#).expect("valid");
    let usage = |input, output| Usage { input, output, ..Usage::default() };
    assert_eq!(table.charge("m", &usage(10, 0)).expect("known"), MicroUsd(1), "10 tokens at $0.10 are exactly 1");
    assert_eq!(table.charge("m", &usage(10, 1)).expect("known"), MicroUsd(2));
    assert_eq!(table.charge("m", &usage(0, 1_000_000)).expect("known"), MicroUsd(1));
    assert_eq!(table.charge("m", &usage(0, 0)).expect("known"), MicroUsd::ZERO);
    let everything = (u128::from(u64::MAX) * 100_001).div_ceil(1_000_000);
    assert_eq!(u128::from(table.charge("m", &usage(u64::MAX, u64::MAX)).expect("known").0), everything);
}

#[test]
fn a_call_costs_what_a_calculator_says() {
    // Sonnet 5.5: 2 in, 10 out, 2.5 write for 5 minutes, 4 for an hour, 0.1 read, in dollars per million tokens.
    let usage = Usage { input: 31, cache_write_5m: 2_048, cache_write_1h: 7, cache_read: 100, output: 547 };
    // 62 + 5120 + 28 + 10 + 5470 micro-dollars.
    assert_eq!(table().charge("claude-sonnet-5-5", &usage).expect("known"), MicroUsd(10_690));
}

#[test]
fn the_worst_case_follows_the_documented_formula() {
    let table = table();
    let mut input = call("claude-sonnet-5-5", 20_000, 16_000);
    input.messages = 3;
    input.tools = 2;
    input.schema_bytes = 500;
    let tokens = 20_000 + 1_024 + 64 * 3 + 64 * 2 + 500;
    assert_eq!(table.worst_case(&input).expect("known"), MicroUsd(tokens * 2 + 160_000));
    input.writes_5m = true;
    assert_eq!(table.worst_case(&input).expect("known"), MicroUsd(tokens * 5 / 2 + 160_000));
    input.writes_1h = true;
    assert_eq!(table.worst_case(&input).expect("known"), MicroUsd(tokens * 4 + 160_000));
    // Neither prompt nor reply can be longer than the model allows.
    input.body_bytes = u64::MAX;
    input.max_tokens = u32::MAX;
    assert_eq!(table.worst_case(&input).expect("known"), MicroUsd(4_000_000 + 1_280_000));
}

#[test]
fn case_16_a_charge_changes_tier_one_token_above_the_threshold_for_the_whole_request() {
    let table = table();
    for (model, over, below, above) in [
        ("claude-haiku-5-5", 100_000, (100_000, 500_000), (500_000, 2_500_000)),
        ("gpt-6.1-sol", 272_000, (2_000_000, 10_000_000), (4_000_000, 15_000_000)),
        ("gemini-3.1-pro-preview", 200_000, (2_000_000, 12_000_000), (4_000_000, 18_000_000)),
        ("qwen3-coder-plus", 32_000, (1_000_000, 5_000_000), (1_800_000, 9_000_000)),
        ("qwen3-coder-plus", 128_000, (1_800_000, 9_000_000), (3_000_000, 15_000_000)),
        ("qwen3-coder-plus", 256_000, (3_000_000, 15_000_000), (6_000_000, 60_000_000)),
    ] {
        for (prompt, (input, output)) in [(over - 1, below), (over, below), (over + 1, above)] {
            let cost = table.charge(model, &Usage { input: prompt, output: 1_000, ..Usage::default() }).expect("known");
            let pico: u128 = u128::from(prompt) * input + 1_000 * output;
            assert_eq!(u128::from(cost.0), pico.div_ceil(1_000_000), "{model} at {prompt}");
        }
    }
    // The cached parts count towards the size of the prompt.
    let usage = Usage { input: 1, cache_read: 60_000, cache_write_5m: 40_000, ..Usage::default() };
    assert_eq!(table.charge("claude-haiku-5-5", &usage).expect("known"), MicroUsd(3_000 + 25_000 + 1));
}

#[test]
fn case_16_the_worst_case_takes_the_dearest_tier_that_any_shorter_prompt_reaches() {
    let table = table();
    let overhead = 1_024 + 64;
    let at = |tokens: u64| table.worst_case(&call("claude-haiku-5-5", tokens - overhead, 0)).expect("known").0;
    assert_eq!(at(99_999), 10_000);
    assert_eq!(at(100_000), 10_000);
    assert_eq!(at(100_001), 50_001);
    // A discount for longer prompts must not lower the bound, because the prompt may turn out shorter.
    let cheaper = r#""input": 8, "output": 8, "long_prompt": [{"over": 10, "input": 1, "output": 1}]"#;
    let table = one(cheaper).expect("valid");
    assert_eq!(table.worst_case(&call("m", 900, 10)).expect("known"), MicroUsd(8_080));
}

#[test]
fn a_counted_input_bounds_the_call_with_a_tenth_and_what_is_added_and_chooses_its_tier() {
    let table = table();
    let at = |body_bytes, counted_input| {
        let input = WorstCaseInput { counted_input, ..call("claude-haiku-5-5", body_bytes, 0) };
        (table.most_input(&input).expect("known"), table.worst_case(&input).expect("known").0)
    };
    // 150,000 bytes are in the dear tier, and 89,978 tokens with their margin are just below it.
    assert_eq!(at(150_000, None), (151_088, 75_544));
    assert_eq!(at(150_000, Some(89_978)), (100_000, 10_000));
    assert_eq!(at(150_000, Some(89_979)), (100_001, 50_001));
    // Rounded up, never above what the bytes prove, and never below what the provider may add.
    assert_eq!(at(150_000, Some(11)).0, 11 + 2 + 1_024);
    assert_eq!(at(150_000, Some(149_000)).0, 151_088);
    assert_eq!(at(150_000, Some(u64::MAX)).0, 151_088);
    assert_eq!(at(150_000, Some(0)).0, 1_024);
}

fn at(time: &str) -> PriceTable {
    // Written as the clock shows it, and read by counting from the day.
    let (day, hours) = time.split_once('T').unwrap();
    let start = season::end_of_day(day).unwrap().0 - 86_400_000;
    let (hour, minute) = hours.split_once(':').unwrap();
    let minutes = hour.parse::<i64>().unwrap() * 60 + minute.parse::<i64>().unwrap();
    table().with_clock(Clock::manual(crate::clock::Timestamp(start + minutes * 60_000)))
}

#[test]
fn case_19_a_price_that_depends_on_time_counts_at_the_dearest_that_can_hold_before_the_call_ends() {
    let usage = Usage { input: 1_000_000, output: 1_000_000, ..Usage::default() };
    let bound = |table: &PriceTable, model: &str| table.worst_case(&call(model, 100_000_000, 0)).expect("known").0;
    let charge = |table: &PriceTable, model: &str| table.charge(model, &usage).expect("known").0;
    // gemini-3.8-flash has 1,048,576 tokens of context; its price doubles with 2027.
    let gemini = "gemini-3.8-flash";
    for (time, reserved, charged) in [
        ("2026-11-21T12:00", 786_432, 4_500_000),
        ("2026-12-31T21:59", 786_432, 4_500_000),
        ("2026-12-31T22:00", 1_572_864, 4_500_000),
        ("2027-01-01T00:00", 1_572_864, 9_000_000),
        ("2027-01-01T01:59", 1_572_864, 9_000_000),
        ("2027-06-01T00:00", 1_572_864, 9_000_000),
    ] {
        let table = at(time);
        assert_eq!((bound(&table, gemini), charge(&table, gemini)), (reserved, charged), "{time}");
    }
    // deepseek-flash is twice as dear on weekdays from 01:00 to 04:00 and from 06:00 to 10:00.
    let deepseek = "deepseek-flash";
    for (time, reserved, charged) in [
        ("2026-11-20T12:30", 150_000, 750_000),
        ("2026-11-20T11:30", 300_000, 1_500_000),
        ("2026-11-20T08:30", 300_000, 1_500_000),
        ("2026-11-19T23:30", 300_000, 750_000),
        ("2026-11-21T08:30", 150_000, 750_000),
    ] {
        let table = at(time);
        assert_eq!((bound(&table, deepseek), charge(&table, deepseek)), (reserved, charged), "{time}");
    }
    // Without a day the dearer price holds always.
    assert_eq!(bound(&at("2026-11-21T12:00"), "mistral-large-4"), 1_360_000);
}

proptest! {
    #[test]
    fn stress_case_19_no_charge_exceeds_its_bound_because_time_has_passed(start in 0i64..40_000_000, minutes in 0i64..=65) {
        // Four hundred days from the autumn of 2026 on, in which prices change with the year and with the hour.
        let begin = season::end_of_day("2026-10-01").unwrap().0 + start * 1_000;
        let clock = |at: i64| table().with_clock(Clock::manual(crate::clock::Timestamp(at)));
        for model in ["gemini-3.8-flash", "deepseek-flash", "deepseek-v4-pro"] {
            let bound = clock(begin).worst_case(&call(model, 10_000, 1_000)).expect("known");
            let usage = Usage { input: 10_000, output: 1_000, ..Usage::default() };
            let charge = clock(begin + minutes * 60_000).charge(model, &usage).expect("known");
            prop_assert!(charge <= bound, "{model}: {charge} > {bound}");
        }
    }
}

#[test]
fn an_implicit_cache_write_is_in_the_bound_without_being_asked_for() {
    let bound = table().worst_case(&call("gpt-6.1-terra", 10_000, 0)).expect("known");
    assert_eq!(bound, MicroUsd((10_000u64 + 1_024 + 64) * 5 / 4));
}

#[test]
fn an_endpoint_sees_what_the_table_says_of_its_own_models() {
    let entry = |name: &str, more: &str| {
        format!(
            r#"{{"{name}": {{"input": 1, "output": 1, "context": 9, "source": "t", "as_of": "2026-11-21"{more}}}}}"#
        )
    };
    let own = PriceTable::parse(&entry("gateway/gpt-6.1-sol", r#", "implicit_cache_write": false"#)).unwrap();
    let other = PriceTable::parse(&entry("gateway/m", r#", "implicit_cache_write": true"#)).unwrap();
    let table = table().merged(own).merged(other);
    let writes = |table: &PriceTable, model: &str| table.get(model).map(ModelPrice::writes_cache_unasked);
    let (here, elsewhere) = (table.seen_from("gateway"), table.seen_from("another"));
    assert_eq!((writes(&here, "m"), writes(&elsewhere, "m")), (Some(true), None));
    assert_eq!((writes(&here, "gpt-6.1-sol"), writes(&elsewhere, "gpt-6.1-sol")), (Some(false), Some(true)));
    assert!(writes(&here, "gpt-6.1-terra").is_some(), "what it says nothing of is as the table says");
}

#[test]
fn of_two_prices_that_nobody_says_when_to_expect_only_the_dearer_one_is_shown() {
    let table = table();
    for (model, input) in [("deepseek-v4-pro", 1_320_000), ("mistral-large-4", 1_360_000)] {
        let seasons: Vec<_> = table.get(model).unwrap().seasons().collect();
        assert_eq!(seasons.iter().map(|(_, rates)| rates.input).collect::<Vec<_>>(), [input], "{model}");
    }
    assert_eq!(table.get("deepseek-flash").unwrap().seasons().count(), 2);
}

#[test]
fn a_missing_cache_price_is_the_input_price() {
    let table = one(r#""input": 3, "output": 5, "cache_write_5m": null"#).expect("valid");
    let usage = Usage { cache_write_5m: 1, cache_write_1h: 1, cache_read: 1, ..Usage::default() };
    assert_eq!(table.charge("m", &usage).expect("known"), MicroUsd(9));
}

#[test]
fn a_name_without_its_date_finds_the_dated_model() {
    let table = table();
    for alias in ["claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5"] {
        assert!(table.get(alias).is_some(), "{alias}");
    }
    assert!(table.get("claude").is_none());
    assert!(table.get("claude-opus-5-5-20260101").is_none(), "a dated name that is not listed is unknown");
    let entry = r#"{"input": 1, "output": 1, "context": 9, "source": "t", "as_of": "2026-11-21"}"#;
    let shared = PriceTable::parse(&format!(r#"{{"x-20250101": {entry}, "x-20250601": {entry}}}"#)).expect("valid");
    assert!(shared.get("x").is_none(), "an alias of two models names neither");
}

#[test]
fn case_04_unknown_models_have_no_price() {
    let table = table();
    let error = table.worst_case(&call("claude-next", 1, 1)).expect_err("unknown");
    assert_eq!(error.code(), "CS-PRICE-001");
    assert!(matches!(table.charge("claude-next", &Usage::default()), Err(PriceError::UnknownModel { .. })));
    assert!(matches!(
        table.largest_output(&call("claude-next", 1, 1), MicroUsd(9)),
        Err(PriceError::UnknownModel { .. })
    ));
}

#[test]
fn case_04_prices_that_would_need_a_guess_are_refused() {
    for members in [
        r#""input": 1"#,
        r#""output": 1"#,
        r#""input": null, "output": 1"#,
        r#""input": 0, "output": 1"#,
        r#""input": 1, "output": 0.0"#,
        r#""input": 1, "output": 1, "cache_read": 0"#,
        r#""input": -1, "output": 1"#,
        r#""input": 1e-1, "output": 1"#,
        r#""input": "1", "output": 1"#,
        r#""input": 0.0000001, "output": 1"#,
        r#""input": 1000001, "output": 1"#,
        r#""input": 1, "output": 1, "surcharge": 2"#,
        r#""input": 1, "output": 1, "max_output": 0"#,
        r#""input": 1, "output": 1, "then": {"input": 1}"#,
        r#""input": 1, "output": 1, "then": {"input": 1, "output": 1, "over": 5}"#,
        r#""input": 1, "output": 1, "effective_until": "soon", "then": {"input": 1, "output": 1}"#,
        r#""input": 1, "output": 1, "peak_utc": [[1, 4]]"#,
        r#""input": 1, "output": 1, "peak_utc": [[4, 1]], "off_peak": {"input": 1, "output": 1}"#,
        r#""input": 1, "output": 1, "then": {"input": 1, "output": 1}, "off_peak": {"input": 1, "output": 1}"#,
        r#""input": 1, "output": 1, "long_prompt": [{"input": 1, "output": 1}]"#,
        r#""input": 1, "output": 1, "long_prompt": [{"over": 5, "input": 0, "output": 1}]"#,
        r#""input": 1, "output": 1, "long_prompt": [{"over": 5, "input": 1, "output": 1}, {"over": 5, "input": 1, "output": 1}]"#,
        r#""input": 1, "output": 1, "long_prompt": [{"over": 5, "input": 2, "output": 2}], "then": {"input": 3, "output": 3}"#,
    ] {
        assert!(one(members).is_err(), "{members}");
    }
    assert!(matches!(
        PriceTable::parse(&" ".repeat(MAX_TABLE_BYTES + 1)),
        Err(PriceError::TooLong { bytes }) if bytes == MAX_TABLE_BYTES + 1
    ));
}

#[test]
fn the_largest_output_is_zero_when_the_prompt_alone_is_too_dear() {
    let table = table();
    let input = call("claude-sonnet-5-5", 1_000, 100);
    let prompt_only = table.worst_case(&call("claude-sonnet-5-5", 1_000, 0)).expect("known");
    assert_eq!(table.largest_output(&input, MicroUsd(prompt_only.0 - 1)).expect("known"), 0);
    assert_eq!(table.largest_output(&input, prompt_only).expect("known"), 0);
    assert_eq!(table.largest_output(&input, MicroUsd(prompt_only.0 + 10)).expect("known"), 1);
    assert_eq!(table.largest_output(&input, MicroUsd(u64::MAX)).expect("known"), 100);
}

fn any_call() -> impl Strategy<Value = WorstCaseInput> {
    let names: Vec<String> = table().models().map(str::to_owned).collect();
    (
        prop::sample::select(names),
        0u64..2_000_000,
        0u32..50,
        0u32..20,
        0u64..20_000,
        0u32..500_000,
        any::<[bool; 4]>(),
        prop::option::of(0u64..800_000),
    )
        .prop_map(|(model, body_bytes, messages, tools, schema_bytes, max_tokens, flags, counted_input)| {
            let [writes_5m, writes_1h, region, service_tier] = flags;
            let unpinned = Unpinned { region, service_tier };
            let sizes = WorstCaseInput { body_bytes, messages, tools, schema_bytes, ..call(&model, 0, max_tokens) };
            WorstCaseInput { writes_5m, writes_1h, counted_input, unpinned, ..sizes }
        })
}

proptest! {
    #[test]
    fn stress_the_largest_output_fits_and_one_token_more_would_not(input in any_call(), percent in 0u64..130) {
        let table = table();
        let full = table.worst_case(&input).expect("known");
        let available = MicroUsd(full.0 * percent / 100);
        let largest = table.largest_output(&input, available).expect("known");
        prop_assert!(largest <= input.max_tokens);
        let cost = |max_tokens| table.worst_case(&WorstCaseInput { max_tokens, ..input.clone() }).expect("known");
        prop_assert!(largest == 0 || cost(largest) <= available);
        prop_assert!(largest == input.max_tokens || cost(largest + 1) > available);
    }

    #[test]
    fn stress_case_25_no_charge_exceeds_the_worst_case(input in any_call(), cut in any::<[u8; 4]>()) {
        let table = table();
        let model = table.get(&input.model).expect("listed");
        let counted = input.counted_input.map_or(u64::MAX, |counted| (counted * 11).div_ceil(10) + 1_024);
        let most = (input.body_bytes + 1_024 + input.schema_bytes).min(counted).min(model.context);
        let part = |tokens: u64, cut: u8| tokens * u64::from(cut) / 255;
        let prompt = part(most, cut[0]);
        let read = part(prompt, cut[1]);
        let written = part(prompt - read, cut[2]);
        let usage = Usage {
            input: prompt - read - written,
            cache_read: read,
            cache_write_5m: if input.writes_5m { written } else { 0 },
            cache_write_1h: if input.writes_1h && !input.writes_5m { written } else { 0 },
            output: part(u64::from(input.max_tokens.min(model.max_output.unwrap_or(u32::MAX))), cut[3]),
        };
        let bound = table.worst_case(&input).expect("known");
        prop_assert!(table.charge(&input.model, &usage).expect("known") <= bound);
    }
}
