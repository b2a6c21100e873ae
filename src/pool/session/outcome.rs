//! Interprets a failed operation: which error the caller gets, whether another connection may try it again, and
//! whether the session stays usable.
//!
//! Deny by default: a failure counts as *without effect* only where that is certain. This file knows nothing of SQL;
//! it is given the operation's [`Effect`].

use crate::error::{Cause, Error, Interruption, ServerError};
use crate::pool::session::{READ_ONLY, Session};
use crate::pool::status::CloseReason;
use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::protocol::reply::Malformed;
use crate::pool::transport::wire::Broken;
use postgres::error::Severity;
use std::fmt;
use std::io;
use std::time::Instant;

/// Why an operation has no result.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The server refused it; the reply is complete.
    Refused(Box<ServerError>),
    /// It was refused before anything of it was sent.
    Unsent(Cause),
    /// It was done, and its reply is not of the kind expected.
    Unexpected(String),
    /// The reply is not complete, and the connection has ended.
    Broken(Broken),
}

impl Fault {
    /// A refusal before anything was sent.
    pub(super) fn refused(text: impl Into<String>) -> Fault {
        Fault::Unsent(Cause::Stated(text.into()))
    }

    /// The parameter with this number, counted from 1, cannot be sent.
    pub(super) fn of_parameter(number: usize, error: Box<dyn std::error::Error + Send + Sync>) -> Fault {
        Fault::Unsent(Cause::Parameter(number, error))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refused(error) | Fault::Broken(Broken { last: Some(error), .. }) => error.fmt(f),
            Fault::Unsent(cause) => cause.fmt(f),
            Fault::Unexpected(text) => f.write_str(text),
            Fault::Broken(Broken { cause, .. }) => cause.fmt(f),
        }
    }
}

/// A message that cannot be written, such as one with a zero byte in its text.
impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::refused(error.to_string())
    }
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Fault {
        Fault::Broken(broken)
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Fault {
        Fault::Unexpected(malformed.to_string())
    }
}

/// A failed operation, and whether it may be tried again.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) retry: Retry,
}

/// Whether a failed operation may be tried again on another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// A retry is unsafe, or would not help because the connection is not the cause.
    Never,
    /// The operation certainly had no effect: no byte of it was sent, or the server ended the session instead of
    /// running it.
    Safe,
    /// As far as is known it only reads. A retry must run in a read-only transaction.
    ReadOnly,
}

impl Failure {
    /// Adds the text of the statement to its error.
    pub(crate) fn with_statement(self, sql: &str) -> Failure {
        Failure { error: self.error.with_statement(sql), ..self }
    }

    /// Adds the row that was refused to its error, counted from 0.
    pub(crate) fn with_row(self, row: u64) -> Failure {
        Failure { error: self.error.with_row(row), ..self }
    }

    /// A failure that another connection would not avoid.
    pub(crate) fn without_retry(error: Error) -> Failure {
        Failure { error, retry: Retry::Never }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

/// The state of the connection when an operation began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checkpoint {
    /// When the operation began.
    pub(super) at: Instant,
    /// The number of bytes written so far.
    pub(super) written: u64,
    /// Neither the borrower nor the operation has changed the session's state. A session that listens, for example,
    /// can be terminated between a commit and its answer, because the server sends it notifications there.
    pub(super) is_trusted: bool,
}

/// What an operation may have done when its answer is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that lasts: a read, or a statement inside a transaction that ends with the connection.
    None,
    /// All or nothing: a write that commits by itself, or a COMMIT.
    Lasting,
    /// Possibly a part of its work: a procedure or a DO block may commit before it ends.
    InSteps,
}

/// How the server ended the session, according to its last error message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// PostgreSQL terminated the session instead of completing the statement, so the statement was not done. If it
    /// had completed, its reply would have arrived first.
    Interrupted,
    /// PgBouncer gave up before it had a server connection for the statement, so the statement was not done.
    Unassigned,
    /// Any other end: the statement may have been done.
    Other,
}

