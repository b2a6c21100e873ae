//! Maintenance: the pool's background thread. It resets dirty sessions, closes expired and surplus ones, checks suspect ones,
//! and sends cancel requests. No caller waits for it.
//!
//! It knows the gate, the store and sessions, and nothing of statements.
//!
//! **Lock rule**: work arrives through a channel, and the backlog is an atomic. The one mutex governs the thread's handle,
//! and is held to store or take it.

use crate::pool::acquire::{Taken, catch_panic};
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

/// The longest time for resetting one session, or for sending one batch of cancel requests.
const TIME_LIMIT: Duration = Duration::from_millis(500);
/// The most sessions that wait for a reset. Beyond it borrowers reset sessions themselves: one thread serves the whole pool,
/// and a session that waits for its reset cannot be lent.
const MAX_BACKLOG: usize = 4;

enum Work {
    Close(Box<Session>),
    Clean(Pooled, Permit),
    Cancel(Arc<Cancel>),
    Inspect,
    Stop,
}

/// Sends work to the maintenance thread.
#[derive(Debug, Clone)]
pub(crate) struct MaintenanceHandle {
    sender: Sender<Work>,
    /// Sessions that wait for a reset.
    backlog: Arc<AtomicUsize>,
    /// The thread, until it is stopped.
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Work::Close(_) => "Close",
            Work::Clean(..) => "Clean",
            Work::Cancel(..) => "Cancel",
            Work::Inspect => "Inspect",
            Work::Stop => "Stop",
        })
    }
}

/// The maintenance thread before it is started. The store needs its handle before the pool exists.
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

    /// Starts the thread. It holds a weak reference to the pool and ends with it.
    pub(crate) fn start(self, shared: &Arc<Shared>) -> std::io::Result<()> {
        let Maintenance { receiver, handle } = self;
        let worker = Worker {
            receiver,
            backlog: handle.backlog.clone(),
            queued: VecDeque::new(),
            schedule: Schedule::new(interval(shared)),
        };
        let weak = Arc::downgrade(shared);
        let thread = std::thread::Builder::new()
            .name("poolhouse-maintenance".into())
            .spawn(move || worker.run(&weak))?;
        if let Ok(mut slot) = handle.thread.lock() {
            *slot = Some(thread);
        }
        Ok(())
    }
}

impl MaintenanceHandle {
    /// Closes and counts a session that r2d2 has dropped, or that has no slot in the store any more.
    pub(crate) fn close_dropped(&self, session: Box<Session>, gate: &Gate) {
        let reason = session.close_reason().unwrap_or(CloseReason::Retired);
        gate.with_counts(|counts| counts.close(reason));
        self.close(session);
    }

    fn close(&self, session: Box<Session>) {
        if let Err(unsent) = self.send(Work::Close(session)) {
            // The maintenance thread has ended. The caller may be async code, where closing the driver's client panics, so
            // that needs a thread of its own.
            let _ = std::thread::Builder::new().spawn(move || drop(unsent));
        }
    }

