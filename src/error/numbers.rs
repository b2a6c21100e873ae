//! The pool's numbers, as a refusal gives them.

use std::fmt;
use std::time::Duration;

/// The state of the pool at the moment it refused a caller.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PoolNumbers {
    /// The pool's name.
    pub pool: String,
    /// How long the caller had waited.
    pub waited: Duration,
    /// Connections lent out.
    pub in_use: u32,
    /// Connections ready to lend.
    pub idle: u32,
    /// Connections being made.
    pub connecting: u32,
    /// Callers in the queue, this one not counted.
    pub waiting: u32,
    /// The most callers that may wait.
    pub max_waiting: u32,
    /// The most connections the pool may have.
    pub max: u32,
    /// The delay above which callers are shed, where this one was.
    pub shed_above: Option<Duration>,
    /// For how long attempts to connect have been without an answer, while any is under way.
    pub unanswered_for: Option<Duration>,
    /// The last failure to connect, while it stands: a success clears it.
    pub last_failure: Option<ConnectFailure>,
}

impl PoolNumbers {
    /// What a caller lacked that found the server well.
    pub(super) fn lack(&self) -> &'static str {
        match self.in_use {
            in_use if in_use >= self.max => "every connection is in use",
            0 if self.idle == 0 => "no connection is open yet",
            _ => "no connection came free in time",
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
            write!(f, "; attempt to connect unanswered for {} ms", silence.as_millis())?;
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
    /// How long connecting has failed without a success in between.
    pub failing_for: Duration,
    /// The server's or the operating system's words.
    pub text: String,
}

impl ConnectFailure {
    /// A failure as it stands now.
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
