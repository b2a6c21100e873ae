//! What bounds everything that the current thread does with pools, from outside: a deadline, and somebody who may
//! call it off.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    static STOP: RefCell<Option<Arc<Cancellation>>> = const { RefCell::new(None) };
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
    let is_watched = STOP.with_borrow(Option::is_some);
    deadline().map(|at| if is_watched { at + CANCEL_GRACE } else { at })
}

/// Whether the current thread's work has been called off.
pub(crate) fn is_stopped() -> bool {
    STOP.with_borrow(|stop| stop.as_ref().is_some_and(|stop| stop.state().is_stopped))
}

/// Who may call off what the current thread does.
pub(super) fn stop() -> Option<Arc<Cancellation>> {
    STOP.with_borrow(Option::clone)
}

/// The means to call off one thread's work from another, async code included.
#[derive(Default)]
pub(crate) struct Cancellation {
    state: Mutex<State>,
}

type Abort = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    is_stopped: bool,
    /// Where the work runs, once it does.
    thread: Option<Thread>,
    /// Ends what the thread waits for on the server.
    abort: Option<Abort>,
}

impl Cancellation {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the current thread so that [`stop`](Cancellation::stop) reaches it.
    pub(crate) fn run<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        struct Leave(Option<Arc<Cancellation>>);
        impl Drop for Leave {
            fn drop(&mut self) {
                STOP.set(self.0.take());
            }
        }
        self.state().thread = Some(thread::current());
        let _leave = Leave(STOP.replace(Some(self.clone())));
        work()
    }

    /// Calls the work off: it does not start if it has not; it waits for no connection any more; the statement in
    /// flight is cancelled on the server; the next one is not sent. Never blocks.
    pub(crate) fn stop(&self) {
        let mut state = self.state();
        state.is_stopped = true;
        if let Some(abort) = state.abort.take() {
            abort();
        }
        if let Some(thread) = &state.thread {
            thread.unpark();
        }
    }

    /// A statement is about to be sent, which `abort` ends. `None` where the work has been called off.
    pub(super) fn enter(&self, abort: Abort) -> Option<InFlight<'_>> {
        let mut state = self.state();
        if state.is_stopped {
            return None;
        }
        state.abort = Some(abort);
        Some(InFlight(self))
    }
}

/// A statement in flight.
pub(super) struct InFlight<'a>(&'a Cancellation);

impl InFlight<'_> {
    /// It is answered. Returns whether it was aborted meanwhile.
    pub(super) fn end(self) -> bool {
        // At one go: an abort in between would go out and not be known of.
        let mut state = self.0.state();
        state.abort = None;
        state.is_stopped
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.state().abort = None;
    }
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

    #[test]
    fn a_stop_ends_what_is_in_flight_once_and_lets_nothing_more_begin() {
        let stop = Arc::new(Cancellation::default());
        let (sender, aborted) = std::sync::mpsc::channel();
        let abort = |name: &'static str| -> Abort {
            let sender = sender.clone();
            Box::new(move || sender.send(name).unwrap())
        };
        stop.run(|| {
            assert!(!stop.enter(abort("answered")).unwrap().end());
            let in_flight = stop.enter(abort("in flight")).unwrap();
            stop.stop();
            stop.stop();
            assert!(in_flight.end() && is_stopped());
            assert!(stop.enter(abort("too late")).is_none());
        });
        assert!(!is_stopped(), "outside of its work it says nothing");
        drop(sender);
        assert_eq!(aborted.try_iter().collect::<Vec<_>>(), ["in flight"]);
    }
}
