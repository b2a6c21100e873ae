//! A row of the driver → any serde type: struct, tuple, scalar, map, JSON value.
//!
//! Written here because no crate fits: `serde_postgres` stopped at tokio-postgres 0.5, and `serde-pgrow` reads
//! neither numeric, bytea, dates, uuid nor enums, and its errors name no column.
//!
//! The tables of types are in `docs/types.md`.

mod array;
mod failure;
mod format;
mod hints;
mod numeric;
mod row;
mod text;
mod value;

use crate::error::DecodeError;
use postgres::Row;
use row::RowDeserializer;
use serde::de::DeserializeOwned;

/// Decodes one row.
pub(crate) fn decode_row<T: DeserializeOwned>(row: &Row) -> Result<T, DecodeError> {
    T::deserialize(RowDeserializer::new(row)).map_err(|failure| failure.into_decode_error(row.columns()))
}

/// Decodes every row; the first that does not fit ends it.
pub(crate) fn decode_rows<T: DeserializeOwned>(rows: &[Row]) -> Result<Vec<T>, DecodeError> {
    // Nothing is prepared per statement: telling a column's format is one jump, a field's name one comparison.
    let mut decoded = Vec::with_capacity(rows.len());
    for row in rows {
        decoded.push(decode_row(row)?);
    }
    Ok(decoded)
}
