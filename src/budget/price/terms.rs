//! What a reply says about its price besides its tokens, and what the table makes of it.
//!
//! Region, service tier and speed multiply the price of the tokens, tools of the provider are paid by use, parts made by
//! other models are priced each by its own, and some providers say outright what they charge. All of it is data of the
//! table; of several things said the dearest counts. What has no price in the table must never count as plain: the answer is
//! then that nobody knows.

use std::collections::{BTreeMap, BTreeSet};

use super::season::Window;
use super::{PriceTable, round_up};
use crate::budget::WorstCaseInput;
use crate::protocol::{MicroUsd, Usage};

/// What every provider calls the terms that the plain price is for.
const PLAIN: [&str; 4] = ["global", "not_available", "standard", "default"];
/// Names of one kind that are kept; no reply has more.
const MOST_NAMES: usize = 100;
/// The speed whose prices a model's `fast` gives.
const FAST: &str = "fast";

/// What a reply says about its price besides its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// Every region that was named.
    pub regions: BTreeSet<String>,
    /// Every service tier that was named.
    pub tiers: BTreeSet<String>,
    /// Every speed that was named.
    pub speeds: BTreeSet<String>,
    /// How often each tool of the provider was used.
    pub uses: BTreeMap<String, u64>,
    /// The parts of a reply that more than one model made.
    pub parts: Vec<Part>,
    /// The charge as the provider states it.
    pub stated: Option<MicroUsd>,
    /// The stated charge is the whole charge, whatever else is not understood.
    pub is_charge: bool,
    /// Something about the price was said that cannot be read.
    pub is_unreadable: bool,
}

/// What a name in a reply is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Where the model ran.
    Region,
    /// How urgent the call was.
    Tier,
    /// How fast the model was made.
    Speed,
}

impl Terms {
    /// Notes a name that the reply said; an empty one says nothing. More names than any reply has cannot be priced.
    pub fn note(&mut self, kind: Named, name: &str) {
        let names = match kind {
            Named::Region => &mut self.regions,
            Named::Tier => &mut self.tiers,
            Named::Speed => &mut self.speeds,
        };
        self.is_unreadable |= !keep(names, name);
    }

    /// What was said, for people.
    #[must_use]
    pub fn in_words(&self) -> String {
        let names = [("region", &self.regions), ("tier", &self.tiers), ("speed", &self.speeds)];
        let names = names.into_iter().flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind} {name}")));
        let uses = self.uses.iter().filter(|(_, count)| **count > 0).map(|(tool, count)| format!("{count} x {tool}"));
        let models = self.parts.iter().filter_map(|part| Some(format!("a part by {}", part.model.as_ref()?)));
        let unreadable = self.is_unreadable.then(|| "something that cannot be read".to_owned());
        let said: Vec<String> = names.chain(uses).chain(models).chain(unreadable).collect();
        if said.is_empty() { "plain".to_owned() } else { said.join(", ") }
    }
}

/// Keeps a name among the others; false when there is no room for it.
pub(crate) fn keep(names: &mut BTreeSet<String>, name: &str) -> bool {
    if name.is_empty() || names.contains(name) {
        return true;
    }
    names.len() < MOST_NAMES && names.insert(name.to_owned())
}

/// A part of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Who made it; the model of the reply when not said.
    pub model: Option<String>,
    /// Its tokens.
    pub usage: Usage,
}

/// What a request leaves to the provider, so that a default of the account may raise the price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpinned {
    /// Where the model runs.
    pub region: bool,
    /// How urgent the call is.
    pub service_tier: bool,
}

/// A multiplier, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Factor(pub(super) u64);

impl Factor {
    const ONE: Self = Self(1_000_000);
}

/// Input and output of a call, in pico-dollars.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) input: u128,
    pub(super) output: u128,
}

/// What of a model's price depends on more than tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surcharges {
    pub(super) geo: BTreeMap<String, Factor>,
    pub(super) tier: BTreeMap<String, Factor>,
    /// Fast price and plain price, of input and of output.
    pub(super) fast: Option<[(u64, u64); 2]>,
    pub(super) per_use: BTreeMap<String, MicroUsd>,
}

/// `amount * over / under`, rounded up; never too little, however large.
fn scaled(amount: u128, over: u128, under: u128) -> u128 {
    match amount.checked_mul(over) {
        Some(product) => product.div_ceil(under),
        None => (amount / under + 1).saturating_mul(over),
    }
}

impl Surcharges {
    pub(super) const NONE: Self =
        Self { geo: BTreeMap::new(), tier: BTreeMap::new(), fast: None, per_use: BTreeMap::new() };

    /// The most that region and tier can multiply a price by, as a fraction.
    pub(super) fn dearest(&self, unpinned: Unpinned) -> (u128, u128) {
        let dearest = |factors: &BTreeMap<String, Factor>, is_open: bool| {
            let factors = factors.values().copied().filter(|_| is_open);
            factors.fold(Factor::ONE, Factor::max)
        };
        fraction([dearest(&self.geo, unpinned.region), dearest(&self.tier, unpinned.service_tier)])
    }

