//! How long an operation may take.

use crate::error::{Error, Interruption, Result};
use crate::pool::add;
use std::time::{Duration, Instant};

/// By when an operation must be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// This long from its start; `None` is for ever.
    Within(Option<Duration>),
    Until(Instant),
}

impl Limit {
    /// The same, for what began at `start`.
    pub(super) fn since(self, start: Instant) -> Limit {
        match self {
            Limit::Within(Some(time)) => Limit::Until(add(start, time)),
            limit => limit,
        }
    }

    /// Fails with `DeadlineExceeded` where it is over before anything has been sent.
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
