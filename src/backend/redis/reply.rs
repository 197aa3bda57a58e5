//! Answers of the scripts, taken apart piece by piece.
//!
//! Scripts answer short lists in a fixed order, so they are read in that order rather than through a schema. Whatever does
//! not fit is damage and reported as such, never replaced by a default.

use std::str::FromStr;

use bytes::Bytes;
use redis::Value;

use super::fault::{STORE, unexpected};
use crate::backend::BackendError;
use crate::clock::Timestamp;
use crate::protocol::MicroUsd;

/// The rest of a list.
pub(super) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    /// A list from its beginning.
    pub(super) fn of(value: Value) -> Result<Self, BackendError> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            other => Err(unexpected(&other)),
        }
    }

    /// True when nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// The next value.
    pub(super) fn value(&mut self) -> Result<Value, BackendError> {
        self.0.next().ok_or_else(|| unexpected(&Value::Nil))
    }

    /// The next value as a list of its own.
    pub(super) fn list(&mut self) -> Result<Self, BackendError> {
        Self::of(self.value()?)
    }

    /// The next value as bytes; a missing one is damage.
    pub(super) fn bytes(&mut self) -> Result<Bytes, BackendError> {
        bytes(self.value()?)
    }

    /// The next value as text.
    pub(super) fn text(&mut self) -> Result<String, BackendError> {
        text(self.value()?)
    }

    /// The next value as a whole number, whichever way the script has written it.
    pub(super) fn number(&mut self) -> Result<u64, BackendError> {
        number(self.value()?)
    }

    /// The next value as an amount.
    pub(super) fn money(&mut self) -> Result<MicroUsd, BackendError> {
        self.number().map(MicroUsd)
    }

    /// The next value as an instant.
    pub(super) fn time(&mut self) -> Result<Timestamp, BackendError> {
        Ok(Timestamp(i64::try_from(self.number()?).unwrap_or(i64::MAX)))
    }

    /// The next value as an id.
    pub(super) fn id<T: FromStr>(&mut self) -> Result<T, BackendError> {
        parsed(&self.text()?)
    }

    /// What is left.
    pub(super) fn rest(self) -> impl Iterator<Item = Value> {
        self.0
    }

    /// What is left, as texts.
    pub(super) fn texts(self) -> Result<Vec<String>, BackendError> {
        self.rest().map(text).collect()
    }
}

/// Bytes of a value.
pub(super) fn bytes(value: Value) -> Result<Bytes, BackendError> {
    match value {
        Value::BulkString(bytes) => Ok(Bytes::from(bytes)),
        other => Err(unexpected(&other)),
    }
}

/// Text of a value.
pub(super) fn text(value: Value) -> Result<String, BackendError> {
    match value {
        Value::BulkString(bytes) => {
            String::from_utf8(bytes).map_err(|error| unexpected(&Value::BulkString(error.into_bytes())))
        }
        Value::SimpleString(text) => Ok(text),
        other => Err(unexpected(&other)),
    }
}

/// Whole number of a value.
pub(super) fn number(value: Value) -> Result<u64, BackendError> {
    match value {
        Value::Int(number) => u64::try_from(number).map_err(|_| unexpected(&Value::Int(number))),
        other => parsed(&text(other)?),
    }
}

/// A text as what it stands for.
pub(super) fn parsed<T: FromStr>(text: &str) -> Result<T, BackendError> {
    text.parse().map_err(|_| BackendError::Corrupt {
        what: format!("the data in {STORE}"),
        why: format!("{:?} is not what it should be", text.chars().take(80).collect::<String>()),
    })
}

/// An entry of a stream: the first half of its id, and its fields with their values.
pub(super) fn entry(value: Value) -> Result<(u64, Vec<(String, Bytes)>), BackendError> {
    let mut entry = Reply::of(value)?;
    let id = entry.text()?;
    let mut fields = Vec::new();
    let mut pairs = entry.list()?.rest();
    while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
        fields.push((text(name)?, bytes(value)?));
    }
    Ok((revision(&id)?, fields))
}

/// The first half of a stream id.
pub(super) fn revision(id: &str) -> Result<u64, BackendError> {
    parsed(id.split('-').next().unwrap_or_default())
}
