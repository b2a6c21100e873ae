//! Interprets a failed operation: which error the caller gets, whether another connection may try it again, and
//! whether the session stays usable.
//!
//! Deny by default: a failure counts as *without effect* only where that is certain. This file knows nothing of SQL;
//! it is given the operation's [`Effect`].

use crate::error::{Error, Interruption};
use crate::pool::session::statement_cache::Unprepared;
use crate::pool::session::{READ_ONLY, Session};
use crate::pool::status::CloseReason;
use crate::pool::transport::connection_state::{ConnectionState, FinalError};
use postgres::error::{DbError, Severity};
use std::time::Instant;

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
    /// How the session ended by an error of this severity, code and message; `None` for an error after which the
    /// session stays open.
    fn of(fatality: Option<Fatality>, code: &str, message: &str) -> Option<End> {
        // PgBouncer reports all its errors in class 08, connection exceptions (PostgreSQL, "Error Codes").
        Some(match fatality? {
            Fatality::Session if INTERRUPTED.contains(&code) => End::Interrupted,
            Fatality::Session
                if code.starts_with("08") && UNASSIGNED.iter().any(|text| message.starts_with(text)) =>
            {
                End::Unassigned
            }
            _ => End::Other,
        })
    }

    fn of_db_error(db_error: &DbError) -> Option<End> {
        let fatality = match db_error.parsed_severity() {
            Some(Severity::Fatal) => Some(Fatality::Session),
            Some(Severity::Panic) => Some(Fatality::Server),
            Some(_) => None,
            // PgBouncer sends the field `S` only, which the driver does not parse.
            None => Fatality::of(db_error.severity()),
        };
        End::of(fatality, db_error.code().code(), db_error.message())
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
pub(super) fn ends_session(db_error: &DbError) -> bool {
    End::of_db_error(db_error).is_some()
}

impl Session {
    /// Whether the refusal of a write as read-only proves that the server is no longer the primary.
    fn proves_demotion(&self, checkpoint: Checkpoint) -> bool {
        self.must_be_writable && checkpoint.is_trusted && !(self.in_transaction && self.is_read_only)
    }

    /// Turns the driver's error into the pool's, and condemns the session where it cannot be used any more.
    pub(super) fn judge(
        &mut self,
        error: postgres::Error,
        checkpoint: Checkpoint,
        effect: Effect,
    ) -> Failure {
        let after = checkpoint.at.elapsed();
        let (end, message) = match error.as_db_error() {
            Some(db_error) => (End::of_db_error(db_error), Some(db_error.message().to_owned())),
            // The driver may have given the error to a request that no caller waits for.
            None => match self.conn.final_error().clone() {
                Some(FinalError { severity, code, message }) => {
                    let end = End::of(Fatality::of(&severity), &code, &message);
                    // The stream ended after this message, whatever its severity.
                    (end.or(Some(End::Other)), Some(message))
                }
                None => (None, None),
            },
        };
        match (end, message) {
            (None, Some(message)) => self.judge_statement_error(error, message, checkpoint, effect),
            (None, None) if !self.is_connection_failure() => {
                // The driver did not expect the kind of reply, for example the one to a COPY.
                let may_be_done = effect != Effect::None && !self.sent_nothing_since(checkpoint);
                Failure::without_retry(match may_be_done {
                    true => Error::OutcomeUnknown(Interruption::new(after, describe(&error))),
                    false => error.into(),
                })
            }
            (end, message) => {
                self.condemn(CloseReason::Broken);
                let text = match message {
                    Some(message) => format!("the server ended the session: {message}"),
                    None => describe(&error),
                };
                let interruption = Interruption::new(after, text);
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
        }
    }

    /// Interprets an error message after which the session stays open, unless the connection has ended since.
    fn judge_statement_error(
        &mut self,
        error: postgres::Error,
        message: String,
        checkpoint: Checkpoint,
        effect: Effect,
    ) -> Failure {
        if self.conn.has_ended() {
            self.condemn(CloseReason::Broken);
        }
        let after = checkpoint.at.elapsed();
        let code = error.code().map_or("", |code| code.code());
        self.has_conflict |= matches!(code, "40001" | "40P01");
        if code == READ_ONLY && self.proves_demotion(checkpoint) {
            self.condemn(CloseReason::Broken);
            self.is_demoted = true;
            let is_safe = !self.in_transaction && effect != Effect::InSteps;
            let retry = if is_safe { Retry::Safe } else { Retry::Never };
            return Failure { error: error.into(), retry };
        }
        Failure::without_retry(match self.statement_timeout {
            // It may have committed a part before it was cancelled.
            _ if code == "57014" && effect == Effect::InSteps => {
                Error::OutcomeUnknown(Interruption::new(after, message))
            }
            // A cancel request has the same SQLSTATE; the elapsed time distinguishes the two.
            Some(limit) if code == "57014" && after >= limit => {
                Error::DeadlineExceeded(Interruption::new(after, message))
            }
            _ => error.into(),
        })
    }

    /// Interprets a failure to prepare a statement. It had no effect, whatever the statement would have done.
    pub(super) fn judge_unprepared(&mut self, unprepared: Unprepared, checkpoint: Checkpoint) -> Failure {
        let mut failure = self.judge(unprepared.error, checkpoint, Effect::None);
        if unprepared.spoils_session {
            self.condemn_dirty();
        }
        let is_to_blame = unprepared.spoils_session || failure.retry == Retry::ReadOnly;
        if is_to_blame && !self.in_transaction && !self.conn.has_timed_out() {
            failure.retry = Retry::Safe;
        }
        failure
    }

    /// Whether no byte was written since the checkpoint.
    pub(super) fn sent_nothing_since(&self, checkpoint: Checkpoint) -> bool {
        self.conn.written() == checkpoint.written
    }

    /// Whether the error can come from the driver's lookup of result types, after the statement has run. Behind
    /// PgBouncer the lookup's prepared statement may be missing on this server connection, its name may be taken, or
    /// it may be another one.
    pub(super) fn is_type_lookup_error(&self, error: &postgres::Error) -> bool {
        match error.as_db_error() {
            Some(db_error) => matches!(db_error.code().code(), "26000" | "42P05"),
            None => !self.is_connection_failure(),
        }
    }

    /// Whether the connection is lost. The error does not show that: the driver also reports a parameter that it
    /// cannot encode as an I/O error.
    pub(super) fn is_connection_failure(&self) -> bool {
        self.conn.has_ended() || self.client.is_closed()
    }
}

/// Interprets the failure of a COPY to start, which had no effect, without access to the session.
pub(super) fn judge_copy(conn: &ConnectionState, error: postgres::Error, checkpoint: Checkpoint) -> Error {
    let is_end = error.as_db_error().is_some_and(ends_session);
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
