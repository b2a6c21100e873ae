//! A list of what is wrong with an input, bounded in length. It knows nothing of the input.

/// How many problems are kept; the rest are only counted, because every line of a large input may have one.
const SHOWN: usize = 20;

/// The first few problems, and how many there are.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    shown: Vec<String>,
    more: u64,
}

impl Problems {
    pub(crate) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    pub(crate) fn add(&mut self, problem: String) {
        match self.shown.len() < SHOWN {
            true => self.shown.push(problem),
            false => self.more += 1,
        }
    }

    /// Returns the value, or keeps the problem.
    pub(crate) fn take<T>(&mut self, outcome: Result<T, String>) -> Option<T> {
        outcome.map_err(|problem| self.add(problem)).ok()
    }

    pub(crate) fn joined(&self, separator: &str) -> String {
        let text = self.shown.join(separator);
        match self.more {
            0 => text,
            more => format!("{text}{separator}… and {more} more"),
        }
    }
}
