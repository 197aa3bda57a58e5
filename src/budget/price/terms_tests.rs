//! What region, tier, speed, tools, parts and stated charges make of a price.
//!
//! Expected amounts are worked out by hand from the published factors. Whatever has no price must come out as nothing, never
//! as the plain price.

use proptest::prelude::*;

use super::*;

const TOKENS: Usage = Usage { input: 1_000, cache_write_5m: 0, cache_write_1h: 0, cache_read: 0, output: 100 };

fn table() -> PriceTable {
    PriceTable::builtin().unwrap()
}

fn sent(model: &str) -> WorstCaseInput {
    WorstCaseInput::from_body(model, "{}", 1_000)
}

fn names<const N: usize>(names: [&str; N]) -> std::collections::BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn charge(model: &str, terms: &Terms) -> Option<u64> {
    table().charge_reply(&sent(model), &[], Some(&TOKENS), terms).map(|amount| amount.0)
}

#[test]
fn case_17_what_a_reply_reports_about_region_tier_and_speed_is_priced() {
    let regions = |region| Terms { regions: names([region]), ..Terms::default() };
    let tiers = |tier| Terms { tiers: names([tier]), ..Terms::default() };
    let speeds = |speed| Terms { speeds: names([speed]), ..Terms::default() };
    for (model, terms, expected) in [
        // Sonnet 5.5: 1,000 * 2 + 100 * 10 = 3,000 micro-dollars.
        ("claude-sonnet-5-5", Terms::default(), Some(3_000)),
        ("claude-sonnet-5-5", regions("global"), Some(3_000)),
        ("claude-sonnet-5-5", regions("us"), Some(3_300)),
        ("claude-sonnet-5-5", Terms { regions: names(["global", "us"]), ..Terms::default() }, Some(3_300)),
        ("claude-sonnet-5-5", tiers("standard"), Some(3_000)),
        ("claude-sonnet-5-5", tiers("batch"), Some(3_000)),
        ("claude-sonnet-5-5", regions("moon"), None),
        ("claude-sonnet-5-5", tiers("priority"), None),
        ("claude-sonnet-5-5", speeds("fast"), None),
        // Opus 5.5: 1,000 * 4 + 100 * 20 plain, twice that when fast.
        ("claude-opus-5-5", speeds("standard"), Some(6_000)),
        ("claude-opus-5-5", speeds("fast"), Some(12_000)),
        ("claude-opus-5-5", Terms { regions: names(["us"]), ..speeds("fast") }, Some(13_200)),
        ("claude-opus-5-5", speeds("ludicrous"), None),
        ("gpt-6.1-sol", tiers("default"), Some(3_000)),
        ("gpt-6.1-sol", tiers("priority"), Some(6_000)),
        ("gpt-6.1-sol", tiers("flex"), None),
        ("claude-sonnet-5-5", Terms { is_unreadable: true, ..Terms::default() }, None),
    ] {
        assert_eq!(charge(model, &terms), expected, "{model} {terms:?}");
    }
}

#[test]
fn case_17_tools_of_the_provider_are_paid_by_use() {
    let uses = |tool: &str, count| Terms { uses: [(tool.to_owned(), count)].into(), ..Terms::default() };
    assert_eq!(charge("claude-sonnet-5-5", &uses("web_search_requests", 3)), Some(3_000 + 30_000));
    assert_eq!(charge("claude-sonnet-5-5", &uses("web_search_requests", 0)), Some(3_000));
    assert_eq!(charge("claude-sonnet-5-5", &uses("crystal_ball_requests", 0)), Some(3_000));
    assert_eq!(charge("claude-sonnet-5-5", &uses("crystal_ball_requests", 1)), None);
}

#[test]
fn case_18_every_part_is_priced_by_the_model_that_made_it() {
    let part = |model: Option<&str>| Part { model: model.map(str::to_owned), usage: TOKENS };
    let terms = |parts: &[Part]| Terms { parts: parts.to_vec(), ..Terms::default() };
    // Opus 5: 1,000 * 5 + 100 * 25 = 7,500.
    for (parts, expected) in [
        (vec![part(None)], Some(3_000)),
        (vec![part(Some("claude-opus-5"))], Some(7_500)),
        (vec![part(None), part(Some("claude-opus-5"))], Some(10_500)),
        (vec![part(Some("claude-haiku-5-5"))], Some(3_000)),
        (vec![part(None), part(Some("nobody-knows"))], None),
    ] {
        assert_eq!(charge("claude-sonnet-5-5", &terms(&parts)), expected, "{parts:?}");
    }
    let table = table();
    let by = |another| table.charge_reply(&sent("claude-sonnet-5-5"), &[another], Some(&TOKENS), &Terms::default());
    assert_eq!(by("claude-opus-5"), Some(MicroUsd(7_500)));
    assert_eq!(by("claude-haiku-5-5"), Some(MicroUsd(3_000)), "the dearer of both");
    assert_eq!(by("nobody-knows"), None);
}

#[test]
fn a_stated_charge_counts_when_it_is_higher_and_stands_for_what_is_not_understood_only_where_it_is_the_charge() {
    let stated = |amount, is_charge| Terms { stated: Some(MicroUsd(amount)), is_charge, ..Terms::default() };
    let model = "claude-sonnet-5-5";
    assert_eq!(charge(model, &stated(4_750_000, true)), Some(4_750_000));
    assert_eq!(charge(model, &stated(4_750_000, false)), Some(4_750_000));
    assert_eq!(charge(model, &stated(1, true)), Some(3_000));
    let odd = |is_charge| Terms { tiers: names(["odd"]), ..stated(4_000, is_charge) };
    assert_eq!((charge(model, &odd(true)), charge(model, &odd(false))), (Some(4_000), None));
    let free = table().with_endpoint("local", EndpointPrices::Free);
    let cost = |terms: &Terms| free.charge_reply(&sent("local/m"), &[], Some(&TOKENS), terms).map(|cost| cost.0);
    assert_eq!((cost(&odd(false)), cost(&Terms { stated: None, ..odd(false) })), (Some(4_000), Some(0)));
}

