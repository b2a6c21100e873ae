//! The numbers of a pool, second by second.

use crate::health::{HealthReport, HealthStatus};
use crate::pool::{Observation, PoolStatus, ServerCapacity, Snapshot};
use std::sync::Arc;
use std::time::Duration;

/// What one second adds to the counters and where it leaves the gauges. Times are in milliseconds, with their numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Second<'a> {
    pub(super) requests: u64,
    pub(super) held: &'a [(u64, u64)],
    /// How long statements took in all.
    pub(super) in_statements: u64,
    pub(super) waited: &'a [(u64, u64)],
    pub(super) timed_out: u64,
    pub(super) connects: u64,
    pub(super) closed_overflow: u64,
    pub(super) closed_idle: u64,
    pub(super) in_use: u32,
    pub(super) waiting: u32,
}

/// A pool that is watched.
pub(super) struct Recording {
    pub(super) observed: Observation,
    at: Duration,
    statement_time: Duration,
}

impl Recording {
    /// A pool that has just been opened.
    pub(super) fn of(min: u32, max: u32) -> Recording {
        let status = PoolStatus {
            min_connections: min,
            max_connections: max,
            max_waiting: 100,
            available: min,
            total: min,
            connects: u64::from(min),
            ..PoolStatus::default()
        };
        let observed = Observation { status, ..Observation::default() };
        let mut recording = Recording { observed, at: Duration::ZERO, statement_time: Duration::ZERO };
        recording.snapshot();
        recording
    }

    /// On a server that allows its clients `max_connections`, of which `others` are another client's.
    pub(super) fn on_server(mut self, max_connections: u32, others: u32) -> Recording {
        self.observed.server = Some(ServerCapacity { max_connections, others });
        self
    }

    fn snapshot(&mut self) {
        let snapshot = Snapshot {
            at: self.at,
            status: self.observed.status.clone(),
            statement_time: self.statement_time,
        };
        self.observed.history.push(Arc::new(snapshot));
    }

    pub(super) fn seconds(mut self, seconds: u32, second: Second<'_>) -> Recording {
        for _ in 0..seconds {
            let status = &mut self.observed.status;
            status.requests += second.requests;
            for (count, ms) in second.held {
                (0..*count).for_each(|_| status.use_times.add(Duration::from_millis(*ms)));
            }
            self.statement_time += Duration::from_millis(second.in_statements);
            let waits: u64 = second.waited.iter().map(|(count, _)| count).sum();
            status.wait_times.add_zeros(second.requests.saturating_sub(waits));
            for (count, ms) in second.waited {
                (0..*count).for_each(|_| status.wait_times.add(Duration::from_millis(*ms)));
            }
            status.timed_out += second.timed_out;
            status.connects += second.connects;
            status.closed.overflow += second.closed_overflow;
            status.closed.idle += second.closed_idle;
            (status.in_use, status.waiting) = (second.in_use, second.waiting);
            status.peak_in_use = status.peak_in_use.max(second.in_use);
            status.total = status.total.max(second.in_use);
            status.available = status.total - second.in_use;
            self.at += Duration::from_secs(1);
            self.snapshot();
        }
        self
    }

    /// Leaves a gap of this length in the recording.
    pub(super) fn pause(mut self, pause: Duration) -> Recording {
        self.at += pause;
        self
    }

    pub(super) fn then(mut self, change: impl FnOnce(&mut PoolStatus)) -> Recording {
        change(&mut self.observed.status);
        self
    }

    /// Checks what the report says: its status, the last warning, and all the advice.
    #[track_caller]
    pub(super) fn is_reported_as(&self, status: HealthStatus, warning: &str, advice: &[&str], basis: &str) {
        let report = HealthReport::of(&self.observed);
        let last = report.warnings.last().map_or("", String::as_str);
        assert_eq!((report.status, last), (status, warning), "{:?}", report.warnings);
        assert_eq!(report.recommendations.advice, advice);
        assert_eq!(report.recommendations.basis, basis);
    }
}

/// 200 requests a second that find a connection at once.
pub(super) const EASY: Second<'static> = Second { requests: 200, held: &[(200, 2)], in_use: 1, ..NOTHING };
pub(super) const NOTHING: Second<'static> = Second {
    requests: 0,
    held: &[],
    in_statements: 0,
    waited: &[],
    timed_out: 0,
    connects: 0,
    closed_overflow: 0,
    closed_idle: 0,
    in_use: 0,
    waiting: 0,
};
/// More than twelve connections can serve, with 18 ms for each request.
pub(super) const CROWD: Second<'static> = Second {
    requests: 610,
    held: &[(610, 18)],
    waited: &[(300, 5), (60, 180)],
    in_use: 11,
    waiting: 3,
    ..NOTHING
};
