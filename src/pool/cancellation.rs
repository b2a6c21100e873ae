//! Cancelling what one thread does with pools, from another thread or from async code.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Cancellation>>> = const { RefCell::new(None) };
}

/// Whether the current thread's work has been called off.
pub(crate) fn is_stopped() -> bool {
    CURRENT.with_borrow(|stop| stop.as_ref().is_some_and(|stop| stop.state().is_stopped))
}

/// Who may call off what the current thread does.
pub(super) fn current() -> Option<Arc<Cancellation>> {
    CURRENT.with_borrow(Option::clone)
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
                CURRENT.set(self.0.take());
            }
        }
        self.state().thread = Some(thread::current());
        let _leave = Leave(CURRENT.replace(Some(self.clone())));
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
