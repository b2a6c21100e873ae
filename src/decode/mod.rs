//! Decodes a row into any serde type: struct, tuple, scalar, map, JSON value.
//!
//! It knows PostgreSQL's binary formats and serde, and nothing of connections or statements.
//!
//! No published crate fits: `serde_postgres` requires tokio-postgres 0.5, and `serde-pgrow` decodes neither numeric, bytea,
//! dates, uuid nor enums, and its errors name no column.
//!
//! The tables of types are in `docs/types.md`. Path of a value: `row` → `value` (what it is, by its `format`) and `hints`
//! (what the target asks for) → `array`, `numeric`, `text`.

mod array;
mod failure;
mod format;
mod hints;
mod numeric;
mod row;
mod text;
mod value;

use crate::error::DecodeError;
use crate::rows::{Row, Rows};
use row::RowDeserializer;
use serde::de::DeserializeOwned;

/// Decodes one row.
pub(crate) fn decode_row<T: DeserializeOwned>(row: Row<'_>) -> Result<T, DecodeError> {
    T::deserialize(RowDeserializer::new(row)).map_err(|failure| failure.into_decode_error(row.columns()))
}

/// Decodes all rows; returns the error of the first row that does not fit.
pub(crate) fn decode_rows<T: DeserializeOwned>(rows: &Rows) -> Result<Vec<T>, DecodeError> {
    // Nothing is prepared per statement: finding a column's format is one jump, matching a field's name one comparison.
    let mut decoded = Vec::with_capacity(rows.len());
    for row in rows.iter() {
        decoded.push(decode_row(row)?);
    }
    Ok(decoded)
}
