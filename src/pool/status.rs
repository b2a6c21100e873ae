//! The pool's numbers: the counters, kept under the gate's lock, and the snapshot of them.

use crate::error::ConnectFailure;
use std::time::Duration;

/// What the pool was doing when it was asked. Read without touching the network or any connection; the
/// gauges belong to one moment, the counters are read one after the other.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The pool's name.
    pub name: String,
    /// Whether the pool lends.
    pub state: PoolState,
    /// Connections kept open.
    pub min_connections: u32,
    /// The most connections open at once.
    pub max_connections: u32,
    /// Connections ready to lend.
    pub available: u32,
    /// Connections lent out, or being cleaned after use.
    pub in_use: u32,
    /// Connections connecting.
    pub connecting: u32,
    /// `available` + `in_use` + `connecting`; never above `max_connections`, save for a while after a
    /// resize to a smaller maximum.
    pub total: u32,
    /// Callers in the queue.
    pub waiting: u32,
    /// The most callers that may wait.
    pub max_waiting: u32,
    /// The standing failure to connect; `None` while the server can be reached.
    pub last_failure: Option<ConnectFailure>,
    /// The most connections lent at once, ever.
    pub peak_in_use: u32,
    /// Calls for a connection.
    pub requests: u64,
    /// Calls that had to wait.
    pub queued: u64,
    /// Calls that ended because their time ran out.
    pub timed_out: u64,
    /// Calls refused at once because the queue was full, or shed because its delay stayed above the target.
    pub rejected: u64,
    /// Those of `timed_out` and `rejected` that fell into an outage or a suspension, which a larger pool would not
    /// have spared.
    pub turned_away_in_outage: u64,
    /// Calls refused because the server was down.
    pub refused_down: u64,
    /// Connections made.
    pub connects: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Connections closed, by reason.
    pub closed: ClosedCounts,
    /// Sessions reset because their borrower left something behind.
    pub resets: u64,
    /// Connections reported as held too long, ever.
    pub leaks: u64,
    /// Connections held beyond the leak threshold right now.
    pub long_held: Vec<LongHeld>,
    /// How long callers waited until they had a connection that could be used, or until they gave up or were
    /// turned away. Those refused without waiting are left out.
    pub wait_times: Histogram,
    /// How long connections were held.
    pub use_times: Histogram,
    /// How long connecting took.
    pub connect_times: Histogram,
}

/// Whether the pool lends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PoolState {
    /// It does.
    #[default]
    Open,
    /// Callers wait until it is resumed.
    Suspended,
    /// It does not and will not.
    Closed,
}

/// Connections closed, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClosedCounts {
    /// Broken: the server or the network ended them, or an answer did not come in time.
    pub broken: u64,
    /// Found dead or outdated before being lent.
    pub invalid: u64,
    /// Older than the maximum lifetime.
    pub expired: u64,
    /// Idle and above the minimum.
    pub idle: u64,
    /// Overflow, no longer needed.
    pub overflow: u64,
    /// Could not be made clean after use.
    pub dirty: u64,
    /// The pool was closed, reset or made smaller.
    pub retired: u64,
}

impl ClosedCounts {
    /// All of them together.
    pub fn total(&self) -> u64 {
        self.broken + self.invalid + self.expired + self.idle + self.overflow + self.dirty + self.retired
    }
}

/// A connection held beyond the leak threshold.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LongHeld {
    /// How long it has been held.
    pub held_for: Duration,
    /// Where it was acquired, as `file:line`.
    pub acquired_at: String,
}

/// Durations, counted in buckets that double from 1 µs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Bucket `i` counts durations below 2^i µs and not below 2^(i-1) µs; the last one everything above.
    pub buckets: Vec<u64>,
    /// The sum of all durations.
    pub sum: Duration,
}

impl Histogram {
    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// An upper bound of the duration below which the share `quantile` (0 to 1) of all lies: the end of its
    /// bucket, so at most twice the true value. `None` where nothing was counted.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = (quantile.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_micros(1 << bucket))
    }
}

/// Enough buckets for an hour.
const BUCKETS: usize = 33;

/// A histogram being counted.
#[derive(Debug, Clone)]
pub(crate) struct Durations {
    buckets: [u64; BUCKETS],
    sum: Duration,
}

impl Default for Durations {
    fn default() -> Durations {
        Durations { buckets: [0; BUCKETS], sum: Duration::ZERO }
    }
}

impl Durations {
    pub(crate) fn add(&mut self, duration: Duration) {
        self.buckets[bucket(duration)] += 1;
        self.sum = self.sum.saturating_add(duration);
    }

    /// Takes back what was added.
    pub(crate) fn remove(&mut self, duration: Duration) {
        self.buckets[bucket(duration)] -= 1;
        self.sum = self.sum.saturating_sub(duration);
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    #[cfg(test)]
    pub(crate) fn sum(&self) -> Duration {
        self.sum
    }

    fn to_histogram(&self) -> Histogram {
        Histogram { buckets: self.buckets.to_vec(), sum: self.sum }
    }
}

fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    ((u64::BITS - micros.leading_zeros()) as usize).min(BUCKETS - 1)
}

/// Why a connection was closed; one counter each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    Broken,
    Invalid,
    Expired,
    Idle,
    Overflow,
    Dirty,
    Retired,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) peak_in_use: u32,
    pub(crate) requests: u64,
    pub(crate) queued: u64,
    pub(crate) timed_out: u64,
    pub(crate) rejected: u64,
    pub(crate) turned_away_in_outage: u64,
    pub(crate) refused_down: u64,
    pub(crate) connects: u64,
    pub(crate) connect_failures: u64,
    pub(crate) closed: ClosedCounts,
    pub(crate) resets: u64,
    pub(crate) leaks: u64,
    pub(crate) wait_times: Durations,
    pub(crate) use_times: Durations,
    pub(crate) connect_times: Durations,
}

impl Counts {
    pub(crate) fn close(&mut self, reason: CloseReason) {
        let counter = match reason {
            CloseReason::Broken => &mut self.closed.broken,
            CloseReason::Invalid => &mut self.closed.invalid,
            CloseReason::Expired => &mut self.closed.expired,
            CloseReason::Idle => &mut self.closed.idle,
            CloseReason::Overflow => &mut self.closed.overflow,
            CloseReason::Dirty => &mut self.closed.dirty,
            CloseReason::Retired => &mut self.closed.retired,
        };
        *counter += 1;
    }

    pub(crate) fn fill(&self, status: &mut PoolStatus) {
        status.peak_in_use = self.peak_in_use;
        status.requests = self.requests;
        status.queued = self.queued;
        status.timed_out = self.timed_out;
        status.rejected = self.rejected;
        status.turned_away_in_outage = self.turned_away_in_outage;
        status.refused_down = self.refused_down;
        status.connects = self.connects;
        status.connect_failures = self.connect_failures;
        status.closed = self.closed;
        status.resets = self.resets;
        status.leaks = self.leaks;
        status.wait_times = self.wait_times.to_histogram();
        status.use_times = self.use_times.to_histogram();
        status.connect_times = self.connect_times.to_histogram();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_doubling_buckets() {
        let mut durations = Durations::default();
        for micros in [0, 1, 2, 3, 4, 1_000_000] {
            durations.add(Duration::from_micros(micros));
        }
        durations.add(Duration::MAX);
        let histogram = durations.to_histogram();
        assert_eq!(histogram.buckets[..4], [1, 1, 2, 1]);
        assert_eq!(histogram.count(), 7);
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(4)));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