#[test]
fn case_17_what_is_left_open_is_bounded_at_its_dearest_and_charged_so_unless_the_reply_says_otherwise() {
    let table = table();
    let with = |model: &str, region, service_tier| WorstCaseInput {
        unpinned: Unpinned { region, service_tier },
        ..sent(model)
    };
    let bound = |input: &WorstCaseInput| table.worst_case(input).unwrap().0;
    let (haiku, sol) = ("claude-haiku-4-5", "gpt-6.1-sol");
    // 1,026 tokens of input at 1 and 1,000 of output at 5, times 1.1.
    assert_eq!((bound(&with(haiku, false, false)), bound(&with(haiku, true, true))), (6_026, 6_629));
    // 1,026 tokens of input at 2.5 (written to the cache unasked) and 1,000 of output at 10, times 2.
    assert_eq!((bound(&with(sol, true, false)), bound(&with(sol, false, true))), (12_565, 25_130));
    let charged = |input: &WorstCaseInput, terms: &Terms| {
        table.charge_reply(input, &[], Some(&TOKENS), terms).map(|amount| amount.0)
    };
    let open = with(haiku, true, false);
    assert_eq!(charged(&open, &Terms::default()), Some(1_650));
    assert_eq!(charged(&open, &Terms { regions: names(["not_available"]), ..Terms::default() }), Some(1_500));
    assert_eq!(charged(&open, &Terms { stated: Some(MicroUsd(9)), ..Terms::default() }), Some(1_500));
}

#[test]
fn without_counts_as_much_as_the_request_can_come_to_is_charged() {
    let table = table();
    let input = sent("claude-sonnet-5-5");
    let most = |others: &[&str], terms: &Terms| table.charge_reply(&input, others, None, terms);
    assert_eq!(most(&[], &Terms::default()), Some(table.worst_case(&input).unwrap()));
    let dearer = WorstCaseInput { model: "claude-opus-5".into(), ..input.clone() };
    assert_eq!(most(&["claude-opus-5"], &Terms::default()), Some(table.worst_case(&dearer).unwrap()));
    let us = Terms { regions: names(["us"]), ..Terms::default() };
    assert!(most(&[], &us) > most(&[], &Terms::default()));
}

#[test]
fn a_name_that_comes_twice_and_factors_that_cannot_be_right_are_refused() {
    let entry = |members: &str| {
        let plain = r#""input": 1, "output": 1, "context": 9, "source": "t", "as_of": "2026-11-21""#;
        PriceTable::parse(&format!(r#"{{"m": {{{plain}{members}}}}}"#))
    };
    for good in [r#", "geo_factors": {"us": 1.1}"#, r#", "tier_factors": {"batch": 0.5}, "per_use": {"look": 0.01}"#] {
        entry(good).unwrap();
    }
    for wrong in [
        r#", "geo_factors": {"us": 1.1, "us": 1.0}"#,
        r#", "geo_factors": {"us": 0}"#,
        r#", "geo_factors": {"us": 10.1}"#,
        r#", "tier_factors": {"priority": "2"}"#,
        r#", "tier_factors": {"priority": -2}"#,
        r#", "tier_factors": []"#,
        r#", "per_use": {"look": 0.0000001}"#,
        r#", "fast": {"input": 0, "output": 1}"#,
        r#", "as_of": "2026-11-22""#,
    ] {
        assert!(entry(wrong).is_err(), "{wrong}");
    }
    let one = r#"{"input": 1, "output": 1, "context": 9, "source": "t", "as_of": "2026-11-21"}"#;
    let error = PriceTable::parse(&format!("{{\"m\": {one},\n\"m\": {one}}}")).unwrap_err();
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("\"m\" is listed twice at line 2"), "{said}");
    for day in ["soon", "", "2026-02-30", "2026-11-21T00:00:00Z", "21.11.2026"] {
        let error = PriceTable::parse(&format!(r#"{{"m": {}}}"#, one.replace("2026-11-21", day))).unwrap_err();
        assert!(error.to_string().contains("as_of is no day"), "{day}: {error}");
    }
}

proptest! {
    #[test]
    fn stress_case_17_no_charge_on_terms_that_were_left_open_exceeds_the_bound(
        model in prop::sample::select(table().models().map(str::to_owned).collect::<Vec<_>>()),
        (region, service_tier) in any::<(bool, bool)>(),
        (input, output) in (0u64..1_000, 0u64..1_000),
        is_said in any::<bool>(),
    ) {
        let table = table();
        let sent = WorstCaseInput { unpinned: Unpinned { region, service_tier }, ..sent(&model) };
        let surcharges = &table.get(&model).unwrap().surcharges;
        let said = |open: bool, names: Vec<&String>| names.into_iter().filter(|_| open && is_said).cloned().collect();
        let terms = Terms {
            regions: said(region, surcharges.geo.keys().collect()),
            tiers: said(service_tier, surcharges.tier.keys().collect()),
            ..Terms::default()
        };
        let usage = Usage { input, output, ..Usage::default() };
        let charged = table.charge_reply(&sent, &[], Some(&usage), &terms).unwrap();
        prop_assert!(charged <= table.worst_case(&sent).unwrap());
    }
}
