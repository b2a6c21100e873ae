//! Generations of connections: when one connection breaks, all older ones become suspect.
//!
//! It knows numbers alone, and no connection. There is no lock; the three numbers only grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is known of the connections of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GenerationStatus {
    Good,
    /// A connection broke since they were made: check before lending.
    Suspect,
    /// Close without a check.
    Outdated,
}

/// The generation numbers of one pool. A connection keeps the number that was current when it was made.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    current: AtomicU64,
    suspect_below: AtomicU64,
    outdated_below: AtomicU64,
}

impl Generations {
    /// The generation of connections made now.
    pub(crate) fn current(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    pub(crate) fn status(&self, generation: u64) -> GenerationStatus {
        if generation < self.outdated_below.load(Ordering::Relaxed) {
            GenerationStatus::Outdated
        } else if generation < self.suspect_below.load(Ordering::Relaxed) {
            GenerationStatus::Suspect
        } else {
            GenerationStatus::Good
        }
    }

    /// Marks every connection made so far as suspect, because one of `generation` broke. Returns false without a change if that
    /// generation was suspect already, so that ten connections that break together count once.
    pub(crate) fn suspect(&self, generation: u64) -> bool {
        self.raise(&self.suspect_below, generation)
    }

    /// Marks every connection made so far as outdated, because one of `generation` did not answer a check. Returns false
    /// without a change if that generation was outdated already.
    pub(crate) fn outdate(&self, generation: u64) -> bool {
        self.raise(&self.outdated_below, generation)
    }

    /// Marks every connection made so far as outdated.
    pub(crate) fn outdate_all(&self) {
        self.outdate(self.current());
    }

    fn raise(&self, bound: &AtomicU64, generation: u64) -> bool {
        if generation < bound.load(Ordering::Relaxed) {
            return false;
        }
        let next = self.current.fetch_add(1, Ordering::Relaxed) + 1;
        bound.fetch_max(next, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_broken_connection_makes_older_ones_suspect_and_later_ones_change_nothing() {
        let generations = Generations::default();
        let old = generations.current();
        assert_eq!(generations.status(old), GenerationStatus::Good);
        assert!(generations.suspect(old));
        assert!(!generations.suspect(old));
        assert_eq!(generations.status(old), GenerationStatus::Suspect);
        assert_eq!(generations.status(generations.current()), GenerationStatus::Good);
    }

    #[test]
    fn connections_made_after_a_reset_are_good() {
        let generations = Generations::default();
        let old = generations.current();
        generations.outdate_all();
        assert_eq!(generations.status(old), GenerationStatus::Outdated);
        assert_eq!(generations.status(generations.current()), GenerationStatus::Good);
    }
}
