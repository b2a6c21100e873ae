//! Runs a transaction on a pool or a connection: it attempts it, attempts it again after a conflict, and queries the
//! commit status where the answer to COMMIT is lost.
//!
//! One attempt is `begin` and `finish` in `transaction.rs`. This file knows nothing of the SQL in between.

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
    /// Waits for a connection for at most the acquire timeout. Then each statement, BEGIN and COMMIT included, takes
    /// at most the statement timeout.
    ///
    /// # Errors
    ///
    /// - Those of [`get_connection`](Pool::get_connection).
    /// - The error that `work` returned: the transaction is rolled back.
    /// - `TransactionAborted`: `work` returned `Ok` although a statement had failed; the transaction is rolled back.
    /// - `TransactionEnded`: `work` itself ran COMMIT or ROLLBACK.
    /// - `ConnectionLost`: the connection broke before COMMIT was sent; nothing was committed.
    /// - `OutcomeUnknown`: the connection broke after COMMIT was sent.
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

    /// Runs `work` like [`transaction`](Pool::transaction), where `work` returns its own error type.
    ///
    /// # Blocking
    ///
    /// As [`transaction`](Pool::transaction).
    ///
    /// # Errors
    ///
    /// - Those of [`transaction`](Pool::transaction), converted by `From`.
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

    /// Runs `work` like [`transaction`](Pool::transaction), and queries the commit status on another connection where
    /// the answer to COMMIT is lost.
    ///
    /// So a lost answer becomes `Ok` (committed) or `ConnectionLost` (not committed). It stays `OutcomeUnknown` where
    /// the server does not come back within the acquire timeout, or does not know the status: after a failover, on
    /// another server, or where a checkpoint or a restart has followed the recovery from a crash. With synchronous
    /// replication `Ok` means that the standby has the commit.
    ///
    /// It costs no extra round trip: the transaction's id is read with BEGIN. For that the server assigns an id even
    /// if the transaction writes nothing, and reads its control file, which takes about 40 µs. This read is a query:
    /// it takes the transaction's snapshot, so `work` can no longer set the isolation level.
    ///
    /// It relies on the status that the server reports for a transaction id, and on at most one crash between the
    /// commit and the query. A commit survives a crash only where `synchronous_commit` is on.
    ///
    /// # Blocking
    ///
    /// As [`transaction`](Pool::transaction); after a lost answer to COMMIT, for the acquire timeout more.
    ///
    /// # Errors
    ///
    /// - Those of [`transaction`](Pool::transaction).
    #[track_caller]
    pub fn transaction_verified<R>(&self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        let options = TransactionOptions {
            verify_within: Some(self.shared().acquire_timeout()),
            ..TransactionOptions::default()
        };
        self.attempt(&options, Location::caller(), work).map_err(|failed: Failed<Error>| failed.error)
    }

    /// Runs `work` in a transaction with `options`: isolation level, read-only access, verification, a time limit,
    /// and retries.
    ///
    /// A retry starts from the beginning, after a pause, when the transaction conflicts with another one. So `work`
    /// may run several times.
    ///
    /// # Blocking
    ///
    /// At most `options.timeout`. Without it, each attempt as [`transaction`](Pool::transaction), and the pauses
    /// between the attempts.
    ///
    /// # Errors
    ///
    /// - Those of [`transaction`](Pool::transaction), from the last attempt.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use poolhouse::{Execute, Isolation, Pool, RetryPolicy, TransactionOptions};
    ///
    /// # fn example(pool: &Pool) -> poolhouse::Result<()> {
    /// let options = TransactionOptions::new()
    ///     .with_isolation(Some(Isolation::Serializable))
    ///     .with_retry(RetryPolicy::times(5));
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

    /// Runs `work` like [`transaction_with`](Pool::transaction_with), where `work` returns its own error type.
    ///
    /// # Blocking
    ///
    /// As [`transaction_with`](Pool::transaction_with).
    ///
    /// # Errors
    ///
    /// - Those of [`transaction_with`](Pool::transaction_with), converted by `From`.
    #[track_caller]
    pub fn try_transaction_with<R, E: From<Error>>(
        &self,
        options: &TransactionOptions,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let at = Location::caller();
        repeat(self.shared(), options, || self.attempt(options, at, &mut work))
    }

    /// Attempts the transaction once, on a connection of the pool.
    fn attempt<R, E: From<Error>>(
        &self,
        options: &TransactionOptions,
        at: &'static Location<'static>,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, Failed<E>> {
        let begun = self.with_retry(at, |lease| begin(lease, options));
        let (mut lease, probe) = self.shared().noted(begun).map_err(Failed::from_error)?;
        let Finished { value, commit } = finish(&mut lease, work)?;
        let shared = lease.shared().clone();
        // Return the connection: querying the commit status needs one.
        drop(lease);
        conclude(&shared, options, probe, commit).map(|()| value).map_err(Failed::from_error)
    }
}

