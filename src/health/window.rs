//! The load over a span of time: differences between snapshots.
//!
//! A window covers snapshots without a gap, an outage, a suspension or a resize between them, so that its averages are of one
//! situation. It compares counters by subtraction and divides by the time that has passed, however late a snapshot was.

use crate::pool::{Histogram, PoolState, PoolStatus, Snapshot};
use std::sync::Arc;
use std::time::Duration;

/// The length of the window that advice is derived from.
pub(super) const RECENT: Duration = Duration::from_secs(60);
/// A window of less time
const MIN_TIME: Duration = Duration::from_secs(30);
/// or with fewer requests is too little to judge by.
const MIN_REQUESTS: u64 = 100;
/// A longer time without a snapshot is a gap: the process or the machine was stopped.
const GAP: Duration = Duration::from_secs(10);

/// At least two snapshots of one situation, the oldest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window<'a>(&'a [Arc<Snapshot>]);

impl<'a> Window<'a> {
    /// All of the present situation.
    pub(super) fn present(history: &'a [Arc<Snapshot>]) -> Option<Window<'a>> {
        let is_break = |pair: &[Arc<Snapshot>]| {
            let (before, after) = (&pair[0], &pair[1]);
            let limits = |status: &PoolStatus| (status.min_connections, status.max_connections);
            after.at.saturating_sub(before.at) > GAP
                || !is_normal(&before.status)
                || limits(&before.status) != limits(&after.status)
        };
        let start = history.windows(2).rposition(is_break).map_or(0, |position| position + 1);
        let is_now_normal = history.last().is_some_and(|last| is_normal(&last.status));
        Window::of(&history[start..]).filter(|_| is_now_normal)
    }

    /// All of these snapshots, whatever is between them.
    pub(super) fn of(snapshots: &'a [Arc<Snapshot>]) -> Option<Window<'a>> {
        (snapshots.len() > 1).then_some(Window(snapshots))
    }

    /// The last [`RECENT`] of it, and what was before, where there was anything.
    pub(super) fn split(self) -> (Window<'a>, Option<Window<'a>>) {
        let start = self.last_snapshot().at.saturating_sub(RECENT);
        let position = self.0.iter().position(|snapshot| snapshot.at >= start).unwrap_or(0);
        let position = position.min(self.0.len() - 2);
        (Window(&self.0[position..]), Window::of(&self.0[..=position]))
    }

    fn first(self) -> &'a Snapshot {
        &self.0[0]
    }

    fn last_snapshot(self) -> &'a Snapshot {
        &self.0[self.0.len() - 1]
    }

