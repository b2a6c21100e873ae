//! The options of a transaction: isolation, access, retries, verification, timeout.
//!
//! These are values. `run.rs` carries them out.

use std::borrow::Cow;
use std::time::Duration;

/// How [`Pool::transaction_with`](crate::Pool::transaction_with) runs a transaction.
///
/// The default is what [`Pool::transaction`](crate::Pool::transaction) does.
///
/// # Examples
///
/// ```
/// use poolhouse::{Isolation, RetryPolicy, TransactionOptions};
///
/// let options = TransactionOptions {
///     isolation: Some(Isolation::Serializable),
///     retry: RetryPolicy::times(5),
///     ..TransactionOptions::default()
/// };
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransactionOptions {
    /// The isolation level; `None` is the server's default, usually read committed.
    pub isolation: Option<Isolation>,
    /// Whether the transaction is `READ ONLY`: the server refuses writes.
    pub is_read_only: bool,
    /// How often the transaction is attempted when it conflicts with another one.
    pub retry: RetryPolicy,
    /// How long the commit status is queried for when the answer to COMMIT is lost; `None` returns `OutcomeUnknown`
    /// without a query. See [`Pool::transaction_verified`](crate::Pool::transaction_verified).
    pub verify_within: Option<Duration>,
    /// The limit for all attempts and pauses together; `None` leaves only the limits of connecting and of each
    /// statement.
    pub timeout: Option<Duration>,
}

/// An isolation level (PostgreSQL, "Transaction Isolation").
///
/// `READ UNCOMMITTED` is absent: PostgreSQL treats it as `READ COMMITTED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what was committed before that statement began.
    ReadCommitted,
    /// Every statement sees what was committed before the first statement began.
    RepeatableRead,
    /// The result is as if the transactions had run one after the other.
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

/// How often a transaction is attempted when it fails with a serialization failure (40001) or a deadlock (40P01).
///
/// The server has rolled such a transaction back. The next attempt starts from the beginning, and often succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The total number of attempts; 0 and 1 mean no retry.
    pub attempts: u32,
    /// The pause after the first attempt. Each further pause is twice as long. Each is shortened at random by up to
    /// half, so that conflicting transactions do not collide again.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl RetryPolicy {
    /// At most `attempts` attempts, with pauses from 5 ms to 200 ms.
    pub fn times(attempts: u32) -> RetryPolicy {
        RetryPolicy {
            attempts,
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(200),
        }
    }

    /// The pause after `failed` attempts; `None` where no attempt is left.
    pub(super) fn pause(&self, failed: u32) -> Option<Duration> {
        if failed >= self.attempts {
            return None;
        }
        let doubled = self.first_pause.saturating_mul(1 << failed.saturating_sub(1).min(20));
        Some(doubled.min(self.longest_pause).mul_f64(1.0 - 0.5 * fastrand::f64()))
    }
}

/// One attempt, without a retry.
impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy::times(1)
    }
}

impl TransactionOptions {
    /// The BEGIN statement with these options.
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
    fn begin_has_the_isolation_level_and_the_access_mode() {
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
