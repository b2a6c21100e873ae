//! Running a transaction on a pool or a connection: attempted, attempted again, and looked into where the answer to the
//! commit is lost.

use crate::error::{Error, Interruption, Result};
use crate::pool::{Connection, Lease, Pool, Shared, add, with_deadline};
use crate::query::commit_probe::{CommitProbe, CommitStatus};
use crate::query::options::TransactionOptions;
use crate::query::transaction::{Failed, Finished, Transaction, begin, finish};
use log::debug;
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
        self.try_transaction(work)
    }

    /// As [`transaction`](Pool::transaction), for a `work` with errors of its own.
    ///
    /// # Blocking
    ///
    /// As [`transaction`](Pool::transaction).
    ///
    /// # Errors
    ///
    /// As [`transaction`](Pool::transaction), converted by `From`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use poolhouse::{Execute, Pool};
    ///
    /// enum Refusal {
    ///     SoldOut,
    ///     Database(poolhouse::Error),
    /// }
    ///
    /// impl From<poolhouse::Error> for Refusal {
    ///     fn from(error: poolhouse::Error) -> Refusal {
    ///         Refusal::Database(error)
    ///     }
    /// }
    ///
    /// fn book(pool: &Pool, guest: &str) -> Result<(), Refusal> {
    ///     pool.try_transaction(|tx| {
    ///         let sql = "UPDATE seats SET guest = $1 WHERE id = (SELECT min(id) FROM seats WHERE guest IS NULL)";
    ///         match tx.execute_write(sql, &[&guest])? {
    ///             0 => Err(Refusal::SoldOut),
    ///             _ => Ok(()),
    ///         }
    ///     })
    /// }
    /// ```
    #[track_caller]
    pub fn try_transaction<R, E: From<Error>>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.attempt(&TransactionOptions::default(), Location::caller(), work).map_err(|failed| failed.error)
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
        self.attempt(&options, Location::caller(), work).map_err(|failed: Failed<Error>| failed.error)
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
        work: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<R> {
        self.try_transaction_with(options, work)
    }

    /// As [`transaction_with`](Pool::transaction_with), for a `work` with errors of its own.
    ///
    /// # Blocking
    ///
    /// As [`transaction_with`](Pool::transaction_with).
    ///
    /// # Errors
    ///
    /// As [`transaction_with`](Pool::transaction_with), converted by `From`.
    #[track_caller]
    pub fn try_transaction_with<R, E: From<Error>>(
        &self,
        options: &TransactionOptions,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let at = Location::caller();
        repeat(self.shared(), options, || self.attempt(options, at, &mut work))
    }

    fn attempt<R, E: From<Error>>(
        &self,
        options: &TransactionOptions,
        at: &'static Location<'static>,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, Failed<E>> {
        let begun = self.on_a_connection(at, |lease, _| begin(lease, options));
        let (mut lease, probe) = begun.map_err(Failed::by_itself)?;
        let Finished { value, commit } = finish(&mut lease, work)?;
        let shared = lease.shared().clone();
        // Whoever looks into it needs a connection.
        drop(lease);
        conclude(&shared, options, probe, commit).map(|()| value).map_err(Failed::by_itself)
    }
}

impl Connection {
    /// Runs `work` in a transaction: commits when it returns `Ok`, rolls back when it returns `Err` or panics.
    ///
    /// # Blocking
    ///
    /// Each statement, and each of BEGIN and COMMIT, for at most the statement timeout.
    ///
    /// # Errors
    ///
    /// As [`Pool::transaction`].
    pub fn transaction<R>(&mut self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        self.try_transaction(work)
    }