    /// Resets a session and puts it back into the store. Returns it unchanged if the backlog is full.
    ///
    /// A cancelled session is accepted even then: its cancel request is ahead of it in the queue, and must not reach the next
    /// borrower's statement.
    pub(crate) fn clean(&self, pooled: Pooled, permit: Permit) -> Option<(Pooled, Permit)> {
        if self.backlog.load(Ordering::Relaxed) >= MAX_BACKLOG && !pooled.is_cancelled() {
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

    /// Sends a cancel request.
    pub(crate) fn cancel(&self, cancel: Arc<Cancel>) {
        let _ = self.send(Work::Cancel(cancel));
    }

    /// Inspects the idle connections now.
    pub(crate) fn inspect(&self) {
        let _ = self.send(Work::Inspect);
    }

    /// Stops the thread after the queued work. Waits for its end until `deadline`, except on the thread itself.
    pub(crate) fn stop(&self, deadline: Instant) {
        let _ = self.send(Work::Stop);
        let thread = self.thread.lock().ok().and_then(|mut slot| slot.take());
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // The standard library has no join with a time limit, and the queue may contain sessions to close on a server
            // that does not answer.
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

/// The interval of inspections: a quarter of the shortest limit, between 50 ms and one second.
fn interval(shared: &Shared) -> Duration {
    let settings = &shared.settings;
    let overflow = (settings.max_overflow > 0).then_some(OVERFLOW_IDLE);
    // Lifetimes are spread over a tenth. With a longer interval, connections would expire together.
    let spread = settings.max_lifetime.map(|age| age / 10);
    [settings.idle_timeout, spread, settings.keepalive, settings.leak_threshold, overflow]
        .into_iter()
        .flatten()
        .map(|limit| limit / 4)
        .min()
        .unwrap_or(Duration::from_secs(1))
        .clamp(Duration::from_millis(50), Duration::from_secs(1))
}

/// The fraction of the idle timeout between two closes of idle connections. If load comes in pulses further apart than the
/// timeout, few connections have to be opened at each pulse.
const TRIM_FRACTION: u32 = 8;
/// How long an overflow connection may stay idle.
const OVERFLOW_IDLE: Duration = Duration::from_secs(1);

/// When the next inspection is due, and the next close of an idle connection.
struct Schedule {
    interval: Duration,
    next_inspection: Instant,
    next_trim: Instant,
}

impl Schedule {
    fn new(interval: Duration) -> Schedule {
        let now = Instant::now();
        Schedule { interval, next_inspection: now + interval, next_trim: now }
    }
}

/// What the maintenance thread runs.
struct Worker {
    receiver: Receiver<Work>,
    backlog: Arc<AtomicUsize>,
    /// Work received ahead of its turn while cancel requests were collected.
    queued: VecDeque<Work>,
    schedule: Schedule,
}

impl Worker {
    /// Works until it is stopped or the pool is gone.
    fn run(mut self, weak: &Weak<Shared>) {
        while let Some(work) = self.next_work() {
            match work {
                Work::Close(session) => survive("closing a connection", || drop(session)),
                Work::Stop => return,
                work => {
                    let Some(shared) = weak.upgrade() else { return };
                    self.perform(work, &shared);
                    // Checked after work too, because the queue may never be empty.
                    if Instant::now() >= self.schedule.next_inspection {
                        survive("inspecting idle connections", || {
                            shared.inspect(&mut self.schedule.next_trim);
                        });
                        self.schedule.next_inspection = Instant::now() + self.schedule.interval;
                    }
                }
            }
        }
    }

    /// Waits for work, at most until the next inspection. `None` if all handles are gone.
    fn next_work(&mut self) -> Option<Work> {
        if let Some(work) = self.queued.pop_front() {
            return Some(work);
        }
        let left = self.schedule.next_inspection.saturating_duration_since(Instant::now());
        match self.receiver.recv_timeout(left) {
            Ok(work) => Some(work),
            Err(RecvTimeoutError::Timeout) => Some(Work::Inspect),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn perform(&mut self, work: Work, shared: &Shared) {
        match work {
            Work::Clean(pooled, permit) => {
                self.backlog.fetch_sub(1, Ordering::Relaxed);
                survive("resetting a connection", || shared.clean(pooled, permit, TIME_LIMIT));
            }
            Work::Cancel(cancel) => {
                let cancels = self.collect_cancels(cancel);
                survive("sending cancel requests", || shared.cancel(&cancels));
            }
            _ => self.schedule.next_inspection = Instant::now(),
        }
    }

    /// Takes every cancel request out of the queue, so that they are sent together and an unresponsive server delays the
    /// thread once.
    fn collect_cancels(&mut self, first: Arc<Cancel>) -> Vec<Arc<Cancel>> {
        self.queued.extend(self.receiver.try_iter());
        let mut cancels = vec![first];
        self.queued.retain(|work| match work {
            Work::Cancel(cancel) => {
                cancels.push(cancel.clone());
                false
            }
            _ => true,
        });
        cancels
    }
}

/// Does one piece of work and catches its panic, which the driver may cause. The thread goes on: nothing would detect its
/// end before it is needed.
fn survive(what: &str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        logged(|| error!("The pool's maintenance thread caught a panic while {what}, and goes on"));
    }
}

impl Shared {
    /// Resets a dirty session and gives it back, or closes it if that fails within `limit`.
    pub(super) fn clean(&self, mut pooled: Pooled, permit: Permit, limit: Duration) {
        // A surplus connection is closed without a reset.
        if !self.gate.retires() {
            if catch_panic(|| pooled.reset(Instant::now() + limit)) {
                self.gate.with_counts(|counts| counts.resets += 1);
            } else {
                self.note_failed_reset(&mut pooled);
            }
        }
        self.give_back_clean(pooled, permit);
    }

    fn note_failed_reset(&self, pooled: &mut Pooled) {
        let cause = if pooled.has_timed_out() {
            self.generations.outdate(pooled.generation);
            "the server did not answer"
        } else if pooled.is_broken() {
            if self.generations.suspect(pooled.generation) {
                self.maintenance.inspect();
            }
            "the connection broke"
        } else {
            "the server refused, or a cancel request is unaccounted for"
        };
        // Counted as dirty even if the connection broke, because no borrower was affected.
        pooled.condemn_instead(CloseReason::Dirty);
        let pool = &self.settings.name;
        logged(|| {
            warn!("A connection could not be made clean after use and is closed: {cause} (pool \"{pool}\")");
        });
    }

    fn cancel(&self, cancels: &[Arc<Cancel>]) {
        if self.gate.is_closed() {
            return;
        }
        let failures = send_all(cancels, TIME_LIMIT).unwrap_or_else(|error| vec![error]);
        for error in failures {
            logged(|| debug!("Cancel request failed: {error}"));
        }
    }

    /// Reports leaks, and inspects every idle connection: closes those that are surplus, outdated, expired or idle for too
    /// long, and checks those that are suspect. `next_trim` is when the next idle connection may be closed for being idle.
    fn inspect(&self, next_trim: &mut Instant) {
        self.report_leaks();
        let now = Instant::now();
        let mut surplus = self.gate.surplus(self.settings.max_overflow);
        let (mut keep, mut check) = (Vec::new(), Vec::new());
        for _ in 0..self.gate.begin_check(u32::MAX) {
            let pooled = match self.take(now + TIME_LIMIT) {
                Taken::Session(pooled) => pooled,
                Taken::NotYet => {
                    self.gate.end_check();
                    continue;
                }
                Taken::Closed => {
                    self.gate.end_check_closed();
                    continue;
                }
            };
            let status = self.generations.status(pooled.generation);
            if let Some(reason) = self.reason_to_trim(&pooled, status, &surplus, now, next_trim) {
                surplus.above_max = surplus.above_max.saturating_sub(1);
                surplus.above_min = surplus.above_min.saturating_sub(1);
                surplus.overflow = surplus.overflow.saturating_sub(1);
                self.close_inspected(pooled, reason);
            } else if status == GenerationStatus::Suspect || self.is_keepalive_due(&pooled, now) {
                check.push(pooled);
            } else {
                keep.push(pooled);
            }
        }
        // Returned in reverse, so that the store has the same order as before and lends the one used last first.
        while let Some(pooled) = keep.pop() {
            self.keep_inspected(pooled);
        }
        for mut pooled in check {
            let is_outdated = self.generations.status(pooled.generation) == GenerationStatus::Outdated;
            if !is_outdated && self.is_alive(&mut pooled, None) {
                self.keep_inspected(pooled);
            } else {
                self.close_inspected(pooled, CloseReason::Invalid);
            }
        }
        self.gate.keep_minimum();
    }

    /// Why an idle connection must be closed; `None` if it may stay.
    fn reason_to_trim(
        &self,
        pooled: &Pooled,
        status: GenerationStatus,
        surplus: &Surplus,
        now: Instant,
        next_trim: &mut Instant,
    ) -> Option<CloseReason> {
        let idle_for = now.saturating_duration_since(pooled.idle_since);
        if surplus.above_max > 0 || status == GenerationStatus::Outdated {
            return Some(CloseReason::Retired);
        }
        if pooled.retire_at.is_some_and(|at| at <= now) {
            return Some(CloseReason::Expired);
        }
        if surplus.overflow > 0 && idle_for >= OVERFLOW_IDLE {
            return Some(CloseReason::Overflow);
        }
        let limit = self.settings.idle_timeout?;
        if surplus.above_min == 0 || idle_for < limit || now < *next_trim {
            return None;
        }
        // One at a time, so that load that returns soon finds the others.
        *next_trim = now + limit / TRIM_FRACTION;
        Some(CloseReason::Idle)
    }

    fn is_keepalive_due(&self, pooled: &Pooled, now: Instant) -> bool {
        let silent_for = now.saturating_duration_since(pooled.conn().answered_at());
        self.settings.keepalive.is_some_and(|interval| silent_for >= interval)
    }

    /// Puts an inspected connection back into the store.
    fn keep_inspected(&self, pooled: Pooled) {
        // Store it before reporting it to the gate, which may lend it immediately.
        drop(pooled);
        self.gate.end_check();
    }

    fn close_inspected(&self, pooled: Pooled, reason: CloseReason) {
        pooled.close(reason);
        self.gate.end_check_closed();
    }

    /// Logs each connection that is held for longer than the leak threshold, once.
    fn report_leaks(&self) {
        let Some(threshold) = self.settings.leak_threshold else { return };
        let mut found = Vec::new();
        self.gate.long_held(threshold, |holder, held| {
            if !std::mem::replace(&mut holder.reported, true) {
                found.push((holder.at, held));
            }
        });
        for (at, held) in found {
            self.gate.with_counts(|counts| counts.leaks += 1);
            let (held, pool) = (held.as_secs_f64(), &self.settings.name);
            logged(|| warn!("Connection held for {held:.1} s, acquired at {at}: leaked? (pool \"{pool}\")"));
        }
    }
}
