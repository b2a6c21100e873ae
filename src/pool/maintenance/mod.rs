//! Maintenance: the pool's background thread. It resets dirty sessions, closes expired and surplus ones, checks suspect ones,
//! and sends cancel requests. No caller waits for it.
//!
//! It knows the gate, the store and sessions, and nothing of statements. [`inspection`] decides about idle connections.
//!
//! **Lock rule**: work arrives through a channel, and the backlog is an atomic. The one mutex governs the thread's handle,
//! and is held to store or take it.

mod inspection;

use crate::pool::acquire::catch_panic;
use crate::pool::gate::{Gate, Permit};
use crate::pool::logging::logged;
use crate::pool::session::Session;
use crate::pool::status::{CloseReason, Event};
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
            schedule: Schedule::new(inspection::interval(shared)),
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
        cancel.note_ordered();
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
                    shared.record_history();
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
            if !pooled.receive_abandoned() {
                // A slow statement, whose caller has given it up.
                self.maintenance.cancel(pooled.cancel());
                pooled.mark_for_close(CloseReason::Dirty);
            } else if catch_panic(|| pooled.reset(Instant::now() + limit)) {
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
        pooled.replace_close_reason(CloseReason::Dirty);
        let pool = &self.settings.name;
        logged(|| {
            warn!("A connection could not be made clean after use and is closed: {cause} (pool \"{pool}\")");
        });
    }

    fn cancel(&self, cancels: &[Arc<Cancel>]) {
        if self.gate.is_closed() {
            return;
        }
        self.tally.add_many(Event::Cancel, cancels.len() as u64);
        let failures = send_all(cancels, TIME_LIMIT).unwrap_or_else(|error| vec![error]);
        for error in failures {
            logged(|| debug!("Cancel request failed: {error}"));
        }
        cancels.iter().for_each(|cancel| cancel.note_sent());
    }
}