/// PgBouncer's messages to a client that was waiting for a server connection. Its errors all have the same SQLSTATE.
const UNASSIGNED: [&str; 2] = ["query_wait_timeout", "server login has been failing"];

/// Termination by an administrator (57P01), and the timeouts of idle sessions (57P05), idle transactions (25P03) and
/// transactions (25P04). PostgreSQL raises these only where it checks for interrupts (`ProcessInterrupts`): not
/// during a commit, nor between a commit and the end of the reply, unless the session listens. Other errors can
/// follow a commit: a commit that cannot be flushed raises PANIC, for example.
const INTERRUPTED: [&str; 4] = ["57P01", "57P05", "25P03", "25P04"];

impl End {
    /// How the session ended by this error; `None` for an error after which the session stays open.
    fn of(error: &ServerError) -> Option<End> {
        // PgBouncer reports all its errors in class 08, connection exceptions (PostgreSQL, "Error Codes").
        Some(match Fatality::of(error.severity())? {
            Fatality::Session if INTERRUPTED.contains(&error.sqlstate()) => End::Interrupted,
            Fatality::Session
                if error.sqlstate().starts_with("08")
                    && UNASSIGNED.iter().any(|text| error.message().starts_with(text)) =>
            {
                End::Unassigned
            }
            _ => End::Other,
        })
    }
}

/// What a fatal error ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fatality {
    Session,
    /// All sessions, such as an error that may have damaged shared memory.
    Server,
}

impl Fatality {
    fn of(severity: &str) -> Option<Fatality> {
        match severity {
            "FATAL" => Some(Fatality::Session),
            "PANIC" => Some(Fatality::Server),
            _ => None,
        }
    }
}

/// Whether the server ends the session with this error.
pub(super) fn ends_session(error: &ServerError) -> bool {
    End::of(error).is_some()
}

impl Session {
    /// Whether the refusal of a write as read-only proves that the server is no longer the primary.
    fn proves_read_only_server(&self, checkpoint: Checkpoint) -> bool {
        self.must_be_writable && checkpoint.is_trusted && !(self.in_transaction && self.is_read_only)
    }

    /// Turns a fault into the pool's error, and marks the session for closing where it cannot be used any more.
    pub(super) fn judge(&mut self, fault: Fault, checkpoint: Checkpoint, effect: Effect) -> Failure {
        match fault {
            Fault::Unsent(cause) => Failure::without_retry(cause.into()),
            Fault::Unexpected(text) => Failure::without_retry(match effect {
                Effect::None => Cause::Stated(text).into(),
                _ => Error::OutcomeUnknown(Interruption::new(checkpoint.at.elapsed(), text)),
            }),
            Fault::Refused(error) => match End::of(&error) {
                None => self.judge_refused(error, checkpoint, effect),
                end => self.judge_lost(end, server_text(&error), checkpoint, effect),
            },
            Fault::Broken(Broken { cause, is_too_large: true, .. }) if effect == Effect::None => {
                self.mark_for_close(CloseReason::Broken);
                Failure::without_retry(Cause::Stated(cause.to_string()).into())
            }
            Fault::Broken(Broken { cause, last: None, .. }) => {
                self.judge_lost(None, cause.to_string(), checkpoint, effect)
            }
            // The stream ended after this message, whatever its severity.
            Fault::Broken(Broken { last: Some(error), .. }) => {
                let end = End::of(&error).or(Some(End::Other));
                self.judge_lost(end, server_text(&error), checkpoint, effect)
            }
        }
    }

