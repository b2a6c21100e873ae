//! How a transaction is run.

use std::borrow::Cow;
use std::time::Duration;

/// How [`Pool::transaction_with`](crate::Pool::transaction_with) runs a transaction. The default is what
/// [`Pool::transaction`](crate::Pool::transaction) does.
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
    /// Whether the server is to refuse writes.
    pub is_read_only: bool,
    /// What to do when the transaction loses against another.
    pub retry: RetryPolicy,
    /// Whether a lost answer to the commit is looked into, and how long the server's return is waited for then;
    /// see [`Pool::transaction_verified`](crate::Pool::transaction_verified).
    pub verify_within: Option<Duration>,
    /// How long all of it may take, every attempt and every wait together; `None` leaves it to the limits of the
    /// parts.
    pub timeout: Option<Duration>,
}

/// Isolation levels (PostgreSQL, "Transaction Isolation"), without the one it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// Every statement sees what was committed before the first.
    RepeatableRead,
    /// As if transactions ran one after the other.
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

/// What to do when a transaction fails with a serialization failure (40001) or a deadlock (40P01): nothing of it
/// was done, and the next attempt, from the start, may well succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all; 1 is no retry, and so is 0.
    pub attempts: u32,
    /// The pause after the first attempt. Each next one is twice as long, and each is shortened by up to half at
    /// random, so that those who collided do not meet again.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl RetryPolicy {
    /// So many attempts, with pauses from 5 ms to 200 ms.
    pub fn times(attempts: u32) -> RetryPolicy {
        RetryPolicy {
            attempts,
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(200),
        }
    }

    /// The pause after `failed` attempts; `None` where that were all.
    pub(super) fn pause(&self, failed: u32) -> Option<Duration> {
        if failed >= self.attempts {
            return None;
        }
        let doubled = self.first_pause.saturating_mul(1 << failed.saturating_sub(1).min(20));
        Some(doubled.min(self.longest_pause).mul_f64(1.0 - 0.5 * fastrand::f64()))
    }
}

/// No retry.
impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy::times(1)
    }
}

impl TransactionOptions {
    pub(super) fn begin(&self) -> Cow<'static, str> {
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
    fn begin_says_what_the_options_say() {
        assert_eq!(TransactionOptions::default().begin(), "BEGIN");
        let options = TransactionOptions {
            isolation: Some(Isolation::Serializable),
            is_read_only: true,
            ..TransactionOptions::default()
        };
        assert_eq!(options.begin(), "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY");
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