impl Connection {
    /// Runs `work` in a transaction: commits when it returns `Ok`, rolls back when it returns `Err` or panics.
    ///
    /// # Blocking
    ///
    /// Each statement, BEGIN and COMMIT included, takes at most the statement timeout.
    ///
    /// # Errors
    ///
    /// - Those of [`Pool::transaction`].
    pub fn transaction<R>(&mut self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        self.try_transaction(work)
    }

    /// Runs `work` like [`transaction`](Connection::transaction), where `work` returns its own error type.
    ///
    /// # Blocking
    ///
    /// As [`transaction`](Connection::transaction).
    ///
    /// # Errors
    ///
    /// - Those of [`Pool::transaction`], converted by `From`.
    pub fn try_transaction<R, E: From<Error>>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        attempt_on(self.lease_mut(), &TransactionOptions::default(), work).map_err(|failed| failed.error)
    }

    /// Runs `work` in a transaction with `options`; see [`Pool::transaction_with`].
    ///
    /// Verification (`verify_within`) takes another connection of the pool.
    ///
    /// # Blocking
    ///
    /// At most `options.timeout`. Without it, each attempt as [`transaction`](Connection::transaction), and the
    /// pauses between the attempts.
    ///
    /// # Errors
    ///
    /// - Those of [`Pool::transaction`], from the last attempt.
    pub fn transaction_with<R>(
        &mut self,
        options: &TransactionOptions,
        work: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<R> {
        self.try_transaction_with(options, work)
    }

    /// Runs `work` like [`transaction_with`](Connection::transaction_with), where `work` returns its own error type.
    ///
    /// # Blocking
    ///
    /// As [`transaction_with`](Connection::transaction_with).
    ///
    /// # Errors
    ///
    /// - Those of [`transaction_with`](Connection::transaction_with), converted by `From`.
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

/// Calls `attempt` until it succeeds, pausing after each conflict, as often as the retry policy allows.
fn repeat<R, E>(
    shared: &Shared,
    options: &TransactionOptions,
    mut attempt: impl FnMut() -> Result<R, Failed<E>>,
) -> Result<R, E> {
    let mut attempts = || {
        let mut failed = 0;
        loop {
            let Failed { error, is_conflict } = match attempt() {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            failed += 1;
            match options.retry.pause(failed) {
                Some(pause) if is_conflict && shared.pause(pause) => shared.note_retry(),
                _ => return Err(error),
            }
        }
    };
    match options.timeout {
        None => attempts(),
        Some(timeout) => with_deadline(add(Instant::now(), timeout), attempts),
    }
}

/// Attempts the transaction once, on the connection of `lease`.
pub(super) fn attempt_on<R, E: From<Error>>(
    lease: &mut Lease,
    options: &TransactionOptions,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<R, Failed<E>> {
    let shared = lease.shared().clone();
    let probe = shared.noted(begin(lease, options).map_err(Error::from)).map_err(Failed::from_error)?;
    let Finished { value, commit } = finish(lease, work)?;
    conclude(&shared, options, probe, commit).map(|()| value).map_err(Failed::from_error)
}

/// Returns the result of COMMIT; where its answer is lost and `options` ask for verification, queries the status.
fn conclude(
    shared: &Arc<Shared>,
    options: &TransactionOptions,
    probe: Option<CommitProbe>,
    commit: Result<()>,
) -> Result<()> {
    shared.noted(match (commit, probe, options.verify_within) {
        (Err(Error::OutcomeUnknown(lost)), Some(probe), Some(within)) => verify(shared, &probe, lost, within),
        (commit, ..) => commit,
    })
}

/// Queries the commit status until it is known, for at most `within`. Returns `Ok` where the transaction committed.
fn verify(
    shared: &Arc<Shared>,
    probe: &CommitProbe,
    lost: Box<Interruption>,
    within: Duration,
) -> Result<()> {
    let deadline = add(Instant::now(), within);
    loop {
        // An error here proves nothing about the transaction: the server may come back in a moment.
        let status = shared
            .connection_until(deadline)
            .and_then(|connection| with_deadline(deadline, || probe.query_status(&connection)));
        match status {
            Ok(CommitStatus::Committed) => return Ok(()),
            Ok(CommitStatus::NotCommitted) => return Err(Error::ConnectionLost(lost)),
            Ok(CommitStatus::Unknown) | Err(Error::Closed | Error::Cancelled) => break,
            Ok(CommitStatus::Pending) => {}
            Err(error) => debug!("cannot query the commit status yet: {error}"),
        }
        if Instant::now() + QUERY_PAUSE >= deadline || !shared.pause(QUERY_PAUSE) {
            break;
        }
    }
    Err(Error::OutcomeUnknown(lost))
}

/// The pause between two queries of a commit status.
const QUERY_PAUSE: Duration = Duration::from_millis(50);
