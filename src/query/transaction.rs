//! One attempt at a transaction: it begins, runs the caller's closure, and commits or rolls back.
//!
//! It knows nothing of retries and of lost answers to COMMIT; `run.rs` handles both. A `RefCell`, not a lock, guards
//! the session: a [`Transaction`] belongs to one thread.

use crate::error::{Error, Result};
use crate::pool::{
    Answer, CopyStatement, Effect, Failure, Lease, Limit, Portal, Retry, Session, Shared, is_cancelled,
};
use crate::query::commit_probe::CommitProbe;
use crate::query::options::TransactionOptions;
use crate::query::{Execute, all, at_most_one};
use postgres::types::ToSql;
use serde::de::DeserializeOwned;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

/// An open transaction.
///
/// [`Pool::transaction`](crate::Pool::transaction) and [`Connection::transaction`](crate::Connection::transaction)
/// pass it to their closure.
pub struct Transaction<'a> {
    session: RefCell<&'a mut Session>,
    shared: &'a Arc<Shared>,
    /// 0 for the transaction itself; the nesting level for a savepoint.
    depth: u32,
    /// Bulk operations that run, or have not completed for a reason that the server does not know.
    partial: Cell<u32>,
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl<'a> Transaction<'a> {
    fn new(session: &'a mut Session, shared: &'a Arc<Shared>, depth: u32) -> Transaction<'a> {
        Transaction { session: RefCell::new(session), shared, depth, partial: Cell::new(0) }
    }
}

impl Transaction<'_> {
    /// Fails where a part of a bulk operation would be committed.
    fn check_complete(&self) -> Result<()> {
        if self.partial.get() > 0 { Err(Error::TransactionAborted) } else { Ok(()) }
    }

    /// Runs `operation` on the session within the statement timeout and the thread's deadline.
    pub(super) fn bounded<R>(
        &self,
        operation: impl FnOnce(&mut Session, Limit) -> Result<R, Failure>,
    ) -> Result<R> {
        let outcome = self.shared.bounded(&mut self.session.borrow_mut(), operation);
        self.noted(outcome.map_err(Error::from))
    }

    /// Counts the error of a call that ends with this outcome.
    pub(super) fn noted<R>(&self, outcome: Result<R>) -> Result<R> {
        self.shared.noted(outcome)
    }

    fn execute<R>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        read: impl FnOnce(Answer) -> Result<R>,
    ) -> Result<R> {
        self.shared.execute(&mut self.session.borrow_mut(), sql, params, read)
    }

    /// Copies the rows of a query to `take`, until that returns false.
    pub(super) fn copy_rows_out(
        &self,
        statement: &CopyStatement,
        take: impl FnMut(&[u8]) -> bool,
    ) -> Result<u64> {
        let outcome = self.shared.copy_out(&mut self.session.borrow_mut(), statement, take);
        self.shared.noted(outcome.map_err(Error::from))
    }

    /// Has the portal closed with the next statement.
    pub(super) fn end_portal(&self, portal: Portal) {
        self.session.borrow_mut().end_portal(portal);
    }

    /// Runs an operation that sends its rows in parts. Where it ends early, by an error or a panic of the caller's code, the server
    /// may have a part of the rows and does not know that others are missing: the transaction then does not commit.
    pub(super) fn in_parts<R>(&self, operation: impl FnOnce() -> Result<R>) -> Result<R> {
        self.partial.set(self.partial.get() + 1);
        let outcome = operation();
        if outcome.is_ok() || self.has_failed() {
            self.partial.set(self.partial.get() - 1);
        }
        outcome
    }

    /// Whether the server knows that the transaction has failed.
    fn has_failed(&self) -> bool {
        self.session.borrow().conn().status() == Some(b'E')
    }

    /// Runs `work` inside a savepoint.
    ///
    /// When `work` returns `Err`, its changes are rolled back, and the outer transaction goes on.
    ///
    /// # Blocking
    ///
    /// Each statement takes at most the statement timeout.
    ///
    /// # Errors
    ///
    /// - The error that `work` returned: the savepoint is rolled back.
    /// - Those of the statements that create and release the savepoint.
    /// - `TransactionAborted`: `work` returned `Ok` although a statement had failed; the savepoint is rolled back.
    /// - `DeadlineExceeded`: the thread's deadline ([`with_deadline`](crate::with_deadline)) had passed when `work`
    ///   returned; the savepoint is rolled back.
    pub fn transaction<R>(&mut self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        self.try_transaction(work)
    }

    /// Runs `work` like [`transaction`](Transaction::transaction), where `work` returns its own error type.
    ///
    /// # Blocking
    ///
    /// As [`transaction`](Transaction::transaction).
    ///
    /// # Errors
    ///
    /// - Those of [`transaction`](Transaction::transaction), converted by `From`.
    pub fn try_transaction<R, E: From<Error>>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let depth = self.depth + 1;
        let limit = self.shared.statement_limit();
        let shared = self.shared;
        let session = self.session.get_mut();
        let begun = session.command(&format!("SAVEPOINT poolhouse_{depth}"), limit, Effect::None);
        shared.noted(begun.map_err(Error::from))?;
        let mut guard = Rollback { session, depth, is_armed: true };
        let mut inner = Transaction::new(&mut *guard.session, shared, depth);
        let value = work(&mut inner)?;
        shared.noted(inner.check_complete())?;
        // Taken again after `work`: where the deadline has passed by now, only the savepoint is rolled back.
        let limit = shared.statement_limit();
        let checked = guard.session.check_transaction(limit).map_err(Error::from);
        shared.noted(checked.and_then(|()| limit.check()))?;
        guard.is_armed = false;
        let released = guard.session.command(&format!("RELEASE poolhouse_{depth}"), limit, Effect::None);
        shared.noted(released.map_err(Error::from))?;
        Ok(value)
    }

    /// Starts a `COPY … FROM STDIN` in any format. For rows as serde values, [`Bulk::copy_in`](crate::Bulk::copy_in) is simpler.
    ///
    /// Write the data to the returned writer, then call `finish` on it.
    ///
    /// # Blocking
    ///
    /// The whole COPY takes at most the statement timeout, counted from this call.
    ///
    /// # Errors
    ///
    /// - `Query`: the server refused the statement.
    /// - `Application`: `sql` is not a `COPY … FROM STDIN`; nothing was sent.
    /// - `ConnectionLost`: the connection broke.
    /// - `DeadlineExceeded`: no answer arrived in time.
    /// - `Cancelled`: the thread's work was cancelled.
    pub fn copy_in_writer(&mut self, sql: &str) -> Result<postgres::CopyInWriter<'_>> {
        let writer = match is_cancelled() {
            true => Err(Error::Cancelled),
            false => self.session.get_mut().copy_in(sql, self.shared.statement_limit()),
        };
        self.shared.noted(writer)
    }
}

