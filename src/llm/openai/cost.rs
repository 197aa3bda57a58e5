//! The charge that a provider states, as exact as it is written.
//!
//! It arrives as a JSON number of US dollars, with as many digits as somebody's floating-point number happened to print. The
//! digits are read as they are and rounded up to whole micro-dollars; a floating-point number must never be in between.

use crate::protocol::MicroUsd;

/// Digits accepted, which is more than any program prints of a number.
const MOST_DIGITS: usize = 80;
/// The largest charge believed, in micro-dollars: a million dollars.
const MOST: u128 = 1_000_000_000_000;

/// Why a stated charge cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadCost {
    /// It is no amount of money.
    Malformed,
    /// It is beyond all measure.
    Beyond,
}

/// Micro-dollars, rounded up, of a JSON value that states dollars; nothing for `null`.
pub(super) fn micro_dollars(json: &str) -> Result<MicroUsd, BadCost> {
    let (number, exponent) = json.split_once(['e', 'E']).unwrap_or((json, "0"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let is_number = !whole.is_empty() && digits.len() <= MOST_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    let exponent = exponent.parse::<i32>().ok().filter(|_| is_number).ok_or(BadCost::Malformed)?;
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return Ok(MicroUsd::ZERO);
    }
    // Where the point is, counted in digits from the left of the significant ones: 4.75 dollars are 4750000 micro-dollars.
    let length = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX);
    let point = length(significant) - length(fraction) + i64::from(exponent) + 6;
    if point > 13 {
        return Err(BadCost::Beyond);
    }
    let kept = usize::try_from(point.max(0)).unwrap_or(0);
    let (before, after) = significant.split_at(kept.min(significant.len()));
    let padded = format!("{before}{}", "0".repeat(kept - before.len()));
    let micros = if padded.is_empty() { 0 } else { padded.parse::<u128>().map_err(|_| BadCost::Malformed)? };
    let rounded = micros + u128::from(after.bytes().any(|digit| digit != b'0'));
    match u64::try_from(rounded) {
        Ok(amount) if rounded <= MOST => Ok(MicroUsd(amount)),
        _ => Err(BadCost::Beyond),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_counts_and_the_rest_is_rounded_up() {
        for (json, micros) in [
            ("4.75", 4_750_000),
            ("0", 0),
            ("0.0", 0),
            ("0e400", 0),
            ("1", 1_000_000),
            ("0.000001", 1),
            ("0.0000010000000001", 2),
            ("0.0000000000000000000001", 1),
            ("9.5e-07", 1),
            ("9.5E-6", 10),
            ("1.25e+2", 125_000_000),
            ("1e-400", 1),
            ("0.1", 100_000),
            ("0.30000000000000004", 300_001),
            ("1000000", 1_000_000_000_000),
        ] {
            assert_eq!(micro_dollars(json), Ok(MicroUsd(micros)), "{json}");
        }
    }

    #[test]
    fn what_is_no_amount_of_money_is_refused() {
        let long = format!("0.{}", "1".repeat(200));
        for json in ["-1", "-0.5", "\"4.75\"", "{}", "[]", "true", "1e", "1e99999999999", "", ".5", "NaN", &long] {
            assert_eq!(micro_dollars(json), Err(BadCost::Malformed), "{json}");
        }
        for json in ["1000000.000001", "1e7", "1e300", "99999999999999999999999999"] {
            assert_eq!(micro_dollars(json), Err(BadCost::Beyond), "{json}");
        }
    }
}
