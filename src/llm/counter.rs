//! Reading the token counters of a reply, whatever its dialect.
//!
//! A counter decides over money, so one that is too large to be true must arrive as that and not break the event it stands
//! in: whoever reads it then knows that the call may have cost more than was set aside.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// No counter is larger than this; a thousand contexts of a million tokens.
pub(super) const MOST_TOKENS: u64 = 1_000_000_000;

/// A counter that may be absent or null. Fractions are rounded up; what no integer can hold becomes the largest one.
///
/// # Errors
/// For anything but a number that is not negative.
pub(super) fn tokens<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let number = match Option::<Value>::deserialize(from)? {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(serde::de::Error::custom("a token counter is no number")),
    };
    let rounded = || number.as_f64().map(|number| format!("{:.0}", number.ceil()));
    match number.as_u64() {
        Some(count) => Ok(Some(count)),
        None if number.as_f64().is_none_or(|number| number < 0.0) => {
            Err(serde::de::Error::custom("a token counter is negative"))
        }
        None => Ok(Some(rounded().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX))),
    }
}

/// The same, where absent means none.
///
/// # Errors
/// As for [`tokens`].
pub(super) fn tokens_or_zero<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    tokens(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_read_as_what_it_is_however_it_is_written() {
        for (json, expected) in [
            ("0", Some(Some(0))),
            ("12", Some(Some(12))),
            ("12.0", Some(Some(12))),
            ("11.2", Some(Some(12))),
            ("1e3", Some(Some(1_000))),
            ("18446744073709551616", Some(Some(u64::MAX))),
            ("1e300", Some(Some(u64::MAX))),
            ("null", Some(None)),
            ("-1", None),
            ("-0.5", None),
            ("\"12\"", None),
            ("[]", None),
        ] {
            let read = tokens(&mut serde_json::Deserializer::from_str(json)).ok();
            assert_eq!(read, expected, "{json}");
        }
    }
}