impl Execute for Transaction<'_> {
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        self.execute(sql, params, |answer| all(&answer.into_rows()))
    }

    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        self.execute(sql, params, |answer| at_most_one(&answer.into_rows()))
    }

    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        self.execute(sql, params, |answer| Ok(answer.into_affected()))
    }
}

/// Begins a transaction. Returns its probe where `options` ask for verification.
pub(super) fn begin(lease: &mut Lease, options: &TransactionOptions) -> Result<Option<CommitProbe>, Failure> {
    let limit = lease.shared().statement_limit();
    let begun = match options.verify_within {
        None => {
            let begin = options.begin_sql();
            lease.session().begin_transaction(&begin, options.is_read_only, "", limit).map(|_| None)
        }
        Some(_) => CommitProbe::begin(lease.session(), options, limit).map(Some),
    };
    // The server rolls back a transaction whose connection ends, so BEGIN is safe to retry.
    begun.map_err(|failure| match failure.retry {
        Retry::ReadOnly => Failure { retry: Retry::Safe, ..failure },
        _ => failure,
    })
}

/// A failed attempt at a transaction.
pub(super) struct Failed<E> {
    pub(super) error: E,
    /// The cause is a conflict with another transaction: a serialization failure or a deadlock.
    pub(super) is_conflict: bool,
}

impl<E: From<Error>> Failed<E> {
    pub(super) fn from_error(error: impl Into<Error>) -> Failed<E> {
        let error = error.into();
        let is_conflict = matches!(error.sqlstate(), Some("40001" | "40P01"));
        Failed { error: error.into(), is_conflict }
    }
}

/// A transaction whose closure returned `Ok`, with the result of COMMIT.
pub(super) struct Finished<R> {
    pub(super) value: R,
    pub(super) commit: Result<()>,
}

/// Runs `work` in the transaction that has begun, and commits or rolls back.
pub(super) fn finish<R, E: From<Error>>(
    lease: &mut Lease,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<Finished<R>, Failed<E>> {
    let shared = lease.shared().clone();
    let session = lease.session();
    (session.in_transaction, session.has_conflict) = (true, false);
    let mut guard = Rollback { session, depth: 0, is_armed: true };
    let mut transaction = Transaction::new(&mut *guard.session, &shared, 0);
    let value = work(&mut transaction);
    let complete = transaction.check_complete();
    let is_conflict = guard.session.has_conflict;
    let value = value.map_err(|error| Failed { error, is_conflict })?;
    shared.noted(complete).map_err(Failed::from_error)?;
    let limit = shared.statement_limit();
    let checked = match is_cancelled() {
        true => Err(Error::Cancelled),
        false => guard.session.check_transaction(limit).map_err(Error::from),
    };
    shared.noted(checked.and_then(|()| limit.check())).map_err(Failed::from_error)?;
    guard.is_armed = false;
    guard.session.in_transaction = false;
    let commit = guard.session.command("COMMIT", limit, Effect::Lasting);
    Ok(Finished { value, commit: commit.map_err(Error::from) })
}

/// A guard that rolls back a transaction or savepoint when it is dropped armed: the closure returned an error, or
/// panicked.
struct Rollback<'a> {
    session: &'a mut Session,
    /// The nesting level, as in [`Transaction`].
    depth: u32,
    is_armed: bool,
}

/// The time limit for rolling back. After it the connection is closed, which rolls back as well.
const ROLLBACK_LIMIT: Duration = Duration::from_millis(500);

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let sql = match self.depth {
            0 => {
                self.session.in_transaction = false;
                "ROLLBACK".to_owned()
            }
            depth => format!("ROLLBACK TO poolhouse_{depth}; RELEASE poolhouse_{depth}"),
        };
        if self.session.is_broken() {
            return;
        }
        if self.session.command(&sql, Limit::Within(Some(ROLLBACK_LIMIT)), Effect::None).is_err() {
            // The server rolls back when the connection ends.
            self.session.mark_dirty_for_close();
        }
    }
}
