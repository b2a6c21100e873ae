//! The helpers for many rows: [`Bulk`] for a pool, a connection and a transaction.
//!
//! Each operation runs in one transaction; `in_transaction.rs` sends and receives the rows there. This file runs the operations of
//! a pool and a connection in a transaction of their own. No locks.

mod in_transaction;

use crate::error::Result;
use crate::pool::{Connection, Pool};
use crate::query::copy::CopyFormat;
use crate::query::options::TransactionOptions;
use crate::query::param_row::ParamRow;
use crate::query::run::attempt_on;
use crate::query::transaction::{Failed, Transaction};
use postgres::types::ToSql;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::iter::Peekable;

/// Runs statements for many rows on a [`Pool`], a [`Connection`], a [`Transaction`], or
/// [`DatabasePool`](crate::DatabasePool).
///
/// Each helper is all or nothing: on a pool and a connection it runs in a transaction of its own. A [`Transaction`], or its savepoint,
/// can only be rolled back after an error of [`execute_many`](Bulk::execute_many) or [`copy_in`](Bulk::copy_in). After one of the
/// caller's code in [`for_each_row`](Bulk::for_each_row) or [`copy_out`](Bulk::copy_out), it may go on with what the query has done by
/// then.
pub trait Bulk {
    /// Runs a statement once for each row of parameters, and returns how many rows of the database were affected in total.
    ///
    /// The rows are sent in pieces of some 256 KiB, one round trip for each. Without rows nothing is sent, and the statement is
    /// not checked.
    ///
    /// # Blocking
    ///
    /// On a pool, the call first waits for a connection for at most the acquire timeout. Then BEGIN, each piece, and COMMIT
    /// take at most the statement timeout each; [`with_deadline`](crate::with_deadline) bounds all of it. It also takes as long
    /// as `rows` does.
    ///
    /// # Errors
    ///
    /// - Those of [`Pool::transaction`].
    /// - `Query`: the server refused the statement, or a parameter does not fit. [`QueryError::row`](crate::QueryError::row) is
    ///   the row, counted from 0. Nothing was changed.
    ///
    /// # Panics
    ///
    /// - Where `rows` panics; nothing is changed.
    /// - On a connection, where `rows` uses the same connection.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use poolhouse::{Bulk, Pool};
    ///
    /// # fn example(pool: &Pool, titles: &[(i32, String)]) -> poolhouse::Result<()> {
    /// let rows = titles.iter().map(|(movie_id, title)| (movie_id, title));
    /// let updated = pool.execute_many("UPDATE movies SET title = $2 WHERE movie_id = $1", rows)?;
    /// # let _ = updated;
    /// # Ok(()) }
    /// ```
    fn execute_many<P: ParamRow>(&self, sql: &str, rows: impl IntoIterator<Item = P>) -> Result<u64>;

