//! The state of one server connection: its deadline, what was sent, and what the server last reported.
//!
//! The transport writes it from the bytes that pass; the session reads it to judge an operation's outcome. It knows nothing of
//! sockets and statements.
//!
//! **Lock rule**: there is no lock; everything is an atomic, or set once.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

/// The state that the session, the direct path and the driver's stream share.
///
/// All three run on the caller's thread, because the driver's runtime is single-threaded. Relaxed atomics are therefore
/// enough: they make the type shareable and are not contended.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    /// In nanoseconds since [`EPOCH`]; `u64::MAX` means no deadline.
    deadline: AtomicU64,
    /// The time from setting the deadline to the deadline, in milliseconds, for the error text.
    limit: AtomicU64,
    /// Bytes written since the connection was opened. The server cannot have processed what was not written.
    written: AtomicU64,
    /// When the last reply was complete, in nanoseconds since [`EPOCH`].
    answered: AtomicU64,
    /// The transaction status byte of the last ReadyForQuery, 0 while a reply is outstanding.
    status: AtomicU8,
    /// Requests sent whose reply is not complete.
    outstanding: AtomicU32,
    /// The stream has ended or failed.
    ended: AtomicBool,
    /// The stream failed because the deadline passed.
    timed_out: AtomicBool,
    /// A statement was completed in the reply that is being read.
    completed: AtomicBool,
    /// A statement was completed that may have changed the server's catalogue; others see that from the end of the
    /// transaction on.
    changed_catalogue: AtomicBool,
    /// The server reported `standard_conforming_strings = on`.
    has_standard_strings: AtomicBool,
    /// The server reported `client_encoding = UTF8`.
    is_client_utf8: AtomicBool,
    /// The server reported `server_encoding = UTF8`.
    is_server_utf8: AtomicBool,
    /// The values of [`LITERAL_PARAMETERS`] at login, and a bit for each that differs now.
    at_login: [OnceLock<Box<[u8]>>; LITERAL_PARAMETERS.len()],
    changed_parameters: AtomicU8,
    /// The number of outstanding replies was unknown at some time.
    lost_sync: AtomicBool,
    /// The number of outstanding replies is unknown now.
    is_reply_count_unknown: AtomicBool,
    /// The driver has read a part of a message whose rest is outstanding.
    is_within_message: AtomicBool,
    cancel_key: OnceLock<Box<[u8]>>,
    /// The pool's name, for error texts.
    pool: OnceLock<Arc<str>>,
    /// Counts, for all of its connections, the statements that may have changed the server's catalogue.
    catalogue_epoch: OnceLock<Arc<AtomicU64>>,
}

/// The parameters that decide how the server reads dates and times in literals when it prepares a statement. A prepared
/// statement keeps the meaning that its literals had then.
const LITERAL_PARAMETERS: [&[u8]; 3] = [b"DateStyle", b"IntervalStyle", b"TimeZone"];

/// The zero of the times kept in atomics.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

fn nanos(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*EPOCH).as_nanos()).unwrap_or(u64::MAX - 1)
}

impl ConnectionState {
    pub(crate) fn new() -> ConnectionState {
        ConnectionState {
            deadline: AtomicU64::new(u64::MAX),
            limit: AtomicU64::new(0),
            written: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            status: AtomicU8::new(0),
            outstanding: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
            completed: AtomicBool::new(false),
            changed_catalogue: AtomicBool::new(false),
            has_standard_strings: AtomicBool::new(false),
            is_client_utf8: AtomicBool::new(false),
            is_server_utf8: AtomicBool::new(false),
            at_login: Default::default(),
            changed_parameters: AtomicU8::new(0),
            lost_sync: AtomicBool::new(false),
            is_reply_count_unknown: AtomicBool::new(false),
            is_within_message: AtomicBool::new(false),
            cancel_key: OnceLock::new(),
            pool: OnceLock::new(),
            catalogue_epoch: OnceLock::new(),
        }
    }