    /// As [`transaction`](Connection::transaction), for a `work` with errors of its own.
    ///
    /// # Blocking
    ///
    /// As [`transaction`](Connection::transaction).
    ///
    /// # Errors
    ///
    /// As [`Pool::transaction`], converted by `From`.
    pub fn try_transaction<R, E: From<Error>>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        attempt_on(self.lease_mut(), &TransactionOptions::default(), work).map_err(|failed| failed.error)
    }

    /// Runs `work` in a transaction as `options` say; see [`Pool::transaction_with`]. To look into a lost answer to the
    /// commit (`verify_within`) takes another connection of the pool.
    ///
    /// # Blocking
    ///
    /// `options.timeout`; without one, each attempt as [`transaction`](Connection::transaction), and the pauses between
    /// them.
    ///
    /// # Errors
    ///
    /// As [`Pool::transaction`]: those of the last attempt.
    pub fn transaction_with<R>(
        &mut self,
        options: &TransactionOptions,
        work: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<R> {
        self.try_transaction_with(options, work)
    }

    /// As [`transaction_with`](Connection::transaction_with), for a `work` with errors of its own.
    ///
    /// # Blocking
    ///
    /// As [`transaction_with`](Connection::transaction_with).
    ///
    /// # Errors
    ///
    /// As [`transaction_with`](Connection::transaction_with), converted by `From`.
    pub fn try_transaction_with<R, E: From<Error>>(
        &mut self,
        options: &TransactionOptions,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let lease = self.lease_mut();
        let shared = lease.shared().clone();
        repeat(&shared, options, || attempt_on(lease, options, &mut work))
    }
}

/// Attempts a transaction again, after a pause, where it lost against another.
fn repeat<R, E>(
    shared: &Shared,
    options: &TransactionOptions,
    mut attempt: impl FnMut() -> Result<R, Failed<E>>,
) -> Result<R, E> {
    let mut attempts = || {
        let mut failed = 0;
        loop {
            let Failed { error, has_lost } = match attempt() {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            failed += 1;
            match options.retry.pause(failed) {
                Some(pause) if has_lost && shared.pause(pause) => {}
                _ => return Err(error),
            }
        }
    };
    match options.timeout {
        None => attempts(),
        Some(timeout) => with_deadline(add(Instant::now(), timeout), attempts),
    }
}

fn attempt_on<R, E: From<Error>>(
    lease: &mut Lease,
    options: &TransactionOptions,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<R, Failed<E>> {
    let probe = begin(lease, options).map_err(Failed::by_itself)?;
    let Finished { value, commit } = finish(lease, work)?;
    let shared = lease.shared().clone();
    conclude(&shared, options, probe, commit).map(|()| value).map_err(Failed::by_itself)
}

/// What became of a transaction whose work is done, and whose COMMIT came to `commit`.
fn conclude(
    shared: &Arc<Shared>,
    options: &TransactionOptions,
    probe: Option<CommitProbe>,
    commit: Result<()>,
) -> Result<()> {
    match (commit, probe, options.verify_within) {
        (Err(Error::OutcomeUnknown(lost)), Some(probe), Some(within)) => verify(shared, &probe, lost, within),
        (commit, ..) => commit,
    }
}

/// Asks the server what became of a transaction whose commit was not answered: `Ok` where it is done.
fn verify(
    shared: &Arc<Shared>,
    probe: &CommitProbe,
    lost: Box<Interruption>,
    within: Duration,
) -> Result<()> {
    let deadline = add(Instant::now(), within);
    loop {
        // Whatever goes wrong here says nothing about the transaction: the server may be back in a moment.
        let asked = shared
            .connection_until(deadline)
            .and_then(|connection| with_deadline(deadline, || probe.ask(&connection)));
        match asked {
            Ok(CommitStatus::Committed) => return Ok(()),
            Ok(CommitStatus::NotDone) => return Err(Error::ConnectionLost(lost)),
            Ok(CommitStatus::Unknown) | Err(Error::Closed | Error::Cancelled) => break,
            Ok(CommitStatus::Open) => {}
            Err(error) => debug!("cannot verify a commit yet: {error}"),
        }
        if Instant::now() + ASK_AGAIN >= deadline || !shared.pause(ASK_AGAIN) {
            break;
        }
    }
    Err(Error::OutcomeUnknown(lost))
}

/// How long the next question about a commit waits.
const ASK_AGAIN: Duration = Duration::from_millis(50);
