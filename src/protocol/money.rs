//! Money as integer micro-dollars, because a budget kept in floating point cannot be proven.
//!
//! One micro-dollar is 10⁻⁶ USD; 2⁵³ of them (about nine billion dollars) still survive a Lua double, which is the
//! tightest carrier on the way. Parsing accepts what people type (`5`, `5.00`, `$0.25`) and nothing ambiguous; it must
//! never round a typed amount.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest amount accepted from outside: one million dollars, far above any budget and far below overflow.
pub const MAX_AMOUNT: MicroUsd = MicroUsd(1_000_000_000_000);

/// An amount of money in micro-dollars (10⁻⁶ USD), never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MicroUsd(pub u64);

impl MicroUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// This amount less `other`, or zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This amount and `other`, or the largest representable amount.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `percent` hundredths of this amount, rounded down.
    #[must_use]
    pub fn percent(self, percent: u64) -> Self {
        Self(u64::try_from(u128::from(self.0) * u128::from(percent) / 100).unwrap_or(u64::MAX))
    }
}

impl Sum for MicroUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for MicroUsd {
    /// Dollars with two digits after the point, or as many as the amount needs: `$5.00`, `$0.000123`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let digits = format!("{fraction:06}");
        let shown = digits.trim_end_matches('0');
        f.pad(&format!("${whole}.{shown:0<2}"))
    }
}

/// Why a typed amount is not money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an amount of money: {why}")]
pub struct ParseMoneyError {
    text: String,
    why: &'static str,
}

impl FromStr for MicroUsd {
    type Err = ParseMoneyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |why| ParseMoneyError { text: text.chars().take(40).collect(), why };
        let digits = text.trim().strip_prefix('$').unwrap_or_else(|| text.trim());
        if digits.starts_with('-') {
            return Err(fail("it is negative"));
        }
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
            return Err(fail("write dollars as digits with at most one point, for example 5 or 0.25"));
        }
        if fraction.len() > 6 {
            return Err(fail("the smallest unit is one micro-dollar, six digits after the point"));
        }
        let amount = format!("{whole}{fraction:0<6}").parse::<u64>().map_err(|_| fail("it is over $1000000"))?;
        if amount > MAX_AMOUNT.0 {
            return Err(fail("it is over $1000000"));
        }
        Ok(Self(amount))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_people_type() {
        for (text, micros) in [
            ("5", 5_000_000),
            ("$5.00", 5_000_000),
            (" 0.25 ", 250_000),
            (".000001", 1),
            ("0", 0),
            ("1000000", MAX_AMOUNT.0),
        ] {
            assert_eq!(text.parse(), Ok(MicroUsd(micros)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_an_exact_amount() {
        for text in [
            "",
            "-1",
            "NaN",
            "inf",
            "1e3",
            "1,5",
            "$",
            ".",
            "0.0000001",
            "1000000.000001",
            "99999999999999999999",
            "１",
        ] {
            assert!(text.parse::<MicroUsd>().is_err(), "{text}");
        }
    }

    #[test]
    fn prints_no_more_digits_than_needed() {
        assert_eq!(MicroUsd(5_000_000).to_string(), "$5.00");
        assert_eq!(MicroUsd(123).to_string(), "$0.000123");
        assert_eq!(MicroUsd(1_250_000).to_string(), "$1.25");
    }
}
