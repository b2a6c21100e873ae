//! The pool's numbers in the Prometheus text format, and as a collector for a registry of `prometheus-client`.
//!
//! It reads [`PoolStatus`] and nothing else: no connection, no clock. `docs/metrics.md` lists the metrics with their counterparts in
//! OpenTelemetry. The web layer serves them; this module needs no actix.
//!
//! ```
//! use poolhouse::metrics::text;
//!
//! let status = poolhouse::PoolStatus::default();
//! assert!(text(&[status]).contains("poolhouse_connection_max"));
//! ```

mod family;

pub(crate) use crate::metrics::family::Family;

use crate::pool::{EventCounts, Histogram, PoolState, PoolStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// The metrics of these pools in the Prometheus text format, version 0.0.4. The label `pool` is the pool's name, which should differ
/// from pool to pool.
pub fn text(pools: &[PoolStatus]) -> String {
    let mut registry = Registry::default();
    let pools = pools.to_vec();
    registry.register_collector(Box::new(PoolCollector::new(move || pools.clone())));
    encode(&registry)
}

/// The metrics of a registry in the Prometheus text format.
pub(crate) fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = prometheus_text::encode(&mut text, registry);
    text
}

/// Collects the metrics of pools for a registry of one's own, at each scrape.
///
/// # Examples
///
/// ```
/// use poolhouse::metrics::PoolCollector;
/// use poolhouse::{DatabasePool, Pool};
/// use prometheus_client::registry::Registry;
///
/// let mut registry = Registry::default();
/// let pools = || DatabasePool::get().map(Pool::status).into_iter().collect();
/// registry.register_collector(Box::new(PoolCollector::new(pools)));
/// ```
pub struct PoolCollector(Box<dyn Fn() -> Vec<PoolStatus> + Send + Sync>);

impl PoolCollector {
    /// Collects what `pools` returns: the status of each pool. One collector has to return all of them, because each metric may
    /// occur once in a scrape.
    pub fn new(pools: impl Fn() -> Vec<PoolStatus> + Send + Sync + 'static) -> PoolCollector {
        PoolCollector(Box::new(pools))
    }
}

impl fmt::Debug for PoolCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolCollector")
    }
}

impl Collector for PoolCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let pools = (self.0)();
        for (name, help, value) in GAUGES {
            let mut family = Family::gauge(&mut encoder, name, help)?;
            pools.iter().try_for_each(|pool| family.set(&[("pool", &pool.name)], value(pool)))?;
        }
        encode_states(&mut encoder, &pools)?;
        for (name, help, value) in COUNTERS {
            let mut family = Family::counter(&mut encoder, name, help)?;
            pools.iter().try_for_each(|pool| family.count(&[("pool", &pool.name)], value(pool)))?;
        }
        encode_kinds(&mut encoder, &pools)?;
        for (name, help, times) in HISTOGRAMS {
            let mut family = Family::seconds(&mut encoder, name, help, MetricType::Histogram)?;
            pools.iter().try_for_each(|pool| family.times(&[("pool", &pool.name)], times(pool)))?;
        }
        Ok(())
    }
}

/// A metric with one value for each pool: name, help, value.
type Metric<V> = (&'static str, &'static str, fn(&PoolStatus) -> V);

const GAUGES: [Metric<f64>; 9] = [
    ("poolhouse_connection_max", "The most connections that may be open.", |pool| {
        pool.max_connections.into()
    }),
    ("poolhouse_connection_idle_max", "The most connections that may be idle.", |pool| {
        pool.max_connections.into()
    }),
    ("poolhouse_connection_idle_min", "Connections kept open.", |pool| pool.min_connections.into()),
    ("poolhouse_connection_pending_requests", "Callers in the queue.", |pool| pool.waiting.into()),
    ("poolhouse_connection_pending_requests_max", "The most callers that may be in the queue.", |pool| {
        pool.max_waiting.into()
    }),
    ("poolhouse_connections_used_peak", "The most connections lent at the same time so far.", |pool| {
        pool.peak_in_use.into()
    }),
    ("poolhouse_connections_opening", "Connections that a thread is opening now.", |pool| {
        pool.connectors.into()
    }),
    ("poolhouse_connections_long_held", "Connections held beyond the leak threshold now.", |pool| {
        pool.long_held.len() as f64
    }),
    ("poolhouse_database_up", "0 while connecting to the database fails, otherwise 1.", |pool| {
        f64::from(u8::from(pool.last_failure.is_none()))
    }),
];

