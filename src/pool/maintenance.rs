//! Upkeep in the background: cleans what came back dirty, closes what is too old or too many, checks what is
//! suspect, cancels what nobody waits for any more. One thread per pool, and nobody waits for it.

use crate::pool::acquire::{Taken, unpanicked};
use crate::pool::gate::{Gate, Permit, Surplus};
use crate::pool::generation::GenerationStatus;
use crate::pool::logging::logged;
use crate::pool::session::Session;
use crate::pool::status::CloseReason;
use crate::pool::transport::cancel::{Cancel, send_all};
use crate::pool::{Pooled, Shared};
use log::{debug, error, warn};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long cleaning or cancelling may take before the server is given up on.
const PATIENCE: Duration = Duration::from_millis(500);
/// How much work may queue before borrowers clean for themselves: one thread does it for the whole pool, and a
/// connection that waits to be cleaned is one that nobody has.
const BACKLOG: usize = 4;

enum Work {
    Close(Box<Session>),
    Clean(Pooled, Permit),
    Cancel(Arc<Cancel>),
    Look,
    Stop,
}

/// The way to the maintenance thread's thread.
#[derive(Debug, Clone)]
pub(crate) struct MaintenanceHandle {
    sender: Sender<Work>,
    /// Sessions that wait to be cleaned.
    backlog: Arc<AtomicUsize>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Work::Close(_) => "Close",
            Work::Clean(..) => "Clean",
            Work::Cancel(..) => "Cancel",
            Work::Look => "Look",
            Work::Stop => "Stop",
        })
    }
}

/// the maintenance thread before its pool exists.
pub(crate) struct Maintenance {
    receiver: Receiver<Work>,
    handle: MaintenanceHandle,
}

impl Maintenance {
    pub(crate) fn new() -> Maintenance {
        let (sender, receiver) = channel();
        let handle = MaintenanceHandle { sender, backlog: Arc::default(), thread: Arc::default() };
        Maintenance { receiver, handle }
    }

    pub(crate) fn handle(&self) -> MaintenanceHandle {
        self.handle.clone()
    }

    /// Starts the thread. It holds the pool weakly and ends with it.
    pub(crate) fn start(self, shared: &Arc<Shared>) -> std::io::Result<()> {
        let tick = tick(shared);
        let weak = Arc::downgrade(shared);
        let Maintenance { receiver, handle } = self;
        let backlog = handle.backlog.clone();
        let thread = std::thread::Builder::new()
            .name("poolhouse-maintenance".into())
            .spawn(move || run(&weak, &receiver, &backlog, tick))?;
        if let Ok(mut slot) = handle.thread.lock() {
            *slot = Some(thread);
        }
        Ok(())
    }
}

impl MaintenanceHandle {
    /// Ends a session that the store has no place for any more.
    pub(crate) fn close_dropped(&self, session: Box<Session>, gate: &Gate) {
        let reason = session.close_reason().unwrap_or(CloseReason::Retired);
        gate.with_counts(|counts| counts.close(reason));
        self.close(session);
    }

    /// Says goodbye to the server for a session.
    fn close(&self, session: Box<Session>) {
        if let Err(unsent) = self.send(Work::Close(session)) {
            // the maintenance thread is gone. A thread of its own, because the caller may be async code, where the driver
            // panics.
            let _ = std::thread::Builder::new().spawn(move || drop(unsent));
        }
    }

    /// Cleans a session and puts it back into the store. Gives it back where there is too much to do already; not one
    /// that was cancelled, because that request is ahead of it in the queue, and must not meet the next borrower.
    pub(crate) fn clean(&self, pooled: Pooled, permit: Permit) -> Option<(Pooled, Permit)> {
        if self.backlog.load(Ordering::Relaxed) >= BACKLOG && !pooled.is_cancelled() {
            return Some((pooled, permit));
        }
        self.backlog.fetch_add(1, Ordering::Relaxed);
        match self.send(Work::Clean(pooled, permit)) {
            Err(Work::Clean(pooled, permit)) => {
                self.backlog.fetch_sub(1, Ordering::Relaxed);
                Some((pooled, permit))
            }
            _ => None,
        }
    }

    /// Asks the server to stop the statement nobody waits for any more.
    pub(crate) fn cancel(&self, cancel: Arc<Cancel>) {
        let _ = self.send(Work::Cancel(cancel));
    }

