//! What is written: transfers between accounts, each with a number of its own. The sum of all balances never
//! changes, and the entries say what each balance must be.

use super::clock::{Bound, Clock};
use super::faults::Fault;
use super::stage::STATEMENT_TIMEOUT;
use super::tally::Deed;
use poolhouse::{Bulk, Error, Execute, Result, Transaction};
use std::fmt;
use std::panic::resume_unwind;
use std::time::Duration;

/// How many accounts there are; so few that transfers meet.
pub(crate) const ACCOUNTS: i32 = 24;
/// What each of them begins with.
pub(crate) const BALANCE: i64 = 1000;
/// What all of them have together, at any time.
pub(crate) const SUM: i64 = ACCOUNTS as i64 * BALANCE;

/// Makes the tables. The entries have no unique key: one written twice is to be seen, not refused.
pub(crate) const TABLES: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE entries (id bigint NOT NULL, source int NOT NULL, target int NOT NULL, amount bigint NOT NULL);
    CREATE INDEX ON entries (id);
    GRANT ALL ON accounts, entries TO PUBLIC";

pub(crate) const INSERT: &str = "INSERT INTO entries (id, source, target, amount) VALUES ($1, $2, $3, $4)";
pub(crate) const SELECT_SUM: &str = "SELECT sum(balance)::bigint FROM accounts";
pub(crate) const COUNT_ENTRY: &str = "SELECT count(*) FROM entries WHERE id = $1";
const CHANGE: &str = "UPDATE accounts SET balance = balance + $2 WHERE id = $1";

/// One line of the ledger.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    pub(crate) source: i32,
    pub(crate) target: i32,
    pub(crate) amount: i64,
}

/// How a transfer's closure ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Commit,
    /// With an error of its own.
    Error,
    /// With a panic.
    Panic,
}

impl Entry {
    /// One that moves something between two accounts.
    pub(crate) fn transfer(id: i64, rng: &mut fastrand::Rng) -> Entry {
        let source = rng.i32(1..=ACCOUNTS);
        let target = (source + rng.i32(1..ACCOUNTS) - 1) % ACCOUNTS + 1;
        Entry { id, source, target, amount: rng.i64(1..100) }
    }

    /// One that moves nothing, so that it is a single statement.
    pub(crate) fn note(id: i64) -> Entry {
        Entry { id, source: 0, target: 0, amount: 0 }
    }

    /// Writes it, in one statement.
    pub(crate) fn write(&self, db: &impl Execute) -> Result<u64> {
        db.execute_write(INSERT, &[&self.id, &self.source, &self.target, &self.amount])
    }

    /// Writes all of them in one transaction.
    pub(crate) fn write_all(entries: &[Entry], db: &impl Bulk, is_copy: bool) -> Result<u64> {
        let rows = entries.iter().map(|entry| (entry.id, entry.source, entry.target, entry.amount));
        if is_copy {
            db.copy_in("entries", &["id", "source", "target", "amount"], rows)
        } else {
            db.execute_many(INSERT, rows)
        }
    }

    /// Writes it and changes both balances.
    pub(crate) fn carry_out(&self, tx: &Transaction<'_>, ending: Ending, clock: &Clock) -> Result<()> {
        let timed = |what: &str, statement: &dyn Fn() -> Result<u64>| {
            clock.time(Bound::Query, STATEMENT_TIMEOUT, what, statement)
        };
        timed("INSERT in a transaction", &|| self.write(tx))?;
        let mut changes = [(self.source, -self.amount), (self.target, self.amount)];
        // In the order of their numbers: two transfers may wait for one another, and never in a circle.
        changes.sort_unstable();
        for (account, change) in changes {
            timed("UPDATE in a transaction", &|| tx.execute_write(CHANGE, &[&account, &change]))?;
        }
        match ending {
            Ending::Commit => Ok(()),
            Ending::Error => Err(Error::application("the caller thought better of it")),
            // Without the message that `panic!` prints.
            Ending::Panic => resume_unwind(Box::new("the caller panicked")),
        }
    }
}

/// One write, and when its outcome was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: i64,
    pub(crate) deed: Deed,
    /// What held then, or was repaired last.
    pub(crate) fault: Option<Fault>,
    pub(crate) took_ms: u32,
}

impl Claim {
    pub(crate) fn new(id: i64) -> Claim {
        Claim { id, deed: Deed::Write, fault: None, took_ms: 0 }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Claim { id, deed, fault, took_ms } = self;
        let fault = fault.map_or("the calm".to_owned(), |fault| format!("'{fault}'"));
        write!(f, "{id} ({}, reported after {took_ms} ms, in {fault})", deed.name())
    }
}

/// The outcomes of the workers' writes, as reported.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    /// Done.
    pub(crate) done: Vec<Claim>,
    /// Not done.
    pub(crate) not_done: Vec<Claim>,
    /// Unknown.
    pub(crate) unknown: Vec<Claim>,
}

impl Claims {
    /// Remembers what was reported.
    pub(crate) fn note(&mut self, claim: Claim, result: &Result<()>) {
        match result {
            Ok(()) => self.done.push(claim),
            Err(Error::OutcomeUnknown(_)) => self.unknown.push(claim),
            Err(_) => self.not_done.push(claim),
        }
    }

    pub(crate) fn append(&mut self, mut other: Claims) {
        self.done.append(&mut other.done);
        self.not_done.append(&mut other.not_done);
        self.unknown.append(&mut other.unknown);
    }

    /// What they take of this process's memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let kept = self.done.capacity() + self.not_done.capacity() + self.unknown.capacity();
        (kept * size_of::<Claim>() / 1024) as u64
    }
}

/// The ways a borrower leaves something behind, with what [`CLEAN`] calls it. The last one is an entry that was
/// never committed.
pub(crate) const TRACES: [(&str, &str); 6] = [
    ("SET chaos.mark = 'left behind'", "a setting"),
    ("CREATE TEMPORARY TABLE leftover (a int)", "a temporary table"),
    ("LISTEN leftover", "a channel"),
    ("PREPARE leftover AS SELECT 1", "a prepared statement"),
    ("SELECT pg_advisory_lock_shared(4711)", "a lock"),
    (
        "BEGIN; INSERT INTO entries (id, source, target, amount) VALUES (/*id*/, 0, 0, 0)",
        "an open transaction",
    ),
];

/// What a borrower finds that another one left behind; empty where the session is clean.
pub(crate) const CLEAN: &str = "
    SELECT concat_ws(', ',
        CASE WHEN current_setting('chaos.mark', true) <> '' THEN 'a setting' END,
        CASE WHEN to_regclass('pg_temp.leftover') IS NOT NULL THEN 'a temporary table' END,
        CASE WHEN EXISTS (SELECT FROM pg_listening_channels()) THEN 'a channel' END,
        CASE WHEN EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'leftover')
             THEN 'a prepared statement' END,
        CASE WHEN EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
             THEN 'a lock' END,
        CASE WHEN pg_current_xact_id_if_assigned() IS NOT NULL THEN 'an open transaction' END)";

/// How long undoing a transaction may take.
pub(crate) const UNDO: Duration = Duration::from_millis(500);
