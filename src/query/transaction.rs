//! Transactions: begun, ended, retried, and looked into where the answer to the commit is lost.

use super::options::TransactionOptions;
use super::verify::{Fate, Ticket};
use super::{Execute, all, at_most_one};
use crate::error::{Error, Interruption, Result};
use crate::pool::{
    Effect, Failure, Lease, Limit, Pool, Retry, Session, Shared, add, is_stopped, with_deadline,
};
use log::debug;
use postgres::types::ToSql;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Pool {
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
        self.attempt(&TransactionOptions::default(), Location::caller(), work)
    }

    /// As [`transaction`](Pool::transaction), and where the answer to the commit is lost, asks the server on
    /// another connection what became of it. So the caller gets `Ok` or `ConnectionLost` (not done), and
    /// `OutcomeUnknown` only where the server stays away for the acquire timeout, or cannot tell: after a
    /// failover, on another server, or where it recovered from a crash and has taken a checkpoint or been restarted
    /// since. With synchronous replication it is committed when the standby has it.
    ///
    /// It costs no round trip: the transaction's id comes with BEGIN. The server is told to give one out even if
    /// nothing is written, and reads its control file, some 40 µs. That is a query: the transaction's snapshot is
    /// taken then, and its isolation level cannot be set any more.
    ///
    /// What it relies on: the server's word on a transaction id, and, after a crash, that it crashed only once
    /// before it was asked. `synchronous_commit` must be on for a commit to survive a crash at all.
    ///
    /// # Blocking
    ///
    /// As [`transaction`](Pool::transaction), and after a lost commit for the acquire timeout more.
    ///
    /// # Errors
    ///
    /// As [`transaction`](Pool::transaction).
    #[track_caller]
    pub fn transaction_verified<R>(&self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        let options = TransactionOptions {
            verify_within: Some(self.shared().acquire_timeout()),
            ..TransactionOptions::default()
        };
        self.attempt(&options, Location::caller(), work)
    }

    /// Runs `work` in a transaction as `options` say: at an isolation level, read-only, verified, within a time,
    /// and again from the start, after a pause, where it lost against another transaction.
    ///
    /// # Blocking
    ///
    /// `options.timeout`; without one, each attempt as [`transaction`](Pool::transaction), and the pauses between
    /// them.
    ///
    /// # Errors
    ///
    /// As [`transaction`](Pool::transaction): those of the last attempt.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use poolhouse::{Execute, Isolation, Pool, RetryPolicy, TransactionOptions};
    ///
    /// # fn example(pool: &Pool) -> poolhouse::Result<()> {
    /// let options = TransactionOptions {
    ///     isolation: Some(Isolation::Serializable),
    ///     retry: RetryPolicy::times(5),
    ///     ..TransactionOptions::default()
    /// };
    /// let seat = pool.transaction_with(&options, |tx| {
    ///     let seat: Option<i32> =
    ///         tx.execute_query_one("SELECT min(id) FROM seats WHERE guest IS NULL", &[])?;
    ///     tx.execute_write("UPDATE seats SET guest = $2 WHERE id = $1", &[&seat, &"Ada"])?;
    ///     Ok(seat)
    /// })?;
    /// # let _ = seat;
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn transaction_with<R>(
        &self,
        options: &TransactionOptions,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<R> {
        let at = Location::caller();
        let mut attempts = || {
            let mut failed = 0;
            loop {
                let outcome = self.attempt(options, at, &mut work);
                let Err(error) = outcome else { return outcome };
                failed += 1;
                match options.retry.pause(failed) {
                    Some(pause) if has_lost_against_another(&error) && self.shared().pause(pause) => {}
                    _ => return Err(error),
                }
            }
        };
        match options.timeout {
            None => attempts(),
            Some(timeout) => with_deadline(add(Instant::now(), timeout), attempts),
        }
    }

    fn attempt<R>(
        &self,
        options: &TransactionOptions,
        at: &'static Location<'static>,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<R> {
        let (mut lease, ticket) = self.on_a_connection(at, |lease, _| begin(lease, options))?;
        let Finished { value, commit } = finish(&mut lease, work)?;
        // Whoever looks into it needs a connection.
        drop(lease);
        match (commit, ticket, options.verify_within) {
            (Ok(()), ..) => Ok(value),
            (Err(Error::OutcomeUnknown(lost)), Some(ticket), Some(within)) => {
                self.verify(&ticket, lost, within).map(|()| value)
            }
            (Err(error), ..) => Err(error),
        }
    }

    /// What became of a transaction whose commit was not answered: `Ok` where it is done.
    fn verify(&self, ticket: &Ticket, lost: Box<Interruption>, within: Duration) -> Result<()> {
        let deadline = add(Instant::now(), within);
        loop {
            // Whatever goes wrong here says nothing about the transaction: the server may be back in a moment.
            let left = deadline.saturating_duration_since(Instant::now());
            let asked = self
                .get_connection_timeout(left)
                .and_then(|connection| with_deadline(deadline, || ticket.ask(&connection)));
            match asked {
                Ok(Fate::Committed) => return Ok(()),
                Ok(Fate::NotDone) => return Err(Error::ConnectionLost(lost)),
                Ok(Fate::Unknown) | Err(Error::Closed | Error::Cancelled) => break,
                Ok(Fate::Open) => {}
                Err(error) => debug!("cannot verify a commit yet: {error}"),
            }
            if Instant::now() + ASK_AGAIN >= deadline || !self.shared().pause(ASK_AGAIN) {
                break;
            }
        }
        Err(Error::OutcomeUnknown(lost))
    }
}

/// How long the next question about a commit waits.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Serialization failures and deadlocks: the transaction was undone because of another one, not for itself.
fn has_lost_against_another(error: &Error) -> bool {
    matches!(error.sqlstate(), Some("40001" | "40P01"))
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
    /// What `work` returned, or that of the savepoint's own statements. `DeadlineExceeded` where the thread's deadline
    /// ([`with_deadline`](crate::with_deadline)) has passed when `work` is done: the savepoint is undone.
    pub fn transaction<R>(&mut self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        let depth = self.depth + 1;
        let limit = self.shared.statement_limit();
        let session = self.session.get_mut();
        session.command(&format!("SAVEPOINT poolhouse_{depth}"), limit, Effect::None)?;
        let mut open = Open { session, depth, is_open: true };
        let mut inner = Transaction { session: RefCell::new(&mut *open.session), shared: self.shared, depth };
        let value = work(&mut inner)?;
        // Of what is left now, not before the work. Once that is nothing, the savepoint is undone and all else goes on.
        let limit = self.shared.statement_limit();
        open.session.check_transaction(limit)?;
        limit.check()?;
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

/// Runs a whole transaction on a lent session.
pub(crate) fn run_transaction<R>(
    lease: &mut Lease,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<R>,
) -> Result<R> {
    begin(lease, &TransactionOptions::default())?;
    let finished = finish(lease, work)?;
    finished.commit.map(|()| finished.value)
}

/// Where it is to be verified, with what it takes to ask.
fn begin(lease: &mut Lease, options: &TransactionOptions) -> Result<Option<Ticket>, Failure> {
    let limit = lease.shared().statement_limit();
    let begun = match options.verify_within {
        None => {
            let begin = options.begin();
            lease.session().begin_transaction(&begin, options.is_read_only, "", limit).map(|_| None)
        }
        Some(_) => Ticket::begin(lease.session(), options, limit).map(Some),
    };
    // A transaction that has only begun ends with its connection.
    begun.map_err(|failure| match failure.retry {
        Retry::ReadOnly => Failure { retry: Retry::Safe, ..failure },
        _ => failure,
    })
}

/// A transaction whose work is done, and what came of its commit.
struct Finished<R> {
    value: R,
    commit: Result<()>,
}

fn finish<R>(lease: &mut Lease, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<Finished<R>> {
    let shared = lease.shared().clone();
    let session = lease.session();
    session.in_transaction = true;
    let mut open = Open { session, depth: 0, is_open: true };
    let mut transaction =
        Transaction { session: RefCell::new(&mut *open.session), shared: &shared, depth: 0 };
    let value = work(&mut transaction)?;
    if is_stopped() {
        return Err(Error::Cancelled);
    }
    let limit = shared.statement_limit();
    open.session.check_transaction(limit)?;
    limit.check()?;
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
