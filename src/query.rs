//! The helpers, over everything that can run a statement: pool, connection, transaction.

use crate::decode::{decode_row, decode_rows};
use crate::error::{Error, Result};
use crate::pool::{Effect, Failure, Lease, Limit, Pool, Session, Shared, add};
use postgres::Row;
use postgres::types::ToSql;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// Runs `operation` on a connection; again on another where it certainly had no effect.
    fn on_a_connection<R>(
        &self,
        at: &'static Location<'static>,
        mut operation: impl FnMut(&mut Lease) -> Result<R, Failure>,
    ) -> Result<R> {
        let started = Instant::now();
        let deadline = add(started, self.shared().acquire_timeout());
        let mut now = started;
        let mut attempts = 0;
        loop {
            let mut lease = self.shared().clone().lend(now, deadline, at)?;
            match operation(&mut lease) {
                Ok(result) => return Ok(result),
                Err(failure) if failure.had_no_effect => {
                    now = Instant::now();
                    attempts += 1;
                    if now >= deadline || attempts == MOST_ATTEMPTS {
                        return Err(failure.error);
                    }
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    /// Runs `work` in a transaction: commits when it returns `Ok`, rolls back when it returns `Err` or panics.
    ///
    /// # Blocking
    ///
    /// Until a connection is there (the acquire timeout), then each statement, and each of BEGIN and COMMIT, for
    /// at most the statement timeout.
    ///
    /// # Errors
    ///
    /// - Those of [`get_connection`](Pool::get_connection).
    /// - What `work` returned: rolled back.
    /// - `TransactionAborted`: `work` returned `Ok` although a statement had failed; rolled back.
    /// - `TransactionEnded`: `work` itself ran COMMIT or ROLLBACK.
    /// - `ConnectionLost`: broken before the commit was sent; nothing was done.
    /// - `OutcomeUnknown`: broken after it was sent.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use poolhouse::{Execute, Pool};
    ///
    /// # fn example(pool: &Pool) -> poolhouse::Result<()> {
    /// pool.transaction(|tx| {
    ///     tx.execute_write("UPDATE accounts SET balance = balance - $1 WHERE id = 1", &[&10_i64])?;
    ///     tx.execute_write("UPDATE accounts SET balance = balance + $1 WHERE id = 2", &[&10_i64])
    /// })?;
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn transaction<R>(&self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        let mut work = Some(work);
        self.on_a_connection(Location::caller(), |lease| {
            begin(lease)?;
            // BEGIN was answered; no failure of `finish` asks for another try, so `work` runs once.
            match work.take() {
                Some(work) => finish(lease, work),
                None => unreachable!("bug: a transaction begins twice"),
            }
        })
    }
}

impl Execute for Pool {
    #[track_caller]
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        let rows = self.on_a_connection(Location::caller(), |lease| lease.query(sql, params))?;
        all(&rows)
    }

    #[track_caller]
    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        let rows = self.on_a_connection(Location::caller(), |lease| lease.query(sql, params))?;
        at_most_one(&rows)
    }

    #[track_caller]
    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        self.on_a_connection(Location::caller(), |lease| lease.write(sql, params))
    }
}

/// An open transaction, as [`Pool::transaction`] and [`Connection::transaction`](crate::Connection::transaction)
/// hand it to their closure.
pub struct Transaction<'a> {
    session: RefCell<&'a mut Session>,
    shared: &'a Arc<Shared>,
    /// 0 is the transaction itself, above are savepoints.
    depth: u32,
}

impl Transaction<'_> {
    /// Runs `work` inside a savepoint: what it did is undone when it returns `Err`, and the transaction around
    /// it goes on.
    ///
    /// # Blocking
    ///
    /// Each statement for at most the statement timeout.
    ///
    /// # Errors
    ///
    /// What `work` returned, or that of the savepoint's own statements.
    pub fn transaction<R>(&mut self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        let depth = self.depth + 1;
        let limit = self.shared.statement_limit();
        let session = self.session.get_mut();
        session.command(&format!("SAVEPOINT poolhouse_{depth}"), limit, Effect::None)?;
        let mut open = Open { session, depth, is_open: true };
        let mut inner = Transaction { session: RefCell::new(&mut *open.session), shared: self.shared, depth };
        let value = work(&mut inner)?;
        open.session.check_transaction(limit)?;
        open.is_open = false;
        open.session.command(&format!("RELEASE poolhouse_{depth}"), limit, Effect::None)?;
        Ok(value)
    }

    /// Starts `COPY … FROM STDIN`; write the data and call `finish` on what is returned.
    ///
    /// # Blocking
    ///
    /// All of it for at most the statement timeout, counted from this call.
    ///
    /// # Errors
    ///
    /// - `Query`: the server refuses the statement.
    pub fn copy_in(&mut self, sql: &str) -> Result<postgres::CopyInWriter<'_>> {
        let session = self.session.get_mut();
        session.set_limit(self.shared.statement_limit());
        Ok(session.client_unmarked().copy_in(sql)?)
    }
}

impl Execute for Transaction<'_> {
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        let limit = self.shared.statement_limit();
        all(&self.session.borrow_mut().query(sql, params, limit)?)
    }

    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        let limit = self.shared.statement_limit();
        at_most_one(&self.session.borrow_mut().query(sql, params, limit)?)
    }

    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        let limit = self.shared.statement_limit();
        Ok(self.session.borrow_mut().write(sql, params, limit)?)
    }
}

/// Runs a whole transaction on a lent session.
pub(crate) fn run_transaction<R>(
    lease: &mut Lease,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<R>,
) -> Result<R, Failure> {
    begin(lease)?;
    finish(lease, work)
}

fn begin(lease: &mut Lease) -> Result<(), Failure> {
    let limit = lease.shared().statement_limit();
    lease.session().command("BEGIN", limit, Effect::None)
}

fn finish<R>(lease: &mut Lease, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R, Failure> {
    let shared = lease.shared().clone();
    let limit = shared.statement_limit();
    let session = lease.session();
    session.in_transaction = true;
    session.forget_failure();
    let mut open = Open { session, depth: 0, is_open: true };
    let mut transaction =
        Transaction { session: RefCell::new(&mut *open.session), shared: &shared, depth: 0 };
    let value = work(&mut transaction).map_err(|error| Failure { error, had_no_effect: false })?;
    open.session.check_transaction(limit)?;
    open.is_open = false;
    open.session.in_transaction = false;
    match open.session.command("COMMIT", limit, Effect::Lasting) {
        Ok(()) => Ok(value),
        // `work` has run, and must not run again.
        Err(failure) => Err(Failure { had_no_effect: false, ..failure }),
    }
}

/// A transaction or savepoint that is undone unless it comes to its end: when the closure returns an error, and
/// also when it panics and somebody catches that.
struct Open<'a> {
    session: &'a mut Session,
    /// As in [`Transaction`].
    depth: u32,
    is_open: bool,
}

/// How long undoing may take before the connection is given up instead, which undoes everything as well.
const UNDO_LIMIT: Duration = Duration::from_millis(500);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let undo = match self.depth {
            0 => {
                self.session.in_transaction = false;
                "ROLLBACK".to_owned()
            }
            depth => format!("ROLLBACK TO poolhouse_{depth}; RELEASE poolhouse_{depth}"),
        };
        if self.session.is_broken() {
            return;
        }
        match self.session.command(&undo, Limit::Within(Some(UNDO_LIMIT)), Effect::None) {
            Ok(()) => self.session.forget_failure(),
            // The server undoes what is left open when the connection ends.
            Err(_) => self.session.condemn_dirty(),
        }
    }
}