    /// Runs a query, decodes its rows one after the other, and passes each to `use_row`. Returns the number of rows.
    ///
    /// It holds some 256 KiB of rows in memory, however many there are, and at least one row. Each piece takes one round trip. The
    /// query sees the database as it was when it began.
    ///
    /// An error of `use_row` ends the query. [`Error::application`](crate::Error::application) makes one of any error.
    ///
    /// # Blocking
    ///
    /// On a pool, the call first waits for a connection for at most the acquire timeout. Then BEGIN, each piece, and COMMIT
    /// take at most the statement timeout each; [`with_deadline`](crate::with_deadline) bounds all of it. It also takes as long
    /// as `use_row` does. The connection is held for all that time.
    ///
    /// # Errors
    ///
    /// - Those of [`Pool::transaction`].
    /// - `Query`: the server or the driver refused the statement.
    /// - `Decode`: a row does not fit `T`; earlier rows were passed on.
    /// - The error that `use_row` returned.
    ///
    /// # Panics
    ///
    /// - Where `use_row` panics; nothing is changed.
    /// - On a connection, where `use_row` uses the same connection.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use poolhouse::{Bulk, Error, Pool};
    /// use std::io::Write;
    ///
    /// # fn example(pool: &Pool, out: &mut impl Write) -> poolhouse::Result<()> {
    /// pool.for_each_row("SELECT movie_id, title FROM movies", &[], |(movie_id, title): (i32, String)| {
    ///     writeln!(out, "{movie_id} {title}").map_err(Error::application)
    /// })?;
    /// # Ok(()) }
    /// ```
    fn for_each_row<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        use_row: impl FnMut(T) -> Result<()>,
    ) -> Result<u64>;

    /// Copies rows into columns of a table, and returns how many the table has more. For thousands of rows it is many times as fast as
    /// [`execute_many`](Bulk::execute_many).
    ///
    /// A row is any serde value: a struct or a map gives the value of each column by its name, and other fields are left out; a
    /// tuple or an array gives them in the order of `columns`. [Types](crate::guide::types) has the table of values.
    ///
    /// `table` is the table's name, or its schema's and its own with a dot between them. The names are taken as they are in the
    /// catalogue, in upper and lower case.
    ///
    /// The rows are sent in pieces of some 256 KiB, each in one COPY, one round trip for each. So triggers that fire once for each
    /// statement fire once for each piece. Without rows nothing is sent, and the names are not checked.
    ///
    /// # Blocking
    ///
    /// As [`execute_many`](Bulk::execute_many).
    ///
    /// # Errors
    ///
    /// - Those of [`Pool::transaction`].
    /// - `Query`: the server refused the statement or a row, or a row does not fit the columns.
    ///   [`QueryError::row`](crate::QueryError::row) is the row, counted from 0. Nothing was changed.
    ///
    /// # Panics
    ///
    /// - Where `rows`, or the serialization of a row, panics; nothing is changed.
    /// - On a connection, where `rows` uses the same connection.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use poolhouse::{Bulk, Pool};
    /// use serde::Serialize;
    ///
    /// #[derive(Serialize)]
    /// struct Movie {
    ///     movie_id: i32,
    ///     title: String,
    ///     year: Option<i32>,
    /// }
    ///
    /// # fn example(pool: &Pool, movies: &[Movie]) -> poolhouse::Result<()> {
    /// let count = pool.copy_in("movies", &["movie_id", "title", "year"], movies)?;
    /// # let _ = count;
    /// # Ok(()) }
    /// ```
    fn copy_in<T: Serialize>(
        &self,
        table: &str,
        columns: &[&str],
        rows: impl IntoIterator<Item = T>,
    ) -> Result<u64>;

    /// Copies the rows of a query to `out` as text, and returns their number.
    ///
    /// The rows are written as they arrive, in pieces of some 64 KiB, and not held in memory. `out` is not flushed. Where it fails,
    /// the query is cancelled on the server. The query takes no parameters.
    ///
    /// # Blocking
    ///
    /// On a pool, the call first waits for a connection for at most the acquire timeout. Then BEGIN, the query with all of its
    /// rows, and COMMIT take at most the statement timeout each; [`with_deadline`](crate::with_deadline) bounds all of it. The
    /// time that `out` takes counts, and no deadline interrupts a write to it.
    ///
    /// # Errors
    ///
    /// - Those of [`Pool::transaction`]. Some rows may have been written by then.
    /// - `Query`: the server refused the statement.
    /// - `Application`: writing to `out` failed; it contains the [`io::Error`](std::io::Error).
    ///
    /// # Panics
    ///
    /// - Where `out` panics; the connection is closed.
    /// - On a transaction or a connection, where `out` uses the same one.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use poolhouse::{Bulk, CopyFormat, Error, Pool};
    /// use std::fs::File;
    ///
    /// # fn example(pool: &Pool) -> poolhouse::Result<()> {
    /// let mut file = File::create("movies.csv").map_err(Error::application)?;
    /// let format = CopyFormat::Csv { has_header: true };
    /// pool.copy_out("SELECT movie_id, title FROM movies ORDER BY movie_id", format, &mut file)?;
    /// # Ok(()) }
    /// ```
    fn copy_out(&self, query: &str, format: CopyFormat, out: &mut impl Write) -> Result<u64>;
}

/// The rows, if there are any: without rows nothing is sent.
fn unless_empty<I: IntoIterator>(rows: I) -> Option<Peekable<I::IntoIter>> {
    let mut rows = rows.into_iter().peekable();
    rows.peek().is_some().then_some(rows)
}

impl Bulk for Pool {
    #[track_caller]
    fn execute_many<P: ParamRow>(&self, sql: &str, rows: impl IntoIterator<Item = P>) -> Result<u64> {
        let Some(rows) = unless_empty(rows) else { return Ok(0) };
        self.transaction(|tx| tx.execute_many(sql, rows))
    }

    #[track_caller]
    fn for_each_row<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        use_row: impl FnMut(T) -> Result<()>,
    ) -> Result<u64> {
        self.transaction(|tx| tx.for_each_row(sql, params, use_row))
    }

    #[track_caller]
    fn copy_in<T: Serialize>(
        &self,
        table: &str,
        columns: &[&str],
        rows: impl IntoIterator<Item = T>,
    ) -> Result<u64> {
        let Some(rows) = unless_empty(rows) else { return Ok(0) };
        self.transaction(|tx| tx.copy_in(table, columns, rows))
    }

    #[track_caller]
    fn copy_out(&self, query: &str, format: CopyFormat, out: &mut impl Write) -> Result<u64> {
        self.transaction(|tx| tx.copy_out(query, format, out))
    }
}

impl Connection {
    /// Runs `work` in a transaction of its own.
    fn in_transaction<R>(&self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        let attempt = attempt_on(&mut self.lease(), &TransactionOptions::default(), work);
        attempt.map_err(|failed: Failed<_>| failed.error)
    }
}

impl Bulk for Connection {
    fn execute_many<P: ParamRow>(&self, sql: &str, rows: impl IntoIterator<Item = P>) -> Result<u64> {
        let Some(rows) = unless_empty(rows) else { return Ok(0) };
        self.in_transaction(|tx| tx.execute_many(sql, rows))
    }

    fn for_each_row<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        use_row: impl FnMut(T) -> Result<()>,
    ) -> Result<u64> {
        self.in_transaction(|tx| tx.for_each_row(sql, params, use_row))
    }

    fn copy_in<T: Serialize>(
        &self,
        table: &str,
        columns: &[&str],
        rows: impl IntoIterator<Item = T>,
    ) -> Result<u64> {
        let Some(rows) = unless_empty(rows) else { return Ok(0) };
        self.in_transaction(|tx| tx.copy_in(table, columns, rows))
    }

    fn copy_out(&self, query: &str, format: CopyFormat, out: &mut impl Write) -> Result<u64> {
        self.in_transaction(|tx| tx.copy_out(query, format, out))
    }
}
