//! The end of the program, as signals ask for it.
//!
//! | signal | the first | one more |
//! |---|---|---|
//! | SIGTERM, SIGINT, SIGHUP | `serve` ends in order, every other command at once | at once |
//! | SIGQUIT | at once | |
//!
//! A thread of its own receives them from the first moment on, so that "at once" holds whatever the others wait for,
//! and because the first process of a container gets no signal that it does not receive itself.

use actix_web::rt::Runtime;
use actix_web::rt::signal::unix::{SignalKind, signal};
use std::future::poll_fn;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// How long the last line may take to be written: whoever reads the log may have stopped reading.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How often work in another thread is looked at.
const POLL: Duration = Duration::from_millis(10);

/// What the first signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Asks: see [`asked_at`].
    InOrder,
    /// Ends the program.
    AtOnce,
}

#[derive(Debug)]
struct Asked {
    at: Option<Instant>,
    /// Whom to tell.
    wakers: Vec<Waker>,
}

static ASKED: Mutex<Asked> = Mutex::new(Asked { at: None, wakers: Vec::new() });
/// Notified when the program is asked to end.
static CHANGED: Condvar = Condvar::new();

/// Receives signals from now on.
///
/// # Errors
///
/// The system has no thread or no descriptor left.
pub(crate) fn watch(manner: Manner) -> io::Result<()> {
    let (ready, is_ready) = channel();
    let thread = thread::Builder::new().name("poolhouse-signals".to_owned());
    thread.spawn(move || {
        if let Err(error) = receive(manner, &ready) {
            let _ = ready.send(Err(error));
        }
    })?;
    is_ready.recv().map_err(io::Error::other)?
}

/// When the program was asked to end; `None` while it was not.
pub(crate) fn asked_at() -> Option<Instant> {
    lock().at
}

/// Whether the program was asked to end.
pub(crate) fn is_asked() -> bool {
    asked_at().is_some()
}

/// Waits until the program is asked to end, at most for `timeout`; returns whether it is.
pub(crate) fn wait(timeout: Duration) -> bool {
    let asked = CHANGED.wait_timeout_while(lock(), timeout, |asked| asked.at.is_none());
    asked.unwrap_or_else(PoisonError::into_inner).0.at.is_some()
}

/// Ready once the program is asked to end.
pub(crate) fn poll_asked(context: &Context<'_>) -> Poll<()> {
    let mut asked = lock();
    if asked.at.is_some() {
        return Poll::Ready(());
    }
    if !asked.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
        asked.wakers.push(context.waker().clone());
    }
    Poll::Pending
}

/// Does `work` in a thread of its own. Where the program is asked to end before it is done, it is left alone there,
/// and the answer is `None`: a database that does not answer is no reason to stay.
///
/// # Errors
///
/// The system has no thread left.
pub(crate) fn unless_asked<R: Send + 'static>(
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

fn lock() -> MutexGuard<'static, Asked> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn receive(manner: Manner, ready: &Sender<io::Result<()>>) -> io::Result<()> {
    let mut kinds = vec![SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()];
    if takes_hangups() {
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
                end_at_once(kind, "SIGQUIT: stopping at once");
            } else if manner == Manner::AtOnce {
                end_at_once(kind, "Interrupted: stopping at once");
            } else if !ask() {
                end_at_once(kind, "Second signal: stopping at once");
            }
        }
    })
}

/// Returns whether this is the first time.
fn ask() -> bool {
    let mut asked = lock();
    let is_first = asked.at.is_none();
    asked.at.get_or_insert_with(Instant::now);
    let wakers = std::mem::take(&mut asked.wakers);
    drop(asked);
    CHANGED.notify_all();
    for waker in wakers {
        waker.wake();
    }
    is_first
}

/// Ends the program as a shell would report it had the signal killed it. What was started ends by its watchdog.
fn end_at_once(kind: SignalKind, words: &'static str) -> ! {
    let (said, is_said) = channel();
    let speaker = thread::Builder::new().spawn(move || {
        log::warn!("{words}");
        let _ = said.send(());
    });
    if speaker.is_ok() {
        let _ = is_said.recv_timeout(LAST_WORDS);
    }
    std::process::exit(128 + kind.as_raw_value())
}

/// Whether a hangup is ours to receive: `nohup` has it ignored, and receiving it would undo that. Where the system
/// cannot be asked it is left alone, which without `nohup` ends the program.
fn takes_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (SignalKind::hangup().as_raw_value() - 1) == 0)
}
