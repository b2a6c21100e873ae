//! The series behind a live page: what the pool did in each second, and what it is doing now.
//!
//! Its size is bounded: 300 steps, 200 connections or lines of each kind, 10 statements of each kind.

use crate::health::window::Window;
use crate::health::{HealthReport, advice};
use crate::pool::{Holding, Observation, PoolState, PoolStatus, ServerCapacity, Snapshot, StatementStats};
use serde::Serialize;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

/// The most connections in use that are listed.
const MOST_SHOWN: usize = 200;
/// The most statements in each list.
const MOST_STATEMENTS: usize = 10;

/// The body of `GET /api/health/db/series`. Times are milliseconds from when the pool was opened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Series {
    /// Another pool, as after a restart of the service, has another id, and its times have another origin.
    pub id: String,
    /// Now.
    pub now_ms: u64,
    /// The verdict, with warnings and advice.
    pub report: HealthReport,
    /// What each connection is doing.
    pub connections: Connections,
    /// The lines of code whose connections have not come back within the leak threshold.
    pub leaks: Vec<Leak>,
    /// How many connections the server allows, where that is known.
    pub server: Option<ServerCapacity>,
    /// When connecting failed.
    pub outages: Vec<Outage>,
    /// The statements that take longest.
    pub slowest: Vec<Statement>,
    /// The statements called most often.
    pub most_frequent: Vec<Statement>,
    /// What happened, second by second, the oldest first.
    pub steps: Vec<Step>,
}

/// What a statement has cost since the pool was opened; see [`StatementStats`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Statement {
    /// Its text without values.
    pub text: String,
    /// How often it was called.
    pub calls: u64,
    /// How many of these calls failed.
    pub failures: u64,
    /// The rows returned or affected.
    pub rows: u64,
    /// The mean time of a call.
    pub mean_ms: f64,
    /// An upper bound of the time of 99 calls in a hundred.
    pub p99_ms: f64,
}

/// What each connection is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Connections {
    /// Ready to lend.
    pub idle: u32,
    /// Requested or being opened.
    pub connecting: u32,
    /// Being reset after use.
    pub resetting: u32,
    /// The number in use.
    pub in_use: u32,
    /// Those in use, the one held for longest first; at most 200.
    pub held: Vec<Held>,
}

/// A connection in use.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Held {
    /// The line that acquired it, as `file:line:column`.
    pub acquired_at: String,
    /// How long it has been held.
    pub held_ms: f64,
}

/// A line of code whose connections have not come back within the leak threshold.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Leak {
    /// The line, as `file:line:column`.
    pub acquired_at: String,
    /// How many of its connections.
    pub connections: u32,
    /// How long the first of them has been held.
    pub longest_ms: f64,
}

/// A time in which connecting failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Outage {
    /// When it began.
    pub from_ms: u64,
    /// When it was seen to have ended; `None` while it lasts.
    pub to_ms: Option<u64>,
}

/// What happened between two snapshots.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// The end of the step, which the next `since` is.
    pub at_ms: u64,
    /// Its length; more than two seconds where snapshots are missing.
    pub ms: u64,
    /// The maximum of connections, at its end, as the next four.
    pub max: u32,
    /// Connections in use.
    pub in_use: u32,
    /// Connections ready to lend.
    pub idle: u32,
    /// Connections requested or being opened.
    pub connecting: u32,
    /// Callers in the queue.
    pub waiting: u32,
    /// Requests for a connection.
    pub requests_per_s: f64,
    /// An upper bound of how long half of them waited; `None` where there were none.
    pub wait_p50_ms: Option<f64>,
    /// And 99 in a hundred.
    pub wait_p99_ms: Option<f64>,
    /// An upper bound of how long half of the connections that came back were held.
    pub use_p50_ms: Option<f64>,
    /// And 99 in a hundred.
    pub use_p99_ms: Option<f64>,
    /// What went wrong.
    pub errors: Errors,
    /// Connecting failed at its end.
    pub is_down: bool,
}

/// What went wrong in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Errors {
    /// Requests whose time ran out.
    pub exhausted: u64,
    /// Requests refused because of a full queue.
    pub saturated: u64,
    /// Requests refused because the server was down.
    pub down: u64,
    /// Failed attempts to connect.
    pub connect_failures: u64,
    /// Connections that the server or the network ended, or that did not answer in time.
    pub broken: u64,
}

