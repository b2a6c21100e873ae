//! Pure: the pool's numbers (and the outcome of a ping, where somebody made one) → a verdict, warnings in
//! sentences, recommendations. It reads no clock, no settings and no network, so it can always answer.
//!
//! The verdict, by the first line that fits:
//!
//! | status | when |
//! |---|---|
//! | error | the pool is not initialized or is closed; the ping failed; connecting fails and no connection is left; the first connection is still being made |
//! | warning | more than 60 % of the maximum is in use (exactly 60 % is still healthy) |
//! | warning | none is available and the maximum is reached |
//! | warning | callers wait; lending is suspended; connecting fails while some connections are left; a connection is held beyond the leak threshold |
//! | healthy | otherwise |

use crate::error::{Error, Result};
use crate::pool::{ClosedCounts, PoolState, PoolStatus};
use serde::Serialize;
use std::time::Duration;

/// The share of the maximum, in percent, above which usage is a warning.
pub const WARNING_ABOVE_PERCENT: u32 = 60;

/// The usage at which a pool earns its connections and still has room for a burst.
pub const OPTIMAL_RANGE: &str = "60-80% usage";

/// How the pool is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HealthStatus {
    /// Nothing to do.
    Healthy,
    /// It works, and somebody should look.
    Warning,
    /// It does not work.
    Error,
}

/// What `GET /api/health/db` answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HealthReport {
    /// The verdict.
    pub status: HealthStatus,
    /// The numbers it rests on.
    pub pool_stats: PoolStats,
    /// What is wrong, one sentence each, with the numbers.
    pub warnings: Vec<String>,
    /// How the pool is configured, and what the numbers speak for changing.
    pub recommendations: Recommendations,
    /// How long the ping took, in milliseconds; absent where none was made or none came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_ms: Option<f64>,
}

/// The pool's numbers as the health report shows them. Gauges belong to one moment, counters to the time
/// since the pool was opened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each field repeats the one of the same name in PoolStatus")]
pub struct PoolStats {
    pub min_connections: u32,
    pub max_connections: u32,
    pub available: u32,
    pub in_use: u32,
    pub total: u32,
    pub being_made: u32,
    pub waiting: u32,
    pub max_waiting: u32,
    /// `in_use` as a share of `max_connections`; above 100 after the pool was made smaller.
    pub usage_percent: f64,
    /// The pool's, as errors and log lines give it.
    pub name: String,
    /// `open`, `suspended` or `closed`.
    pub state: &'static str,
    pub requests: u64,
    pub queued: u64,
    pub timed_out: u64,
    pub rejected: u64,
    pub turned_away_in_outage: u64,
    pub refused_down: u64,
    pub connects: u64,
    pub connect_failures: u64,
    pub closed: ClosedStats,
    pub resets: u64,
    pub leaks: u64,
    /// Connections held beyond the leak threshold right now.
    pub long_held: usize,
}

/// Connections closed since the pool was opened, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each field repeats the one of the same name in ClosedCounts")]
pub struct ClosedStats {
    pub broken: u64,
    pub invalid: u64,
    pub expired: u64,
    pub idle: u64,
    pub overflow: u64,
    pub dirty: u64,
    pub retired: u64,
}

/// How the pool is configured, and what the numbers speak for changing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Recommendations {
    /// [`OPTIMAL_RANGE`].
    pub optimal_range: &'static str,
    /// `min=2, max=10`.
    pub current_config: String,
    /// `7 of 10 connections in use (70%)`.
    pub current_usage: String,
    /// What to change and why, one sentence each; empty where the numbers speak for nothing.
    pub advice: Vec<String>,
}

