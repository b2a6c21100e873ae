//! What a failed operation means: what it may have done, and whether the session can go on.

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
    /// It must not, or the connection was not to blame.
    Never,
    /// It certainly had no effect: not a byte of it was sent, or the server ended the session in its place.
    Safe,
    /// It can only have read, as far as that is known: where the server refuses to write.
    ReadOnly,
}

impl Failure {
    /// Not the connection's fault.
    pub(crate) fn of_caller(error: Error) -> Failure {
        Failure { error, retry: Retry::Never }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

/// Where the connection stood when an operation began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checkpoint {
    pub(super) at: Instant,
    pub(super) written: u64,
    /// Neither the session's borrower nor the operation has set anything up in the session. One that listens may be ended
    /// between a commit and its answer, for the notifications that it is sent there.
    pub(super) is_trusted: bool,
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

/// Why the server ended the session, where it said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// PostgreSQL was asked to end the session, and did so in place of completing the statement, which therefore was not
    /// done: a complete reply would have been taken first.
    Instead,
    /// By PgBouncer, before it had a server connection for the statement.
    Before,
    /// Anything else: the statement may have been done.
    Meanwhile,
}

/// What PgBouncer says to who still waited for a server connection. It has one SQLSTATE for everything.
const STILL_WAITING: [&str; 2] = ["query_wait_timeout", "server login has been failing"];

/// Terminated by an administrator, and the timeouts of idle sessions and of transactions. PostgreSQL raises them where it
/// looks for interrupts (`ProcessInterrupts`), which it does neither while it commits nor from there to the end of the reply,
/// unless the session listens. Of others that is not so: PANIC is what a commit says that cannot be flushed.
const INSTEAD: [&str; 4] = ["57P01", "57P05", "25P03", "25P04"];

impl End {
    /// `None` for a refusal after which the session goes on.
    fn of(is_fatal: Option<Fatality>, code: &str, message: &str) -> Option<End> {
        // Class 08 is about connections (PostgreSQL, "Error Codes"), and all that PgBouncer ever says.
        Some(match is_fatal? {
            Fatality::Session if INSTEAD.contains(&code) => End::Instead,
            Fatality::Session
                if code.starts_with("08") && STILL_WAITING.iter().any(|text| message.starts_with(text)) =>
            {
                End::Before
            }
            _ => End::Meanwhile,
        })
    }

    fn of_refusal(refusal: &DbError) -> Option<End> {
        let fatality = match refusal.parsed_severity() {
            Some(Severity::Fatal) => Some(Fatality::Session),
            Some(Severity::Panic) => Some(Fatality::Server),
            Some(_) => None,
            // PgBouncer sends the word alone.
            None => Fatality::of(refusal.severity()),
        };
        End::of(fatality, refusal.code().code(), refusal.message())
    }
}

/// What an error ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fatality {
    Session,
    /// All sessions, as one that finds the shared memory damaged.
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
pub(super) fn ends_session(refusal: &DbError) -> bool {
    End::of_refusal(refusal).is_some()
}

impl Session {
    /// Whether a write refused as read-only means that the server is not the primary any more.
    fn is_demoted_by_refusal(&self, mark: Checkpoint) -> bool {
        self.must_be_writable && mark.is_trusted && !(self.in_transaction && self.is_read_only)
    }

