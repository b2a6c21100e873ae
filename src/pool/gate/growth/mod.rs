//! Whether one more connection is worth making. Pure: it is given the counts and the time, and learns from both.
//!
//! Two rules order connections:
//!
//! - **At once**, where waiting is certain to take longer than connecting: nothing is in use that could come
//!   back, or what is in use is held for longer than a connect takes.
//! - **When demand lasts.** While callers wait for a connection that is not even connecting, pressure grows by
//!   the time that passes. When it has reached a connect time, a connection ordered at its beginning would be in
//!   use by now: one is ordered, and the pressure begins anew. If it does so without a break, two are ordered
//!   next, then four, so that any size is reached within a few connect times. A spike that is over sooner than a
//!   connect orders none.
//!
//! Pressure belongs to the queue, not to a caller: under lasting load no single caller waits as long as a connect
//! takes, and all of them together wait for ever. While nobody waits it falls, but [`CALM`] times slower than it
//! grew, so that neither a queue that is empty now and then nor load that comes in pulses is taken for calm.

use std::time::{Duration, Instant};

/// How much calm pays back one unit of pressure.
const CALM: u32 = 64;

/// What the gate has learnt of connecting, of use, and of demand.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Moving averages.
    connect: Option<Duration>,
    hold: Option<Duration>,
    /// How long callers have waited for want of a connection, at `counted`; never more than a connect takes.
    pressure: Duration,
    counted: Option<Instant>,
    /// Whether any caller has waited so since `counted`.
    is_pressed: bool,
    /// How many were ordered last because demand lasts, and when.
    step: u32,
    stepped: Option<Instant>,
}

impl Growth {
    /// How long a connect is expected to take; zero before the first.
    pub(crate) fn connect_time(&self) -> Duration {
        self.connect.unwrap_or(Duration::ZERO)
    }

    /// The same; `None` before the first.
    pub(crate) fn usual_connect_time(&self) -> Option<Duration> {
        self.connect
    }

    pub(crate) fn note_connect(&mut self, took: Duration) {
        self.connect = Some(average(self.connect, took, 4));
    }

    pub(crate) fn note_use(&mut self, held: Duration) {
        self.hold = Some(average(self.hold, held, 16));
    }

    /// To be told of every change: how many callers wait for a connection that is neither there nor connecting.
    pub(crate) fn note_demand(&mut self, now: Instant, unserved: usize) {
        if self.is_pressed != (unserved > 0) {
            self.count(now);
            self.is_pressed = unserved > 0;
        }
    }

    /// A caller that could not wait was turned away for want of a connection: it counts like one that waited for
    /// as long as a connection is usually held.
    pub(crate) fn note_turned_away(&mut self, now: Instant) {
        self.count(now);
        self.pressure += self.hold.unwrap_or_default();
    }

    /// Whether callers waited for want of a connection when demand was last noted.
    #[cfg(test)]
    pub(crate) fn is_pressed(&self) -> bool {
        self.is_pressed
    }

    /// When [`orders`](Growth::orders) is to be asked again, if nothing happens before.
    pub(crate) fn due(&self) -> Option<Instant> {
        let counted = self.counted.filter(|_| self.is_pressed)?;
        Some(counted + self.connect_time().saturating_sub(self.pressure))
    }

    /// How many connections to order now. `unserved` callers wait for one that is not connecting, `checking` are
    /// with the maintenance thread and back in a moment: as pressure shows where they are not.
    pub(crate) fn orders(&mut self, now: Instant, in_use: u32, checking: u32, unserved: usize) -> u32 {
        let unserved = u32::try_from(unserved).unwrap_or(u32::MAX);
        let mut at_once = 0;
        let urgent = unserved.saturating_sub(checking);
        while at_once < urgent && self.is_worth_it_at_once(in_use + checking, urgent - at_once) {
            at_once += 1;
        }
        if unserved == 0 || self.pressure_at(now) < self.connect_time() {
            return at_once;
        }
        // Twice the time in which the pressure can be back at the earliest: one that is served late is no break.
        let lasts = self.stepped.is_some_and(|then| now <= then + 2 * self.connect_time());
        self.step = if lasts { self.step.saturating_mul(2) } else { 1 };
        self.stepped = Some(now);
        (self.pressure, self.counted) = (Duration::ZERO, Some(now));
        at_once.max(self.step.min(unserved))
    }

    /// Whether the last of `unserved` callers would have a new connection sooner than one that is in use now.
    fn is_worth_it_at_once(&self, in_use: u32, unserved: u32) -> bool {
        let connect = self.connect_time();
        if in_use == 0 || connect.is_zero() {
            return true;
        }
        self.hold.is_some_and(|hold| hold.saturating_mul(unserved.div_ceil(in_use)) > connect)
    }

    fn pressure_at(&self, now: Instant) -> Duration {
        let passed = self.counted.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        if self.is_pressed {
            (self.pressure + passed).min(self.connect_time())
        } else {
            self.pressure.saturating_sub(passed / CALM)
        }
    }

    fn count(&mut self, now: Instant) {
        self.pressure = self.pressure_at(now);
        self.counted = Some(now);
    }
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
