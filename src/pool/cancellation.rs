//! Cancelling the pool operations of one thread, from another thread or from async code.
//!
//! It knows nothing of the server; a statement registers a function that cancels it there.
//!
//! **Lock rule**: one mutex per [`Cancellation`], held while the abort function runs. That function must not block.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

thread_local! {
    /// Set by [`Cancellation::run`].
    static CURRENT: RefCell<Option<Arc<Cancellation>>> = const { RefCell::new(None) };
}

/// Whether the current thread's work was cancelled.
pub(crate) fn is_cancelled() -> bool {
    CURRENT
        .with_borrow(|current| current.as_ref().is_some_and(|cancellation| cancellation.state().is_cancelled))
}

/// The cancellation of the current thread's work, if it has one.
pub(super) fn current() -> Option<Arc<Cancellation>> {
    CURRENT.with_borrow(Option::clone)
}

/// Cancels the work of one thread from another thread or from async code.
#[derive(Default)]
pub(crate) struct Cancellation {
    state: Mutex<State>,
}

/// Cancels a statement. Must not block.
type Abort = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    is_cancelled: bool,
    /// The thread that runs the work, once it has started.
    thread: Option<Thread>,
    /// Cancels the statement in flight.
    abort: Option<Abort>,
}

impl Cancellation {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the current thread so that [`cancel`](Cancellation::cancel) reaches it.
    pub(crate) fn run<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        struct Restore(Option<Arc<Cancellation>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        self.state().thread = Some(thread::current());
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        work()
    }

    /// Cancels the work. It does not acquire another connection, the statement in flight is cancelled on the server, and the
    /// next one is not sent. Never blocks.
    pub(crate) fn cancel(&self) {
        let mut state = self.state();
        state.is_cancelled = true;
        if let Some(abort) = state.abort.take() {
            abort();
        }
        if let Some(thread) = &state.thread {
            thread.unpark();
        }
    }

    /// Registers a statement that is about to be sent, with the function that cancels it. `None` if the work was cancelled.
    pub(super) fn enter(&self, abort: Abort) -> Option<InFlight<'_>> {
        let mut state = self.state();
        if state.is_cancelled {
            return None;
        }
        state.abort = Some(abort);
        Some(InFlight(self))
    }
}

/// A statement in flight.
pub(super) struct InFlight<'a>(&'a Cancellation);

impl InFlight<'_> {
    /// Ends the registration after the answer. Returns whether the work was cancelled.
    pub(super) fn end(self) -> bool {
        // Both under one lock. A cancel request sent in between would be missed by the caller.
        let mut state = self.0.state();
        state.abort = None;
        state.is_cancelled
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
    fn a_cancellation_aborts_the_statement_in_flight_once_and_admits_no_other() {
        let cancellation = Arc::new(Cancellation::default());
        let (sender, aborted) = std::sync::mpsc::channel();
        let abort = |name: &'static str| -> Abort {
            let sender = sender.clone();
            Box::new(move || sender.send(name).unwrap())
        };
        cancellation.run(|| {
            assert!(!cancellation.enter(abort("answered")).unwrap().end());
            let in_flight = cancellation.enter(abort("in flight")).unwrap();
            cancellation.cancel();
            cancellation.cancel();
            assert!(in_flight.end() && is_cancelled());
            assert!(cancellation.enter(abort("too late")).is_none());
        });
        assert!(!is_cancelled(), "it applies to its own work alone");
        drop(sender);
        assert_eq!(aborted.try_iter().collect::<Vec<_>>(), ["in flight"]);
    }
}