    /// Has the maintenance thread look after the idle connections now.
    pub(crate) fn look(&self) {
        let _ = self.send(Work::Look);
    }

    /// Ends the thread after what is queued, and waits for it, where it is not the caller's own, until `deadline`.
    pub(crate) fn stop(&self, deadline: Instant) {
        let _ = self.send(Work::Stop);
        let thread = self.thread.lock().ok().and_then(|mut slot| slot.take());
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // The standard library has no join with a time limit, and what is queued may be goodbyes to a server that
            // does not answer.
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }

    fn send(&self, work: Work) -> Result<(), Work> {
        self.sender.send(work).map_err(|unsent| unsent.0)
    }
}

/// Often enough that every limit is kept to within a quarter, and never busier than twenty times a second.
fn tick(shared: &Shared) -> Duration {
    let settings = &shared.settings;
    let overflow = (settings.max_overflow > 0).then_some(OVERFLOW_IDLE);
    // Lifetimes are spread over a tenth; a tick that is longer would bring them together again.
    let spread = settings.max_lifetime.map(|age| age / 10);
    [settings.idle_timeout, spread, settings.keepalive, settings.leak_threshold, overflow]
        .into_iter()
        .flatten()
        .map(|limit| limit / 4)
        .min()
        .unwrap_or(Duration::from_secs(1))
        .clamp(Duration::from_millis(50), Duration::from_secs(1))
}

/// What part of the idle timeout lies between two connections that are closed for being idle: load that pulses more
/// slowly than the timeout pays for few connects at each pulse.
const TRIM_SHARE: u32 = 8;
/// How long an overflow connection may stay idle.
const OVERFLOW_IDLE: Duration = Duration::from_secs(1);

fn run(weak: &Weak<Shared>, receiver: &Receiver<Work>, backlog: &AtomicUsize, tick: Duration) {
    let mut next_look = Instant::now() + tick;
    let mut next_trim = Instant::now();
    let mut queued = VecDeque::new();
    loop {
        let work = match queued.pop_front() {
            Some(work) => work,
            None => match receiver.recv_timeout(next_look.saturating_duration_since(Instant::now())) {
                Ok(work) => work,
                Err(RecvTimeoutError::Timeout) => Work::Look,
                Err(RecvTimeoutError::Disconnected) => return,
            },
        };
        match work {
            Work::Close(session) => survive("closing a connection", || drop(session)),
            Work::Stop => return,
            work => {
                let Some(shared) = weak.upgrade() else { return };
                match work {
                    Work::Clean(pooled, permit) => {
                        backlog.fetch_sub(1, Ordering::Relaxed);
                        survive("cleaning a connection", || shared.clean(pooled, permit, PATIENCE));
                    }
                    // Together with all others that are asked for: a silent server is waited for once.
                    Work::Cancel(cancel) => {
                        queued.extend(receiver.try_iter());
                        let mut cancels = vec![cancel];
                        queued.retain(|work| match work {
                            Work::Cancel(cancel) => {
                                cancels.push(cancel.clone());
                                false
                            }
                            _ => true,
                        });
                        survive("cancelling", || shared.cancel(&cancels));
                    }
                    _ => next_look = Instant::now(),
                }
                // Also while there is always something else to do.
                if Instant::now() >= next_look {
                    survive("looking after idle connections", || look(&shared, &mut next_trim));
                    next_look = Instant::now() + tick;
                }
            }
        }
    }
}

/// Does one piece of work. A panic in there, as the driver's may be, is the end of that piece and not of the maintenance thread,
/// whom nobody would miss until it is needed.
fn survive(what: &str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        logged(|| error!("Upkeep of the pool panicked while {what}, and goes on"));
    }
}

