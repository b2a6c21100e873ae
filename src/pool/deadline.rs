//! The deadline of everything that the current thread does with pools.

use crate::pool::cancellation;
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// How much longer than its deadline a statement is waited for that somebody cancels at its deadline: the
/// server's answer to that saves the connection.
const CANCEL_GRACE: Duration = Duration::from_millis(200);

/// Runs `work` with a deadline for everything that this thread does with pools meanwhile: acquiring, connecting
/// for it, each statement. It adds to the pool's own limits; of several, the nearest holds.
///
/// A statement that has not been answered by then fails with
/// [`DeadlineExceeded`](crate::Error::DeadlineExceeded), or [`OutcomeUnknown`](crate::Error::OutcomeUnknown) where it
/// may have written; it is cancelled on the server, and its connection is closed.
///
/// # Blocking
///
/// As `work` does; the pool lets nothing in it wait beyond `deadline`, save for the undoing of a transaction, which
/// has half a second.
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

/// Runs `work` for a caller who has waited for this thread already: that counts as waiting for the first connection.
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

/// How long the current thread's caller has waited before its first connection; later ones begin anew.
pub(super) fn take_waited() -> Duration {
    WAITED.take()
}

/// The current thread's deadline.
pub(crate) fn deadline() -> Option<Instant> {
    DEADLINE.get()
}

/// Until when an answer is waited for.
pub(super) fn answer_deadline() -> Option<Instant> {
    let is_watched = cancellation::current().is_some();
    deadline().map(|at| if is_watched { at + CANCEL_GRACE } else { at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_deadline_holds_and_the_one_before_comes_back() {
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
