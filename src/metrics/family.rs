//! One metric and its series, as the encoder of `prometheus-client` writes them.

use crate::pool::Histogram;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The buckets of a histogram that get a series of their own, from 2^4 to 2^26 µs: 16 µs to 67 s. Those below add to the first.
const EXPOSED: RangeInclusive<usize> = 4..=26;

/// A metric whose series are written one after the other.
pub(crate) struct Family<'a>(MetricEncoder<'a>);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl<'a> Family<'a> {
    pub(crate) fn gauge(
        encoder: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &str,
    ) -> Result<Family<'a>, fmt::Error> {
        Ok(Family(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?))
    }

    /// The encoder adds `_total` to the name.
    pub(crate) fn counter(
        encoder: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &str,
    ) -> Result<Family<'a>, fmt::Error> {
        Ok(Family(encoder.encode_descriptor(name, help, None, MetricType::Counter)?))
    }

    /// A counter or a histogram of durations. The encoder adds `_seconds` to the name.
    pub(crate) fn seconds(
        encoder: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &str,
        kind: MetricType,
    ) -> Result<Family<'a>, fmt::Error> {
        Ok(Family(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?))
    }

    pub(crate) fn set(&mut self, labels: Labels<'_>, value: f64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }

    pub(crate) fn count(&mut self, labels: Labels<'_>, count: u64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    pub(crate) fn count_seconds(&mut self, labels: Labels<'_>, time: Duration) -> fmt::Result {
        let seconds = time.as_secs_f64();
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&seconds, None)
    }

    pub(crate) fn times(&mut self, labels: Labels<'_>, times: &Histogram) -> fmt::Result {
        let below: u64 = times.buckets[..*EXPOSED.start()].iter().sum();
        let mut buckets: Vec<(f64, u64)> = EXPOSED
            .map(|index| (Duration::from_micros(1 << index).as_secs_f64(), times.buckets[index]))
            .collect();
        buckets[0].1 += below;
        let (sum, count) = (times.sum.as_secs_f64(), times.count());
        self.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}
