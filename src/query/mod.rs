//! The helpers, over everything that can run a statement: pool, connection, transaction.

mod commit_probe;
mod options;
mod run;
mod transaction;

pub use crate::query::options::{Isolation, RetryPolicy, TransactionOptions};
pub use crate::query::transaction::Transaction;

use crate::decode::{decode_row, decode_rows};
use crate::error::{Error, Result};
use crate::pool::{Connection, Failure, Lease, Pool, Retry, add};
use postgres::Row;
use postgres::types::ToSql;
use serde::de::DeserializeOwned;
use std::panic::Location;
use std::time::Instant;

/// Something statements can be run on: a [`Pool`], a [`Connection`](crate::Connection), a [`Transaction`], or
/// [`DatabasePool`](crate::DatabasePool). A repository function that takes `db: &impl Execute` runs in any of
/// them.
///
/// Each call is one round trip: a statement's text is prepared once per connection and kept. Parameters are
/// `$1`, `$2`, …; the SQL is one statement.
pub trait Execute {
    /// Runs a query and decodes every row.
    ///
    /// # Blocking
    ///
    /// On a pool, until a connection is there (the acquire timeout) and the answer is (the statement timeout);
    /// on a connection or transaction the latter only.
    ///
    /// # Errors
    ///
    /// - Those of [`Pool::get_connection`], on a pool.
    /// - `Query`: the server or the driver refused the statement.
    /// - `Decode`: a row does not fit `T`.
    /// - `DeadlineExceeded`: no answer in time; the statement is cancelled on the server.
    /// - `ConnectionLost`: the connection broke on the way.
    /// - `OutcomeUnknown`: as the last two, for a statement that may write.
    fn execute_query<T: DeserializeOwned>(&self, sql: &str, params: &[&(dyn ToSql + Sync)])
    -> Result<Vec<T>>;

    /// Runs a query that returns at most one row, and decodes it; `None` where there is none.
    ///
    /// # Blocking
    ///
    /// As [`execute_query`](Execute::execute_query).
    ///
    /// # Errors
    ///
    /// As [`execute_query`](Execute::execute_query), and `TooManyRows` where there are more.
    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>>;

    /// Runs a statement that writes, and returns the number of rows affected. On a pool or connection it is
    /// committed when this returns `Ok`.
    ///
    /// # Blocking
    ///
    /// As [`execute_query`](Execute::execute_query).
    ///
    /// # Errors
    ///
    /// - Those of [`Pool::get_connection`], on a pool; `Query`; `ConnectionLost`: nothing was done.
    /// - `OutcomeUnknown`: the answer did not come; the write may or may not have happened. It is never
    ///   repeated on its own.
    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64>;
}

/// Decodes every row.
pub(crate) fn all<T: DeserializeOwned>(rows: &[Row]) -> Result<Vec<T>> {
    Ok(decode_rows(rows)?)
}

/// Decodes the one row there may be.
pub(crate) fn at_most_one<T: DeserializeOwned>(rows: &[Row]) -> Result<Option<T>> {
    match rows {
        [] => Ok(None),
        [row] => Ok(Some(decode_row(row)?)),
        _ => Err(Error::TooManyRows),
    }
}

/// How many connections one statement is tried on. Each try uses up a connection that had died unnoticed, and the
/// first such death has the others checked before they are lent, so more tries mean that something else is wrong.
const MOST_ATTEMPTS: u32 = 4;

impl Pool {
    /// Runs `operation` on a connection; again on another where it certainly had no effect, or can only have read. In the
    /// latter case it is told so, and must see to it that nothing can be written.
    /// The connection is returned with the result, for what is to follow on it once and no more.
    fn on_a_connection<R>(
        &self,
        at: &'static Location<'static>,
        mut operation: impl FnMut(&mut Lease, bool) -> Result<R, Failure>,
    ) -> Result<(Lease, R)> {
        let started = Instant::now();
        let deadline = add(started, self.shared().acquire_timeout());
        let mut now = started;
        let mut attempts = 0;
        let mut may_be_done = false;
        loop {
            let shared = self.shared().clone();
            let mut lease = match attempts {
                0 => shared.lend(now, deadline, at)?,
                _ => shared.lend_again(now, deadline, at)?,
            };
            let failure = match operation(&mut lease, may_be_done) {
                Ok(result) => return Ok((lease, result)),
                Err(failure) => failure,
            };
            match failure.retry {
                Retry::Safe => {}
                Retry::ReadOnly if self.shared().repeats_reads() => may_be_done = true,
                _ => return Err(failure.error),
            }
            now = Instant::now();
            attempts += 1;
            if now >= deadline || attempts == MOST_ATTEMPTS {
                return Err(failure.error);
            }
        }
    }

    /// The rows of a query. Others may have the connection while they are decoded.
    fn rows(
        &self,
        at: &'static Location<'static>,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let rows = self.on_a_connection(at, |lease, may_be_done| match may_be_done {
            false => lease.query(sql, params),
            true => lease.query_again(sql, params),
        });
        rows.map(|(_, rows)| rows)
    }
}

impl Execute for Pool {
    #[track_caller]
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        all(&self.rows(Location::caller(), sql, params)?)
    }

    #[track_caller]
    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        at_most_one(&self.rows(Location::caller(), sql, params)?)
    }

    #[track_caller]
    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        let count = self.on_a_connection(Location::caller(), |lease, _| {
            lease.write(sql, params).map_err(|failure| match failure.retry {
                Retry::ReadOnly => Failure::of_caller(failure.error),
                _ => failure,
            })
        });
        count.map(|(_, count)| count)
    }
}

impl Execute for Connection {
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        let rows = self.lease().query(sql, params)?;
        all(&rows)
    }

    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        let rows = self.lease().query(sql, params)?;
        at_most_one(&rows)
    }

    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        Ok(self.lease().write(sql, params)?)
    }
}
