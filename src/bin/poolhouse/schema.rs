//! The tables in the database: made from `config/schema.sql`, and looked for before serving.

use poolhouse::{Connection, Error, Execute, Pool, Result};

/// `config/schema.sql` as it was when this program was built: a deployed binary needs no file beside it.
const SCHEMA: &str = include_str!("../../../config/schema.sql");

/// Applies `config/schema.sql`, as a whole or not at all; again without harm.
pub(crate) fn apply(connection: &mut Connection) -> Result<()> {
    // Several statements in one message are one transaction: this is PostgreSQL's simple query protocol.
    connection.client().batch_execute(SCHEMA).map_err(Error::from)
}

/// Whether the tables and functions are there.
pub(crate) fn is_present(pool: &Pool) -> Result<bool> {
    let sql =
        "SELECT to_regclass('movies') IS NOT NULL AND to_regprocedure('poolhouse_query(text)') IS NOT NULL";
    Ok(pool.execute_query_one(sql, &[])?.unwrap_or(false))
}

/// What a failure of [`apply`] needs to be understood.
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
