//! The pool: the public handle and its parts.
//!
//! - `gate` decides which caller gets a connection next and when to connect. It holds no connection.
//! - `store` is r2d2, which connects on the gate's requests, and the slots, which keep the idle sessions.
//! - `acquire` and `release` lend a session and take it back; `statement` runs statements on it.
//! - `maintenance` is the background thread; `observation` reports the pool's numbers, and
//!   `history` keeps those of the last minutes; `statement_stats` has what each statement costs.
//! - `sharing` sends the statements of several waiting callers in one round trip.
//! - `session` is one server session; `transport` is the byte stream to the server.
//!
//! This file opens, resizes, suspends, resets and closes a pool. It knows nothing of statements and rows.

mod acquire;
mod cancellation;
mod connection;
mod deadline;
mod gate;
mod generation;
mod history;
mod log_throttle;
mod logging;
mod maintenance;
mod observation;
mod polled;
mod release;
mod session;
mod sharing;
mod slow_log;
mod statement;
mod statement_stats;
mod status;
mod store;
mod transport;

pub(crate) use acquire::Turn;
pub(crate) use cancellation::{Cancellation, is_cancelled};
pub use connection::Connection;
pub(crate) use connection::Lease;
pub use deadline::with_deadline;
pub(crate) use deadline::{CANCEL_GRACE, deadline, having_waited};
pub use history::Snapshot;
pub(crate) use log_throttle::LogThrottle;
pub use observation::{Observation, ServerCapacity};
pub(crate) use polled::{Polled, PolledBatch};
pub(crate) use session::batch::PATIENCE;
pub(crate) use session::{
    Answer, CopyStatement, Effect, Encoded, Failure, Limit, Piece, Portal, Retry, Session,
};
pub(crate) use sharing::Access;
use slow_log::SlowLog;
pub use statement_stats::StatementStats;
pub(crate) use status::SharedHistogram;
use status::Tally;
pub use status::{ClosedCounts, ErrorCounts, EventCounts, Histogram, Holding, PoolState, PoolStatus};
pub(crate) use transport::socket::Socket;

use crate::error::{Error, PoolNumbers, Problem, Result, SettingsError};
use crate::pool::gate::{Gate, Limits, Refusal};
use crate::pool::generation::Generations;
use crate::pool::history::History;
use crate::pool::logging::logged;
use crate::pool::maintenance::{Maintenance, MaintenanceHandle};
use crate::pool::observation::{Capacity, ThreadWaits};
use crate::pool::session::classify::catalogue::Catalogue;
use crate::pool::statement_stats::StatementTable;
pub(crate) use crate::pool::store::slots::{Holder, Pooled};
use crate::pool::store::slots::{Slots, close_unused};
use crate::pool::store::{Dropped, Manager, SessionFactory};
use crate::settings::{PoolSettings, Start};
use log::warn;
use scheduled_thread_pool::{OnPoolDropBehavior, ScheduledThreadPool};
use std::collections::HashSet;
use std::panic::Location;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

/// Threads that connect. The server's postmaster accepts connections one at a time, so more would not be faster.
const CONNECTOR_THREADS: usize = 4;

/// How much longer than the connect timeout `open` waits, so that the failed attempt reports its own cause.
const REASON_GRACE: Duration = Duration::from_millis(100);

/// A pool of connections to one database. Cloning is cheap, and every clone is the same pool.
///
/// Dropping the last handle ends the pool's threads and connections. [`close`](Pool::close) also waits for borrowers.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

/// The state that all handles, borrowers, and the maintenance thread share.
///
/// **Lock rule**: the two locks are independent, each governs its own field, and neither is held while waiting.
pub(crate) struct Shared {
    gate: Arc<Gate>,
    generations: Arc<Generations>,
    catalogue: Arc<Catalogue>,
    /// Counts what happens without the gate's lock.
    tally: Arc<Tally>,
    slow_log: Arc<SlowLog>,
    settings: PoolSettings,
    /// The maximum, as last resized.
    max_connections: AtomicU32,
    maintenance: MaintenanceHandle,
    history: History,
    capacity: Capacity,
    statement_table: StatementTable,
    thread_waits: ThreadWaits,
    /// `None` after `close`, so that r2d2's threads end.
    store: RwLock<Option<r2d2::Pool<Manager>>>,
    slots: Slots,
    /// Where connections were acquired that came back inside a transaction. Each place is logged once.
    left_in_transaction: Mutex<HashSet<&'static Location<'static>>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("status", &self.status()).finish()
    }
}