    /// Turns the driver's error into ours, and condemns the session where it cannot be used any more.
    pub(super) fn judge(&mut self, error: postgres::Error, mark: Checkpoint, effect: Effect) -> Failure {
        let after = mark.at.elapsed();
        let (end, words) = match error.as_db_error() {
            Some(refusal) => (End::of_refusal(refusal), Some(refusal.message().to_owned())),
            // The driver may have given it to a request that nobody listens to.
            None => match self.conn.final_error().clone() {
                Some(FinalError { severity, code, message }) => {
                    let end = End::of(Fatality::of(&severity), &code, &message);
                    // The stream has ended behind it, whatever it is.
                    (end.or(Some(End::Meanwhile)), Some(message))
                }
                None => (None, None),
            },
        };
        match (end, words) {
            (None, Some(words)) => self.judge_refusal(error, words, mark, effect),
            (None, None) if !self.is_connection_failure() => {
                // The driver did not expect the reply: to a COPY, for example.
                let may_be_done = effect != Effect::None && !self.sent_nothing_since(mark);
                Failure::of_caller(match may_be_done {
                    true => Error::OutcomeUnknown(Interruption::new(after, describe(&error))),
                    false => error.into(),
                })
            }
            (end, words) => {
                self.condemn(CloseReason::Broken);
                let text = match words {
                    Some(words) => format!("the server ended the session: {words}"),
                    None => describe(&error),
                };
                let interruption = Interruption::new(after, text);
                let was_not_sent = self.sent_nothing_since(mark);
                let is_not_done = match end {
                    _ if was_not_sent => true,
                    Some(End::Before) => true,
                    // Of a COMMIT it may be the transaction that is complete.
                    Some(End::Instead) => {
                        mark.is_trusted && effect != Effect::InSteps && !self.conn.has_completed()
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

    /// What a refusal means after which the session goes on, if the server has not gone away since.
    fn judge_refusal(
        &mut self,
        error: postgres::Error,
        words: String,
        mark: Checkpoint,
        effect: Effect,
    ) -> Failure {
        if self.conn.has_ended() {
            self.condemn(CloseReason::Broken);
        }
        let after = mark.at.elapsed();
        let code = error.code().map_or("", |code| code.code());
        self.has_lost_against_another |= matches!(code, "40001" | "40P01");
        if code == READ_ONLY && self.is_demoted_by_refusal(mark) {
            self.condemn(CloseReason::Broken);
            self.is_demoted = true;
            let is_safe = !self.in_transaction && effect != Effect::InSteps;
            let retry = if is_safe { Retry::Safe } else { Retry::Never };
            return Failure { error: error.into(), retry };
        }
        Failure::of_caller(match self.statement_timeout {
            // It may have committed a part by then.
            _ if code == "57014" && effect == Effect::InSteps => {
                Error::OutcomeUnknown(Interruption::new(after, words))
            }
            // It is also what a cancel by somebody else looks like; the clock tells them apart.
            Some(limit) if code == "57014" && after >= limit => {
                Error::DeadlineExceeded(Interruption::new(after, words))
            }
            _ => error.into(),
        })
    }

    /// What it means that a statement was not even prepared, which changes nothing whatever it would have done.
    pub(super) fn judge_unprepared(&mut self, unprepared: Unprepared, mark: Checkpoint) -> Failure {
        let mut failure = self.judge(unprepared.error, mark, Effect::None);
        if unprepared.spoils_session {
            self.condemn_dirty();
        }
        let is_to_blame = unprepared.spoils_session || failure.retry == Retry::ReadOnly;
        if is_to_blame && !self.in_transaction && !self.conn.has_timed_out() {
            failure.retry = Retry::Safe;
        }
        failure
    }

    pub(super) fn sent_nothing_since(&self, mark: Checkpoint) -> bool {
        self.conn.written() == mark.written
    }

    /// Whether the error can come from the driver's own look at the result's types, after the statement: what it
    /// has prepared for that is not on this server connection, or is there already, or is something else.
    pub(super) fn is_of_afterwards(&self, error: &postgres::Error) -> bool {
        match error.as_db_error() {
            Some(refusal) => matches!(refusal.code().code(), "26000" | "42P05"),
            None => !self.is_connection_failure(),
        }
    }

    /// The driver wraps a parameter or a text it cannot encode in an I/O error too, so the connection alone decides.
    pub(super) fn is_connection_failure(&self) -> bool {
        self.conn.has_ended() || self.client.is_closed()
    }
}

/// What a failed operation means that had no effect by itself, where the session cannot be asked.
pub(super) fn judge_apart(conn: &ConnectionState, error: postgres::Error, mark: Checkpoint) -> Error {
    let is_end = error.as_db_error().is_some_and(ends_session);
    let interruption = Interruption::new(mark.at.elapsed(), describe(&error));
    if conn.has_timed_out() {
        Error::DeadlineExceeded(interruption)
    } else if is_end || conn.has_ended() {
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