    /// The latest numbers.
    pub(super) fn last(self) -> &'a PoolStatus {
        &self.last_snapshot().status
    }

    pub(super) fn end(self) -> Duration {
        self.last_snapshot().at
    }

    pub(super) fn elapsed(self) -> Duration {
        self.last_snapshot().at.saturating_sub(self.first().at)
    }

    /// Whether there is enough to judge by.
    pub(super) fn is_enough(self) -> bool {
        self.elapsed() >= MIN_TIME && self.requests() >= MIN_REQUESTS
    }

    /// Why there is not.
    pub(super) fn lack(window: Option<Window<'_>>) -> String {
        let (elapsed, requests) =
            window.map_or((Duration::ZERO, 0), |window| (window.elapsed(), window.requests()));
        format!(
            "Too little data for advice on the load: {requests} requests in {} s observed, {MIN_REQUESTS} in \
             {} s are needed.",
            elapsed.as_secs(),
            MIN_TIME.as_secs()
        )
    }

    /// How much the counter has grown.
    pub(super) fn count(self, counter: impl Fn(&PoolStatus) -> u64) -> u64 {
        counter(self.last()).saturating_sub(counter(&self.first().status))
    }

    pub(super) fn requests(self) -> u64 {
        self.count(|status| status.requests)
    }

    pub(super) fn requests_per_second(self) -> f64 {
        self.requests() as f64 / self.elapsed().as_secs_f64()
    }

    /// The durations that were added.
    pub(super) fn histogram(self, histogram: impl Fn(&PoolStatus) -> &Histogram) -> Histogram {
        let (before, after) = (histogram(&self.first().status), histogram(self.last()));
        let old = before.buckets.iter().chain(std::iter::repeat(&0));
        let buckets = after.buckets.iter().zip(old).map(|(after, before)| after.saturating_sub(*before));
        Histogram { buckets: buckets.collect(), sum: after.sum.saturating_sub(before.sum) }
    }

    /// The time for which connections were held, without holds that are longer than the window: those began before it.
    fn held(self) -> Duration {
        let holds = self.histogram(|status| &status.use_times);
        let (mut within, mut beyond) = (Duration::ZERO, Duration::ZERO);
        for (bucket, count) in holds.buckets.iter().enumerate() {
            let (most, count) =
                (Duration::from_micros(1 << bucket), u32::try_from(*count).unwrap_or(u32::MAX));
            match most / 2 < self.elapsed() {
                true => within = within.saturating_add(most.saturating_mul(count)),
                false => beyond = beyond.saturating_add((most / 2).saturating_mul(count)),
            }
        }
        // The sum is exact where no hold was longer; else the buckets bound what is left of it.
        holds.sum.saturating_sub(beyond).min(within)
    }

    /// How long a request occupies a connection on average. Requests whose statement another caller has sent occupy none of
    /// their own. `None` where no connection came back.
    pub(super) fn time_per_request(self) -> Option<Duration> {
        let shared = self.count(|status| status.shared_round_trips);
        let served = self.histogram(|status| &status.use_times).count() + shared;
        (served > 0).then(|| self.held().div_f64(served as f64))
    }

    /// The share of the time in use in which a statement of the helpers ran, from 0 to 1; `None` where none was counted.
    pub(super) fn share_in_statements(self) -> Option<f64> {
        let time = self.last_snapshot().statement_time.saturating_sub(self.first().statement_time);
        let share = time.as_secs_f64() / self.held().as_secs_f64();
        (!time.is_zero()).then_some(share.min(1.0))
    }

    /// How many callers waited on average, by their times.
    pub(super) fn mean_waiting(self) -> f64 {
        self.histogram(|status| &status.wait_times).sum.as_secs_f64() / self.elapsed().as_secs_f64()
    }

    /// How many connections were in use on average: by the times of those that came back, or by the snapshots, which also show
    /// those that have not.
    pub(super) fn mean_in_use(self) -> f64 {
        let by_time = self.held().as_secs_f64() / self.elapsed().as_secs_f64();
        let seen: f64 = self.0.iter().map(|snapshot| f64::from(snapshot.status.in_use)).sum();
        by_time.max(seen / self.0.len() as f64).min(f64::from(self.most(|status| status.max_connections)))
    }

    /// The share of the maximum that was in use, from 0 to 1.
    pub(super) fn share_in_use(self) -> f64 {
        self.mean_in_use() / f64::from(self.last().max_connections.max(1))
    }

    /// The highest value that a snapshot has.
    pub(super) fn most(self, gauge: impl Fn(&PoolStatus) -> u32) -> u32 {
        self.0.iter().map(|snapshot| gauge(&snapshot.status)).max().unwrap_or(0)
    }

    /// Requests that got no connection, though the server could be reached and lending was open.
    pub(super) fn turned_away(self) -> u64 {
        self.count(|status| {
            status.timed_out.saturating_add(status.rejected).saturating_sub(status.turned_away_in_outage)
        })
    }

    pub(super) fn wait_p99(self) -> Duration {
        self.histogram(|status| &status.wait_times).quantile(0.99).unwrap_or_default()
    }
}

/// Whether the numbers are those of a pool that lends connections to a server that it can reach.
fn is_normal(status: &PoolStatus) -> bool {
    status.state == PoolState::Open && status.last_failure.is_none()
}
