//! What happened to the operations, by fault.

use super::faults::Fault;
use poolhouse::Error;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deed {
    /// A query through the pool.
    Read,
    /// A query on a connection that the worker holds.
    ReadLent,
    /// One INSERT through the pool.
    Write,
    /// A few rows through the pool, by `execute_many` or `copy_in`.
    Bulk,
    /// `Pool::transaction`.
    Transaction,
    /// `Pool::transaction_verified`.
    Verified,
    /// `Connection::transaction`.
    TransactionLent,
    /// Something left behind in a session.
    Trace,
}

impl Deed {
    /// The ways to write, whose outcome is claimed.
    pub(crate) const WRITES: [Deed; 5] =
        [Deed::Write, Deed::Bulk, Deed::Transaction, Deed::Verified, Deed::TransactionLent];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Deed::Read => "query",
            Deed::ReadLent => "query on a lent connection",
            Deed::Write => "execute_write",
            Deed::Bulk => "execute_many, copy_in",
            Deed::Transaction => "transaction",
            Deed::Verified => "transaction_verified",
            Deed::TransactionLent => "transaction on a lent connection",
            Deed::Trace => "raw access",
        }
    }
}

/// How it ended: `Done`, or the variant of the error.
pub(crate) type Outcome = &'static str;
pub(crate) const DONE: Outcome = "Done";
/// The transaction's closure ended with an error or a panic of its own.
pub(crate) const OWN: Outcome = "Application";
/// `Exhausted`, where the caller had asked for less time than the pool's acquire timeout.
pub(crate) const IMPATIENT: Outcome = "Exhausted at once or soon";

/// Whether something has failed, and not only turned out otherwise.
pub(crate) fn is_failure(outcome: Outcome) -> bool {
    ![DONE, OWN, IMPATIENT].contains(&outcome)
}

/// The name of an error's variant.
pub(crate) fn outcome_of<R>(result: &Result<R, Error>) -> Outcome {
    match result {
        Ok(_) => DONE,
        Err(Error::Exhausted(_)) => "Exhausted",
        Err(Error::Saturated(_)) => "Saturated",
        Err(Error::Down(_)) => "Down",
        Err(Error::Authentication(_)) => "Authentication",
        Err(Error::DeadlineExceeded(_)) => "DeadlineExceeded",
        Err(Error::ConnectionLost(_)) => "ConnectionLost",
        Err(Error::OutcomeUnknown(_)) => "OutcomeUnknown",
        Err(Error::Query(_)) => "Query",
        Err(Error::Application(_)) => OWN,
        Err(_) => "another",
    }
}

/// How many operations of a kind ended how, during which fault and the calm after it.
pub(crate) type Counts = BTreeMap<(Option<Fault>, Deed, Outcome), u64>;

/// What goes on right now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Phase {
    /// The fault that holds, or held last.
    pub(crate) fault: Option<Fault>,
    /// When it was undone; `None` while it holds.
    pub(crate) repaired_at: Option<Instant>,
}

/// What the workers and the thread that throws the faults share.
#[derive(Debug)]
pub(crate) struct Board {
    phase: Mutex<Phase>,
    is_over: AtomicBool,
    zero: Instant,
    /// When each worker began what it is doing: microseconds since `zero`, 0 between two operations.
    began: Vec<AtomicU64>,
    /// What must not happen, in words; the first of it.
    findings: Mutex<Vec<String>>,
}

/// More would not help to find the cause.
const MOST_FINDINGS: usize = 40;

impl Board {
    pub(crate) fn new(workers: usize) -> Board {
        Board {
            phase: Mutex::default(),
            is_over: AtomicBool::new(false),
            zero: Instant::now() - Duration::from_secs(1),
            began: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            findings: Mutex::default(),
        }
    }

    /// Before anything began.
    pub(crate) fn zero(&self) -> Instant {
        self.zero
    }

    pub(crate) fn set_phase(&self, fault: Fault, repaired_at: Option<Instant>) {
        *self.phase.lock().unwrap() = Phase { fault: Some(fault), repaired_at };
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.lock().unwrap()
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    pub(crate) fn begin(&self, worker: usize, at: Instant) {
        let micros = u64::try_from((at - self.zero).as_micros()).unwrap_or(u64::MAX);
        self.began[worker].store(micros, Ordering::SeqCst);
    }

    pub(crate) fn rest(&self, worker: usize) {
        self.began[worker].store(0, Ordering::SeqCst);
    }

    /// Whether everything that was begun before `moment` has ended.
    pub(crate) fn is_past(&self, moment: Instant) -> bool {
        let micros = u64::try_from((moment - self.zero).as_micros()).unwrap_or(u64::MAX);
        self.began.iter().map(|began| began.load(Ordering::SeqCst)).all(|began| began == 0 || began >= micros)
    }

    pub(crate) fn find(&self, finding: String) {
        let mut findings = self.findings.lock().unwrap();
        if findings.len() < MOST_FINDINGS {
            findings.push(finding);
        }
    }

    pub(crate) fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap().clone()
    }
}