    /// Sets the deadline of every operation from `now` on.
    pub(crate) fn set_deadline(&self, now: Instant, deadline: Option<Instant>) {
        if let Some(at) = deadline {
            let limit = at.saturating_duration_since(now).as_millis();
            self.limit.store(u64::try_from(limit).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        self.deadline.store(deadline.map_or(u64::MAX, nanos), Ordering::Relaxed);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.deadline.load(Ordering::Relaxed) {
            u64::MAX => None,
            nanos => EPOCH.checked_add(Duration::from_nanos(nanos)),
        }
    }

    /// Sets the pool's name, and the counter of its changes to the catalogue.
    pub(crate) fn set_pool(&self, name: Arc<str>, catalogue_epoch: Arc<AtomicU64>) {
        // Set once, after the login.
        let _ = (self.pool.set(name), self.catalogue_epoch.set(catalogue_epoch));
    }

    /// The error for a passed deadline.
    pub(crate) fn timed_out(&self) -> io::Error {
        let limit = self.limit.load(Ordering::Relaxed);
        let pool = self.pool.get().map(|name| format!(" (pool \"{name}\")")).unwrap_or_default();
        let text = format!("no answer within the deadline of {limit} ms{pool}");
        io::Error::new(io::ErrorKind::TimedOut, text)
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// When the server's last reply was complete.
    pub(crate) fn answered_at(&self) -> Instant {
        *EPOCH + Duration::from_nanos(self.answered.load(Ordering::Relaxed))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn has_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// The transaction status that the server last reported: `I` idle, `T` in a transaction, `E` in a failed transaction; `None`
    /// while a reply is outstanding.
    pub(crate) fn status(&self) -> Option<u8> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    /// The process id and the secret that the server sent at the login for cancel requests. Empty if it sent none.
    pub(crate) fn cancel_key(&self) -> Box<[u8]> {
        self.cancel_key.get().cloned().unwrap_or_default()
    }

    /// Stores the cancel key.
    pub(crate) fn keep_cancel_key(&self, key: &[u8]) {
        // Sent once, at the login.
        let _ = self.cancel_key.set(key.into());
    }

    /// Marks the stream as failed.
    pub(crate) fn fail(&self, timed_out: bool) {
        self.ended.store(true, Ordering::Relaxed);
        self.timed_out.fetch_or(timed_out, Ordering::Relaxed);
        // A COMMIT may have been sent.
        self.settle_catalogue();
    }

    /// Notes a parameter that the server reported.
    pub(crate) fn note_parameter(&self, name: &[u8], value: &[u8]) {
        if let Some(index) = LITERAL_PARAMETERS.iter().position(|known| *known == name) {
            let is_changed = **self.at_login[index].get_or_init(|| value.into()) != *value;
            let others = self.changed_parameters.load(Ordering::Relaxed) & !(1 << index);
            self.changed_parameters.store(others | u8::from(is_changed) << index, Ordering::Relaxed);
        }
        let (parameter, expected): (_, &[u8]) = match name {
            b"standard_conforming_strings" => (&self.has_standard_strings, b"on"),
            b"client_encoding" => (&self.is_client_utf8, b"UTF8"),
            b"server_encoding" => (&self.is_server_utf8, b"UTF8"),
            _ => return,
        };
        parameter.store(value == expected, Ordering::Relaxed);
    }

    /// Whether the server parses `text` as the pool's SQL reader does: a backslash in a literal is an ordinary character, and
    /// only ASCII letters in names are folded to lower case.
    pub(crate) fn reads_as_written(&self, text: &str) -> bool {
        let is_set = |parameter: &AtomicBool| parameter.load(Ordering::Relaxed);
        is_set(&self.has_standard_strings)
            && (text.is_ascii() || is_set(&self.is_client_utf8) && is_set(&self.is_server_utf8))
    }

    /// Whether the server reads dates and times in literals as it did at login.
    pub(crate) fn reads_as_at_login(&self) -> bool {
        self.changed_parameters.load(Ordering::Relaxed) == 0
    }

    /// Notes that the server completed a statement.
    pub(crate) fn note_completed(&self, may_change_catalogue: bool) {
        self.completed.store(true, Ordering::Relaxed);
        if may_change_catalogue {
            self.changed_catalogue.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the incomplete reply contains the completion of a statement.
    pub(crate) fn has_completed(&self) -> bool {
        self.completed.load(Ordering::Relaxed)
    }

    /// Has all connections of the pool ask the catalogue again if it may have changed.
    fn settle_catalogue(&self) {
        if self.changed_catalogue.load(Ordering::Relaxed)
            && let Some(epoch) = self.catalogue_epoch.get()
        {
            self.changed_catalogue.store(false, Ordering::Relaxed);
            epoch.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Marks the number of outstanding replies as unknown: client and server have lost synchronization.
    pub(crate) fn lose_sync(&self) {
        self.lost_sync.store(true, Ordering::Relaxed);
        self.is_reply_count_unknown.store(true, Ordering::Relaxed);
    }

    /// Whether it is unknown how many replies are outstanding.
    pub(crate) fn is_reply_count_unknown(&self) -> bool {
        self.is_reply_count_unknown.load(Ordering::Relaxed)
    }

    /// Whether the number of outstanding replies was unknown at some time. The driver may still count wrongly.
    pub(crate) fn has_lost_sync(&self) -> bool {
        self.lost_sync.load(Ordering::Relaxed)
    }

    /// Whether the server reported an open transaction, failed or not.
    pub(crate) fn is_in_transaction(&self) -> bool {
        matches!(self.status(), Some(b'T' | b'E'))
    }

    /// Notes whether the driver has read whole messages only.
    pub(crate) fn set_between_messages(&self, is_between: bool) {
        self.is_within_message.store(!is_between, Ordering::Relaxed);
    }

    /// Whether every reply was read, and nothing of a message that is not complete: the next bytes begin the reply to
    /// the next request.
    pub(crate) fn is_synchronized(&self) -> bool {
        self.status().is_some() && !self.is_within_message.load(Ordering::Relaxed)
    }

    /// Counts written bytes. The last reported status is unknown from here on, until the reply.
    pub(crate) fn add_written(&self, count: usize) {
        self.written.fetch_add(count as u64, Ordering::Relaxed);
        self.status.store(0, Ordering::Relaxed);
    }

    /// Counts a request that has a reply of its own.
    pub(crate) fn add_request(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a reply is complete or will not be sent. Returns how many are outstanding.
    pub(crate) fn end_request(&self) -> u32 {
        let left = self.outstanding.load(Ordering::Relaxed).saturating_sub(1);
        self.outstanding.store(left, Ordering::Relaxed);
        left
    }

    /// Notes that no reply is outstanding, however many were counted.
    pub(crate) fn forget_outstanding(&self) {
        self.outstanding.store(0, Ordering::Relaxed);
        self.is_reply_count_unknown.store(false, Ordering::Relaxed);
    }

    /// Notes that a reply is complete. Its transaction status counts only if no other reply is outstanding.
    pub(crate) fn end_reply(&self, status: u8) {
        self.completed.store(false, Ordering::Relaxed);
        self.answered.store(nanos(Instant::now()), Ordering::Relaxed);
        if status == b'I' {
            self.settle_catalogue();
        }
        if self.end_request() == 0 {
            self.status.store(status, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_returned_as_it_was_set() {
        let conn = ConnectionState::new();
        assert_eq!(conn.deadline(), None);
        let soon = Instant::now() + Duration::from_millis(5);
        conn.set_deadline(Instant::now(), Some(soon));
        assert_eq!(conn.deadline(), Some(soon));
        conn.set_deadline(Instant::now(), None);
        assert_eq!(conn.deadline(), None);
    }
}
