//! The log of slow statements and slow acquires: a line for the first, then at most one a second, which counts the others.
//!
//! It knows thresholds, and nothing of statements and the gate. No lock.

use crate::pool::log_throttle::LogThrottle;
use crate::pool::logging::logged;
use crate::pool::status::{Event, Tally};
use crate::settings::PoolSettings;
use log::warn;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

/// The shortest time between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct SlowLog {
    pool: String,
    /// `Duration::MAX` for never, so that the usual case is one comparison.
    statement: Duration,
    acquire: Duration,
    statements: LogThrottle,
    acquires: LogThrottle,
    tally: Arc<Tally>,
}

impl SlowLog {
    pub(crate) fn new(settings: &PoolSettings, tally: Arc<Tally>) -> SlowLog {
        SlowLog {
            pool: settings.name.clone(),
            statement: settings.slow_statement.unwrap_or(Duration::MAX),
            acquire: settings.slow_acquire.unwrap_or(Duration::MAX),
            statements: LogThrottle::new(INTERVAL),
            acquires: LogThrottle::new(INTERVAL),
            tally,
        }
    }

    /// A statement took this long. `text` makes its text for the log, without literals.
    pub(crate) fn note_statement(&self, took: Duration, text: impl FnOnce() -> String) {
        if took < self.statement {
            return;
        }
        self.tally.add(Event::SlowStatement);
        let Some(count) = self.statements.count() else { return };
        let (took_ms, pool, others) = (millis(took), self.pool.as_str(), others(count));
        logged(|| {
            let statement = text();
            warn!(
                took_ms, statement = statement.as_str(), pool, count;
                "Slow statement: {took_ms} ms for {statement}{others} (pool \"{pool}\")"
            );
        });
    }

    /// A caller has waited this long for its connection.
    pub(crate) fn note_acquire(&self, waited: Duration, at: &'static Location<'static>) {
        if waited < self.acquire {
            return;
        }
        self.tally.add(Event::SlowAcquire);
        let Some(count) = self.acquires.count() else { return };
        let (waited_ms, pool, others) = (millis(waited), self.pool.as_str(), others(count));
        logged(|| {
            let acquired_at = at.to_string();
            warn!(
                waited_ms, acquired_at = acquired_at.as_str(), pool, count;
                "Slow acquire: {waited_ms} ms for a connection at {at}{others} (pool \"{pool}\")"
            );
        });
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What a line adds for `count` events since the line before, the reported one included.
fn others(count: u64) -> String {
    if count > 1 { format!("; {} more since the last such line", count - 1) } else { String::new() }
}
