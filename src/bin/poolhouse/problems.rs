//! Everything wrong with what somebody sent.

/// More problems than this are counted, not kept: a file or a request may be nothing but problems.
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

    /// The value of an outcome; its problem is kept.
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
