//! Signals: the request to shut down, and the exit at once.
//!
//! | signal | the first one | the second one |
//! |---|---|---|
//! | SIGTERM, SIGINT, SIGHUP | `serve` shuts down in order, `ingest` and `bench` complete what they have in work, every other command exits at once | exits at once |
//! | SIGQUIT | exits at once | |
//!
//! A dedicated thread receives them from the start of the program, so that "at once" holds whatever other threads
//! wait for. It is also needed because the first process of a container gets only the signals that it handles.

use actix_web::rt::Runtime;
use actix_web::rt::signal::unix::{SignalKind, signal};
use std::future::poll_fn;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// How long writing the last log line may take: the reader of a pipe may have stopped reading.
const LOG_TIMEOUT: Duration = Duration::from_millis(100);

/// How often [`unless_shutdown`] checks its thread.
const POLL: Duration = Duration::from_millis(10);

/// What the first signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstSignal {
    /// Requests shutdown: see [`shutdown_requested_at`].
    ShutsDown,
    /// The same, with a line in the log: the command is silent until its work is complete.
    CompletesWork,
    /// Exits at once.
    Exits,
}

#[derive(Debug)]
struct ShutdownRequest {
    at: Option<Instant>,
    /// Tasks to wake at the request.
    wakers: Vec<Waker>,
}

static REQUEST: Mutex<ShutdownRequest> = Mutex::new(ShutdownRequest { at: None, wakers: Vec::new() });
/// Notified when shutdown is requested.
static CHANGED: Condvar = Condvar::new();

/// Starts receiving signals.
///
/// # Errors
///
/// The system has no thread or no descriptor left.
pub(crate) fn watch(first_signal: FirstSignal) -> io::Result<()> {
    let (ready, is_ready) = channel();
    let thread = thread::Builder::new().name("poolhouse-signals".to_owned());
    thread.spawn(move || {
        if let Err(error) = receive(first_signal, &ready) {
            let _ = ready.send(Err(error));
        }
    })?;
    is_ready.recv().map_err(io::Error::other)?
}

/// When shutdown was requested; `None` if it was not.
pub(crate) fn shutdown_requested_at() -> Option<Instant> {
    lock().at
}

/// Whether shutdown was requested.
pub(crate) fn is_shutdown_requested() -> bool {
    shutdown_requested_at().is_some()
}

/// Waits until shutdown is requested, at most for `timeout`; returns whether it was.
pub(crate) fn wait(timeout: Duration) -> bool {
    let request = CHANGED.wait_timeout_while(lock(), timeout, |request| request.at.is_none());
    request.unwrap_or_else(PoisonError::into_inner).0.at.is_some()
}

/// Ready once shutdown is requested.
pub(crate) fn poll_shutdown(context: &Context<'_>) -> Poll<()> {
    let mut request = lock();
    if request.at.is_some() {
        return Poll::Ready(());
    }
    if !request.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
        request.wakers.push(context.waker().clone());
    }
    Poll::Pending
}

/// Runs `work` in another thread and returns its result. Returns `None` if shutdown is requested first. The thread is
/// then abandoned: a database that does not answer must not delay the shutdown.
///
/// # Errors
///
/// The system has no thread left.
pub(crate) fn unless_shutdown<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> io::Result<Option<R>> {
    let thread = thread::Builder::new().name("poolhouse-start".to_owned()).spawn(work)?;
    loop {
        if thread.is_finished() {
            return match thread.join() {
                Ok(done) => Ok(Some(done)),
                Err(panic) => std::panic::resume_unwind(panic),
            };
        }
        if wait(POLL) {
            return Ok(None);
        }
    }
}

fn lock() -> MutexGuard<'static, ShutdownRequest> {
    REQUEST.lock().unwrap_or_else(PoisonError::into_inner)
}

fn receive(first_signal: FirstSignal, ready: &Sender<io::Result<()>>) -> io::Result<()> {
    let mut kinds = vec![SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()];
    if handles_sighup() {
        kinds.push(SignalKind::hangup());
    }
    Runtime::new()?.block_on(async {
        let mut signals = Vec::new();
        for kind in kinds {
            signals.push((kind, signal(kind)?));
        }
        let _ = ready.send(Ok(()));
        loop {
            let kind = poll_fn(|context| {
                let mut signals = signals.iter_mut();
                match signals.find_map(|(kind, signal)| signal.poll_recv(context).is_ready().then_some(*kind))
                {
                    Some(kind) => Poll::Ready(kind),
                    None => Poll::Pending,
                }
            })
            .await;
            if kind == SignalKind::quit() {
                exit_at_once(kind, "SIGQUIT: stopping at once");
            } else if first_signal == FirstSignal::Exits {
                exit_at_once(kind, "Interrupted: stopping at once");
            } else if !request_shutdown() {
                exit_at_once(kind, "Second signal: stopping at once");
            } else if first_signal == FirstSignal::CompletesWork {
                log::info!("Stopping when the work in hand is complete; a second signal stops at once");
            }
        }
    })
}

/// Requests shutdown; returns whether this is the first request.
fn request_shutdown() -> bool {
    let mut request = lock();
    let is_first = request.at.is_none();
    request.at.get_or_insert_with(Instant::now);
    let wakers = std::mem::take(&mut request.wakers);
    drop(request);
    CHANGED.notify_all();
    for waker in wakers {
        waker.wake();
    }
    is_first
}

/// Exits with the code that a shell reports for a process killed by the signal. Watchdogs end the processes it started.
fn exit_at_once(kind: SignalKind, words: &'static str) -> ! {
    let (said, is_said) = channel();
    let speaker = thread::Builder::new().spawn(move || {
        log::warn!("{words}");
        let _ = said.send(());
    });
    if speaker.is_ok() {
        let _ = is_said.recv_timeout(LOG_TIMEOUT);
    }
    std::process::exit(128 + kind.as_raw_value())
}

/// Whether to handle SIGHUP. Not if it is ignored, as under `nohup`: a handler would undo that. Without `/proc` the
/// signal keeps its default action, which ends the program.
fn handles_sighup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (SignalKind::hangup().as_raw_value() - 1) == 0)
}
