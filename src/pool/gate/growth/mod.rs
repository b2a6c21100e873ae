//! Growth: decides whether the pool opens another connection. Pure: it is given the counts and the time, and learns the usual
//! connect and hold times from them.
//!
//! Two rules request connections:
//!
//! - **At once**, where waiting certainly takes longer than connecting: no connection is in use that could come back, or the
//!   connections in use are held for longer than a connect takes.
//! - **When demand lasts.** While callers wait for which no connection is open or requested, *pressure* grows by the time that
//!   passes. When it reaches a connect time, a connection requested at its beginning would be in use by now: one is requested,
//!   and the pressure restarts from zero. If the pressure gets there again without a break, two are requested, then four, so
//!   that any size is reached within a few connect times. A spike shorter than a connect requests none.
//!
//! Pressure belongs to the queue, not to a single caller: under lasting load each caller waits for less than a connect time, and
//! the queue is never empty. While no caller waits, pressure falls, but [`DECAY`] times slower than it grows, so that short
//! gaps and load in pulses do not count as calm.

use std::time::{Duration, Instant};

/// How many times slower pressure falls than it grows.
const DECAY: u32 = 64;

/// What the gate has learnt of connect times, hold times, and demand.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Moving average of connect times.
    connect: Option<Duration>,
    /// Moving average of hold times. The gate keeps it beside the counts that change with it; see [`average_hold`].
    pub(super) hold: Option<Duration>,
    /// The pressure at `updated`, at most a connect time.
    pressure: Duration,
    updated: Option<Instant>,
    /// Whether pressure grows since `updated`.
    is_pressed: bool,
    /// The number of connections that lasting demand requested last, and when.
    step: u32,
    stepped: Option<Instant>,
}

impl Growth {
    /// The usual connect time; zero before the first connect.
    pub(crate) fn connect_time(&self) -> Duration {
        self.connect.unwrap_or(Duration::ZERO)
    }

    /// The usual connect time; `None` before the first connect.
    pub(crate) fn usual_connect_time(&self) -> Option<Duration> {
        self.connect
    }

    pub(crate) fn note_connect(&mut self, took: Duration) {
        self.connect = Some(average(self.connect, took, 4));
    }

    /// Notes how many callers wait for which no connection is open or requested. Required after every change of that number.
    pub(crate) fn note_demand(&mut self, now: Instant, unserved: usize) {
        if self.is_pressed != (unserved > 0) {
            self.update(now);
            self.is_pressed = unserved > 0;
        }
    }

    /// Notes a caller that could not wait and was turned away. It counts like a caller that waited for the usual hold time.
    pub(crate) fn note_turned_away(&mut self, now: Instant) {
        self.update(now);
        self.pressure += self.hold.unwrap_or_default();
    }

    /// Whether callers waited for want of a connection when demand was last noted.
    #[cfg(test)]
    pub(crate) fn is_pressed(&self) -> bool {
        self.is_pressed
    }

    /// When [`connects_wanted`](Growth::connects_wanted) has to be called again if no event comes before.
    pub(crate) fn due(&self) -> Option<Instant> {
        let updated = self.updated.filter(|_| self.is_pressed)?;
        Some(updated + self.connect_time().saturating_sub(self.pressure))
    }

    /// How many connects to request now. `unserved` callers wait for which no connection is open or requested. `checking`
    /// connections are under maintenance and return soon: they reduce what is requested at once, not the pressure.
    pub(crate) fn connects_wanted(
        &mut self,
        now: Instant,
        in_use: u32,
        checking: u32,
        unserved: usize,
    ) -> u32 {
        let unserved = u32::try_from(unserved).unwrap_or(u32::MAX);
        let mut at_once = 0;
        let urgent = unserved.saturating_sub(checking);
        while at_once < urgent && self.is_connect_faster(in_use + checking, urgent - at_once) {
            at_once += 1;
        }
        if unserved == 0 || self.pressure_at(now) < self.connect_time() {
            return at_once;
        }
        // The pressure needs one connect time to return. Twice that allows for a late call.
        let lasts = self.stepped.is_some_and(|then| now <= then + 2 * self.connect_time());
        self.step = if lasts { self.step.saturating_mul(2) } else { 1 };
        self.stepped = Some(now);
        (self.pressure, self.updated) = (Duration::ZERO, Some(now));
        at_once.max(self.step.min(unserved))
    }

    /// Whether the last of `unserved` callers gets a new connection sooner than one that is in use now.
    fn is_connect_faster(&self, in_use: u32, unserved: u32) -> bool {
        let connect = self.connect_time();
        if in_use == 0 || connect.is_zero() {
            return true;
        }
        self.hold.is_some_and(|hold| hold.saturating_mul(unserved.div_ceil(in_use)) > connect)
    }

    fn pressure_at(&self, now: Instant) -> Duration {
        let passed = self.updated.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        if self.is_pressed {
            (self.pressure + passed).min(self.connect_time())
        } else {
            self.pressure.saturating_sub(passed / DECAY)
        }
    }

    fn update(&mut self, now: Instant) {
        self.pressure = self.pressure_at(now);
        self.updated = Some(now);
    }
}

/// The moving average of hold times after one more.
pub(super) fn average_hold(old: Option<Duration>, held: Duration) -> Duration {
    average(old, held, 16)
}

/// An exponentially weighted average that moves by 1/`weight` of the difference.
fn average(old: Option<Duration>, new: Duration, weight: u32) -> Duration {
    match old {
        None => new,
        Some(old) if new >= old => old + (new - old) / weight,
        Some(old) => old - (old - new) / weight,
    }
}

#[cfg(test)]
mod tests;
