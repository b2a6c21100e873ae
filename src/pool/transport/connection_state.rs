//! What is known of a connection's connection: how long it may take, what was sent, and what the server last said.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What the pool's side and the driver's side of a connection share. Both run on the caller's thread (the
/// driver's runtime is single-threaded), so relaxed atomics are enough; the type is shared, not contended.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    /// Nanoseconds since [`EPOCH`]; `u64::MAX` is no deadline.
    deadline: AtomicU64,
    /// From when it was set to the deadline, in milliseconds.
    limit: AtomicU64,
    /// Bytes written since the connection was made: what was not written, the server cannot have seen.
    written: AtomicU64,
    /// When the last reply was complete, in nanoseconds since [`EPOCH`].
    answered: AtomicU64,
    /// The transaction status byte of the last ReadyForQuery, 0 while a reply is outstanding.
    status: AtomicU8,
    /// FrontendMessages sent whose reply is not complete.
    outstanding: AtomicU32,
    /// The stream has ended or failed; nothing more will come of it.
    ended: AtomicBool,
    /// The deadline is what ended it.
    timed_out: AtomicBool,
    /// In the reply that is being read, a statement was completed.
    completed: AtomicBool,
    /// A statement was completed that may have changed the server's catalogue; others see that from the end of the
    /// transaction on.
    changed_catalogue: AtomicBool,
    /// The parameters that decide how the server reads a text, as it reports them: `standard_conforming_strings`,
    strings_conform: AtomicBool,
    /// `client_encoding`
    sends_utf8: AtomicBool,
    /// and `server_encoding`.
    keeps_utf8: AtomicBool,
    /// What [`READ_BY`] were at the login, and a bit for each that is something else now.
    read_by: [OnceLock<Box<[u8]>>; READ_BY.len()],
    read_otherwise: AtomicU8,
    /// Nobody can tell any more how many replies are to come.
    lost_count: AtomicBool,
    /// All of a request is sent and nothing of its reply is read: there is nothing to do but wait for it.
    asked: AtomicBool,
    /// The error with which the server ended the session in place of completing a reply.
    last_words: Mutex<Option<LastWords>>,
    cancel_key: OnceLock<Box<[u8]>>,
    /// Whose it is, for what errors say.
    pool: OnceLock<Arc<str>>,
    /// Counts, for all of its connections, the statements that may have changed the server's catalogue.
    catalogue_epoch: OnceLock<Arc<AtomicU64>>,
}

/// An error of the server, as far as it has to be understood without the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastWords {
    pub(crate) severity: String,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The parameters by which the server reads literals when it prepares a statement, of those it reports: a statement goes on
/// meaning what it meant then.
const READ_BY: [&[u8]; 3] = [b"DateStyle", b"IntervalStyle", b"TimeZone"];

