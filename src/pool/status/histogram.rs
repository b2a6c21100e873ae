//! Histograms of durations: one that is written under a lock, one that a single thread writes while others read, and their common
//! form.

use serde::{Serialize, Serializer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
