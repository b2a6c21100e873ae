//! A refused statement: by the server, by the driver, or by the pool before it was sent.

use crate::error::{Error, ServerError};
use std::error::Error as StdError;
use std::fmt;
use std::iter;

/// A statement that was refused. It has had no effect.
#[derive(Debug)]
pub struct QueryError {
    cause: Cause,
    /// The beginning of the statement's text; empty where the text is unknown.
    statement: String,
    /// The row of a bulk helper that was refused, counted from 0.
    row: Option<u64>,
}

/// Why a statement was refused.
#[derive(Debug)]
pub(crate) enum Cause {
    Server(Box<ServerError>),
    /// An error of raw access.
    Driver(postgres::Error),
    /// The parameter with this number, counted from 1, cannot be sent as the type that the statement expects.
    Parameter(usize, Box<dyn StdError + Send + Sync>),
    /// Any other reason, as a text.
    Stated(String),
}

/// The most characters kept of a statement.
const MAX_STATEMENT: usize = 200;

impl QueryError {
    pub(crate) fn new(cause: impl Into<Cause>) -> Box<QueryError> {
        Box::new(QueryError { cause: cause.into(), statement: String::new(), row: None })
    }

    /// Adds the text of the statement, on one line, unless there is one.
    pub(crate) fn set_statement(&mut self, sql: &str) {
        if self.statement.is_empty() {
            let words = sql.split_whitespace();
            let mut text = words.flat_map(|word| iter::once(' ').chain(word.chars())).skip(1);
            self.statement.extend(text.by_ref().take(MAX_STATEMENT));
            self.statement.extend(text.next().map(|_| '…'));
        }
    }

    pub(crate) fn set_row(&mut self, row: u64) {
        self.row = Some(row);
    }

    /// The five-character SQLSTATE, where the server sent one.
    pub fn sqlstate(&self) -> Option<&str> {
        match &self.cause {
            Cause::Server(error) => Some(error.sqlstate()).filter(|code| !code.is_empty()),
            Cause::Driver(error) => error.code().map(|code| code.code()),
            Cause::Parameter(..) | Cause::Stated(_) => None,
        }
    }

    /// The name of the violated constraint, where the server sent one.
    pub fn constraint(&self) -> Option<&str> {
        match &self.cause {
            Cause::Server(error) => error.constraint(),
            Cause::Driver(error) => error.as_db_error()?.constraint(),
            Cause::Parameter(..) | Cause::Stated(_) => None,
        }
    }

    /// The server's error with all fields that it sent; `None` where the statement was refused before it was sent, or came
    /// from the driver.
    pub fn server(&self) -> Option<&ServerError> {
        match &self.cause {
            Cause::Server(error) => Some(error),
            _ => None,
        }
    }

    /// The statement's text on one line, at most 200 characters of it; `None` where it is unknown.
    pub fn statement(&self) -> Option<&str> {
        Some(&*self.statement).filter(|statement| !statement.is_empty())
    }

    /// The row that was refused, counted from 0 in the order of the caller's rows; `None` where the statement was not run for
    /// many rows, or the row is unknown.
    pub fn row(&self) -> Option<u64> {
        self.row
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("query failed")?;
        if let Some(code) = self.sqlstate() {
            write!(f, " with {code}")?;
        }
        if let Some(row) = self.row {
            write!(f, " at row {row}")?;
        }
        write!(f, ": {}", self.cause)?;
        match self.statement() {
            Some(statement) => write!(f, "; statement: {statement}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Server(error) => error.fmt(f),
            Cause::Driver(error) => match (error.as_db_error(), error.source()) {
                (Some(db_error), _) => f.write_str(db_error.message()),
                (None, Some(cause)) => write!(f, "{error}: {cause}"),
                (None, None) => error.fmt(f),
            },
            Cause::Parameter(number, error) => write!(f, "parameter ${number}: {error}"),
            Cause::Stated(text) => f.write_str(text),
        }
    }
}

impl StdError for QueryError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.cause {
            Cause::Server(error) => Some(&**error),
            Cause::Driver(error) => Some(error),
            Cause::Parameter(_, error) => Some(&**error),
            Cause::Stated(_) => None,
        }
    }
}

impl From<Box<ServerError>> for Cause {
    fn from(error: Box<ServerError>) -> Cause {
        Cause::Server(error)
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Cause {
        Cause::Stated(text)
    }
}

impl From<Cause> for Error {
    fn from(cause: Cause) -> Error {
        Error::Query(QueryError::new(cause))
    }
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Error {
        Error::Query(QueryError::new(Cause::Driver(error)))
    }
}