impl HealthReport {
    /// Judges a pool by its numbers.
    pub fn new(pool: &PoolStatus) -> HealthReport {
        let mut warnings = Vec::new();
        let failed = failures(pool, &mut warnings);
        if pool.state != PoolState::Closed {
            strains(pool, &mut warnings);
        }
        let status = match (failed, warnings.is_empty()) {
            (true, _) => HealthStatus::Error,
            (false, false) => HealthStatus::Warning,
            (false, true) => HealthStatus::Healthy,
        };
        HealthReport {
            status,
            pool_stats: PoolStats::new(pool),
            warnings,
            recommendations: Recommendations::new(pool),
            ping_ms: None,
        }
    }

    /// The report where there is no pool to ask: an error, with every number zero.
    pub fn without_pool(why: &Error) -> HealthReport {
        let mut report = HealthReport::new(&PoolStatus { state: PoolState::Closed, ..PoolStatus::default() });
        report.warnings = match why {
            Error::NotInitialized => vec!["The database pool is not initialized.".to_owned()],
            // The error's own text may name hosts, which this report must not.
            _ => vec!["There is no database pool to ask.".to_owned()],
        };
        report
    }

    /// Adds the outcome of a query made to try the pool: a failure turns the verdict into an error.
    pub fn with_ping(mut self, outcome: &Result<Duration>) -> HealthReport {
        match outcome {
            Ok(took) => self.ping_ms = Some(took.as_secs_f64() * 1000.0),
            Err(_) => {
                self.status = HealthStatus::Error;
                self.warnings.push("A query sent through the pool failed.".to_owned());
            }
        }
        self
    }
}

/// Warns of what stops the pool from serving, and says whether it does.
fn failures(pool: &PoolStatus, warnings: &mut Vec<String>) -> bool {
    if pool.state == PoolState::Closed {
        warnings.push("The pool is closed and lends no connection.".to_owned());
        return true;
    }
    let usable = pool.available + pool.in_use;
    let Some(failure) = &pool.last_failure else {
        // A pool that was opened without its database, and has not heard of it yet.
        let is_unproven = pool.connects == 0 && usable == 0 && pool.connecting > 0;
        if is_unproven {
            warnings.push("No connection to the database has been made yet.".to_owned());
        }
        return is_unproven;
    };
    // The failure's text stays out: it names hosts, and the report may travel in a 503.
    warnings.push(format!(
        "Connecting to the database has failed for {}, the last attempt {} ago; {}.",
        seconds(failure.failing_for),
        seconds(failure.age),
        match usable {
            0 => "no connection is left".to_owned(),
            n => format!("{} left from before", connections(n)),
        }
    ));
    usable == 0
}

/// Warns of what makes callers wait, or soon will.
fn strains(pool: &PoolStatus, warnings: &mut Vec<String>) {
    let PoolStatus { in_use, available, waiting, max_connections: max, .. } = *pool;
    if pool.state == PoolState::Suspended {
        warnings.push(format!("Lending is suspended; callers waiting: {waiting}."));
    }
    if in_use > max {
        warnings.push(format!(
            "{} in use, {} more than the maximum of {max}: the pool was made smaller and shrinks as they come \
             back.",
            connections(in_use),
            in_use - max
        ));
    } else if u64::from(in_use) * 100 > u64::from(max) * u64::from(WARNING_ABOVE_PERCENT) {
        warnings.push(format!(
            "{in_use} of {} in use ({:.0}%), more than {WARNING_ABOVE_PERCENT}%.",
            connections(max),
            usage_percent(pool)
        ));
    }
    if available == 0 && max > 0 && in_use.saturating_add(pool.connecting) >= max {
        warnings.push(format!("No connection is available and the maximum of {max} is reached."));
    }
    if waiting > 0 && pool.state == PoolState::Open {
        warnings.push(match waiting {
            1 => format!("1 caller waits for a connection (at most {} may).", pool.max_waiting),
            n => format!("{n} callers wait for a connection (at most {} may).", pool.max_waiting),
        });
    }
    if let Some(longest) = pool.long_held.iter().max_by_key(|held| held.held_for) {
        warnings.push(format!(
            "{} held beyond the leak threshold, one for {}, acquired at {}.",
            connections(u32::try_from(pool.long_held.len()).unwrap_or(u32::MAX)),
            seconds(longest.held_for),
            longest.acquired_at
        ));
    }
}

