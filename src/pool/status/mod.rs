//! The pool's numbers: one structure that the gate counts in, that [`Pool::status`](crate::Pool::status) returns and that the
//! health report shows.
//!
//! It knows nothing of the gate or of databases, and has no lock: the gate keeps its counters under its own, and the [`Tally`]
//! has what happens without that lock. `counts.rs` has the tables of counters; a new one is one line there, and one where the event
//! happens.

mod counts;
mod histogram;
mod tally;

pub(crate) use crate::pool::status::counts::{CloseReason, Event};
pub use crate::pool::status::counts::{ClosedCounts, ErrorCounts, EventCounts};
pub use crate::pool::status::histogram::Histogram;
pub(crate) use crate::pool::status::histogram::SharedHistogram;
pub(crate) use crate::pool::status::tally::Tally;

use crate::error::ConnectFailure;
use serde::{Serialize, Serializer};
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
    /// The part of `connecting` that a thread is opening now.
    pub connectors: u32,
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
    /// Times at which connecting began to fail.
    pub outages: u64,
    /// For how long connecting has failed in all, until now. Serializes as `outage_ms`.
    #[serde(rename = "outage_ms", serialize_with = "serialize_ms")]
    pub outage_time: Duration,
    /// Connections closed, by reason.
    pub closed: ClosedCounts,
    /// Sessions reset because their borrower left session state behind.
    pub resets: u64,
    /// Connections that were reported as held too long.
    pub leaks: u64,
    /// Errors that calls have returned, by kind.
    pub errors: ErrorCounts,
    /// What else the pool has done.
    pub events: EventCounts,
    /// The connections lent or being cleaned now, in no order.
    pub holders: Vec<Holding>,
    /// Connections held beyond the leak threshold now. Serializes as their number.
    #[serde(serialize_with = "serialize_len")]
    pub long_held: Vec<Holding>,
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
        self.closed.add_all(|kind| u64::from(kind == reason));
    }
}

fn serialize_ms<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64() * 1000.0)
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

/// A lent connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Holding {
    /// How long it has been held. Serializes as `held_ms`.
    #[serde(rename = "held_ms", serialize_with = "serialize_ms")]
    pub held_for: Duration,
    /// Where it was acquired, as `file:line:column`.
    pub acquired_at: String,
    /// Its borrower has finished, and its session is being reset.
    pub is_resetting: bool,
}
