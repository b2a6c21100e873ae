//! The time limit of one operation.
//!
//! It knows nothing of the server's `statement_timeout`, nor of how the transport enforces the deadline.

use crate::error::{Error, Interruption, Result};
use crate::pool::add;
use std::time::{Duration, Instant};

/// When the answer to an operation is due.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// Within this time from the start of the operation; `None` is without limit.
    Within(Option<Duration>),
    /// At this instant.
    Until(Instant),
}

impl Limit {
    /// The limit as a fixed instant, for an operation that began at `start`.
    pub(crate) fn since(self, start: Instant) -> Limit {
        match self {
            Limit::Within(Some(time)) => Limit::Until(add(start, time)),
            limit => limit,
        }
    }

    /// When the limit ends for an operation that begins at `start`; `None` is never.
    pub(crate) fn until(self, start: Instant) -> Option<Instant> {
        match self {
            Limit::Within(time) => time.map(|time| add(start, time)),
            Limit::Until(deadline) => Some(deadline),
        }
    }

    /// Fails with `DeadlineExceeded` where the limit has passed before anything was sent.
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Limit::Until(deadline) if deadline <= Instant::now() => {
                let text = "the deadline had passed before the statement was sent";
                Err(Error::DeadlineExceeded(Interruption::new(Duration::ZERO, text)))
            }
            _ => Ok(()),
        }
    }
}