impl Pool {
    /// Opens a pool: connects `min_connections` and keeps at least as many open.
    ///
    /// # Blocking
    ///
    /// Until the minimum is connected, at most for the connect timeout. A refused login or connection ends it at once. With
    /// [`Start::Wait`] it does not block.
    ///
    /// # Errors
    ///
    /// - `Settings`: sizes or times contradict each other, or the certificate file cannot be used.
    /// - `Authentication`: the server refuses user, password or database; the error contains its message. Not with
    ///   [`Start::Wait`].
    /// - `Down`: the server cannot be reached or did not answer in time. Not with [`Start::Wait`].
    pub fn open(settings: &PoolSettings) -> Result<Pool> {
        settings.validate()?;
        let catalogue = Arc::new(Catalogue::new());
        let tally = Arc::new(Tally::default());
        let slow_log = Arc::new(SlowLog::new(settings, tally.clone()));
        let factory = SessionFactory::new(settings, catalogue.clone(), tally.clone(), slow_log.clone())?;
        let ceiling = ceiling(settings.max_connections);
        let gate = Arc::new(Gate::new(Limits {
            min: settings.min_connections,
            max: settings.max_connections,
            ceiling,
            max_waiting: settings.max_waiting,
            outage_grace: settings.outage_grace,
            shedding: settings.queue_target.map(|target| (target, settings.queue_interval)),
            is_cancelled: cancellation::is_cancelled,
        }));
        let generations = Arc::new(Generations::default());
        let maintenance = Maintenance::new();
        let manager = Manager::new(gate.clone(), generations.clone(), factory);
        let store = store(manager, ceiling, maintenance.handle(), gate.clone());
        let shared = Arc::new(Shared {
            gate,
            generations,
            catalogue,
            tally,
            slow_log,
            settings: settings.clone(),
            max_connections: AtomicU32::new(settings.max_connections),
            maintenance: maintenance.handle(),
            history: History::new(),
            capacity: Capacity::default(),
            statement_table: StatementTable::new(),
            thread_waits: ThreadWaits::default(),
            store: RwLock::new(Some(store)),
            slots: Slots::new(ceiling),
            left_in_transaction: Mutex::default(),
        });
        maintenance.start(&shared).map_err(Error::application)?;
        let pool = Pool { shared };
        pool.shared.gate.keep_minimum();
        if settings.start == Start::Fail {
            pool.shared
                .gate
                .wait_until_warm(Instant::now() + settings.connect_timeout + REASON_GRACE)
                .map_err(|refusal| pool.shared.refused(refusal))?;
        }
        Ok(pool)
    }

    /// Lends a connection. Dropping it returns it to the pool.
    ///
    /// # Blocking
    ///
    /// Until a connection is available, at most for the pool's acquire timeout, in every state of the server.
    ///
    /// # Errors
    ///
    /// - `Exhausted`: no connection became available in time.
    /// - `Suspended`: the pool was suspended for the whole time.
    /// - `Saturated`: the queue is full, or its delay stays above the target; at once.
    /// - `Down`: the server cannot be reached or does not answer; at once if that has lasted longer than the
    ///   outage grace.
    /// - `Authentication`: the server refuses the login.
    /// - `SelfDeadlock`: this thread already holds a connection and no other is available; at once. The thread that
    ///   acquired a connection counts as its holder until it is returned, even if another thread uses it.
    /// - `Closed`: the pool is closed.
    #[track_caller]
    pub fn get_connection(&self) -> Result<Connection> {
        self.get_connection_timeout(self.shared.settings.acquire_timeout)
    }

    /// Lends a connection and waits at most `timeout` for it. With zero it takes an idle one or fails at once.
    ///
    /// # Blocking
    ///
    /// At most `timeout` and some milliseconds.
    ///
    /// # Errors
    ///
    /// As [`get_connection`](Pool::get_connection).
    #[track_caller]
    pub fn get_connection_timeout(&self, timeout: Duration) -> Result<Connection> {
        let now = Instant::now();
        let lent = self.shared.clone().lend(now, add(now, timeout), Location::caller());
        Ok(Connection::new(self.shared.noted(lent)?))
    }

    /// Changes the sizes of a running pool.
    ///
    /// The pool grows at once. Connections above a smaller maximum are closed when they are returned.
    ///
    /// The maximum has a ceiling that is fixed when the pool is opened: twice the maximum it is opened with, and at
    /// least 64. For more, open another pool.
    ///
    /// # Errors
    ///
    /// - `Settings`: `min` above `max`, `max` zero, or `max` above the ceiling.
    /// - `Closed`: the pool is closed.
    pub fn resize(&self, min: u32, max: u32) -> Result<()> {
        let opened_with = &self.shared.settings;
        let max_overflow = opened_with.max_overflow.min(max.saturating_sub(1));
        PoolSettings { min_connections: min, max_connections: max, max_overflow, ..opened_with.clone() }
            .validate()?;
        let ceiling = ceiling(opened_with.max_connections);
        if max > ceiling {
            let problem = Problem {
                variable: "max_connections (DB_POOL_MAX_CONNECTIONS)".into(),
                value: max.to_string(),
                allowed: format!(
                    "1 to {ceiling}, which was fixed when the pool was opened with {}: twice that, at least 64",
                    opened_with.max_connections
                ),
            };
            return Err(SettingsError { problems: vec![problem] }.into());
        }
        if !self.shared.gate.resize(min, max) {
            return Err(Error::Closed);
        }
        self.shared.max_connections.store(max, Ordering::Relaxed);
        self.shared.maintenance.inspect();
        Ok(())
    }

