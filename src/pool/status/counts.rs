//! The tables of what is counted by kind: a new counter is one line here, and one line where the event happens. Health reports and
//! metrics go through [`iter`](ClosedCounts::iter) and need no change.

use crate::error::Error;
use serde::Serialize;

/// Writes an enum of kinds, and a struct with a counter for each.
macro_rules! counts {
    (
        $(#[$counts_meta:meta])* pub struct $counts:ident;
        $(#[$kind_meta:meta])* enum $kind:ident;
        $(#[doc = $doc:literal] $variant:ident => $counter:ident,)+
    ) => {
        $(#[$counts_meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct $counts {
            $(#[doc = $doc] pub $counter: u64,)+
        }

        $(#[$kind_meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $kind {
            $($variant,)+
        }

        impl $kind {
            #[allow(dead_code, reason = "one of the kinds is counted without an array")]
            pub(super) const COUNT: usize = [$($kind::$variant),+].len();
        }

        impl $counts {
            /// Each counter's name, what it counts, and its value.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
                [$((stringify!($counter), $doc.trim_ascii(), self.$counter)),+].into_iter()
            }

            /// Adds the count of each kind that `of` returns.
            pub(super) fn add_all(&mut self, of: impl Fn($kind) -> u64) {
                $(self.$counter += of($kind::$variant);)+
            }
        }
    };
}

counts! {
    /// Connections closed, by reason.
    pub struct ClosedCounts;
    /// Why a connection was closed; one counter each in [`ClosedCounts`].
    enum CloseReason;
    /// Broken: the server or the network ended the session, or an answer did not arrive in time.
    Broken => broken,
    /// Found dead or outdated before being lent.
    Invalid => invalid,
    /// Older than the maximum lifetime.
    Expired => expired,
    /// Idle, and above the minimum.
    Idle => idle,
    /// Overflow that was no longer needed.
    Overflow => overflow,
    /// Could not be cleaned after use.
    Dirty => dirty,
    /// The pool was closed, reset or made smaller.
    Retired => retired,
}

impl ClosedCounts {
    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, _, count)| count).sum()
    }
}

counts! {
    /// Errors that calls have returned, by the variant of [`Error`]. An error that a transaction's closure passes on counts once. The
    /// caller's own errors (`Application`) are not counted.
    pub struct ErrorCounts;
    /// A variant of [`Error`] that a pool returns.
    enum ErrorKind;
    /// No connection became free within the caller's time limit.
    Exhausted => exhausted,
    /// The pool was suspended for all of the caller's time limit.
    Suspended => suspended,
    /// The queue was full, or its delay stayed above the target.
    Saturated => saturated,
    /// The server was unreachable, or did not answer.
    Down => down,
    /// The server refused the login.
    Authentication => authentication,
    /// The pool was closed.
    Closed => closed,
    /// The calling thread would have waited for itself.
    SelfDeadlock => self_deadlock,
    /// The answer to an operation did not arrive in time.
    DeadlineExceeded => deadline_exceeded,
    /// No caller waited for the result any more.
    Cancelled => cancelled,
    /// The connection broke, and the operation had no lasting effect.
    ConnectionLost => connection_lost,
    /// The answer to a write or a COMMIT was lost.
    OutcomeUnknown => outcome_unknown,
    /// The server or the driver refused the statement.
    Query => query,
    /// A transaction's closure returned `Ok` although one of its statements had failed.
    TransactionAborted => transaction_aborted,
    /// A transaction's closure ran COMMIT or ROLLBACK itself.
    TransactionEnded => transaction_ended,
    /// A row did not fit the requested type.
    Decode => decode,
    /// A query for one row returned more.
    TooManyRows => too_many_rows,
}

impl ErrorKind {
    /// The kind of an error; `None` for one that is not the pool's.
    pub(crate) fn of(error: &Error) -> Option<ErrorKind> {
        Some(match error {
            Error::Exhausted(_) => ErrorKind::Exhausted,
            Error::Suspended(_) => ErrorKind::Suspended,
            Error::Saturated(_) => ErrorKind::Saturated,
            Error::Down(_) => ErrorKind::Down,
            Error::Authentication(_) => ErrorKind::Authentication,
            Error::Closed => ErrorKind::Closed,
            Error::SelfDeadlock(_) => ErrorKind::SelfDeadlock,
            Error::DeadlineExceeded(_) => ErrorKind::DeadlineExceeded,
            Error::Cancelled => ErrorKind::Cancelled,
            Error::ConnectionLost(_) => ErrorKind::ConnectionLost,
            Error::OutcomeUnknown(_) => ErrorKind::OutcomeUnknown,
            Error::Query(_) => ErrorKind::Query,
            Error::TransactionAborted => ErrorKind::TransactionAborted,
            Error::TransactionEnded => ErrorKind::TransactionEnded,
            Error::Decode(_) => ErrorKind::Decode,
            Error::TooManyRows => ErrorKind::TooManyRows,
            Error::Application(_)
            | Error::NotInitialized
            | Error::AlreadyInitialized
            | Error::Settings(_) => return None,
        })
    }
}

counts! {
    /// What the pool has done, as far as it is not a request, a connect or a close.
    pub struct EventCounts;
    /// An event that is counted without the gate's lock.
    enum Event;
    /// Statements that ran on a connection which had prepared them before.
    CacheHit => statement_cache_hits,
    /// Statements that their connection had not prepared before.
    CacheMiss => statement_cache_misses,
    /// Prepared statements that a connection dropped to make room for others.
    CacheEviction => statement_cache_evictions,
    /// Connections that were checked with a round trip.
    Check => checks,
    /// Statements and transactions that were run again, after a lost connection or a conflict.
    Retry => retries,
    /// Cancel requests for statements whose caller had given them up.
    Cancel => cancels,
    /// Statements that took as long as the threshold for the log.
    SlowStatement => slow_statements,
    /// Callers that waited for a connection as long as the threshold for the log.
    SlowAcquire => slow_acquires,
}
