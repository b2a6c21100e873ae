//! What a failed operation means: what it may have done, and whether the session can go on.

use super::super::statements::Unprepared;
use super::super::status::CloseReason;
use super::super::wire::Wire;
use super::Session;
use crate::error::{Error, Interruption};
use postgres::error::{DbError, Severity};
use std::time::Instant;

/// A failed operation, and whether it may be tried again.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The connection is to blame, and the operation certainly had no effect: not a byte of it was sent, or the
    /// server ended the session in its place.
    pub(crate) had_no_effect: bool,
    /// The connection is to blame, and the operation can only have read.
    pub(crate) was_read: bool,
}

impl Failure {
    /// Not the connection's fault.
    pub(crate) fn of_caller(error: Error) -> Failure {
        Failure { error, had_no_effect: false, was_read: false }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

/// Where the wire stood when an operation began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) at: Instant,
    pub(super) written: u64,
}

/// What an operation that lost its answer may have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that lasts: a read, or a statement inside a transaction that ends with the connection.
    None,
    /// A write that commits by itself, or a commit: all or nothing.
    Lasting,
    /// What may commit some of its work before it ends: a procedure, a DO block.
    InSteps,
}

/// How the session ended that says so itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By the server, in place of completing the statement, which therefore was not done: a complete reply would
    /// have been taken first.
    Instead,
    /// By PgBouncer, before it had a server connection for the statement.
    Before,
    /// By PgBouncer, which may have sent the statement and lost the answer.
    Meanwhile,
}

/// What PgBouncer says to who still waited for a server connection. It has one SQLSTATE for everything.
const STILL_WAITING: [&str; 2] = ["query_wait_timeout", "server login has been failing"];

impl End {
    /// `None` for a refusal after which the session goes on.
    fn of(refusal: &DbError) -> Option<End> {
        let is_fatal = match refusal.parsed_severity() {
            Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
            // PgBouncer sends the word alone.
            None => matches!(refusal.severity(), "FATAL" | "PANIC"),
        };
        // Class 08 is about connections (PostgreSQL, "Error Codes"), and all that PgBouncer ever says.
        match refusal.code().code().starts_with("08") {
            _ if !is_fatal => None,
            false => Some(End::Instead),
            true if STILL_WAITING.iter().any(|text| refusal.message().starts_with(text)) => Some(End::Before),
            true => Some(End::Meanwhile),
        }
    }
}

/// The SQLSTATE of a write that a read-only server or transaction refuses.
const READ_ONLY: &str = "25006";

impl Session {
    /// Whether a write refused as read-only means that the server is not the primary any more.
    fn is_demoted_by_refusal(&self) -> bool {
        self.must_be_writable && !self.is_read_only && !self.is_dirty
    }