impl Shared {
    /// Resets a session that was left dirty and gives it back, or closes it.
    pub(crate) fn clean(&self, mut pooled: Pooled, permit: Permit, patience: Duration) {
        if self.gate.retires() {
            // Not worth a round trip any more.
        } else if unpanicked(|| pooled.reset(Instant::now() + patience)) {
            self.gate.with_counts(|counts| counts.resets += 1);
        } else {
            let why = if pooled.has_timed_out() {
                self.generations.outdate(pooled.generation);
                "the server did not answer"
            } else if pooled.is_broken() {
                if self.generations.suspect(pooled.generation) {
                    self.maintenance.look();
                }
                "the connection broke"
            } else {
                "the server refused, or a request to cancel is astray"
            };
            // Not a borrower's loss.
            pooled.condemn_instead(CloseReason::Dirty);
            let pool = &self.settings.name;
            logged(|| {
                warn!(
                    "A connection could not be made clean after use and is closed: {why} (pool \"{pool}\")"
                );
            });
        }
        self.give_back_clean(pooled, permit);
    }

    fn cancel(&self, cancels: &[Arc<Cancel>]) {
        if self.gate.is_closed() {
            return;
        }
        let failures = send_all(cancels, PATIENCE).unwrap_or_else(|error| vec![error]);
        for error in failures {
            logged(|| debug!("Request to cancel failed: {error}"));
        }
    }
}

/// Looks after the idle connections and the long-held ones. `next_trim` is when another one may go because it is
/// idle.
fn look(shared: &Shared, next_trim: &mut Instant) {
    report_leaks(shared);
    let now = Instant::now();
    let Surplus { mut above_max, mut above_min, mut overflow } =
        shared.gate.surplus(shared.settings.max_overflow);
    let mut keep = Vec::new();
    let mut check = Vec::new();
    let settings = &shared.settings;
    for _ in 0..shared.gate.begin_check(u32::MAX) {
        let mut pooled = match shared.take(now + PATIENCE) {
            Taken::Session(pooled) => pooled,
            Taken::NotYet => {
                shared.gate.end_check();
                continue;
            }
            Taken::Closed => {
                shared.gate.end_check_closed();
                continue;
            }
        };
        let idle_for = now.saturating_duration_since(pooled.idle_since);
        let unheard_for = now.saturating_duration_since(pooled.conn().answered_at());
        let standing = shared.generations.standing(pooled.generation);
        let reason = if above_max > 0 || standing == GenerationStatus::Outdated {
            Some(CloseReason::Retired)
        } else if pooled.retire_at.is_some_and(|at| at <= now) {
            Some(CloseReason::Expired)
        } else if overflow > 0 && idle_for >= OVERFLOW_IDLE {
            Some(CloseReason::Overflow)
        } else if let Some(limit) = settings.idle_timeout
            && above_min > 0
            && idle_for >= limit
            && now >= *next_trim
        {
            // One at a time: load that comes back only a little later than that finds the others.
            *next_trim = now + limit / TRIM_SHARE;
            Some(CloseReason::Idle)
        } else {
            None
        };
        if let Some(reason) = reason {
            above_max = above_max.saturating_sub(1);
            above_min = above_min.saturating_sub(1);
            overflow = overflow.saturating_sub(1);
            pooled.condemn(reason);
            drop(pooled);
            shared.gate.end_check_closed();
        } else if standing == GenerationStatus::Suspect
            || settings.keepalive.is_some_and(|every| unheard_for >= every)
        {
            check.push(pooled);
        } else {
            keep.push(pooled);
        }
    }
    // Back in the order in which they lay, so that the one used last is lent first.
    while let Some(pooled) = keep.pop() {
        drop(pooled);
        shared.gate.end_check();
    }
    for mut pooled in check {
        let outdated = shared.generations.standing(pooled.generation) == GenerationStatus::Outdated;
        if !outdated && shared.is_alive(&mut pooled, None) {
            drop(pooled);
            shared.gate.end_check();
        } else {
            pooled.condemn(CloseReason::Invalid);
            drop(pooled);
            shared.gate.end_check_closed();
        }
    }
    shared.gate.keep_minimum();
}

fn report_leaks(shared: &Shared) {
    let Some(threshold) = shared.settings.leak_threshold else { return };
    let mut found = Vec::new();
    shared.gate.long_held(threshold, |holder, held| {
        if !std::mem::replace(&mut holder.reported, true) {
            found.push((holder.at, held));
        }
    });
    for (at, held) in found {
        shared.gate.with_counts(|counts| counts.leaks += 1);
        let (held, pool) = (held.as_secs_f64(), &shared.settings.name);
        logged(|| warn!("Connection held for {held:.1} s, acquired at {at}: leaked? (pool \"{pool}\")"));
    }
}
