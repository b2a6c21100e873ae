//! Threads that read and write, and remember the reported outcomes.

use super::Plan;
use super::clock::{Bound, Clock};
use super::faults::Fault;
use super::ledger::{CLEAN, COUNT_ENTRY, Claim, Claims, Ending, Entry, SELECT_SUM, SUM, TRACES, UNDO};
use super::stage::{ACQUIRE_TIMEOUT, STATEMENT_TIMEOUT};
use super::tally::{Board, Counts, DONE, Deed, IMPATIENT, Outcome, is_failure, outcome_of};
use crate::support::Mark;
use poolhouse::{Connection, Error, Execute, Pool, Result, Transaction};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long after a repair a pool has to be well.
pub(crate) const HEALING: Duration = Duration::from_secs(1);

/// A thread that was kept from running for this long is no witness of deadlines.
const MUCH_TOO_LATE: Duration = Duration::from_millis(200);
const LACK_OF_TIME: [Outcome; 3] = ["DeadlineExceeded", "Exhausted", "Down"];

/// How long a worker waits for a connection of its own, in milliseconds; the shorter ones end in vain at times.
const PATIENCE_MS: [u64; 5] = [0, 5, 50, 400, 2000];

/// The most a worker rests between two operations: enough of them to keep the pools busy, and not so many that the
/// machine is.
const LONGEST_REST: Duration = Duration::from_millis(12);

/// One thread's part.
pub(crate) struct Worker {
    number: usize,
    pool: Pool,
    board: Arc<Board>,
    clock: Arc<Clock>,
    leniency: Duration,
    rng: fastrand::Rng,
    next_id: i64,
    last_done: Option<i64>,
    report: Report,
}

/// What a worker brings home.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) claims: Claims,
    pub(crate) counts: Counts,
}

impl Worker {
    /// The plan's seed and `number` decide what it does; its entries are numbered from `first_id` on.
    pub(crate) fn new(
        number: usize,
        first_id: i64,
        plan: &Plan,
        pool: Pool,
        board: Arc<Board>,
        clock: Arc<Clock>,
    ) -> Worker {
        let rng = fastrand::Rng::with_seed(plan.seed.wrapping_add(number as u64 + 1));
        let (leniency, report) = (plan.leniency, Report::default());
        Worker { number, pool, board, clock, leniency, rng, next_id: first_id, last_done: None, report }
    }

    /// Works until the board says that it is over.
    pub(crate) fn run(mut self) -> Report {
        while !self.board.is_over() {
            let began = Instant::now();
            self.board.begin(self.number, began);
            match self.rng.u32(0..100) {
                0..25 => self.read(began),
                25..45 => self.read_lent(began),
                45..52 => self.write(began),
                52..55 => self.write_many(began),
                55..67 => self.transfer(Deed::Transaction, began),
                67..80 => self.transfer(Deed::Verified, began),
                80..93 => self.transfer(Deed::TransactionLent, began),
                _ => self.leave_a_trace(began),
            }
            self.board.rest(self.number);
            sleep(LONGEST_REST.mul_f64(self.rng.f64()));
        }
        self.report
    }

    /// The sum, or one's own last entry: both are known beforehand.
    fn read(&mut self, began: Instant) {
        let allowed = ACQUIRE_TIMEOUT + STATEMENT_TIMEOUT;
        let (expected, result) = match self.last_done {
            Some(id) if self.rng.bool() => {
                let count = || self.pool.execute_query_one::<i64>(COUNT_ENTRY, &[&id]);
                (1, self.clock.time(Bound::Query, allowed, "execute_query_one", count))
            }
            _ => {
                let sum = || self.pool.execute_query_one::<i64>(SELECT_SUM, &[]);
                (SUM, self.clock.time(Bound::Query, allowed, "execute_query_one", sum))
            }
        };
        if let Ok(found) = &result
            && *found != Some(expected)
        {
            self.find(format!("read {found:?} where {expected} was right (last entry {:?})", self.last_done));
        }
        self.count(Deed::Read, began, &result);
    }

