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
//!
//! The verdict is of the moment. Advice, and warnings about what callers have met lately, come from the load of the last minute,
//! and of the five minutes that a pool remembers; with too little of it there is none, and
//! [`basis`](Recommendations::basis) says so.

mod advice;
pub mod series;
mod text;
mod warnings;
mod window;

use crate::error::{Error, Result};
use crate::pool::{Observation, PoolState, PoolStatus};
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
    /// The changes to make with the numbers that call for each; empty where none is called for.
    pub advice: Vec<String>,
    /// The load that the advice is based on, or how much is missing for advice.
    pub basis: String,
}

impl HealthReport {
    /// Judges a pool by its numbers of the moment.
    pub fn new(pool: &PoolStatus) -> HealthReport {
        HealthReport::of(&Observation { status: pool.clone(), ..Observation::default() })
    }

    /// Judges a pool by everything that it reports, and derives advice from its load over time.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn f(pool: &poolhouse::Pool) {
    /// use poolhouse::health::HealthReport;
    ///
    /// for advice in HealthReport::of(&pool.observe()).recommendations.advice {
    ///     println!("{advice}");
    /// }
    /// # }
    /// ```
    pub fn of(observed: &Observation) -> HealthReport {
        let pool = &observed.status;
        let mut warnings = Vec::new();
        let has_failed = warnings::failures(pool, &mut warnings);
        if pool.state != PoolState::Closed {
            warnings::strain(pool, &mut warnings);
        }
        let status = match (has_failed, warnings.is_empty()) {
            (true, _) => HealthStatus::Error,
            (false, false) => HealthStatus::Warning,
            (false, true) => HealthStatus::Healthy,
        };
        warnings.extend(advice::warnings(observed));
        HealthReport {
            status,
            pool_stats: pool.clone(),
            warnings,
            recommendations: Recommendations::new(observed),
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

impl Recommendations {
    fn new(observed: &Observation) -> Recommendations {
        let pool = &observed.status;
        let PoolStatus { in_use, max_connections: max, .. } = *pool;
        let (advice, basis) = advice::advise(observed);
        Recommendations {
            optimal_range: OPTIMAL_RANGE,
            current_config: format!("min={}, max={max}", pool.min_connections),
            current_usage: format!(
                "{in_use} of {} in use ({:.0}%)",
                text::connections(max),
                pool.usage_percent()
            ),
            advice,
            basis,
        }
    }
}

#[cfg(test)]
mod tests;
