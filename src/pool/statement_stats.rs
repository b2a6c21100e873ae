//! What the pool's statements cost: calls, failures, rows and times by the statement's shape.
//!
//! A session counts for itself, and reports about once a second when it is returned or inspected. The number of statements kept is
//! bounded; those used last stay.
//!
//! **Lock rule**: one mutex, held to add one session's counts or to copy the table. A session that is not about to be closed does
//! not wait for it.

use crate::pool::status::Histogram;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// The most statements kept.
const MOST: NonZeroUsize = NonZeroUsize::new(500).unwrap();

/// How often a session reports, at most.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What a statement has cost since the pool was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatementStats {
    /// Its text, with `?` for each literal and `$` for each parameter; at most about 300 bytes.
    pub text: Arc<str>,
    /// The calls, including failed ones. The first call in the pool, in which the server describes the statement, and calls
    /// of statements that are not kept prepared are not counted.
    pub calls: u64,
    /// The calls that failed.
    pub failures: u64,
    /// The rows returned or affected.
    pub rows: u64,
    /// How long the calls took, from sending to the reply.
    pub times: Histogram,
}

/// What one session has counted of one statement since it last reported.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// The statement's shape; made when it is first reported.
    shape: Option<Arc<str>>,
    calls: u64,
    failures: u64,
    rows: u64,
    times: Histogram,
}

impl Counts {
    pub(crate) fn note_call(&mut self, time: Duration, rows: u64) {
        self.calls += 1;
        self.rows += rows;
        self.times.add(time);
    }

    pub(crate) fn note_failure(&mut self, time: Duration) {
        self.failures += 1;
        self.note_call(time, 0);
    }
}

/// The table of one pool.
#[derive(Debug)]
pub(crate) struct StatementTable(Mutex<Table>);

#[derive(Debug)]
struct Table {
    statements: LruCache<Arc<str>, StatementStats>,
    /// The time of all calls.
    time: Duration,
}

impl StatementTable {
    pub(crate) fn new() -> StatementTable {
        StatementTable(Mutex::new(Table { statements: LruCache::new(MOST), time: Duration::ZERO }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statements, in no order.
    pub(crate) fn statements(&self) -> Vec<StatementStats> {
        self.table().statements.iter().map(|(_, stats)| stats.clone()).collect()
    }

    /// How long all calls have taken.
    pub(crate) fn time(&self) -> Duration {
        self.table().time
    }
}

/// When a session reports.
#[derive(Debug)]
pub(crate) struct Reporting {
    due: Instant,
}

impl Reporting {
    pub(crate) fn new() -> Reporting {
        Reporting { due: Instant::now() + REPORT_EVERY }
    }

    /// Adds the session's counts if that is due, or if this is the last time; `shape` makes a statement's shape.
    pub(crate) fn report<'a>(
        &mut self,
        table: &StatementTable,
        now: Instant,
        is_last: bool,
        counts: impl Iterator<Item = (&'a str, &'a mut Counts)>,
        shape: impl Fn(&str) -> String,
    ) {
        if now < self.due && !is_last {
            return;
        }
        let mut table = match table.0.try_lock() {
            Ok(table) => table,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if is_last => table.table(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.due = now + REPORT_EVERY;
        for (sql, counts) in counts.filter(|(_, counts)| counts.calls > 0) {
            let shape = counts.shape.get_or_insert_with(|| shape(sql).into()).clone();
            let new = StatementStats { text: shape.clone(), ..StatementStats::default() };
            let stats = table.statements.get_or_insert_mut(shape.clone(), || new);
            stats.calls += counts.calls;
            stats.failures += counts.failures;
            stats.rows = stats.rows.saturating_add(counts.rows);
            stats.times.merge(&counts.times);
            table.time = table.time.saturating_add(counts.times.sum);
            *counts = Counts { shape: Some(shape), ..Counts::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn count(calls: u64) -> Counts {
        let mut counts = Counts::default();
        (0..calls).for_each(|_| counts.note_call(MS, 3));
        counts
    }

    #[test]
    fn counts_are_reported_when_due_and_before_the_end_and_only_once() {
        let (table, mut reporting) = (StatementTable::new(), Reporting::new());
        let (mut counts, now) = (count(2), Instant::now());
        counts.note_failure(5 * MS);
        let mut report = |counts: &mut Counts, now, is_last| {
            let sessions = std::iter::once(("SELECT 1", counts));
            reporting.report(&table, now, is_last, sessions, str::to_lowercase);
            table.statements().first().map_or(0, |statement| statement.calls)
        };
        assert_eq!(report(&mut counts, now, false), 0, "reported before it was due");
        assert_eq!(report(&mut counts, now + 2 * REPORT_EVERY, false), 3);
        assert_eq!(report(&mut counts, now + 4 * REPORT_EVERY, false), 3, "reported twice");
        counts.note_call(MS, 3);
        assert_eq!(report(&mut counts, now + 4 * REPORT_EVERY, false), 3, "reported before it was due");
        assert_eq!(report(&mut counts, now + 4 * REPORT_EVERY, true), 4);
        let statement = &table.statements()[0];
        assert_eq!((&*statement.text, statement.failures, statement.rows), ("select 1", 1, 9));
        assert_eq!((table.time(), statement.times.sum), (8 * MS, 8 * MS));
    }

    #[test]
    fn statements_of_one_shape_are_one_and_the_number_kept_is_bounded() {
        let (table, mut reporting) = (StatementTable::new(), Reporting::new());
        let texts: Vec<_> = (0..2000).map(|number| format!("SELECT {number}")).collect();
        let mut counts: Vec<_> = texts.iter().map(|text| (text.as_str(), count(1))).collect();
        let now = Instant::now();
        let each = counts.iter_mut().map(|(text, counts)| (*text, counts));
        reporting.report(&table, now, true, each, |sql| sql[..9.min(sql.len())].to_owned());
        let statements = table.statements();
        assert_eq!(statements.iter().map(|statement| statement.calls).sum::<u64>(), 2000);
        assert!(statements.iter().any(|statement| statement.calls == 111), "{statements:?}");
        for text in &texts {
            let mut one = count(1);
            reporting.report(&table, now, true, std::iter::once((text.as_str(), &mut one)), str::to_owned);
        }
        assert_eq!(table.statements().len(), MOST.get());
    }
}