impl PoolStats {
    fn new(pool: &PoolStatus) -> PoolStats {
        PoolStats {
            min_connections: pool.min_connections,
            max_connections: pool.max_connections,
            available: pool.available,
            in_use: pool.in_use,
            total: pool.total,
            being_made: pool.connecting,
            waiting: pool.waiting,
            max_waiting: pool.max_waiting,
            usage_percent: (usage_percent(pool) * 10.0).round() / 10.0,
            name: pool.name.clone(),
            state: match pool.state {
                PoolState::Open => "open",
                PoolState::Suspended => "suspended",
                PoolState::Closed => "closed",
            },
            requests: pool.requests,
            queued: pool.queued,
            timed_out: pool.timed_out,
            rejected: pool.rejected,
            turned_away_in_outage: pool.turned_away_in_outage,
            refused_down: pool.refused_down,
            connects: pool.connects,
            connect_failures: pool.connect_failures,
            closed: ClosedStats::new(pool.closed),
            resets: pool.resets,
            leaks: pool.leaks,
            long_held: pool.long_held.len(),
        }
    }
}

impl ClosedStats {
    fn new(counts: ClosedCounts) -> ClosedStats {
        let ClosedCounts { broken, invalid, expired, idle, overflow, dirty, retired } = counts;
        ClosedStats { broken, invalid, expired, idle, overflow, dirty, retired }
    }
}

impl Recommendations {
    fn new(pool: &PoolStatus) -> Recommendations {
        let PoolStatus { in_use, max_connections: max, .. } = *pool;
        Recommendations {
            optimal_range: OPTIMAL_RANGE,
            current_config: format!("min={}, max={max}", pool.min_connections),
            current_usage: format!("{in_use} of {} in use ({:.0}%)", connections(max), usage_percent(pool)),
            advice: advice(pool),
        }
    }
}

/// What the numbers speak for. Only what callers have really met is a reason: someone waits now, or has
/// been turned away since the pool was opened.
fn advice(pool: &PoolStatus) -> Vec<String> {
    let mut advice = Vec::new();
    // Whom an outage or a suspension turned away, a larger pool would have turned away as well.
    let turned_away = pool.timed_out.saturating_add(pool.rejected).saturating_sub(pool.turned_away_in_outage);
    let is_reachable = pool.last_failure.is_none() && pool.state == PoolState::Open;
    if is_reachable && (pool.waiting > 0 || turned_away > 0) {
        let mut sentence = format!(
            "Raise the maximum above {} or hold connections for less time: {} waiting now, {turned_away} of {} \
             calls turned away since the start",
            pool.max_connections, pool.waiting, pool.requests
        );
        let held = pool.use_times.count();
        let mean = pool.use_times.sum.as_secs_f64() / held as f64;
        // Little's law; meaningless before anything was held long enough to be measured.
        if held > 0 && mean > 0.0 {
            sentence += &format!(
                "; held for {:.1} ms on average, {} serve at most {:.0} calls a second",
                mean * 1000.0,
                connections(pool.max_connections),
                f64::from(pool.max_connections) / mean
            );
        }
        advice.push(sentence + ".");
    }
    if !pool.long_held.is_empty() {
        advice.push(
            "Look at where the connections held too long were acquired: the log names the lines.".to_owned(),
        );
    }
    advice
}

fn usage_percent(pool: &PoolStatus) -> f64 {
    match (pool.in_use, pool.max_connections) {
        (0, _) => 0.0,
        // Still lent while the maximum is zero: there is no share to state, and it is not "none".
        (_, 0) => 100.0,
        (in_use, max) => f64::from(in_use) * 100.0 / f64::from(max),
    }
}

fn connections(n: u32) -> String {
    if n == 1 { "1 connection".to_owned() } else { format!("{n} connections") }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
