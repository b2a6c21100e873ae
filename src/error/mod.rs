//! The one error of this crate: what went wrong, with the numbers, and whether trying again makes sense.
//!
//! It knows nothing of HTTP; `web` maps it to status codes in one place.

mod numbers;

pub use crate::error::numbers::{ConnectFailure, PoolNumbers};

use std::fmt;
use std::time::Duration;

/// What every function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. Each variant is something a caller can act on differently.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// [`DatabasePool::initialize`](crate::DatabasePool::initialize) has not been called, or the pool it
    /// opened has been closed and given up.
    NotInitialized,
    /// [`DatabasePool::initialize`](crate::DatabasePool::initialize) was called while a pool is open.
    AlreadyInitialized,
    /// Settings that cannot be used: all problems at once.
    Settings(SettingsError),
    /// No connection came free until the caller's time ran out.
    Exhausted(Box<PoolNumbers>),
    /// Lending was suspended until the caller's time ran out.
    Suspended(Box<PoolNumbers>),
    /// The queue is full (or its delay too long): refused at once, without waiting.
    Saturated(Box<PoolNumbers>),
    /// The server cannot be reached, or does not answer.
    Down(Box<PoolNumbers>),
    /// The server was reached and refuses this user, password or database; waiting does not help.
    Authentication(Box<PoolNumbers>),
    /// The pool is closed, or is being closed.
    Closed,
    /// This thread already holds a connection and the pool has no other: waiting would be for itself.
    SelfDeadlock(Box<PoolNumbers>),
    /// The operation was sent and its answer did not arrive in time. It has been cancelled on the server as
    /// far as the server can be reached.
    DeadlineExceeded(Box<Interruption>),
    /// Nobody waits for the work any more, as when a request's client has gone; nothing was changed.
    Cancelled,
    /// The connection broke while the operation ran, and it had no lasting effect.
    ConnectionLost(Box<Interruption>),
    /// The connection broke after a write or a commit was sent and before its answer came: it may or may not
    /// have happened.
    OutcomeUnknown(Box<Interruption>),
    /// The server, or the driver, rejected the statement.
    Query(Box<QueryError>),
    /// A transaction's closure returned `Ok` although one of its statements had failed: there was nothing to
    /// commit, and all of it was rolled back.
    TransactionAborted,
    /// A transaction's closure tried to end the transaction itself, by COMMIT or ROLLBACK as a statement: that is
    /// left to what it returns, and all of it was rolled back.
    TransactionEnded,
    /// A row did not fit the type it was asked for.
    Decode(Box<DecodeError>),
    /// `execute_query_one` met more than one row.
    TooManyRows,
    /// The caller's own error, carried out of a [`transaction`](crate::Pool::transaction) that was rolled back.
    Application(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps a caller's own error, to end a transaction with it.
    pub fn application(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Application(error.into())
    }

    /// Whether the same call may well succeed a moment later, with nothing changed by the caller.
    ///
    /// `OutcomeUnknown` is *not* transient: the work may have been done.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Exhausted(_)
            | Error::Suspended(_)
            | Error::Saturated(_)
            | Error::Down(_)
            | Error::DeadlineExceeded(_)
            | Error::ConnectionLost(_) => true,
            // Serialization failure, deadlock, lock not available, and the classes for "the server is not
            // able to right now": 53 (resources), 57P0x (shutdown, recovery).
            Error::Query(error) => match error.sqlstate() {
                Some("40001" | "40P01" | "55P03" | "57P01" | "57P02" | "57P03") => true,
                Some(code) => code.starts_with("53"),
                None => false,
            },
            _ => false,
        }
    }

    /// The server's SQLSTATE, where the server judged the statement.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Query(error) => error.sqlstate(),
            _ => None,
        }
    }

    /// The name of the constraint a write violated, for telling domain errors apart.
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
                "the database pool is initialized already: call DatabasePool::close before initializing again",
            ),
            Error::Settings(error) => error.fmt(f),
            Error::Exhausted(numbers) => write!(f, "pool exhausted: {}; {numbers}", numbers.lack()),
            Error::Suspended(numbers) => {
                write!(f, "pool suspended: nothing is lent until Pool::resume is called; {numbers}")
            }
            Error::Saturated(numbers) => match numbers.shed_above {
                Some(target) => write!(
                    f,
                    "pool saturated: callers have waited for longer than DB_POOL_QUEUE_TARGET_MS ({} ms) for all of \
                     DB_POOL_QUEUE_INTERVAL_MS, and this one is shed; {numbers}",
                    target.as_millis()
                ),
                None => write!(
                    f,
                    "pool saturated: the queue is full, DB_POOL_MAX_WAITING is {}; {numbers}",
                    numbers.max_waiting
                ),
            },
            Error::Down(numbers) if numbers.last_failure.is_none() => {
                write!(f, "database down: the server does not answer; {numbers}")
            }
            Error::Down(numbers) => write!(f, "database down: no connection can be made; {numbers}"),
            Error::Authentication(numbers) => write!(f, "the database refuses this login; {numbers}"),
            Error::Closed => f.write_str("the pool is closed"),
            Error::SelfDeadlock(numbers) => write!(
                f,
                "this thread already holds a connection of this pool and asks for another while none is left: \
                 it would wait for itself; pass the connection on, or raise the maximum; {numbers}"
            ),
            Error::DeadlineExceeded(interruption) => write!(f, "deadline exceeded: {interruption}"),
            Error::Cancelled => f.write_str("cancelled, nothing was changed: nobody waits for it any more"),
            Error::ConnectionLost(interruption) => {
                write!(f, "connection lost, nothing was changed: {interruption}")
            }
            Error::OutcomeUnknown(interruption) => {
                write!(f, "outcome unknown, the write may or may not have happened: {interruption}")
            }
            Error::Query(error) => error.fmt(f),
            Error::TransactionAborted => f.write_str(
                "a statement of the transaction had failed, so it was rolled back although the closure returned Ok",
            ),
            Error::TransactionEnded => f.write_str(
                "the transaction's closure runs COMMIT or ROLLBACK itself: leave both to what it returns",
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
            Error::Query(error) => Some(&error.source),
            Error::Application(error) => Some(&**error),
            _ => None,
        }
    }
}

