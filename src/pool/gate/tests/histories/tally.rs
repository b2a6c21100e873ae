//! The counters expected after a history.

use super::*;

/// The expected counters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) requests: u64,
    /// Calls that were served, or that gave up or were turned away after waiting.
    pub(super) waits: u64,
    pub(super) used: u64,
    pub(super) timed_out: u64,
    pub(super) rejected: u64,
    pub(super) refused_down: u64,
}

impl Tally {
    pub(super) fn count(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::TimedOut | Refusal::Suspended | Refusal::SelfDeadlock => self.timed_out += 1,
            Refusal::Saturated | Refusal::Shed => self.rejected += 1,
            Refusal::Down | Refusal::Login => self.refused_down += 1,
            Refusal::Closed | Refusal::Cancelled => {}
        }
    }

    pub(super) fn shown(status: &PoolStatus) -> Tally {
        Tally {
            requests: status.requests,
            waits: status.wait_times.count(),
            used: status.use_times.count(),
            timed_out: status.timed_out,
            rejected: status.rejected,
            refused_down: status.refused_down,
        }
    }
}