    /// Takes a connection, and looks whether it is clean.
    fn read_lent(&mut self, began: Instant) {
        let Some(connection) = self.acquire(Deed::ReadLent, began) else { return };
        let clean = || connection.execute_query_one::<String>(CLEAN, &[]);
        let result = self.clock.time(Bound::Query, STATEMENT_TIMEOUT, "query on a lent connection", clean);
        if let Ok(Some(traces)) = &result
            && !traces.is_empty()
        {
            self.find(format!("a dirty session: {traces}"));
        }
        self.release(connection);
        self.count(Deed::ReadLent, began, &result);
    }

    fn write(&mut self, began: Instant) {
        let entry = Entry::note(self.new_id());
        let allowed = ACQUIRE_TIMEOUT + STATEMENT_TIMEOUT;
        let write = || entry.write(&self.pool);
        let result = self.clock.time(Bound::Query, allowed, "execute_write", write);
        self.claim(Deed::Write, entry.id, began, result.map(drop));
    }

    /// A few entries, all of which are written or none.
    fn write_many(&mut self, began: Instant) {
        let entries: Vec<_> = (0..self.rng.u32(1..6)).map(|_| Entry::note(self.new_id())).collect();
        // BEGIN, the rows, COMMIT.
        let allowed = ACQUIRE_TIMEOUT + 3 * STATEMENT_TIMEOUT;
        let is_copy = self.rng.bool();
        let write = || Entry::write_all(&entries, &self.pool, is_copy);
        let result = self.clock.time(Bound::Query, allowed, "execute_many, copy_in", write).map(drop);
        for entry in &entries {
            let claim = self.witness(Deed::Bulk, entry.id, began);
            self.report.claims.note(claim, &result);
        }
        self.count(Deed::Bulk, began, &result);
    }

    fn transfer(&mut self, deed: Deed, began: Instant) {
        let mut connection = None;
        if deed == Deed::TransactionLent {
            connection = self.acquire(deed, began);
            if connection.is_none() {
                return;
            }
        }
        let entry = Entry::transfer(self.new_id(), &mut self.rng);
        let ending = match self.rng.u32(0..20) {
            0 => Ending::Error,
            1 => Ending::Panic,
            _ => Ending::Commit,
        };
        let (entered, left) = (Cell::new(None), Cell::new(None));
        let clock = self.clock.clone();
        let work = |tx: &mut Transaction<'_>| {
            entered.set(Some(Mark::now()));
            // A panic must be timed too.
            let result = catch_unwind(AssertUnwindSafe(|| entry.carry_out(tx, ending, &clock)));
            left.set(Some((Mark::now(), matches!(result, Ok(Ok(()))))));
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let started = Mark::now();
        let result = catch_unwind(AssertUnwindSafe(|| match (&mut connection, deed) {
            (Some(connection), _) => connection.transaction(work),
            (None, Deed::Verified) => self.pool.transaction_verified(work),
            (None, _) => self.pool.transaction(work),
        }));
        let ended = Mark::now();
        let waiting = if connection.is_some() { Duration::ZERO } else { ACQUIRE_TIMEOUT };
        let begin = waiting + STATEMENT_TIMEOUT;
        clock.note(Bound::Query, begin, "BEGIN", started, entered.get().unwrap_or(ended));
        if let Some((left, is_ok)) = left.get() {
            // A commit is verified on another connection.
            let verifying = if deed == Deed::Verified { begin } else { Duration::ZERO };
            let (what, allowed) =
                if is_ok { ("COMMIT", STATEMENT_TIMEOUT + verifying) } else { ("ROLLBACK", UNDO) };
            clock.note(Bound::Query, allowed, what, left, ended);
        }
        if let Some(connection) = connection {
            self.release(connection);
        }
        // A panic went through `transaction`: it is rolled back.
        let result = result.unwrap_or_else(|_| Err(Error::application("the caller panicked")));
        self.claim(deed, entry.id, began, result);
    }