impl Series {
    /// The series of a pool. `since` leaves out the steps up to that time, in milliseconds.
    pub fn of(observed: &Observation, statements: &[StatementStats], since: Option<u64>) -> Series {
        let Observation { id, age, history, server, .. } = observed;
        let is_new = |window: &Window<'_>| since.is_none_or(|since| millis(window.end()) > since);
        let steps = history.windows(2).filter_map(Window::of).filter(is_new).map(Step::of);
        let leaks = advice::leaking_lines(&observed.status).into_iter();
        Series {
            id: format!("{id:016x}"),
            now_ms: millis(*age),
            report: HealthReport::of(observed),
            connections: Connections::of(&observed.status),
            leaks: leaks
                .take(MOST_SHOWN)
                .map(|(line, connections, longest)| Leak {
                    acquired_at: line.to_owned(),
                    connections,
                    longest_ms: fraction(longest),
                })
                .collect(),
            server: *server,
            outages: outages(observed),
            slowest: top(statements, |statement| mean(statement).as_nanos()),
            most_frequent: top(statements, |statement| u128::from(statement.calls)),
            steps: steps.collect(),
        }
    }

    /// The series of a process without a pool.
    pub fn without_pool(report: HealthReport) -> Series {
        Series { report, ..Series::of(&Observation::default(), &[], None) }
    }
}

impl Connections {
    fn of(status: &PoolStatus) -> Connections {
        let (resetting, lent): (Vec<_>, Vec<&Holding>) =
            status.holders.iter().partition(|held| held.is_resetting);
        let shown = lent
            .iter()
            .take(MOST_SHOWN)
            .map(|held| Held { acquired_at: held.acquired_at.clone(), held_ms: fraction(held.held_for) });
        Connections {
            idle: status.available,
            connecting: status.connecting,
            resetting: u32::try_from(resetting.len()).unwrap_or(u32::MAX),
            in_use: u32::try_from(lent.len()).unwrap_or(u32::MAX),
            held: shown.collect(),
        }
    }
}

impl Step {
    fn of(window: Window<'_>) -> Step {
        let status = window.last();
        let waits = window.histogram(|status| &status.wait_times);
        let uses = window.histogram(|status| &status.use_times);
        Step {
            at_ms: millis(window.end()),
            ms: millis(window.elapsed()),
            max: status.max_connections,
            in_use: status.in_use,
            idle: status.available,
            connecting: status.connecting,
            waiting: status.waiting,
            requests_per_s: (window.requests_per_second() * 10.0).round() / 10.0,
            wait_p50_ms: waits.quantile(0.5).map(fraction),
            wait_p99_ms: waits.quantile(0.99).map(fraction),
            use_p50_ms: uses.quantile(0.5).map(fraction),
            use_p99_ms: uses.quantile(0.99).map(fraction),
            errors: Errors {
                exhausted: window.count(|status| status.timed_out),
                saturated: window.count(|status| status.rejected),
                down: window.count(|status| status.refused_down),
                connect_failures: window.count(|status| status.connect_failures),
                broken: window.count(|status| status.closed.broken),
            },
            is_down: status.last_failure.is_some(),
        }
    }
}

fn mean(statement: &StatementStats) -> Duration {
    statement.times.sum.div_f64(statement.calls.max(1) as f64)
}

/// The statements with the highest numbers, the highest first.
fn top(statements: &[StatementStats], number: impl Fn(&StatementStats) -> u128) -> Vec<Statement> {
    let mut sorted: Vec<_> = statements.iter().collect();
    sorted.sort_by_cached_key(|statement| Reverse(number(statement)));
    let shown = sorted.into_iter().take(MOST_STATEMENTS).map(|statement| Statement {
        text: statement.text.to_string(),
        calls: statement.calls,
        failures: statement.failures,
        rows: statement.rows,
        mean_ms: fraction(mean(statement)),
        p99_ms: fraction(statement.times.quantile(0.99).unwrap_or_default()),
    });
    shown.collect()
}

/// The outages that the history has, and the one that lasts.
fn outages(observed: &Observation) -> Vec<Outage> {
    let now = Snapshot { at: observed.age, status: observed.status.clone(), ..Snapshot::default() };
    let mut outages: Vec<Outage> = Vec::new();
    for Snapshot { at, status, .. } in observed.history.iter().map(Arc::as_ref).chain([&now]) {
        let open = outages.last_mut().filter(|outage| outage.to_ms.is_none());
        match (&status.last_failure, open) {
            (Some(failure), None) if status.state != PoolState::Closed => {
                outages.push(Outage { from_ms: millis(at.saturating_sub(failure.failing_for)), to_ms: None });
            }
            (None, Some(outage)) => outage.to_ms = Some(millis(*at)),
            _ => {}
        }
    }
    outages
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// In milliseconds, to the microsecond.
fn fraction(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