/// An operation that lost its answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Interruption {
    /// How long the operation had run.
    pub after: Duration,
    /// What the driver or the operating system said.
    pub text: String,
}

impl Interruption {
    /// An interruption after `after`, in the words of `text`.
    pub(crate) fn new(after: Duration, text: impl Into<String>) -> Box<Interruption> {
        Box::new(Interruption { after, text: text.into() })
    }
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {} ms", self.text, self.after.as_millis())
    }
}

/// A statement that the server or the driver rejected.
#[derive(Debug)]
pub struct QueryError {
    source: postgres::Error,
}

impl QueryError {
    /// The five-character SQLSTATE, where the server sent one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.source.code().map(|code| code.code())
    }

    /// The constraint that was violated.
    pub fn constraint(&self) -> Option<&str> {
        self.source.as_db_error()?.constraint()
    }

    /// The driver's error, with all that the server said.
    pub fn driver(&self) -> &postgres::Error {
        &self.source
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source.as_db_error() {
            Some(error) => {
                write!(f, "query failed with {}: {}", error.code().code(), error.message())?;
                if let Some(detail) = error.detail() {
                    write!(f, " ({detail})")?;
                }
                if let Some(hint) = error.hint() {
                    write!(f, " (hint: {hint})")?;
                }
                Ok(())
            }
            None => {
                write!(f, "query failed: {}", self.source)?;
                match std::error::Error::source(&self.source) {
                    Some(cause) => write!(f, ": {cause}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl From<postgres::Error> for Error {
    fn from(source: postgres::Error) -> Error {
        Error::Query(Box::new(QueryError { source }))
    }
}

/// A row that did not fit the type it was asked for.
#[derive(Debug, Clone)]
pub struct DecodeError {
    /// The column, by name; empty where the row as a whole did not fit.
    pub column: String,
    /// The column's PostgreSQL type, as in `timestamptz` or `_int4`; empty as above.
    pub postgres_type: String,
    /// What was expected and what was there.
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

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Error {
        Error::Decode(Box::new(error))
    }
}

/// Settings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// Every problem found, in the order of the variables' table.
    pub problems: Vec<Problem>,
}

/// One thing wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable at fault, or the file that cannot be read.
    pub variable: String,
    /// Its value (`***` for a secret), or what is wrong where no value is given.
    pub value: String,
    /// What would be right.
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

impl From<SettingsError> for Error {
    fn from(error: SettingsError) -> Error {
        Error::Settings(error)
    }
}
