//! The pool's numbers: one structure that the gate counts in, that [`Pool::status`](crate::Pool::status) returns and that the
//! health report shows.
//!
//! It knows nothing of the gate or of databases, and has no lock: the gate keeps its counters under its own, except for what
//! happens without that lock. A new counter is one field of [`PoolStatus`] and one `+= 1` where the event happens.

use crate::error::ConnectFailure;
use serde::{Serialize, Serializer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A snapshot of the pool: gauges of one moment, and counters since the pool was opened.
///
/// Reading it touches neither the network nor a connection. It serializes as `pool_stats` of the health report does, without
/// `usage_percent`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Connections that the pool keeps open.
    pub min_connections: u32,
    /// The maximum number of open connections.
    pub max_connections: u32,
    /// Connections ready to lend.
    pub available: u32,
    /// Connections lent, or being cleaned after use.
    pub in_use: u32,
    /// `available` + `in_use` + `connecting`; above `max_connections` only for a while after a resize to a smaller maximum.
    pub total: u32,
    /// Connections requested or being opened. Serializes as `being_made`.
    #[serde(rename = "being_made")]
    pub connecting: u32,
    /// Callers in the queue.
    pub waiting: u32,
    /// The maximum number of callers in the queue.
    pub max_waiting: u32,
    /// The pool's name, as errors and log lines give it.
    pub name: String,
    /// Whether the pool lends connections.
    pub state: PoolState,
    /// The last failure to connect; `None` while the server can be reached. Not serialized, because its text names hosts.
    #[serde(skip)]
    pub last_failure: Option<ConnectFailure>,
    /// The highest number of connections lent at the same time.
    pub peak_in_use: u32,
    /// Requests for a connection.
    pub requests: u64,
    /// Requests that waited in the queue.
    pub queued: u64,
    /// Requests whose statement was sent together with another caller's, without a connection of their own.
    pub shared_round_trips: u64,
    /// Requests that failed because their time ran out, or because the thread would have waited for itself.
    pub timed_out: u64,
    /// Requests refused immediately because the queue was full, or shed because its delay stayed above the target.
    pub rejected: u64,
    /// The part of `timed_out` and `rejected` that an outage or a suspension caused: a larger pool would not have prevented
    /// them.
    pub turned_away_in_outage: u64,
    /// Requests refused because the server was down.
    pub refused_down: u64,
    /// Connections opened.
    pub connects: u64,
    /// Failed attempts to connect.
    pub connect_failures: u64,
    /// Connections closed, by reason.
    pub closed: ClosedCounts,
    /// Sessions reset because their borrower left session state behind.
    pub resets: u64,
    /// Connections that were reported as held too long.
    pub leaks: u64,
    /// Connections held beyond the leak threshold now. Serializes as their number.
    #[serde(serialize_with = "serialize_len")]
    pub long_held: Vec<LongHeld>,
    /// How long requests waited, until they got a usable connection, gave up or were turned away. Requests refused without
    /// waiting are not included. A wait of 1 ms or more for a thread of `web::blocking` is.
    pub wait_times: Histogram,
    /// How long connections were held.
    pub use_times: Histogram,
    /// How long connecting took.
    pub connect_times: Histogram,
}

impl PoolStatus {
    /// `in_use` as a share of `max_connections`, in percent; above 100 while a pool that was made smaller shrinks.
    pub fn usage_percent(&self) -> f64 {
        match (self.in_use, self.max_connections) {
            (0, _) => 0.0,
            // A maximum of zero has no shares, but the pool is in use.
            (_, 0) => 100.0,
            (in_use, max) => f64::from(in_use) * 100.0 / f64::from(max),
        }
    }

    /// Counts a closed connection.
    pub(crate) fn close(&mut self, reason: CloseReason) {
        *self.closed.counter(reason) += 1;
    }
}

fn serialize_len<T, S: Serializer>(items: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    items.len().serialize(serializer)
}

/// Whether the pool lends connections. Serializes in lower case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolState {
    /// The pool lends connections.
    #[default]
    Open,
    /// Callers wait until the pool is resumed.
    Suspended,
    /// The pool lends no connection any more.
    Closed,
}

