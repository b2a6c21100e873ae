//! The options of a transaction: values only; `run` executes them.

use crate::settings::with_methods::with_methods;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The options of [`Pool::transaction_with`](crate::Pool::transaction_with). The default is the behaviour of
/// [`Pool::transaction`](crate::Pool::transaction).
///
/// # Examples
///
/// ```
/// use poolhouse::{Isolation, RetryPolicy, TransactionOptions};
///
/// let options = TransactionOptions::new()
///     .with_isolation(Some(Isolation::Serializable))
///     .with_retry(RetryPolicy::times(5));
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionOptions {
    /// The isolation level; `None` is the server's default, usually read committed.
    pub isolation: Option<Isolation>,
    /// Whether the server refuses writes.
    pub is_read_only: bool,
    /// Whether and how the transaction is retried after a conflict with another one.
    pub retry: RetryPolicy,
    /// How long to look for the commit's outcome if its reply is lost, including the wait for the server's return; `None`
    /// does not look for it. See [`Pool::transaction_verified`](crate::Pool::transaction_verified).
    pub verify_within: Option<Duration>,
    /// How long the whole transaction may take, with all attempts and pauses; `None` leaves it to the limits of each step.
    pub timeout: Option<Duration>,
}

/// The isolation levels (PostgreSQL, "Transaction Isolation"). PostgreSQL has no *read uncommitted*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees the changes committed before it started.
    ReadCommitted,
    /// Every statement sees the changes committed before the first one started.
    RepeatableRead,
    /// The result is one of running the transactions one after the other.
    Serializable,
}

impl Isolation {
    fn as_sql(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => " ISOLATION LEVEL READ COMMITTED",
            Isolation::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
            Isolation::Serializable => " ISOLATION LEVEL SERIALIZABLE",
        }
    }
}

/// The retries of a transaction after a serialization failure (40001) or a deadlock (40P01). The server has rolled it back,
/// and another attempt from the start may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The number of attempts, the first included; 0 and 1 mean no retry.
    pub attempts: u32,
    /// The pause after the first attempt. Each further pause is twice as long, and each is shortened at random by up to half,
    /// so that transactions in conflict do not collide again.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl RetryPolicy {
    /// Returns a policy with this number of attempts and pauses from 5 ms to 200 ms.
    pub fn times(attempts: u32) -> RetryPolicy {
        RetryPolicy {
            attempts,
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(200),
        }
    }

    /// The pause after `failed` attempts; `None` after the last one.
    pub(super) fn pause(&self, failed: u32) -> Option<Duration> {
        if failed >= self.attempts {
            return None;
        }
        let doubled = self.first_pause.saturating_mul(1 << failed.saturating_sub(1).min(20));
        Some(doubled.min(self.longest_pause).mul_f64(1.0 - 0.5 * fastrand::f64()))
    }
}

/// One attempt, without retry.
impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy::times(1)
    }
}

with_methods! {
    RetryPolicy {
        with_attempts(attempts: u32),
        with_first_pause(first_pause: Duration),
        with_longest_pause(longest_pause: Duration),
    } except {}
}

with_methods! {
    TransactionOptions {
        with_isolation(isolation: Option<Isolation>),
        with_retry(retry: RetryPolicy),
        with_verify_within(verify_within: Option<Duration>),
        with_timeout(timeout: Option<Duration>),
    } except { is_read_only }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::ReadCommitted => "read committed",
            Isolation::RepeatableRead => "repeatable read",
            Isolation::Serializable => "serializable",
        })
    }
}

impl TransactionOptions {
    /// Returns the default options: as the server is configured, without retry, verification or a time limit.
    pub fn new() -> TransactionOptions {
        TransactionOptions::default()
    }

    /// Sets [`is_read_only`](TransactionOptions::is_read_only).
    #[must_use]
    pub fn with_read_only(mut self, is_read_only: bool) -> TransactionOptions {
        self.is_read_only = is_read_only;
        self
    }

    /// The statement that begins the transaction.
    pub(super) fn begin_sql(&self) -> Cow<'static, str> {
        match (self.isolation, self.is_read_only) {
            (None, false) => "BEGIN".into(),
            (isolation, is_read_only) => {
                let access = if is_read_only { " READ ONLY" } else { "" };
                format!("BEGIN{}{access}", isolation.map_or("", Isolation::as_sql)).into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begin_contains_the_options() {
        assert_eq!(TransactionOptions::default().begin_sql(), "BEGIN");
        let options = TransactionOptions {
            isolation: Some(Isolation::Serializable),
            is_read_only: true,
            ..TransactionOptions::default()
        };
        assert_eq!(options.begin_sql(), "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY");
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_end_with_the_attempts() {
        let policy = RetryPolicy::times(9);
        for failed in 1..9 {
            let most = Duration::from_millis(5 << (failed - 1)).min(Duration::from_millis(200));
            let pause = policy.pause(failed).unwrap();
            assert!(pause <= most && pause >= most / 2, "{failed}: {pause:?}");
        }
        assert_eq!(policy.pause(9), None);
        assert_eq!(RetryPolicy::default().pause(1), None);
    }
}
