//! A row of the driver → any serde type: struct, tuple, scalar, map, JSON value.
//!
//! Written here because no crate fits: `serde_postgres` stopped at tokio-postgres 0.5, and `serde-pgrow` reads
//! neither numeric, bytea, dates, uuid nor enums, and its errors name no column.
//!
//! # What a row becomes
//!
//! | asked for | gets |
//! |---|---|
//! | struct | its fields from the columns of the same name; other columns are ignored |
//! | map, [`serde_json::Value`] | every column under its name; two columns of one name are an error |
//! | tuple, tuple struct | the columns by position; their number must match |
//! | `Vec` and other sequences | the columns by position, however many |
//! | scalar, enum, `Option` of these | the only column of the row; more columns are an error |
//! | `()` | nothing; the row is ignored |
//!
//! The rules look at the type asked for, never at the values, so that a query either fits its type or does not.
//! It follows that a single array or JSON column decoded whole is a 1-tuple: `(Vec<String>,)`, `(Movie,)`; so is a
//! type that takes whatever it is shown, such as an untagged enum or a decimal without its text feature.
//! `Option<T>` of a row is `None` when its only column is NULL.
//!
//! # What a column becomes
//!
//! | PostgreSQL | typed targets | self-describing ([`serde_json::Value`], `flatten`, `untagged`) |
//! |---|---|---|
//! | bool | bool | bool |
//! | int2, int4, int8, oid, xid, cid, xid8 | every integer type that holds the value, floats (rounded) | number |
//! | float4, float8 | f32 (rounded), f64 | number; `"NaN"`, `"Infinity"`, `"-Infinity"`, which JSON lacks |
//! | numeric | text, a decimal type, floats, integers when whole | text: a JSON number would lose digits |
//! | text, varchar, bpchar, name, citext, xml, refcursor, enums | text, char, unit enums | text |
//! | "char" | text of one byte, integers | text |
//! | bytea | bytes, `Vec<u8>`, `[u8; N]` | text as PostgreSQL prints it: `\x6869` |
//! | json, jsonb | whatever the JSON fits | the JSON |
//! | date, time, timetz, timestamp | text, or a type that parses it: ISO 8601, without a zone where it has none | text |
//! | timestamptz | the same: RFC 3339 in UTC, `2026-11-21T08:15:00.5Z` | text |
//! | interval | text: ISO 8601, `P1Y2M3DT4H5M6.5S` | text |
//! | uuid, inet, cidr, macaddr, macaddr8 | text, or a type that parses it | text |
//! | arrays | nested sequences, fixed-size arrays and tuples of the same length | array |
//! | domains | as their base type | as their base type |
//! | NULL | `None`, `()` | null |
//!
//! A flattened struct reads its columns self-described, as serde stores them on the way, and what does not fit in it
//! is reported without the column's name.
//!
//! Years before 1 and after 9999 have the sign that ISO 8601 asks for (`-0043-03-15` is 44 BC), infinite dates are
//! `infinity` and `-infinity`; a type that cannot hold one of these refuses it. A JSON column is read as JSON even
//! into a `String`; for its text, and for every type not listed, cast in SQL: `(column)::text`.

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
