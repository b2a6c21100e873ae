//! The health report: the pool's numbers, and the result of a ping where one was made, become a verdict, warnings and
//! recommendations.
//!
//! Everything here is pure. It reads no clock, no settings and no network, so it always returns.
//!
//! The first matching row is the verdict:
//!
//! | status | when |
//! |---|---|
//! | error | the pool is not initialized or is closed; the ping failed; connecting fails and no connection is left; the first connection is still being made |
//! | warning | more than 60 % of the maximum is in use (exactly 60 % is still healthy) |
//! | warning | none is available and the maximum is reached |
//! | warning | callers wait; lending is suspended; connecting fails while some connections are left; a connection is held beyond the leak threshold |
//! | healthy | otherwise |

use crate::error::{Error, Result};
use crate::pool::{PoolState, PoolStatus};
use serde::{Serialize, Serializer};
use std::time::Duration;

/// The usage in percent above which the report warns.
pub const WARNING_ABOVE_PERCENT: u32 = 60;

/// The recommended usage: most connections work, and some are left for a burst.
pub const OPTIMAL_RANGE: &str = "60-80% usage";

/// The verdict on a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HealthStatus {
    /// The pool works; nothing to do.
    Healthy,
    /// The pool works, and an operator should look at the warnings.
    Warning,
    /// The pool does not work.
    Error,
}

/// The body of `GET /api/health/db`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HealthReport {
    /// The verdict.
    pub status: HealthStatus,
    /// The numbers behind the verdict. Serialized with `usage_percent`, rounded to a tenth.
    #[serde(serialize_with = "serialize_with_usage")]
    pub pool_stats: PoolStatus,
    /// The problems found, one sentence each, with the numbers.
    pub warnings: Vec<String>,
    /// The current sizes, and the changes that the numbers call for.
    pub recommendations: Recommendations,
    /// The duration of the ping in milliseconds; absent where no ping was made or none succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_ms: Option<f64>,
}

/// The current sizes, and the changes that the numbers call for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Recommendations {
    /// [`OPTIMAL_RANGE`].
    pub optimal_range: &'static str,
    /// `min=2, max=10`.
    pub current_config: String,
    /// `7 of 10 connections in use (70%)`.
    pub current_usage: String,
    /// The changes to make and the reason for each, one sentence each; empty where the numbers call for none.
    pub advice: Vec<String>,
}

impl HealthReport {
    /// Judges a pool by its numbers.
    pub fn new(pool: &PoolStatus) -> HealthReport {
        let mut warnings = Vec::new();
        let has_failed = warn_of_failures(pool, &mut warnings);
        if pool.state != PoolState::Closed {
            warn_of_strain(pool, &mut warnings);
        }
        let status = match (has_failed, warnings.is_empty()) {
            (true, _) => HealthStatus::Error,
            (false, false) => HealthStatus::Warning,
            (false, true) => HealthStatus::Healthy,
        };
        HealthReport {
            status,
            pool_stats: pool.clone(),
            warnings,
            recommendations: Recommendations::new(pool),
            ping_ms: None,
        }
    }

    /// The report of a process without a pool: an error, with every number zero.
    pub fn without_pool(why: &Error) -> HealthReport {
        let mut report = HealthReport::new(&PoolStatus { state: PoolState::Closed, ..PoolStatus::default() });
        report.warnings = match why {
            Error::NotInitialized => vec!["The database pool is not initialized.".to_owned()],
            // The text of other errors may name hosts, which this report must not contain.
            _ => vec!["There is no database pool to ask.".to_owned()],
        };
        report
    }

    /// Adds the result of a query that was sent through the pool: a failure turns the verdict into an error.
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

fn serialize_with_usage<S: Serializer>(
    pool: &PoolStatus,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct WithUsage<'a> {
        #[serde(flatten)]
        pool: &'a PoolStatus,
        usage_percent: f64,
    }
    WithUsage { pool, usage_percent: (pool.usage_percent() * 10.0).round() / 10.0 }.serialize(serializer)
}

/// Adds the conditions that stop the pool from serving. Returns whether there is one.
fn warn_of_failures(pool: &PoolStatus, warnings: &mut Vec<String>) -> bool {
    if pool.state == PoolState::Closed {
        warnings.push("The pool is closed and lends no connection.".to_owned());
        return true;
    }
    let usable = pool.available + pool.in_use;
    let Some(failure) = &pool.last_failure else {
        // The pool was opened without waiting for the database, and no attempt to connect has ended yet.
        let is_unproven = pool.connects == 0 && usable == 0 && pool.connecting > 0;
        if is_unproven {
            warnings.push("No connection to the database has been made yet.".to_owned());
        }
        return is_unproven;
    };
    // Without the failure's text: it names hosts, and the report may be the body of a 503.
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

/// Adds the conditions that make callers wait, or soon will.
fn warn_of_strain(pool: &PoolStatus, warnings: &mut Vec<String>) {
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
            pool.usage_percent()
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

impl Recommendations {
    fn new(pool: &PoolStatus) -> Recommendations {
        let PoolStatus { in_use, max_connections: max, .. } = *pool;
        Recommendations {
            optimal_range: OPTIMAL_RANGE,
            current_config: format!("min={}, max={max}", pool.min_connections),
            current_usage: format!("{in_use} of {} in use ({:.0}%)", connections(max), pool.usage_percent()),
            advice: advice(pool),
        }
    }
}

/// The changes that the numbers call for. Only what callers have met is a reason: a caller waits now, or callers were turned
/// away since the pool was opened.
fn advice(pool: &PoolStatus) -> Vec<String> {
    let mut advice = Vec::new();
    // Without the callers that an outage or a suspension turned away: a larger pool would have turned them away as well.
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
        // Little's law; without meaning before a hold time was measured.
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

fn connections(n: u32) -> String {
    if n == 1 { "1 connection".to_owned() } else { format!("{n} connections") }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
