//! The helpers: [`Execute`] for a pool, a connection and a transaction, and `transaction` with its options.
//!
//! `run.rs` runs transactions, `transaction.rs` is one attempt, `commit_probe.rs` finds out whether it committed when
//! the answer is lost. Nothing here knows how a connection is acquired, nor what a statement's text means. No locks.

mod bulk;
mod commit_probe;
mod copy;
mod copy_text;
mod options;
mod param_row;
mod run;
mod transaction;

pub use crate::query::bulk::Bulk;
pub use crate::query::copy::CopyFormat;
pub use crate::query::options::{Isolation, RetryPolicy, TransactionOptions};
pub use crate::query::param_row::ParamRow;
pub use crate::query::transaction::Transaction;

use crate::decode::{decode_row, decode_rows};
use crate::error::{Error, Result};
use crate::pool::{Access, Answer, Connection, Failure, Lease, Pool, Retry, Turn, add};
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

/// The number of connections on which one statement is attempted. After the first failure the pool checks the other
/// connections before it lends them, so two are enough for sessions that ended once. Where all sessions are terminated again
/// and again, each attempt may meet the next termination.
const MAX_ATTEMPTS: u32 = 16;

/// The number of attempts that may have run. Fewer, because the statement may be what crashes the server.
const MAX_LOST: u32 = 4;

/// The attempts of one call on a pool.
struct Attempts<'a> {
    pool: &'a Pool,
    at: &'static Location<'static>,
    access: Access,
    /// When the current attempt began.
    now: Instant,
    deadline: Instant,
    failed: u32,
    /// Of the failed attempts, those that may have run.
    lost: u32,
}

impl<'a> Attempts<'a> {
    fn new(pool: &'a Pool, at: &'static Location<'static>, access: Access) -> Attempts<'a> {
        let now = Instant::now();
        let deadline = add(now, pool.shared().acquire_timeout());
        Attempts { pool, at, access, now, deadline, failed: 0, lost: 0 }
    }

    fn lend(&self) -> Result<Lease> {
        let shared = self.pool.shared().clone();
        match self.failed {
            0 => shared.lend(self.now, self.deadline, self.at),
            _ => shared.lend_again(self.now, self.deadline, self.at),
        }
    }

    /// Returns the error of a failed attempt, unless there is to be another one.
    fn note(&mut self, failure: Failure) -> Result<()> {
        match (failure.retry, self.access) {
            (Retry::Safe, _) => {}
            (Retry::ReadOnly, Access::Query) if self.pool.shared().repeats_reads() => self.lost += 1,
            _ => return Err(failure.error),
        }
        self.now = Instant::now();
        self.failed += 1;
        if self.now >= self.deadline || self.failed == MAX_ATTEMPTS || self.lost == MAX_LOST {
            return Err(failure.error);
        }
        self.pool.shared().note_retry();
        Ok(())
    }

    /// Runs the statement on this connection, and on others where that fails.
    fn run(&mut self, mut lease: Lease, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Answer> {
        loop {
            let outcome = match (self.failed, self.lost) {
                (0, _) => lease.run_shared(sql, params),
                (_, lost) => {
                    let mut lease = lease;
                    if lost == 0 { lease.run(sql, params) } else { lease.query_again(sql, params) }
                }
            };
            // The connection of this attempt is returned by now: the next one must not wait for it.
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.note(failure)?,
            }
            lease = self.lend()?;
        }
    }
}

impl Pool {
    /// Runs `operation` on a connection. Runs it again on another one where the first attempt certainly had no effect.
    ///
    /// The connection is returned with the result, for operations that follow without a retry.
    fn with_retry<R>(
        &self,
        at: &'static Location<'static>,
        mut operation: impl FnMut(&mut Lease) -> Result<R, Failure>,
    ) -> Result<(Lease, R)> {
        let mut attempts = Attempts::new(self, at, Access::Query);
        loop {
            let mut lease = attempts.lend()?;
            match operation(&mut lease) {
                Ok(result) => return Ok((lease, result)),
                Err(failure) => attempts.note(failure)?,
            }
        }
    }

    /// Runs one statement, and again on another connection where the first attempt certainly had no effect, or can only
    /// have read. Where callers wait for a connection, several statements may share a round trip. The connection is returned to
    /// the pool before the rows are decoded.
    fn run(
        &self,
        at: &'static Location<'static>,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        access: Access,
    ) -> Result<Answer> {
        let mut attempts = Attempts::new(self, at, access);
        let (started, shared) = (attempts.now, self.shared());
        let turn = shared
            .clone()
            .lend_or_follow(started, attempts.deadline, at, |shared| shared.request(sql, params, access));
        let lease = match turn? {
            Turn::Lent(lease) => lease,
            Turn::Followed(Ok(answer)) => return Ok(answer),
            Turn::Followed(Err(failure)) => {
                // The caller has had no connection of its own yet: this ends as an acquire does.
                let error = attempts.note(failure).err();
                if let Some(error) = error.filter(|_| attempts.failed == 0) {
                    return Err(error);
                }
                shared.clone().lend_in_place(started, attempts.deadline, at)?
            }
        };
        attempts.run(lease, sql, params)
    }

    /// Runs a query that was not run, or not answered, as part of a batch.
    pub(crate) fn run_from(
        &self,
        start: Start,
        at: &'static Location<'static>,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Answer> {
        let mut attempts = Attempts::new(self, at, Access::Query);
        let lease = match start {
            Start::Fresh => return self.run(at, sql, params, Access::Query),
            Start::Lent(lease) => lease,
            Start::Failed(failure) => {
                attempts.note(failure)?;
                attempts.lend()?
            }
        };
        attempts.run(lease, sql, params)
    }
}

/// How far a query has come.
pub(crate) enum Start {
    Fresh,
    /// A connection was lent for it.
    Lent(Lease),
    /// It has failed once.
    Failed(Failure),
}

impl Execute for Pool {
    #[track_caller]
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        let answer = self.run(Location::caller(), sql, params, Access::Query);
        self.shared().noted(answer.and_then(|answer| all(&answer.into_rows())))
    }

    #[track_caller]
    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        let answer = self.run(Location::caller(), sql, params, Access::Query);
        self.shared().noted(answer.and_then(|answer| at_most_one(&answer.into_rows())))
    }

    #[track_caller]
    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        let answer = self.run(Location::caller(), sql, params, Access::Write);
        self.shared().noted(answer.map(Answer::into_affected))
    }
}

impl Execute for Connection {
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        self.lease().execute(sql, params, |answer| all(&answer.into_rows()))
    }

    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        self.lease().execute(sql, params, |answer| at_most_one(&answer.into_rows()))
    }

    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        self.lease().execute(sql, params, |answer| Ok(answer.into_affected()))
    }
}