    /// Suspends lending, for a short maintenance of the server.
    ///
    /// Callers wait within their deadlines. Lent connections are not affected.
    ///
    /// # Errors
    ///
    /// - `Closed`: the pool is closed.
    pub fn suspend(&self) -> Result<()> {
        if self.shared.gate.suspend() { Ok(()) } else { Err(Error::Closed) }
    }

    /// Resumes lending after [`suspend`](Pool::suspend).
    ///
    /// # Errors
    ///
    /// - `Closed`: the pool is closed.
    pub fn resume(&self) -> Result<()> {
        if self.shared.gate.resume() { Ok(()) } else { Err(Error::Closed) }
    }

    /// Replaces every connection: idle ones now, lent ones when they are returned.
    ///
    /// It also discards what the pool has learned about the server's functions, views and triggers. Use it after a change of the
    /// password or of a role's settings, a move of the server, or a migration.
    pub fn reset(&self) {
        self.shared.generations.outdate_all();
        self.shared.catalogue.reset();
        self.shared.maintenance.inspect();
    }

    /// Closes the pool.
    ///
    /// Waiters fail immediately with `Closed`. Lent connections can still be used and are closed when they are returned. A
    /// second call has no effect.
    ///
    /// Returns whether every connection was returned within `deadline`.
    ///
    /// # Blocking
    ///
    /// Until every connection is returned, at most `deadline`.
    pub fn close(&self, deadline: Duration) -> bool {
        let shared = &self.shared;
        let deadline = add(Instant::now(), deadline);
        shared.gate.close();
        let left = shared.gate.wait_until_idle(deadline);
        let store = shared.store.write().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(store) = store {
            while let Some(guard) = store.try_get() {
                close_unused(guard);
            }
        }
        shared.slots.close();
        shared.maintenance.stop(deadline);
        if left > 0 {
            let pool = &shared.settings.name;
            logged(|| {
                warn!(
                    "Pool \"{pool}\" closed with {left} connections still lent; each ends when it is returned"
                );
            });
        }
        left == 0
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.gate.close();
        // The last handle may be dropped in async code, where closing the driver's client panics.
        self.slots.close();
        self.maintenance.stop(add(Instant::now(), Duration::MAX));
    }
}

/// r2d2's pool, which connects only on the gate's requests and closes connections only through the maintenance thread.
fn store(
    manager: Manager,
    ceiling: u32,
    maintenance: MaintenanceHandle,
    gate: Arc<Gate>,
) -> r2d2::Pool<Manager> {
    let threads = ScheduledThreadPool::builder()
        .num_threads(CONNECTOR_THREADS)
        .thread_name_pattern("poolhouse-connect-{}")
        .on_drop_behavior(OnPoolDropBehavior::DiscardPendingScheduled)
        .build();
    r2d2::Pool::builder()
        .max_size(ceiling)
        .min_idle(Some(ceiling))
        .test_on_check_out(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connection_timeout(Duration::from_secs(1))
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .connection_customizer(Box::new(Dropped(move |session| maintenance.close_dropped(session, &gate))))
        .thread_pool(Arc::new(threads))
        .build_unchecked(manager)
}

/// The largest maximum to which a pool opened with a maximum of `max` can be resized. r2d2's size is fixed, and each slot adds
/// a third of a nanosecond to every acquire.
fn ceiling(max: u32) -> u32 {
    max.saturating_mul(2).max(64)
}

impl Shared {
    /// Counts the error of a call that ends with this outcome.
    pub(crate) fn noted<R>(&self, outcome: Result<R>) -> Result<R> {
        if let Err(error) = &outcome {
            self.tally.note_error(error);
        }
        outcome
    }

    /// The error for a refusal by the gate, with the pool's name.
    fn refused(&self, (refusal, mut numbers): (Refusal, Box<PoolNumbers>)) -> Error {
        numbers.pool.clone_from(&self.settings.name);
        match refusal {
            Refusal::TimedOut => Error::Exhausted(numbers),
            Refusal::Suspended => Error::Suspended(numbers),
            Refusal::Saturated | Refusal::Shed => Error::Saturated(numbers),
            Refusal::Down => Error::Down(numbers),
            Refusal::Login => Error::Authentication(numbers),
            Refusal::Closed => Error::Closed,
            Refusal::Cancelled => Error::Cancelled,
            Refusal::SelfDeadlock => Error::SelfDeadlock(numbers),
        }
    }
}

/// `now + timeout`, for timeouts of any length.
pub(crate) fn add(now: Instant, timeout: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now + timeout.min(CENTURY)
}