const COUNTERS: [Metric<u64>; 12] = [
    ("poolhouse_connection_timeouts", "Requests for a connection whose time ran out.", |pool| pool.timed_out),
    ("poolhouse_connection_requests", "Requests for a connection.", |pool| pool.requests),
    ("poolhouse_connection_requests_queued", "Requests that waited in the queue.", |pool| pool.queued),
    (
        "poolhouse_connection_requests_rejected",
        "Requests refused because the queue was full or too slow.",
        |pool| pool.rejected,
    ),
    ("poolhouse_connection_requests_refused", "Requests refused because the database was down.", |pool| {
        pool.refused_down
    }),
    (
        "poolhouse_connection_requests_lost_in_outage",
        "Requests whose time ran out, or that were rejected, because of an outage or a suspension.",
        |pool| pool.turned_away_in_outage,
    ),
    ("poolhouse_shared_round_trips", "Statements sent together with those of another caller.", |pool| {
        pool.shared_round_trips
    }),
    ("poolhouse_connects", "Connections opened.", |pool| pool.connects),
    ("poolhouse_connect_failures", "Failed attempts to connect.", |pool| pool.connect_failures),
    ("poolhouse_resets", "Sessions reset because their borrower left state behind.", |pool| pool.resets),
    ("poolhouse_leaks", "Connections reported as held too long.", |pool| pool.leaks),
    ("poolhouse_outages", "Times at which connecting to the database began to fail.", |pool| pool.outages),
];

type Times = (&'static str, &'static str, fn(&PoolStatus) -> &Histogram);

const HISTOGRAMS: [Times; 3] = [
    ("poolhouse_connection_create_time", "How long connecting took.", |pool| &pool.connect_times),
    ("poolhouse_connection_wait_time", "How long requests waited for a connection.", |pool| &pool.wait_times),
    ("poolhouse_connection_use_time", "How long connections were held.", |pool| &pool.use_times),
];

/// Encodes the metrics that have a series for each state.
fn encode_states(encoder: &mut DescriptorEncoder<'_>, pools: &[PoolStatus]) -> fmt::Result {
    let mut family = Family::gauge(encoder, "poolhouse_connections", "Connections by state.")?;
    for pool in pools {
        for (state, count) in
            [("idle", pool.available), ("used", pool.in_use), ("connecting", pool.connecting)]
        {
            family.set(&[("pool", &pool.name), ("state", state)], count.into())?;
        }
    }
    let mut family = Family::gauge(encoder, "poolhouse_pool_state", "1 for the state that the pool is in.")?;
    for pool in pools {
        for (state, name) in
            [(PoolState::Open, "open"), (PoolState::Suspended, "suspended"), (PoolState::Closed, "closed")]
        {
            let is_in = f64::from(u8::from(pool.state == state));
            family.set(&[("pool", &pool.name), ("state", name)], is_in)?;
        }
    }
    Ok(())
}

/// Encodes what is counted by kind, and the time of outages.
fn encode_kinds(encoder: &mut DescriptorEncoder<'_>, pools: &[PoolStatus]) -> fmt::Result {
    let mut family =
        Family::counter(encoder, "poolhouse_connections_closed", "Connections closed, by reason.")?;
    for pool in pools {
        for (reason, _, count) in pool.closed.iter() {
            family.count(&[("pool", &pool.name), ("reason", reason)], count)?;
        }
    }
    let help = "Errors that calls have returned, by kind.";
    let mut family = Family::counter(encoder, "poolhouse_errors", help)?;
    for pool in pools {
        for (error, _, count) in pool.errors.iter() {
            family.count(&[("pool", &pool.name), ("error", error)], count)?;
        }
    }
    for (index, (event, help, _)) in EventCounts::default().iter().enumerate() {
        let name = format!("poolhouse_{event}");
        let mut family = Family::counter(encoder, &name, help)?;
        for pool in pools {
            let count = pool.events.iter().nth(index).map(|(.., count)| count);
            family.count(&[("pool", &pool.name)], count.unwrap_or_default())?;
        }
    }
    let help = "For how long connecting to the database has failed in all.";
    let mut family = Family::seconds(encoder, "poolhouse_outage", help, MetricType::Counter)?;
    pools.iter().try_for_each(|pool| family.count_seconds(&[("pool", &pool.name)], pool.outage_time))
}

#[cfg(test)]
mod tests;