    /// Turns the driver's error into ours, and condemns the session where it cannot be used any more.
    pub(super) fn judge(&mut self, error: postgres::Error, mark: Mark, effect: Effect) -> Failure {
        let after = mark.at.elapsed();
        let was_not_sent = self.sent_nothing_since(mark);
        let (end, words) = match error.as_db_error() {
            Some(refusal) => (End::of(refusal), Some(refusal.message().to_owned())),
            // The driver may have given them to a request that nobody listens to. What PgBouncer means by them is
            // in a code that they lack here.
            None if !self.statements.are_behind_pgbouncer() => {
                let words = self.wire.last_words().clone();
                (words.is_some().then_some(End::Instead), words)
            }
            None => (None, None),
        };
        if let Some(words) = words {
            if self.wire.has_ended() || end.is_some() {
                self.condemn(CloseReason::Broken);
            }
            match end {
                None => {
                    let code = error.code().map_or("", |code| code.code());
                    if code == READ_ONLY && self.is_demoted_by_refusal() {
                        self.condemn(CloseReason::Broken);
                        self.is_demoted = true;
                        let had_no_effect = !self.in_transaction;
                        return Failure { error: error.into(), had_no_effect, was_read: false };
                    }
                    let error = match self.statement_timeout {
                        // It may have committed a part by then.
                        _ if code == "57014" && effect == Effect::InSteps => {
                            Error::OutcomeUnknown(Interruption::new(after, words))
                        }
                        // It is also what a cancel by somebody else looks like; the clock tells them apart.
                        Some(limit) if code == "57014" && after >= limit => {
                            Error::DeadlineExceeded(Interruption::new(after, words))
                        }
                        _ => error.into(),
                    };
                    return Failure::of_caller(error);
                }
                Some(End::Instead | End::Before) => {
                    let text = format!("the server ended the session: {words}");
                    let interruption = Interruption::new(after, text);
                    if effect == Effect::InSteps && end == Some(End::Instead) && !was_not_sent {
                        return Failure::of_caller(Error::OutcomeUnknown(interruption));
                    }
                    let had_no_effect = was_not_sent || !self.in_transaction;
                    return Failure {
                        error: Error::ConnectionLost(interruption),
                        had_no_effect,
                        was_read: false,
                    };
                }
                Some(End::Meanwhile) => {}
            }
        } else if !self.is_connection_failure() {
            return Failure::of_caller(error.into());
        }
        self.condemn(CloseReason::Broken);
        let interruption = Interruption::new(after, describe(&error));
        let error = if was_not_sent {
            Error::ConnectionLost(interruption)
        } else if effect != Effect::None {
            Error::OutcomeUnknown(interruption)
        } else if self.wire.has_timed_out() {
            Error::DeadlineExceeded(interruption)
        } else {
            Error::ConnectionLost(interruption)
        };
        let was_read =
            effect == Effect::None && !self.in_transaction && matches!(error, Error::ConnectionLost(_));
        Failure { error, had_no_effect: was_not_sent, was_read }
    }

    /// The same where the statement was not even prepared, which changes nothing whatever it would have done.
    pub(super) fn judge_unprepared(&mut self, unprepared: Unprepared, mark: Mark) -> Failure {
        let mut failure = self.judge(unprepared.error, mark, Effect::None);
        if unprepared.spoils_session {
            self.condemn_dirty();
            failure.had_no_effect |= !self.in_transaction && !self.wire.has_timed_out();
        }
        failure
    }

    pub(super) fn sent_nothing_since(&self, mark: Mark) -> bool {
        self.wire.written() == mark.written
    }

    /// Whether the error can come from the driver's own look at the result's types, after the statement: what it
    /// has prepared for that is not on this server connection, or is there already, or is something else.
    pub(super) fn is_of_afterwards(&self, error: &postgres::Error) -> bool {
        match error.as_db_error() {
            Some(refusal) => matches!(refusal.code().code(), "26000" | "42P05"),
            None => !self.is_connection_failure(),
        }
    }

    /// The driver wraps a parameter or a text it cannot encode in an I/O error too, so the wire alone decides.
    pub(super) fn is_connection_failure(&self) -> bool {
        self.wire.has_ended() || self.client.is_closed()
    }
}

/// What a failed operation means that had no effect by itself, where the session cannot be asked.
pub(super) fn judge_apart(wire: &Wire, error: postgres::Error, mark: Mark) -> Error {
    let is_end = error.as_db_error().is_some_and(|refusal| End::of(refusal).is_some());
    let interruption = Interruption::new(mark.at.elapsed(), describe(&error));
    if wire.has_timed_out() {
        Error::DeadlineExceeded(interruption)
    } else if is_end || wire.has_ended() {
        Error::ConnectionLost(interruption)
    } else {
        error.into()
    }
}

/// The driver's words with the cause it keeps apart.
pub(crate) fn describe(error: &postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(refusal), _) => format!("{} ({})", refusal.message(), refusal.code().code()),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => error.to_string(),
    }
}
