//! The deadline that a caller sets for all pool operations of the current thread. It knows nothing of connections.

use crate::pool::cancellation;
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// Set by [`with_deadline`].
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Set by [`having_waited`] until the first acquire.
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// How long to wait beyond the deadline for the answer of a statement that another thread cancels at the deadline. If the
/// server answers in that time, the connection is kept.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_millis(200);

/// Runs `work` with a deadline for every pool operation that this thread performs in it: acquiring a connection, with the
/// connect it may need, and each statement. The pool's own limits apply as well. Of several limits the nearest holds.
///
/// A statement without an answer at the deadline fails with
/// [`DeadlineExceeded`](crate::Error::DeadlineExceeded), or [`OutcomeUnknown`](crate::Error::OutcomeUnknown) if it
/// may have written. It is cancelled on the server, and its connection is closed.
///
/// # Blocking
///
/// As long as `work` does. No pool operation in it blocks beyond `deadline`, except the rollback of a transaction, which
/// may take half a second.
///
/// # Examples
///
/// ```no_run
/// use poolhouse::{Result, execute_query_one, with_deadline};
/// use std::time::{Duration, Instant};
///
/// # fn example() -> Result<()> {
/// let count: Option<i64> = with_deadline(Instant::now() + Duration::from_millis(200), || {
///     execute_query_one("SELECT count(*) FROM movies", &[])
/// })?;
/// # Ok(()) }
/// ```
pub fn with_deadline<R>(deadline: Instant, work: impl FnOnce() -> R) -> R {
    struct Restore(Option<Instant>);
    impl Drop for Restore {
        fn drop(&mut self) {
            DEADLINE.set(self.0);
        }
    }
    let before = DEADLINE.get();
    let _restore = Restore(before);
    DEADLINE.set(Some(before.map_or(deadline, |before| before.min(deadline))));
    work()
}

/// Runs `work` for a caller that has already waited for this thread. The time counts as waiting for the first connection.
pub(crate) fn having_waited<R>(waited: Duration, work: impl FnOnce() -> R) -> R {
    struct Forget;
    impl Drop for Forget {
        fn drop(&mut self) {
            WAITED.take();
        }
    }
    WAITED.set(waited);
    let _forget = Forget;
    work()
}

/// How long the current thread's caller waited for the thread. The next call returns zero.
pub(super) fn take_waited() -> Duration {
    WAITED.take()
}

/// The current thread's deadline.
pub(crate) fn deadline() -> Option<Instant> {
    DEADLINE.get()
}

/// Until when to wait for the answer of a statement.
pub(super) fn answer_deadline() -> Option<Instant> {
    let is_cancellable = cancellation::current().is_some();
    deadline().map(|at| if is_cancellable { at + CANCEL_GRACE } else { at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_deadline_holds_and_the_previous_one_is_restored() {
        let now = Instant::now();
        let (near, far) = (now + Duration::from_secs(1), now + Duration::from_secs(9));
        with_deadline(far, || {
            with_deadline(near, || assert_eq!(deadline(), Some(near)));
            assert_eq!(deadline(), Some(far));
            with_deadline(now + Duration::from_secs(99), || assert_eq!(deadline(), Some(far)));
        });
        let _ = std::panic::catch_unwind(|| with_deadline(near, || panic!("with a deadline")));
        assert_eq!(deadline(), None);
    }
}
