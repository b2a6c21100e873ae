//! The error of this crate: the cause, the pool's numbers at that moment, and whether a retry may succeed.
//!
//! It knows nothing of HTTP; `web` maps it to status codes in one place. Nothing here has a lock.

mod numbers;
mod query_error;
mod server_error;

pub use crate::error::numbers::{ConnectFailure, PoolNumbers};
pub(crate) use crate::error::query_error::Cause;
pub use crate::error::query_error::QueryError;
pub use crate::error::server_error::ServerError;

use std::fmt;
use std::time::Duration;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// There is one variant for each way in which a caller can react.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// [`DatabasePool::initialize`](crate::DatabasePool::initialize) has not been called, or its pool has been
    /// closed.
    NotInitialized,
    /// [`DatabasePool::initialize`](crate::DatabasePool::initialize) was called while a pool is open.
    AlreadyInitialized,
    /// The settings are invalid; it lists all problems.
    Settings(SettingsError),
    /// No connection became free within the caller's time limit.
    Exhausted(Box<PoolNumbers>),
    /// The pool was suspended for all of the caller's time limit.
    Suspended(Box<PoolNumbers>),
    /// The queue is full, or its delay stays above the target. The call fails immediately.
    Saturated(Box<PoolNumbers>),
    /// The server is unreachable, or does not answer.
    Down(Box<PoolNumbers>),
    /// The server refuses this user, password or database. Waiting does not help.
    Authentication(Box<PoolNumbers>),
    /// The pool is closed, or is being closed.
    Closed,
    /// This thread already holds a connection, and the pool has no other one: it would wait for itself.
    SelfDeadlock(Box<PoolNumbers>),
    /// The answer to an operation did not arrive in time. The operation is cancelled on the server if the server is
    /// reachable.
    DeadlineExceeded(Box<Interruption>),
    /// The work was cancelled because no caller waits for its result, for example after the client of a request has
    /// disconnected. Nothing was changed.
    Cancelled,
    /// The connection broke, and the operation had no lasting effect.
    ConnectionLost(Box<Interruption>),
    /// The answer to a write or a COMMIT was lost: it may or may not have happened.
    OutcomeUnknown(Box<Interruption>),
    /// The server or the driver refused the statement.
    Query(Box<QueryError>),
    /// A transaction's closure returned `Ok` although one of its statements had failed. The transaction was rolled
    /// back.
    TransactionAborted,
    /// A transaction's closure tried to run COMMIT or ROLLBACK itself. The closure's result decides between them; the
    /// transaction was rolled back.
    TransactionEnded,
    /// A row does not fit the requested type.
    Decode(Box<DecodeError>),
    /// The query of `execute_query_one` returned more than one row.
    TooManyRows,
    /// The caller's own error, returned from the closure of a [`transaction`](crate::Pool::transaction) that was
    /// rolled back.
    Application(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps a caller's own error, so that a transaction's closure can return it.
    pub fn application(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Application(error.into())
    }

    /// Whether the same call may succeed a moment later.
    ///
    /// `OutcomeUnknown` is *not* transient: a retry could do the work twice.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Exhausted(_)
            | Error::Suspended(_)
            | Error::Saturated(_)
            | Error::Down(_)
            | Error::DeadlineExceeded(_)
            | Error::ConnectionLost(_) => true,
            // Serialization failure, deadlock, lock not available, shutdown and startup (57P0x), and lack of
            // resources (class 53).
            Error::Query(error) => match error.sqlstate() {
                Some("40001" | "40P01" | "55P03" | "57P01" | "57P02" | "57P03") => true,
                Some(code) => code.starts_with("53"),
                None => false,
            },
            _ => false,
        }
    }

    /// The SQLSTATE, where the server refused the statement.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Query(error) => error.sqlstate(),
            _ => None,
        }
    }

    /// Adds the text of the statement that was refused.
    pub(crate) fn with_statement(mut self, sql: &str) -> Error {
        if let Error::Query(error) = &mut self {
            error.set_statement(sql);
        }
        self
    }

    /// Adds the row of a bulk helper that was refused, counted from 0.
    pub(crate) fn with_row(mut self, row: u64) -> Error {
        if let Error::Query(error) = &mut self {
            error.set_row(row);
        }
        self
    }

    /// The name of the constraint that a write violated. It distinguishes domain errors.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Error::Query(error) => error.constraint(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotInitialized => f.write_str(
                "the database pool is not initialized: call DatabasePool::initialize(&settings.pool) once at \
                 start, before the first query",
            ),
            Error::AlreadyInitialized => f.write_str(
                "the database pool is already initialized: call DatabasePool::close before initializing again",
            ),
            Error::Settings(error) => error.fmt(f),
            Error::Exhausted(numbers) => write!(f, "pool exhausted: {}; {numbers}", numbers.lack()),
            Error::Suspended(numbers) => {
                write!(f, "pool suspended: it lends no connection until Pool::resume is called; {numbers}")
            }
            Error::Saturated(numbers) => write!(f, "pool saturated: {}; {numbers}", numbers.exceeded_limit()),
            Error::Down(numbers) => write!(f, "database down: the server {}; {numbers}", numbers.outage()),
            Error::Authentication(numbers) => write!(f, "the database refuses this login; {numbers}"),
            Error::Closed => f.write_str("the pool is closed"),
            Error::SelfDeadlock(numbers) => write!(
                f,
                "this thread already holds a connection of this pool and no other one is left, so it would wait for \
                 itself: pass the connection on, or raise the maximum; {numbers}"
            ),
            Error::DeadlineExceeded(interruption) => write!(f, "deadline exceeded: {interruption}"),
            Error::Cancelled => f.write_str("cancelled, nothing was changed: no caller waits for the result any more"),
            Error::ConnectionLost(interruption) => {
                write!(f, "connection lost, nothing was changed: {interruption}")
            }
            Error::OutcomeUnknown(interruption) => {
                write!(f, "outcome unknown, the write may or may not have happened: {interruption}")
            }
            Error::Query(error) => error.fmt(f),
            Error::TransactionAborted => f.write_str(
                "the transaction was rolled back: one of its statements had failed, although the closure returned Ok",
            ),
            Error::TransactionEnded => f.write_str(
                "the transaction's closure must not run COMMIT or ROLLBACK: return Ok to commit, Err to roll back",
            ),
            Error::Decode(error) => error.fmt(f),
            Error::TooManyRows => f.write_str("expected at most one row, the query returned more"),
            Error::Application(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Query(error) => error.source(),
            Error::Application(error) => Some(&**error),
            _ => None,
        }
    }
}

