//! One transaction: begun, handed to the caller's closure, and ended.

use crate::error::{Error, Result};
use crate::pool::{Effect, Failure, Lease, Limit, Retry, Session, Shared, is_stopped};
use crate::query::commit_probe::CommitProbe;
use crate::query::options::TransactionOptions;
use crate::query::{Execute, all, at_most_one};
use postgres::types::ToSql;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// An open transaction, as [`Pool::transaction`](crate::Pool::transaction) and [`Connection::transaction`](crate::Connection::transaction)
/// hand it to their closure.
pub struct Transaction<'a> {
    session: RefCell<&'a mut Session>,
    shared: &'a Arc<Shared>,
    /// 0 is the transaction itself, above are savepoints.
    depth: u32,
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("depth", &self.depth).finish_non_exhaustive()
    }
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
    /// What `work` returned, or that of the savepoint's own statements. `DeadlineExceeded` where the thread's deadline
    /// ([`with_deadline`](crate::with_deadline)) has passed when `work` is done: the savepoint is undone.
    pub fn transaction<R>(&mut self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        self.try_transaction(work)
    }

    /// As [`transaction`](Transaction::transaction), for a `work` with errors of its own.
    ///
    /// # Blocking
    ///
    /// As [`transaction`](Transaction::transaction).
    ///
    /// # Errors
    ///
    /// As [`transaction`](Transaction::transaction), converted by `From`.
    pub fn try_transaction<R, E: From<Error>>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let depth = self.depth + 1;
        let limit = self.shared.statement_limit();
        let session = self.session.get_mut();
        session.command(&format!("SAVEPOINT poolhouse_{depth}"), limit, Effect::None).map_err(Error::from)?;
        let mut open = Open { session, depth, is_open: true };
        let mut inner = Transaction { session: RefCell::new(&mut *open.session), shared: self.shared, depth };
        let value = work(&mut inner)?;
        // Of what is left now, not before the work. Once that is nothing, the savepoint is undone and all else goes on.
        let limit = self.shared.statement_limit();
        open.session.check_transaction(limit).map_err(Error::from)?;
        limit.check()?;
        open.is_open = false;
        let released = open.session.command(&format!("RELEASE poolhouse_{depth}"), limit, Effect::None);
        released.map_err(Error::from)?;
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
    /// - `Application`: `sql` is not a `COPY … FROM STDIN`; nothing was sent.
    /// - `ConnectionLost`, `DeadlineExceeded`: as for any statement of the transaction.
    /// - `Cancelled`: the work has been called off.
    pub fn copy_in(&mut self, sql: &str) -> Result<postgres::CopyInWriter<'_>> {
        if is_stopped() {
            return Err(Error::Cancelled);
        }
        self.session.get_mut().copy_in(sql, self.shared.statement_limit())
    }
}

impl Execute for Transaction<'_> {
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        all(&self.shared.query(&mut self.session.borrow_mut(), sql, params)?)
    }

    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        at_most_one(&self.shared.query(&mut self.session.borrow_mut(), sql, params)?)
    }

    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        Ok(self.shared.write(&mut self.session.borrow_mut(), sql, params)?)
    }
}

/// Where it is to be verified, with what it takes to ask.
pub(super) fn begin(lease: &mut Lease, options: &TransactionOptions) -> Result<Option<CommitProbe>, Failure> {
    let limit = lease.shared().statement_limit();
    let begun = match options.verify_within {
        None => {
            let begin = options.begin();
            lease.session().begin_transaction(&begin, options.is_read_only, "", limit).map(|_| None)
        }
        Some(_) => CommitProbe::begin(lease.session(), options, limit).map(Some),
    };
    // A transaction that has only begun ends with its connection.
    begun.map_err(|failure| match failure.retry {
        Retry::ReadOnly => Failure { retry: Retry::Safe, ..failure },
        _ => failure,
    })
}

/// A transaction that failed.
pub(super) struct Failed<E> {
    pub(super) error: E,
    /// It lost against another transaction, by a serialization failure or a deadlock: it was undone because of that one,
    /// not for itself.
    pub(super) has_lost: bool,
}

impl<E: From<Error>> Failed<E> {
    pub(super) fn by_itself(error: impl Into<Error>) -> Failed<E> {
        let error = error.into();
        let has_lost = matches!(error.sqlstate(), Some("40001" | "40P01"));
        Failed { error: error.into(), has_lost }
    }
}

/// A transaction whose work is done, and what came of its commit.
pub(super) struct Finished<R> {
    pub(super) value: R,
    pub(super) commit: Result<()>,
}

pub(super) fn finish<R, E: From<Error>>(
    lease: &mut Lease,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<Finished<R>, Failed<E>> {
    let shared = lease.shared().clone();
    let session = lease.session();
    (session.in_transaction, session.has_lost_against_another) = (true, false);
    let mut open = Open { session, depth: 0, is_open: true };
    let mut transaction =
        Transaction { session: RefCell::new(&mut *open.session), shared: &shared, depth: 0 };
    let value = work(&mut transaction);
    let has_lost = open.session.has_lost_against_another;
    let value = value.map_err(|error| Failed { error, has_lost })?;
    if is_stopped() {
        return Err(Failed::by_itself(Error::Cancelled));
    }
    let limit = shared.statement_limit();
    open.session.check_transaction(limit).map_err(Failed::by_itself)?;
    limit.check().map_err(Failed::by_itself)?;
    open.is_open = false;
    open.session.in_transaction = false;
    let commit = open.session.command("COMMIT", limit, Effect::Lasting);
    Ok(Finished { value, commit: commit.map_err(Error::from) })
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
        if self.session.command(&undo, Limit::Within(Some(UNDO_LIMIT)), Effect::None).is_err() {
            // The server undoes what is left open when the connection ends.
            self.session.condemn_dirty();
        }
    }
}
