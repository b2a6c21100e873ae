//! Generations of connections: one that breaks casts doubt on every older one.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much a connection made in some generation is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GenerationStatus {
    Good,
    /// Another one broke since: check before lending.
    Suspect,
    /// Close it unchecked.
    Outdated,
}

/// Numbers that only grow. A connection carries the number of the time it was made.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    current: AtomicU64,
    suspect_below: AtomicU64,
    outdated_below: AtomicU64,
}

impl Generations {
    pub(crate) fn current(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    pub(crate) fn standing(&self, generation: u64) -> GenerationStatus {
        if generation < self.outdated_below.load(Ordering::Relaxed) {
            GenerationStatus::Outdated
        } else if generation < self.suspect_below.load(Ordering::Relaxed) {
            GenerationStatus::Suspect
        } else {
            GenerationStatus::Good
        }
    }

    /// A connection of `generation` broke: those made before now are suspect. Ten that break together raise
    /// the doubt once, because the other nine were under it already. Returns whether this one was the first.
    pub(crate) fn suspect(&self, generation: u64) -> bool {
        self.raise(&self.suspect_below, generation)
    }

    /// A connection of `generation` did not even answer a check: those made before now are not worth one.
    pub(crate) fn outdate(&self, generation: u64) -> bool {
        self.raise(&self.outdated_below, generation)
    }

    /// Every connection there is is to be replaced.
    pub(crate) fn outdate_all(&self) {
        self.outdate(self.current());
    }

    fn raise(&self, bar: &AtomicU64, generation: u64) -> bool {
        if generation < bar.load(Ordering::Relaxed) {
            return false;
        }
        let next = self.current.fetch_add(1, Ordering::Relaxed) + 1;
        bar.fetch_max(next, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_break_casts_doubt_on_all_older_ones_and_the_rest_add_none() {
        let generations = Generations::default();
        let old = generations.current();
        assert_eq!(generations.standing(old), GenerationStatus::Good);
        assert!(generations.suspect(old));
        assert!(!generations.suspect(old));
        assert_eq!(generations.standing(old), GenerationStatus::Suspect);
        assert_eq!(generations.standing(generations.current()), GenerationStatus::Good);
    }

    #[test]
    fn outdated_ones_are_not_checked() {
        let generations = Generations::default();
        let old = generations.current();
        generations.outdate_all();
        assert_eq!(generations.standing(old), GenerationStatus::Outdated);
        assert_eq!(generations.standing(generations.current()), GenerationStatus::Good);
    }
}