/// Writes the reasons to close a connection, and a counter for each: a new reason is one line.
macro_rules! close_reasons {
    ($($(#[$doc:meta])+ $reason:ident => $counter:ident,)+) => {
        /// Connections closed, by reason.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct ClosedCounts {
            $($(#[$doc])+ pub $counter: u64,)+
        }

        impl ClosedCounts {
            /// The sum over all reasons.
            pub fn total(&self) -> u64 {
                [$(self.$counter),+].iter().sum()
            }

            fn counter(&mut self, reason: CloseReason) -> &mut u64 {
                match reason {
                    $(CloseReason::$reason => &mut self.$counter,)+
                }
            }
        }

        /// Why a connection was closed; one counter each in [`ClosedCounts`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum CloseReason {
            $($reason,)+
        }
    };
}

close_reasons! {
    /// Broken: the server or the network ended the session, or an answer did not arrive in time.
    Broken => broken,
    /// Found dead or outdated before being lent.
    Invalid => invalid,
    /// Older than the maximum lifetime.
    Expired => expired,
    /// Idle, and above the minimum.
    Idle => idle,
    /// Overflow that was no longer needed.
    Overflow => overflow,
    /// Could not be cleaned after use.
    Dirty => dirty,
    /// The pool was closed, reset or made smaller.
    Retired => retired,
}

/// A connection held beyond the leak threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LongHeld {
    /// How long it has been held.
    pub held_for: Duration,
    /// Where it was acquired, as `file:line:column`.
    pub acquired_at: String,
}

/// Enough buckets for an hour.
const BUCKETS: usize = 33;

/// Durations, counted in buckets whose bounds double from 1 µs.
///
/// Serializes as a summary: `count`, `sum_ms`, `p50_ms` and `p99_ms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// Bucket `i` counts durations from 2^(i-1) µs to below 2^i µs; the last bucket also counts everything above.
    pub buckets: Vec<u64>,
    /// The sum of all durations.
    pub sum: Duration,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: vec![0; BUCKETS], sum: Duration::ZERO }
    }
}

impl Histogram {
    /// The number of durations counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// An upper bound of the given quantile (0 to 1): the end of its bucket, at most twice the true value. `None` where nothing
    /// was counted.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = (quantile.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_micros(1 << bucket))
    }

    pub(crate) fn add(&mut self, duration: Duration) {
        self.buckets[bucket(duration)] += 1;
        self.sum = self.sum.saturating_add(duration);
    }

    /// Adds `count` durations of zero.
    pub(crate) fn add_zeros(&mut self, count: u64) {
        self.buckets[0] += count;
    }

    /// Adds every duration of `other`.
    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Adds every duration of `other`, of events that were counted here with a duration of zero.
    pub(crate) fn merge_in_place_of_zeros(&mut self, other: &Histogram) {
        self.buckets[0] = self.buckets[0].saturating_sub(other.count());
        self.merge(other);
    }

    /// Reverts an [`add`](Histogram::add) of the same duration.
    pub(crate) fn remove(&mut self, duration: Duration) {
        self.buckets[bucket(duration)] -= 1;
        self.sum = self.sum.saturating_sub(duration);
    }
}

/// A histogram that one thread at a time writes while others read. A reader may see a duration in its bucket and not in the sum.
#[derive(Debug)]
pub(crate) struct SharedHistogram {
    buckets: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

impl Default for SharedHistogram {
    fn default() -> SharedHistogram {
        SharedHistogram { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_nanos: AtomicU64::new(0) }
    }
}

impl SharedHistogram {
    pub(crate) fn add(&self, duration: Duration) {
        // With one writer there is nothing for an atomic addition to protect, and it costs far more.
        let count = &self.buckets[bucket(duration)];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let sum = self.sum_nanos.load(Ordering::Relaxed).saturating_add(nanos);
        self.sum_nanos.store(sum, Ordering::Relaxed);
    }

    /// Adds every duration to `other`.
    pub(crate) fn add_to(&self, other: &mut Histogram) {
        for (count, more) in other.buckets.iter_mut().zip(&self.buckets) {
            *count += more.load(Ordering::Relaxed);
        }
        other.sum = other.sum.saturating_add(Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)));
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Summary {
            count: u64,
            sum_ms: f64,
            p50_ms: Option<f64>,
            p99_ms: Option<f64>,
        }
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let summary = Summary {
            count: self.count(),
            sum_ms: ms(self.sum),
            p50_ms: self.quantile(0.5).map(ms),
            p99_ms: self.quantile(0.99).map(ms),
        };
        summary.serialize(serializer)
    }
}

fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    ((u64::BITS - micros.leading_zeros()) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_doubling_buckets() {
        let mut histogram = Histogram::default();
        for micros in [0, 1, 2, 3, 4, 1_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        histogram.add(Duration::MAX);
        assert_eq!(histogram.buckets[..4], [1, 1, 2, 1]);
        assert_eq!(histogram.count(), 7);
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(4)));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_shared_histogram_counts_like_the_other() {
        let (shared, mut expected, mut shown) =
            (SharedHistogram::default(), Histogram::default(), Histogram::default());
        for micros in [0, 1, 2, 3, 4, 1_000_000] {
            shared.add(Duration::from_micros(micros));
            expected.add(Duration::from_micros(micros));
        }
        shared.add_to(&mut shown);
        assert_eq!(shown, expected);
        shared.add_to(&mut shown);
        assert_eq!((shown.count(), shown.sum), (2 * expected.count(), 2 * expected.sum));
    }

    #[test]
    fn a_histogram_serializes_as_its_summary() {
        let mut histogram = Histogram::default();
        let empty = serde_json::json!({"count": 0, "sum_ms": 0.0, "p50_ms": null, "p99_ms": null});
        assert_eq!(serde_json::to_value(&histogram).unwrap(), empty);
        histogram.add(Duration::from_micros(1500));
        let one = serde_json::json!({"count": 1, "sum_ms": 1.5, "p50_ms": 2.048, "p99_ms": 2.048});
        assert_eq!(serde_json::to_value(&histogram).unwrap(), one);
    }
}
