//! The pool's numbers in an error.
//!
//! These are values; `pool` fills them in.

use std::fmt;
use std::time::Duration;

/// The state of the pool when a call failed.
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
