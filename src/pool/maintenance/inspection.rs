//! Inspection of the idle connections: which ones are closed, checked, or kept; and the report of leaks. It runs on the
//! maintenance thread and holds no lock.

use crate::pool::acquire::{Taken, catch_panic};
use crate::pool::gate::Surplus;
use crate::pool::generation::GenerationStatus;
use crate::pool::logging::logged;
use crate::pool::maintenance::TIME_LIMIT;
use crate::pool::observation::ServerCapacity;
use crate::pool::session::Verdict;
use crate::pool::status::{CloseReason, PoolStatus};
use crate::pool::{Pooled, Shared};
use crate::settings::PgBouncerMode;
use log::warn;
use std::time::{Duration, Instant};

/// The fraction of the idle timeout between two closes of idle connections. If load comes in pulses further apart than the
/// timeout, few connections have to be opened at each pulse.
const TRIM_FRACTION: u32 = 8;
/// How long an overflow connection may stay idle.
const OVERFLOW_IDLE: Duration = Duration::from_secs(1);

/// The interval of inspections: a quarter of the shortest limit, between 50 ms and one second.
pub(super) fn interval(shared: &Shared) -> Duration {
    let settings = &shared.settings;
    let overflow = (settings.max_overflow > 0).then_some(OVERFLOW_IDLE);
    // Lifetimes are spread over a tenth. With a longer interval, connections would expire together.
    let spread = settings.max_lifetime.map(|age| age / 10);
    [settings.idle_timeout, spread, settings.keepalive, settings.leak_threshold, overflow]
        .into_iter()
        .flatten()
        .map(|limit| limit / 4)
        .min()
        .unwrap_or(Duration::from_secs(1))
        .clamp(Duration::from_millis(50), Duration::from_secs(1))
}

impl Shared {
    /// Reports leaks, and inspects every idle connection: closes those that are surplus, outdated, expired or idle for too
    /// long, and checks those that are suspect. `next_trim` is when the next idle connection may be closed for being idle.
    pub(super) fn inspect(&self, next_trim: &mut Instant) {
        self.report_leaks();
        let now = Instant::now();
        let mut surplus = self.gate.surplus(self.settings.max_overflow);
        let (mut keep, mut check) = (Vec::new(), Vec::new());
        for _ in 0..self.gate.begin_check(u32::MAX) {
            let mut pooled = match self.take(now, now + TIME_LIMIT, None) {
                Taken::Session(pooled) => pooled,
                Taken::NotYet => {
                    self.gate.end_check();
                    continue;
                }
                Taken::Closed => {
                    self.gate.end_check_closed();
                    continue;
                }
            };
            pooled.report_statements(&self.statement_table, now, false);
            let status = self.generations.status(pooled.generation);
            if let Some(reason) = self.reason_to_trim(&pooled, status, &surplus, now, next_trim) {
                surplus.above_max = surplus.above_max.saturating_sub(1);
                surplus.above_min = surplus.above_min.saturating_sub(1);
                surplus.overflow = surplus.overflow.saturating_sub(1);
                self.close_inspected(pooled, reason);
            } else if status == GenerationStatus::Suspect || self.is_keepalive_due(&pooled, now) {
                check.push(pooled);
            } else {
                keep.push(pooled);
            }
        }
        let asked = if self.asks_for_capacity() { keep.pop() } else { None };
        for pooled in keep {
            self.keep_inspected(pooled);
        }
        if let Some(pooled) = asked {
            self.ask_for_capacity(pooled);
        }
        for mut pooled in check {
            let is_outdated = self.generations.status(pooled.generation) == GenerationStatus::Outdated;
            if !is_outdated && self.is_alive(&mut pooled, None) {
                self.keep_inspected(pooled);
            } else {
                self.close_inspected(pooled, CloseReason::Invalid);
            }
        }
        self.gate.keep_minimum();
    }

    /// Whether to ask the server how many connections it allows. PgBouncer's limits are other ones.
    fn asks_for_capacity(&self) -> bool {
        self.settings.pgbouncer_mode == PgBouncerMode::Off && self.capacity.is_due()
    }

    fn ask_for_capacity(&self, mut pooled: Pooled) {
        let mut answer = None;
        catch_panic(|| {
            answer = pooled.capacity(Instant::now() + TIME_LIMIT);
            answer.is_some()
        });
        self.capacity.set(answer.map(|(max_connections, used)| {
            let PoolStatus { available, in_use, .. } = self.gate.snapshot();
            ServerCapacity { max_connections, others: used.saturating_sub(available + in_use) }
        }));
        match pooled.verdict() {
            Verdict::Keep => self.keep_inspected(pooled),
            _ => self.close_inspected(pooled, CloseReason::Invalid),
        }
    }

    /// Why an idle connection must be closed; `None` if it may stay.
    fn reason_to_trim(
        &self,
        pooled: &Pooled,
        status: GenerationStatus,
        surplus: &Surplus,
        now: Instant,
        next_trim: &mut Instant,
    ) -> Option<CloseReason> {
        let idle_for = now.saturating_duration_since(pooled.idle_since);
        if surplus.above_max > 0 || status == GenerationStatus::Outdated {
            return Some(CloseReason::Retired);
        }
        if pooled.retire_at.is_some_and(|at| at <= now) {
            return Some(CloseReason::Expired);
        }
        if surplus.overflow > 0 && idle_for >= OVERFLOW_IDLE {
            return Some(CloseReason::Overflow);
        }
        let limit = self.settings.idle_timeout?;
        if surplus.above_min == 0 || idle_for < limit || now < *next_trim {
            return None;
        }
        // One at a time, so that load that returns soon finds the others.
        *next_trim = now + limit / TRIM_FRACTION;
        Some(CloseReason::Idle)
    }

    fn is_keepalive_due(&self, pooled: &Pooled, now: Instant) -> bool {
        let silent_for = now.saturating_duration_since(pooled.conn().answered_at());
        self.settings.keepalive.is_some_and(|interval| silent_for >= interval)
    }

    /// Puts an inspected connection back into its slot.
    fn keep_inspected(&self, pooled: Pooled) {
        // Put it back before reporting it to the gate, which may lend it immediately.
        match self.slots.put(pooled) {
            Ok(_) => self.gate.end_check(),
            Err(session) => {
                self.maintenance.close_dropped(session, &self.gate);
                self.gate.end_check_closed();
            }
        }
    }

    fn close_inspected(&self, pooled: Pooled, reason: CloseReason) {
        self.close_one(pooled, reason);
        self.gate.end_check_closed();
    }

    /// Logs each connection that is held for longer than the leak threshold, once.
    fn report_leaks(&self) {
        let Some(threshold) = self.settings.leak_threshold else { return };
        let mut found = Vec::new();
        self.slots.held_longer_than(threshold, |holder, held| {
            if !std::mem::replace(&mut holder.reported, true) {
                found.push((holder.at, held));
            }
        });
        for (at, held) in found {
            self.gate.with_counts(|counts| counts.leaks += 1);
            let (held, pool) = (held.as_secs_f64(), &self.settings.name);
            logged(|| warn!("Connection held for {held:.1} s, acquired at {at}: leaked? (pool \"{pool}\")"));
        }
    }
}
