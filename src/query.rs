//! The helpers, over everything that can run a statement: pool, connection, transaction.

use crate::decode::{decode_row, decode_rows};
use crate::error::{Error, Result};
use crate::pool::{Effect, Failure, Lease, Pool, Session, Shared, add};
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

impl Pool {
    /// Runs `operation` on a connection; again on another where not a byte of it reached the server.
    fn on_a_connection<R>(
        &self,
        at: &'static Location<'static>,
        mut operation: impl FnMut(&mut Lease) -> Result<R, Failure>,
    ) -> Result<R> {
        let started = Instant::now();
        let deadline = add(started, self.shared().acquire_timeout());
        let mut now = started;
        loop {
            let mut lease = self.shared().clone().lend(now, deadline, at)?;
            match operation(&mut lease) {
                Ok(result) => return Ok(result),
                Err(failure) if failure.never_sent => {
                    now = Instant::now();
                    if now >= deadline {
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
    /// - `ConnectionLost`: broken before the commit was sent; nothing was done.
    /// - `OutcomeUnknown`: broken after it was sent.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> poolhouse::Result<()> {
    /// use poolhouse::{Execute, Pool, PoolSettings};
    /// # let pool: Pool = unimplemented!();
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
            // BEGIN was answered, so from here on nothing is "never sent", and `work` runs once.
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
        let rows = self.on_a_connection(Location::caller(), |lease| {
            let deadline = lease.shared().statement_deadline();
            lease.session().query(sql, params, deadline)
        })?;
        all(&rows)
    }

    #[track_caller]
    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        let rows = self.on_a_connection(Location::caller(), |lease| {
            let deadline = lease.shared().statement_deadline();
            lease.session().query(sql, params, deadline)
        })?;
        at_most_one(&rows)
    }

    #[track_caller]
    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        self.on_a_connection(Location::caller(), |lease| {
            let deadline = lease.shared().statement_deadline();
            lease.session().write(sql, params, deadline)
        })
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
        let shared = self.shared;
        let session = self.session.get_mut();
        session.command(
            &format!("SAVEPOINT poolhouse_{depth}"),
            shared.statement_deadline(),
            Effect::None,
        )?;
        let mut inner = Transaction { session: RefCell::new(session), shared, depth };
        let result = work(&mut inner);
        let session = inner.session.into_inner();
        if result.is_ok() && !session.has_failed_transaction() {
            session.command(
                &format!("RELEASE poolhouse_{depth}"),
                shared.statement_deadline(),
                Effect::None,
            )?;
            return result;
        }
        let undone = session.command(
            &format!("ROLLBACK TO poolhouse_{depth}; RELEASE poolhouse_{depth}"),
            shared.statement_deadline(),
            Effect::None,
        );
        match result {
            Ok(_) => Err(Error::TransactionAborted),
            Err(error) => {
                undone?;
                Err(error)
            }
        }
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
        session.set_deadline(self.shared.statement_deadline());
        Ok(session.client_unmarked().copy_in(sql)?)
    }
}

impl Execute for Transaction<'_> {
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        let deadline = self.shared.statement_deadline();
        all(&self.session.borrow_mut().query(sql, params, deadline)?)
    }

    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        let deadline = self.shared.statement_deadline();
        at_most_one(&self.session.borrow_mut().query(sql, params, deadline)?)
    }

    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        let deadline = self.shared.statement_deadline();
        Ok(self.session.borrow_mut().write(sql, params, deadline)?)
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
    let deadline = lease.shared().statement_deadline();
    lease.session().command("BEGIN", deadline, Effect::None)
}

fn finish<R>(lease: &mut Lease, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R, Failure> {
    let shared = lease.shared().clone();
    let mut open = OpenTransaction { session: lease.session(), is_open: true };
    open.session.in_transaction = true;
    let mut transaction =
        Transaction { session: RefCell::new(&mut *open.session), shared: &shared, depth: 0 };
    let result = work(&mut transaction);
    let value = match result {
        Ok(value) => value,
        Err(error) => {
            open.roll_back();
            return Err(Failure { error, never_sent: false });
        }
    };
    if open.session.has_failed_transaction() {
        // COMMIT would roll back and report success.
        open.roll_back();
        return Err(Failure { error: Error::TransactionAborted, never_sent: false });
    }
    open.is_open = false;
    open.session.in_transaction = false;
    let committed = open.session.command("COMMIT", shared.statement_deadline(), Effect::Lasting);
    match committed {
        Ok(()) => Ok(value),
        Err(failure) => Err(Failure { never_sent: false, ..failure }),
    }
}

/// Rolls back where the closure did not come to an end, so that a caught panic leaves no open transaction.
struct OpenTransaction<'a> {
    session: &'a mut Session,
    is_open: bool,
}

/// How long a rollback may take before the connection is given up instead, which rolls back as well.
const ROLLBACK_LIMIT: Duration = Duration::from_millis(500);

impl OpenTransaction<'_> {
    fn roll_back(&mut self) {
        self.is_open = false;
        self.session.in_transaction = false;
        if !self.session.is_broken() {
            // Where it fails the session is condemned, and closing it ends the transaction.
            let _ = self.session.command("ROLLBACK", Some(Instant::now() + ROLLBACK_LIMIT), Effect::None);
        }
    }
}

impl Drop for OpenTransaction<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.roll_back();
        }
    }
}
