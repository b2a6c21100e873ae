//! The pool's numbers in an error.
//!
//! These are values; `pool` fills them in.

use std::fmt;
use std::time::Duration;

/// The state of the pool when a call failed.
///
/// It has the few gauges that explain the failure. It contains no [`PoolStatus`](crate::PoolStatus): that has counters and
/// histograms, and the gate would copy them under its lock for every caller it refuses, just when it refuses most. No
/// `PoolStatus` contains it: a status has no caller who waited.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PoolNumbers {
    /// The pool's name.
    pub pool: String,
    /// How long the caller had waited.
    pub waited: Duration,
    /// Lent connections.
    pub in_use: u32,
    /// Idle connections, ready to lend.
    pub idle: u32,
    /// Connections that are connecting.
    pub connecting: u32,
    /// Callers in the queue, without this one.
    pub waiting: u32,
    /// The maximum of waiting callers.
    pub max_waiting: u32,
    /// The maximum of connections.
    pub max: u32,
    /// The target of the queue's delay, where the call was refused for exceeding it.
    pub shed_above: Option<Duration>,
    /// How long the running connect attempts have been unanswered; `None` while there are none.
    pub unanswered_for: Option<Duration>,
    /// The last failure to connect; `None` after a success.
    pub last_failure: Option<ConnectFailure>,
}

impl PoolNumbers {
    /// Why no connection was available although the server is reachable.
    pub(super) fn lack(&self) -> &'static str {
        match self.in_use {
            in_use if in_use >= self.max => "every connection is in use",
            0 if self.idle == 0 => "no connection is open yet",
            _ => "no connection became free in time",
        }
    }

    /// Which limit of the queue the call exceeded.
    pub(super) fn exceeded_limit(&self) -> String {
        match self.shed_above {
            Some(target) => format!(
                "every caller of the last DB_POOL_QUEUE_INTERVAL_MS waited longer than DB_POOL_QUEUE_TARGET_MS ({} ms), so \
                 the pool refuses this one",
                target.as_millis()
            ),
            None => format!("the queue is full, DB_POOL_MAX_WAITING is {}", self.max_waiting),
        }
    }

    /// What the server does in an outage: refuse connects, or leave them unanswered.
    pub(super) fn outage(&self) -> &'static str {
        match self.last_failure {
            Some(_) => "is unreachable",
            None => "does not answer",
        }
    }
}

impl fmt::Display for PoolNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "waited {} ms, in use {}, idle {}, connecting {}, waiting {}, maximum {}",
            self.waited.as_millis(),
            self.in_use,
            self.idle,
            self.connecting,
            self.waiting,
            self.max
        )?;
        if let Some(silence) = self.unanswered_for {
            write!(f, "; connect attempt unanswered for {} ms", silence.as_millis())?;
        }
        if !self.pool.is_empty() {
            write!(f, ", pool \"{}\"", self.pool)?;
        }
        match &self.last_failure {
            Some(failure) => write!(f, "; {failure}"),
            None => Ok(()),
        }
    }
}

/// A failure to connect, as the pool remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectFailure {
    /// How long ago the last attempt failed.
    pub age: Duration,
    /// How long every attempt has failed.
    pub failing_for: Duration,
    /// The error text of the server or the operating system.
    pub text: String,
}

impl ConnectFailure {
    /// A failure with these values.
    pub(crate) fn new(age: Duration, failing_for: Duration, text: String) -> ConnectFailure {
        ConnectFailure { age, failing_for, text }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "last connect failed {} ms ago (failing for {} ms): {}",
            self.age.as_millis(),
            self.failing_for.as_millis(),
            self.text
        )
    }
}

impl std::error::Error for ConnectFailure {}