    /// Does to a session what the next borrower must not see.
    fn leave_a_trace(&mut self, began: Instant) {
        let Some(mut connection) = self.acquire(Deed::Trace, began) else { return };
        let (sql, _) = TRACES[self.rng.usize(0..TRACES.len())];
        let id = self.new_id();
        let sql = sql.replace("/*id*/", &id.to_string());
        let run = || connection.client().batch_execute(&sql).map_err(Error::from);
        let result = self.clock.time(Bound::Query, STATEMENT_TIMEOUT, "raw access", run);
        if sql.contains(&id.to_string()) {
            // Never committed.
            let claim = self.witness(Deed::Trace, id, began);
            self.report.claims.not_done.push(claim);
        }
        self.release(connection);
        // The driver's own errors say less than ours: whatever it is, it is the connection's.
        self.note(Deed::Trace, began, if result.is_ok() { DONE } else { "ConnectionLost" }, "");
    }

    fn acquire(&mut self, deed: Deed, began: Instant) -> Option<Connection> {
        let patience = Duration::from_millis(PATIENCE_MS[self.rng.usize(0..PATIENCE_MS.len())]);
        let get = || self.pool.get_connection_timeout(patience);
        match self.clock.time(Bound::Acquire, patience, "get_connection_timeout", get) {
            Ok(connection) => Some(connection),
            // Short of patience, not of connections.
            Err(Error::Exhausted(_)) if patience < ACQUIRE_TIMEOUT => {
                *self.report.counts.entry((self.board.phase().fault, deed, IMPATIENT)).or_default() += 1;
                None
            }
            Err(error) => {
                self.count::<()>(deed, began, &Err(error));
                None
            }
        }
    }

    fn release(&self, connection: Connection) {
        self.clock.time(Bound::Release, Duration::ZERO, "drop of a connection", || drop(connection));
    }

    fn new_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    /// Remembers the reported outcome of a write.
    fn claim(&mut self, deed: Deed, id: i64, began: Instant, result: Result<()>) {
        let claim = self.witness(deed, id, began);
        if result.is_ok() {
            self.last_done = Some(id);
        }
        self.report.claims.note(claim, &result);
        self.count(deed, began, &result);
    }

    fn witness(&self, deed: Deed, id: i64, began: Instant) -> Claim {
        let took_ms = u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX);
        Claim { id, deed, fault: self.board.phase().fault, took_ms }
    }

    fn count<R>(&mut self, deed: Deed, began: Instant, result: &Result<R>) {
        let words = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        self.note(deed, began, outcome_of(result), &words);
        if let Err(Error::Query(_)) = result
            && !is_weather(result)
        {
            self.find(format!("{}: {words}", deed.name()));
        }
    }

    fn note(&mut self, deed: Deed, began: Instant, outcome: Outcome, words: &str) {
        let phase = self.board.phase();
        *self.report.counts.entry((phase.fault, deed, outcome)).or_default() += 1;
        if !is_failure(outcome) {
            return;
        }
        let repaired_at = match phase.fault {
            Some(_) => phase.repaired_at,
            None => Some(self.board.zero()),
        };
        let slack = |since| self.leniency + self.clock.lateness_between(since, Instant::now());
        if let Some(repaired_at) = repaired_at
            && began > repaired_at + HEALING + slack(repaired_at)
        {
            let fault = phase.fault.map_or("nothing".to_owned(), |fault| fault.to_string());
            let (what, after) = (deed.name(), (began - repaired_at).as_secs_f64());
            self.find(format!("{what} failed {after:.2} s after the repair of '{fault}': {outcome} {words}"));
        }
        // A thread that cannot run cannot be in time.
        let is_excused = LACK_OF_TIME.contains(&outcome) && slack(began) > MUCH_TOO_LATE;
        if deed == Deed::Read && phase.fault == Some(Fault::FastRestart) && !is_excused {
            self.find(format!("a read failed during a fast restart: {outcome} {words}"));
        }
    }

    fn find(&self, finding: String) {
        self.board.find(finding);
    }
}

/// Whether the server refused a statement for what was done to the server, and not for what it says.
fn is_weather<R>(result: &Result<R>) -> bool {
    matches!(result, Err(error) if error.is_transient())
}