    /// Interprets the loss of the connection.
    fn judge_lost(
        &mut self,
        end: Option<End>,
        text: String,
        checkpoint: Checkpoint,
        effect: Effect,
    ) -> Failure {
        self.mark_for_close(CloseReason::Broken);
        let interruption = Interruption::new(checkpoint.at.elapsed(), text);
        let was_not_sent = self.sent_nothing_since(checkpoint);
        let is_not_done = match end {
            _ if was_not_sent => true,
            Some(End::Unassigned) => true,
            // A completed part of the reply may be the commit.
            Some(End::Interrupted) => {
                checkpoint.is_trusted && effect != Effect::InSteps && !self.conn.has_completed()
            }
            _ => false,
        };
        let is_late = self.conn.has_timed_out() && !was_not_sent && end.is_none();
        let error = match effect {
            _ if is_not_done => Error::ConnectionLost(interruption),
            Effect::Lasting | Effect::InSteps => Error::OutcomeUnknown(interruption),
            Effect::None if is_late => Error::DeadlineExceeded(interruption),
            Effect::None => Error::ConnectionLost(interruption),
        };
        let retry = match error {
            _ if was_not_sent => Retry::Safe,
            _ if self.in_transaction => Retry::Never,
            Error::ConnectionLost(_) if is_not_done => Retry::Safe,
            Error::ConnectionLost(_) => Retry::ReadOnly,
            _ => Retry::Never,
        };
        Failure { error, retry }
    }

    /// Interprets an error message after which the session stays open, unless the connection has ended since.
    fn judge_refused(&mut self, error: Box<ServerError>, checkpoint: Checkpoint, effect: Effect) -> Failure {
        if self.conn.has_ended() {
            self.mark_for_close(CloseReason::Broken);
        }
        let (after, code) = (checkpoint.at.elapsed(), error.sqlstate());
        self.has_conflict |= matches!(code, "40001" | "40P01");
        if code == READ_ONLY && self.proves_read_only_server(checkpoint) {
            self.mark_for_close(CloseReason::Broken);
            self.is_server_read_only = true;
            let is_safe = !self.in_transaction && effect != Effect::InSteps;
            let retry = if is_safe { Retry::Safe } else { Retry::Never };
            return Failure { error: Cause::Server(error).into(), retry };
        }
        Failure::without_retry(match self.statement_timeout {
            // It may have committed a part before it was cancelled.
            _ if code == "57014" && effect == Effect::InSteps => {
                Error::OutcomeUnknown(Interruption::new(after, error.message()))
            }
            // A cancel request has the same SQLSTATE; the elapsed time distinguishes the two.
            Some(limit) if code == "57014" && after >= limit => {
                Error::DeadlineExceeded(Interruption::new(after, error.message()))
            }
            _ => Cause::Server(error).into(),
        })
    }

    /// Interprets a failure to prepare a statement. It had no effect, whatever the statement would have done.
    pub(super) fn judge_unprepared(&mut self, fault: Fault, checkpoint: Checkpoint) -> Failure {
        let failure = self.judge(fault, checkpoint, Effect::None);
        match failure.retry {
            Retry::ReadOnly if !self.in_transaction => Failure { retry: Retry::Safe, ..failure },
            _ => failure,
        }
    }

    /// Whether no byte was written since the checkpoint.
    pub(super) fn sent_nothing_since(&self, checkpoint: Checkpoint) -> bool {
        self.conn.written() == checkpoint.written
    }
}

/// The text of an error with which the server ended the session.
fn server_text(error: &ServerError) -> String {
    format!("the server ended the session: {}", error.message())
}

/// Interprets the failure of a COPY to start, which had no effect, without access to the session.
pub(super) fn judge_copy(conn: &ConnectionState, error: postgres::Error, checkpoint: Checkpoint) -> Error {
    let is_end = error.as_db_error().is_some_and(|error| {
        matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
            || Fatality::of(error.severity()).is_some()
    });
    let interruption = Interruption::new(checkpoint.at.elapsed(), describe(&error));
    if conn.has_timed_out() {
        Error::DeadlineExceeded(interruption)
    } else if is_end || conn.has_ended() {
        Error::ConnectionLost(interruption)
    } else {
        error.into()
    }
}

/// The most specific text of the driver's error: the server's message with its SQLSTATE, or else the error's cause.
pub(crate) fn describe(error: &postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db_error), _) => format!("{} ({})", db_error.message(), db_error.code().code()),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => error.to_string(),
    }
}
