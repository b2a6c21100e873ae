//! The tables: created from `config/schema.sql`, and checked before serving.

use poolhouse::{Connection, Error, Execute, Pool, Result};

/// `config/schema.sql`, compiled in: a deployed binary needs no file beside it.
const SCHEMA: &str = include_str!("../../../config/schema.sql");

/// Applies `config/schema.sql`: all of it or nothing. Applying it again changes nothing.
pub(crate) fn apply(connection: &mut Connection) -> Result<()> {
    // PostgreSQL runs several statements of one simple-query message as one transaction.
    connection.client().batch_execute(SCHEMA).map_err(Error::from)
}

/// Whether the tables and functions exist.
pub(crate) fn is_present(pool: &Pool) -> Result<bool> {
    let sql =
        "SELECT to_regclass('movies') IS NOT NULL AND to_regprocedure('poolhouse_query(text)') IS NOT NULL
                  AND to_regclass('documents') IS NOT NULL AND to_regclass('chunks') IS NOT NULL";
    Ok(pool.execute_query_one(sql, &[])?.unwrap_or(false))
}

/// What to do about a failure of [`apply`].
pub(crate) fn advice(error: &Error) -> Option<&'static str> {
    match error.sqlstate() {
        // The extension's files are not on the server: 58P01 up to PostgreSQL 15, 0A000 since.
        Some("58P01" | "0A000") => Some(
            "The server lacks the extension unaccent: install its contrib package (Debian: apt-get install \
             postgresql-contrib).",
        ),
        Some("42501") => Some(
            "This user may not create objects here: grant CREATE on the database and on its schema public, or \
             run this as their owner.",
        ),
        _ => None,
    }
}
