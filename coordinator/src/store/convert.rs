//! Between the database's types and the domain's. What can't be read is an error that names the column, never a panic.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use croft_planner::Platform;
use croft_scheduler::{Timestamp, Token};

use super::StoreError;

/// A word of the database as the domain has it.
pub(super) fn read<T>(what: &'static str, text: &str) -> Result<T, StoreError>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse()
        .map_err(|error: T::Err| StoreError::Unreadable {
            what,
            detail: error.to_string(),
        })
}

pub(super) fn platforms(
    what: &'static str,
    texts: &[String],
) -> Result<BTreeSet<Platform>, StoreError> {
    texts.iter().map(|text| read(what, text)).collect()
}

pub(super) fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp(u64::try_from(at.timestamp_millis()).unwrap_or(0))
}

/// Numbers of stages and edges: PostgreSQL has no unsigned ones, so the bits are kept.
pub(super) fn int(number: u32) -> i32 {
    number.cast_signed()
}

/// See [`int`].
pub(super) fn uint(number: i32) -> u32 {
    number.cast_unsigned()
}

/// Sizes and times. What is beyond 2^63 is taken as that.
pub(super) fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// See [`bigint`]. The schema has no negative ones.
pub(super) fn ubigint(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn token(number: i64) -> Token {
    Token(ubigint(number))
}

/// A token as the database has it. One that no sequence can have given out fits no row.
pub(super) fn token_int(token: Token) -> i64 {
    i64::try_from(token.0).unwrap_or(-1)
}

pub(super) fn texts<'a, T: Display + 'a>(items: impl IntoIterator<Item = &'a T>) -> Vec<String> {
    items.into_iter().map(ToString::to_string).collect()
}