/// An operation whose answer did not arrive.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Interruption {
    /// How long the operation had run.
    pub after: Duration,
    /// The error text of the driver or the operating system.
    pub text: String,
}

impl Interruption {
    /// An interruption after `after` with the error text `text`.
    pub(crate) fn new(after: Duration, text: impl Into<String>) -> Box<Interruption> {
        Box::new(Interruption { after, text: text.into() })
    }
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {} ms", self.text, self.after.as_millis())
    }
}

impl std::error::Error for Interruption {}

/// A row that does not fit the requested type.
#[derive(Debug, Clone)]
pub struct DecodeError {
    /// The column's name; empty where the row as a whole does not fit.
    pub column: String,
    /// The column's PostgreSQL type, for example `timestamptz` or `_int4`; empty where `column` is.
    pub postgres_type: String,
    /// The expected and the actual value.
    pub message: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.column.is_empty() {
            write!(f, "cannot decode the row: {}", self.message)
        } else {
            write!(f, "cannot decode column \"{}\" ({}): {}", self.column, self.postgres_type, self.message)
        }
    }
}

impl std::error::Error for DecodeError {}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Error {
        Error::Decode(Box::new(error))
    }
}

/// Invalid settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// All problems, in the order of the table of variables.
    pub problems: Vec<Problem>,
}

/// One problem of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The name of the variable, or of the file that cannot be read.
    pub variable: String,
    /// Its value (`***` for a secret), or the problem where it has no value.
    pub value: String,
    /// The allowed values.
    pub allowed: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("1 problem in the settings:")?,
            n => write!(f, "{n} problems in the settings:")?,
        }
        for problem in &self.problems {
            write!(f, "\n  {}: {} (allowed: {})", problem.variable, problem.value, problem.allowed)?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

impl From<SettingsError> for Error {
    fn from(error: SettingsError) -> Error {
        Error::Settings(error)
    }
}
