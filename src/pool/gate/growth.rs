//! Whether one more connection is worth making.

use std::time::Duration;

/// What the gate has learnt of connecting and of use, as moving averages.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    connect: Option<Duration>,
    hold: Option<Duration>,
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

    /// Whether the last of `unserved` callers gains from one more connection: when nobody will return one, or
    /// when those in use are expected to come back later than a new one would be made, or when the longest
    /// wait has already cost as much as a connect. The last rule bounds the regret: at worst a caller waits
    /// twice as long as it would have with perfect foresight (the ski-rental argument).
    pub(crate) fn is_worth_it(&self, in_use: u32, unserved: usize, longest_wait: Duration) -> bool {
        let connect = self.connect_time();
        if in_use == 0 || longest_wait >= connect {
            return true;
        }
        let rounds = unserved.div_ceil(in_use as usize).min(u32::MAX as usize) as u32;
        self.hold.is_some_and(|hold| hold.saturating_mul(rounds) > connect)
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
mod tests {
    use super::*;

    fn learnt(connect_ms: u64, hold_ms: u64) -> Growth {
        let mut growth = Growth::default();
        growth.note_connect(Duration::from_millis(connect_ms));
        growth.note_use(Duration::from_millis(hold_ms));
        growth
    }

    #[test]
    fn short_uses_are_waited_for_and_slow_connects_not_made() {
        assert!(!learnt(150, 2).is_worth_it(5, 45, Duration::from_millis(20)));
    }

    #[test]
    fn long_uses_are_not_waited_for() {
        assert!(learnt(5, 100).is_worth_it(5, 1, Duration::ZERO));
    }

    #[test]
    fn a_wait_as_long_as_a_connect_ends_the_patience() {
        assert!(learnt(150, 2).is_worth_it(5, 1, Duration::from_millis(150)));
    }

    #[test]
    fn with_nothing_in_use_there_is_nothing_to_wait_for() {
        assert!(learnt(150, 2).is_worth_it(0, 1, Duration::ZERO));
    }
}