/// The zero of the wires' clock.
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
            strings_conform: AtomicBool::new(false),
            sends_utf8: AtomicBool::new(false),
            keeps_utf8: AtomicBool::new(false),
            read_by: Default::default(),
            read_otherwise: AtomicU8::new(0),
            lost_count: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            last_words: Mutex::new(None),
            cancel_key: OnceLock::new(),
            pool: OnceLock::new(),
            catalogue_epoch: OnceLock::new(),
        }
    }

    /// Everything from `now` on must be done by `deadline`.
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

    /// The connection belongs to this pool.
    pub(crate) fn set_pool(&self, name: Arc<str>, catalogue_epoch: Arc<AtomicU64>) {
        // It does so from the login on, for good.
        let _ = (self.pool.set(name), self.catalogue_epoch.set(catalogue_epoch));
    }

    /// The deadline has passed.
    pub(crate) fn timed_out(&self) -> io::Error {
        let limit = self.limit.load(Ordering::Relaxed);
        let pool = self.pool.get().map(|name| format!(" (pool \"{name}\")")).unwrap_or_default();
        let text = format!("no answer within the deadline of {limit} ms{pool}");
        io::Error::new(io::ErrorKind::TimedOut, text)
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// When the server last showed that it is there: when its last reply was complete.
    pub(crate) fn answered_at(&self) -> Instant {
        *EPOCH + Duration::from_nanos(self.answered.load(Ordering::Relaxed))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn has_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// What the server last said of the session: `I`dle, in a `T`ransaction, in a failed transaction (`E`);
    /// `None` while a reply is outstanding.
    pub(crate) fn status(&self) -> Option<u8> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    /// What the server gave at the login to cancel by: a process id and a secret. Empty where it gave nothing.
    pub(crate) fn cancel_key(&self) -> Box<[u8]> {
        self.cancel_key.get().cloned().unwrap_or_default()
    }

    /// The server gave what to cancel by.
    pub(crate) fn keep_cancel_key(&self, key: &[u8]) {
        // It does so once.
        let _ = self.cancel_key.set(key.into());
    }

    pub(crate) fn fail(&self, timed_out: bool) {
        self.ended.store(true, Ordering::Relaxed);
        self.timed_out.fetch_or(timed_out, Ordering::Relaxed);
        // A COMMIT may have been sent.
        self.settle_catalogue();
    }

    /// The server has reported a parameter of the session.
    pub(crate) fn note_parameter(&self, name: &[u8], value: &[u8]) {
        if let Some(place) = READ_BY.iter().position(|known| *known == name) {
            let is_other = **self.read_by[place].get_or_init(|| value.into()) != *value;
            let others = self.read_otherwise.load(Ordering::Relaxed) & !(1 << place);
            self.read_otherwise.store(others | u8::from(is_other) << place, Ordering::Relaxed);
        }
        let (parameter, expected): (_, &[u8]) = match name {
            b"standard_conforming_strings" => (&self.strings_conform, b"on"),
            b"client_encoding" => (&self.sends_utf8, b"UTF8"),
            b"server_encoding" => (&self.keeps_utf8, b"UTF8"),
            _ => return,
        };
        parameter.store(value == expected, Ordering::Relaxed);
    }

    /// Whether the server reads this text as the pool does: a backslash in a literal is one, and only ASCII is folded in
    /// names.
    pub(crate) fn reads_as_written(&self, text: &str) -> bool {
        let is_set = |parameter: &AtomicBool| parameter.load(Ordering::Relaxed);
        is_set(&self.strings_conform)
            && (text.is_ascii() || is_set(&self.sends_utf8) && is_set(&self.keeps_utf8))
    }

    /// Whether the server reads dates and times in literals as it did at the login.
    pub(crate) fn reads_as_at_login(&self) -> bool {
        self.read_otherwise.load(Ordering::Relaxed) == 0
    }

    /// The server has completed a statement.
    pub(crate) fn note_completed(&self, may_change_catalogue: bool) {
        self.completed.store(true, Ordering::Relaxed);
        if may_change_catalogue {
            self.changed_catalogue.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a statement was completed in the reply that is not complete.
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

    /// The replies to come cannot be counted any more.
    pub(crate) fn lose_count(&self) {
        self.lost_count.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_lost_count(&self) -> bool {
        self.lost_count.load(Ordering::Relaxed)
    }

    /// The stream has ended after an error that no end of a reply followed.
    pub(crate) fn end_with(&self, words: LastWords) {
        // One that comes when everything is answered belongs to no request.
        if self.outstanding.load(Ordering::Relaxed) > 0 {
            *self.last_words() = Some(words);
        }
    }

    /// The error with which the server ended the session while a reply was outstanding. The driver hands it to
    /// the oldest request without a reply, which may be one that nobody listens to: the closing of a statement.
    pub(crate) fn last_words(&self) -> MutexGuard<'_, Option<LastWords>> {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction was begun and not ended.
    pub(crate) fn is_in_transaction(&self) -> bool {
        matches!(self.status(), Some(b'T' | b'E'))
    }

    /// All of a request is sent.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether this is the first read since a request was sent.
    pub(crate) fn take_asked(&self) -> bool {
        let is_asked = self.asked.load(Ordering::Relaxed);
        if is_asked {
            self.asked.store(false, Ordering::Relaxed);
        }
        is_asked
    }

    /// Bytes went out: whatever the server last said of the session may be over.
    pub(crate) fn add_written(&self, count: usize) {
        self.written.fetch_add(count as u64, Ordering::Relaxed);
        self.status.store(0, Ordering::Relaxed);
    }

    /// A request was begun that will have a reply of its own.
    pub(crate) fn add_request(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// A reply is complete, or will never come.
    pub(crate) fn end_request(&self) -> u32 {
        let left = self.outstanding.load(Ordering::Relaxed).saturating_sub(1);
        self.outstanding.store(left, Ordering::Relaxed);
        left
    }

    /// A reply is complete, and this is what it says of the session: for now, where others are outstanding.
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
    fn deadlines_survive_the_trip_through_the_clock() {
        let conn = ConnectionState::new();
        assert_eq!(conn.deadline(), None);
        let soon = Instant::now() + Duration::from_millis(5);
        conn.set_deadline(Instant::now(), Some(soon));
        assert_eq!(conn.deadline(), Some(soon));
        conn.set_deadline(Instant::now(), None);
        assert_eq!(conn.deadline(), None);
    }
}