    /// The cost on these terms; `None` when one of them has no price.
    fn on(&self, terms: &Terms, unpinned: Unpinned, cost: Cost) -> Option<u128> {
        let mut cost = cost;
        if terms.speeds.contains(FAST) {
            let [input, output] = self.fast?;
            cost.input = scaled(cost.input, input.0.max(input.1).into(), input.1.into());
            cost.output = scaled(cost.output, output.0.max(output.1).into(), output.1.into());
        }
        if terms.speeds.iter().any(|speed| speed != FAST && !PLAIN.contains(&speed.as_str())) {
            return None;
        }
        // Where nothing is said about what was left open, the dearest holds, unless the charge itself is stated.
        let silent = Unpinned {
            region: unpinned.region && terms.regions.is_empty() && terms.stated.is_none(),
            service_tier: unpinned.service_tier && terms.tiers.is_empty() && terms.stated.is_none(),
        };
        let (over, under) = self.dearest(silent);
        let (said_over, said_under) = fraction([said(&self.geo, &terms.regions)?, said(&self.tier, &terms.tiers)?]);
        let sum = cost.input.saturating_add(cost.output);
        Some(scaled(scaled(sum, over, under), said_over, said_under))
    }
}

fn fraction([a, b]: [Factor; 2]) -> (u128, u128) {
    (u128::from(a.0) * u128::from(b.0), u128::from(Factor::ONE.0) * u128::from(Factor::ONE.0))
}

/// The dearest of what was said, and never less than the plain price: a discount that nobody asked for is not believed.
/// `None` when something unknown was said.
fn said(factors: &BTreeMap<String, Factor>, names: &BTreeSet<String>) -> Option<Factor> {
    let factor = |name: &String| match factors.get(name) {
        Some(factor) => Some(*factor),
        None => PLAIN.contains(&name.as_str()).then_some(Factor::ONE),
    };
    let known: Option<Vec<Factor>> = names.iter().map(factor).collect();
    Some(known?.into_iter().fold(Factor::ONE, Factor::max))
}

impl PriceTable {
    /// What a reply to `sent` costs: by the model that was asked or by one of the `others` that answered, whichever is dearest,
    /// on the terms it reports. Without `usage` as much as the request can come to. `None` when something was reported that has
    /// no price here: it may have cost more than anybody set aside.
    #[must_use]
    pub fn charge_reply(
        &self,
        sent: &WorstCaseInput,
        others: &[&str],
        usage: Option<&Usage>,
        terms: &Terms,
    ) -> Option<MicroUsd> {
        let models = std::iter::once(sent.model.as_str()).chain(others.iter().copied());
        let by_table: Option<Vec<u128>> = models.map(|model| self.on_terms(sent, model, usage, terms)).collect();
        let stated = terms.stated.unwrap_or_default();
        match by_table {
            Some(costs) => Some(round_up(costs.into_iter().max().unwrap_or_default()).max(stated)),
            None if terms.is_charge && terms.stated.is_some() => {
                let plain = Terms { stated: terms.stated, ..Terms::default() };
                Some(self.on_terms(sent, &sent.model, usage, &plain).map_or(stated, |cost| round_up(cost).max(stated)))
            }
            None => None,
        }
    }

    fn on_terms(&self, sent: &WorstCaseInput, model: &str, usage: Option<&Usage>, terms: &Terms) -> Option<u128> {
        if terms.is_unreadable {
            return None;
        }
        let window = Window::of_charge(self.clock.now());
        let cost_of = |model: &str, usage: Option<&Usage>| {
            let price = self.get(model)?;
            let cost = match usage {
                Some(usage) => price.cost(usage, window),
                None => price.most(sent, window).cost(sent.max_tokens),
            };
            // What somebody declared free is free on all terms.
            if price.is_free() { Some(0) } else { price.surcharges.on(terms, sent.unpinned, cost) }
        };
        let whole = cost_of(model, usage)?;
        let parts: Option<Vec<u128>> =
            terms.parts.iter().map(|part| cost_of(part.model.as_deref().unwrap_or(model), Some(&part.usage))).collect();
        let parts = parts?.into_iter().fold(0, u128::saturating_add);
        let per_use = &self.get(model)?.surcharges.per_use;
        let used = terms.uses.iter().filter(|(_, count)| **count > 0);
        let uses: Option<Vec<u128>> =
            used.map(|(name, count)| Some(u128::from(per_use.get(name)?.0) * u128::from(*count))).collect();
        let uses = uses?.into_iter().fold(0, u128::saturating_add);
        Some(whole.max(parts).saturating_add(uses.saturating_mul(super::PICO_PER_MICRO)))
    }
}
