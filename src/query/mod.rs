//! The helpers: [`Execute`] for a pool, a connection and a transaction, and `transaction` with its options.
//!
//! `run.rs` runs transactions, `transaction.rs` is one attempt, `commit_probe.rs` finds out whether it committed when
//! the answer is lost. Nothing here knows how a connection is acquired, nor what a statement's text means. No locks.

mod commit_probe;
mod options;
mod run;
mod transaction;

pub use crate::query::options::{Isolation, RetryPolicy, TransactionOptions};
pub use crate::query::transaction::Transaction;

use crate::decode::{decode_row, decode_rows};
use crate::error::{Error, Result};
use crate::pool::{Connection, Failure, Lease, Pool, Retry, add};
use crate::rows::Rows;
use postgres::types::ToSql;
use serde::de::DeserializeOwned;
use std::panic::Location;
use std::time::Instant;

/// Runs statements on a [`Pool`], a [`Connection`], a [`Transaction`], or
/// [`DatabasePool`](crate::DatabasePool).
///
/// A repository function that takes `db: &impl Execute` works with each of them.
///
/// The SQL is one statement with the parameters `$1`, `$2`, …. Each call is one round trip, a connection's first call of a
/// statement included; only the first call in the pool takes one more, in which the server describes the statement.
pub trait Execute {
    /// Runs a query and decodes every row.
    ///
    /// # Blocking
    ///
    /// The statement takes at most the statement timeout. On a pool, the call first waits for a connection for at
    /// most the acquire timeout.
    ///
    /// # Errors
    ///
    /// - On a pool, those of [`Pool::get_connection`].
    /// - `Query`: the server or the driver refused the statement.
    /// - `Decode`: a row does not fit `T`.
    /// - `DeadlineExceeded`: no answer arrived in time; the statement is cancelled on the server.
    /// - `ConnectionLost`: the connection broke before the answer arrived.
    /// - `OutcomeUnknown`: instead of the last two, for a statement that may write.
    fn execute_query<T: DeserializeOwned>(&self, sql: &str, params: &[&(dyn ToSql + Sync)])
    -> Result<Vec<T>>;

    /// Runs a query that returns at most one row, and decodes it; returns `None` where it returns no row.
    ///
    /// # Blocking
    ///
    /// As [`execute_query`](Execute::execute_query).
    ///
    /// # Errors
    ///
    /// - Those of [`execute_query`](Execute::execute_query).
    /// - `TooManyRows`: the query returned more than one row.
    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>>;

    /// Runs a statement that writes, and returns the number of affected rows.
    ///
    /// On a pool or a connection the write is committed when this returns `Ok`.
    ///
    /// # Blocking
    ///
    /// As [`execute_query`](Execute::execute_query).
    ///
    /// # Errors
    ///
    /// - On a pool, those of [`Pool::get_connection`]: nothing was changed.
    /// - `Query`: the server or the driver refused the statement; nothing was changed.
    /// - `ConnectionLost`: the connection broke, and nothing was changed.
    /// - `OutcomeUnknown`: no answer arrived. The write may or may not have happened; it is never retried
    ///   automatically.
    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64>;
}

/// Decodes every row.
pub(crate) fn all<T: DeserializeOwned>(rows: &Rows) -> Result<Vec<T>> {
    Ok(decode_rows(rows)?)
}

/// Decodes at most one row.
pub(crate) fn at_most_one<T: DeserializeOwned>(rows: &Rows) -> Result<Option<T>> {
    let mut rows = rows.iter();
    match (rows.next(), rows.next()) {
        (None, _) => Ok(None),
        (Some(row), None) => Ok(Some(decode_row(row)?)),
        (Some(_), Some(_)) => Err(Error::TooManyRows),
    }
}

/// The number of connections on which one statement is attempted. Each failed attempt closes a dead connection, and
/// after the first one the pool checks the others before it lends them. So more failures have another cause.
const MAX_ATTEMPTS: u32 = 4;

impl Pool {
    /// Runs `operation` on a connection. Runs it again on another one where the first attempt certainly had no
    /// effect, or can only have read.
    ///
    /// The argument of `operation` is true once an earlier attempt may have run: `operation` must then prevent
    /// writes. The connection is returned with the result, for operations that follow without a retry.
    fn with_retry<R>(
        &self,
        at: &'static Location<'static>,
        mut operation: impl FnMut(&mut Lease, bool) -> Result<R, Failure>,
    ) -> Result<(Lease, R)> {
        let started = Instant::now();
        let deadline = add(started, self.shared().acquire_timeout());
        let mut now = started;
        let mut attempts = 0;
        let mut may_have_run = false;
        loop {
            let shared = self.shared().clone();
            let mut lease = match attempts {
                0 => shared.lend(now, deadline, at)?,
                _ => shared.lend_again(now, deadline, at)?,
            };
            let failure = match operation(&mut lease, may_have_run) {
                Ok(result) => return Ok((lease, result)),
                Err(failure) => failure,
            };
            match failure.retry {
                Retry::Safe => {}
                Retry::ReadOnly if self.shared().repeats_reads() => may_have_run = true,
                _ => return Err(failure.error),
            }
            now = Instant::now();
            attempts += 1;
            if now >= deadline || attempts == MAX_ATTEMPTS {
                return Err(failure.error);
            }
        }
    }

    /// Runs a query and returns its rows. The connection is returned to the pool before the rows are decoded.
    fn rows(
        &self,
        at: &'static Location<'static>,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Rows> {
        let rows = self.with_retry(at, |lease, may_have_run| match may_have_run {
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
        let count = self.with_retry(Location::caller(), |lease, _| {
            lease.write(sql, params).map_err(|failure| match failure.retry {
                Retry::ReadOnly => Failure::without_retry(failure.error),
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
