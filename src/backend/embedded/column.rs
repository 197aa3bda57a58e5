//! How values of the program look in a column, and back.
//!
//! SQLite's integers are signed 64 bits, so unsigned values above `i64::MAX` are held at that maximum; every caller
//! bounds what it stores far below. A column that does not hold what the schema promises is damage and is reported as
//! such, never replaced by a default.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, Type, ValueRef};

use crate::clock::Timestamp;

/// An unsigned number as stored.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A stored number that the schema keeps non-negative.
pub(super) fn loaded(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A row limit as stored.
pub(super) fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The instant that `lease` after `now` ends, at least one millisecond later.
pub(super) fn ends(now: Timestamp, lease: std::time::Duration) -> i64 {
    now.after(lease.max(std::time::Duration::from_millis(1))).0
}

/// Reads an id column.
pub(super) fn id<T>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// A value that cannot be what the program once wrote.
pub(super) fn damaged(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error))
}

/// First text that sorts after every text with a prefix. A blob sorts after all text.
pub(super) enum PrefixEnd {
    /// This text.
    Before(String),
    /// No text does.
    Never,
}

impl PrefixEnd {
    /// The end of the texts that start with `prefix`.
    pub(super) fn of(prefix: &str) -> Self {
        let mut rest = prefix.to_owned();
        while let Some(last) = rest.pop() {
            // U+D800 to U+DFFF are no characters.
            let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
            if let Some(next) = next {
                rest.push(next);
                return Self::Before(rest);
            }
        }
        Self::Never
    }
}

impl ToSql for PrefixEnd {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Before(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Never => ToSqlOutput::Borrowed(ValueRef::Blob(&[])),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::PrefixEnd;

    #[test]
    fn the_end_of_a_prefix_comes_after_all_its_keys_and_before_the_rest() {
        let end = |prefix| match PrefixEnd::of(prefix) {
            PrefixEnd::Before(text) => Some(text),
            PrefixEnd::Never => None,
        };
        assert_eq!(end("job/"), Some("job0".into()));
        assert_eq!(end("a\u{d7ff}"), Some("a\u{e000}".into()));
        assert_eq!(end("a\u{10ffff}"), Some("b".into()));
        assert_eq!(end("\u{10ffff}"), None);
        assert_eq!(end(""), None);
    }
}
