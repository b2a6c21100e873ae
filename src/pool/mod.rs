//! The pool: a gate in front, r2d2 as the store and the connector of connections, a maintenance thread behind.

mod acquire;
mod cancellation;
mod connection;
mod deadline;
mod gate;
mod generation;
mod logging;
mod maintenance;
mod release;
mod session;
mod statement;
mod status;
mod store;
mod transport;

pub(crate) use cancellation::{Cancellation, is_stopped};
pub use connection::Connection;
pub(crate) use connection::Lease;
pub(crate) use deadline::having_waited;
pub use deadline::with_deadline;
pub(crate) use session::{Effect, Failure, Limit, Retry, Session};
pub use status::{ClosedCounts, Histogram, LongHeld, PoolState, PoolStatus};

use crate::error::{Error, PoolNumbers, Problem, Result, SettingsError};
use crate::pool::gate::{Gate, Limits, Refusal};
use crate::pool::generation::Generations;
use crate::pool::logging::logged;
use crate::pool::maintenance::{Maintenance, MaintenanceHandle};
use crate::pool::session::classify::catalogue::Catalogue;
use crate::pool::status::CloseReason;
use crate::pool::store::lent::Guards;
pub(crate) use crate::pool::store::lent::Pooled;
use crate::pool::store::{Dropped, Manager, SessionFactory};
use crate::settings::{PoolSettings, Start};
use log::warn;
use scheduled_thread_pool::{OnPoolDropBehavior, ScheduledThreadPool};
use std::collections::HashSet;
use std::panic::Location;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

/// Threads that make connections; more would only queue up at the server's postmaster.
const CONNECTOR_THREADS: usize = 4;

/// How much longer than the connect timeout opening waits, so that the failed attempt tells its own reason.
const REASON_GRACE: Duration = Duration::from_millis(100);

/// A pool of connections to one database; cheap to clone, every clone is the same pool.
///
/// Dropping the last handle ends the pool's threads and connections; [`close`](Pool::close) does it in order.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    gate: Arc<Gate>,
    generations: Arc<Generations>,
    catalogue: Arc<Catalogue>,
    settings: PoolSettings,
    /// As last resized.
    max_connections: AtomicU32,
    maintenance: MaintenanceHandle,
    /// Emptied by `close`, so that r2d2's threads end.
    store: RwLock<Option<r2d2::Pool<Manager>>>,
    guards: Guards,
    /// Where connections were acquired that came back inside a transaction: each place is reported once.
    left_in_transaction: Mutex<HashSet<&'static Location<'static>>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("status", &self.status()).finish()
    }
}

impl Pool {
    /// Opens a pool: connects, and keeps `min_connections` open from then on.
    ///
    /// # Blocking
    ///
    /// Until the minimum is connected, at most for the connect timeout. A refused login or a refused
    /// connection ends it at once. With [`Start::Wait`] it does not wait.
    ///
    /// # Errors
    ///
    /// - `Settings`: the sizes or times contradict each other, or the certificate file cannot be used.
    /// - `Authentication`: the server refuses user, password or database; its words are in the message. Not with
    ///   [`Start::Wait`].
    /// - `Down`: the server cannot be reached, or did not answer in time. Not with [`Start::Wait`].
    pub fn open(settings: &PoolSettings) -> Result<Pool> {
        settings.validate()?;
        let catalogue = Arc::new(Catalogue::new());
        let connector = SessionFactory::new(settings, catalogue.clone())?;
        let gate = Arc::new(Gate::new(Limits {
            min: settings.min_connections,
            max: settings.max_connections,
            max_waiting: settings.max_waiting,
            outage_grace: settings.outage_grace,
            shedding: settings.queue_target.map(|target| (target, settings.queue_interval)),
            is_cancelled: cancellation::is_stopped,
        }));
        let generations = Arc::new(Generations::default());
        let maintenance = Maintenance::new();
        let threads = ScheduledThreadPool::builder()
            .num_threads(CONNECTOR_THREADS)
            .thread_name_pattern("poolhouse-connect-{}")
            .on_drop_behavior(OnPoolDropBehavior::DiscardPendingScheduled)
            .build();
        let ceiling = ceiling(settings.max_connections);
        let (closer, books) = (maintenance.handle(), gate.clone());
        let store = r2d2::Pool::builder()
            .max_size(ceiling)
            .min_idle(Some(ceiling))
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(Duration::from_secs(1))
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .connection_customizer(Box::new(Dropped(move |session| closer.close_dropped(session, &books))))
            .thread_pool(Arc::new(threads))
            .build_unchecked(Manager::new(gate.clone(), generations.clone(), connector));
        let shared = Arc::new(Shared {
            gate,
            generations,
            catalogue,
            settings: settings.clone(),
            max_connections: AtomicU32::new(settings.max_connections),
            maintenance: maintenance.handle(),
            store: RwLock::new(Some(store)),
            guards: Guards::new(ceiling),
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

    /// Lends a connection; dropping it gives it back.
    ///
    /// # Blocking
    ///
    /// Until a connection is there, at most for the pool's acquire timeout, in every state of the server.
    ///
    /// # Errors
    ///
    /// - `Exhausted`: no connection came free in time.
    /// - `Suspended`: lending was suspended all the time.
    /// - `Saturated`: as many callers wait already as may, or the queue's delay stays above its target; at once.
    /// - `Down`: the server cannot be reached, or does not answer; at once when that has lasted longer than the
    ///   outage grace.
    /// - `Authentication`: the server refuses the login.
    /// - `SelfDeadlock`: this thread holds a connection already and no other is left; at once. The thread that
    ///   acquired a connection counts as its holder until it is returned, even if another thread uses it.
    /// - `Closed`: the pool is closed.
    #[track_caller]
    pub fn get_connection(&self) -> Result<Connection> {
        self.get_connection_timeout(self.shared.settings.acquire_timeout)
    }

    /// Lends a connection, waiting at most `timeout`; zero takes one that is ready or fails at once.
    ///
    /// # Blocking
    ///
    /// At most `timeout`, and at most some milliseconds more.
    ///
    /// # Errors
    ///
    /// As [`get_connection`](Pool::get_connection).
    #[track_caller]
    pub fn get_connection_timeout(&self, timeout: Duration) -> Result<Connection> {
        let now = Instant::now();
        let lease = self.shared.clone().lend(now, add(now, timeout), Location::caller())?;
        Ok(Connection::new(lease))
    }

    /// The pool's numbers.
    ///
    /// # Blocking
    ///
    /// Never waits for a connection or the network.
    pub fn status(&self) -> PoolStatus {
        let mut status =
            PoolStatus { name: self.shared.settings.name.clone(), ..self.shared.gate.snapshot() };
        if let Some(threshold) = self.shared.settings.leak_threshold {
            self.shared.gate.long_held(threshold, |holder, held_for| {
                status.long_held.push(LongHeld { held_for, acquired_at: holder.at.to_string() });
            });
        }
        status
    }

    /// Changes the sizes of a running pool. Growing happens at once; connections above a smaller maximum are
    /// closed as they come back.
    ///
    /// The maximum has a ceiling that is fixed when the pool is opened: twice the maximum it is opened with, and at
    /// least 64. Beyond that, open another pool.
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
        self.shared.maintenance.look();
        Ok(())
    }

    /// Lets callers wait, within their deadlines, instead of serving them; those served already go on.
    /// For a short maintenance of the server.
    ///
    /// # Errors
    ///
    /// - `Closed`: the pool is closed.
    pub fn suspend(&self) -> Result<()> {
        if self.shared.gate.suspend() { Ok(()) } else { Err(Error::Closed) }
    }

    /// Serves callers again after [`suspend`](Pool::suspend).
    ///
    /// # Errors
    ///
    /// - `Closed`: the pool is closed.
    pub fn resume(&self) -> Result<()> {
        if self.shared.gate.resume() { Ok(()) } else { Err(Error::Closed) }
    }

    /// Replaces every connection: idle ones now, lent ones when they come back; and forgets what is known of the server's
    /// functions, views and triggers. For a changed password, a changed role setting, a moved server, a migration.
    pub fn reset(&self) {
        self.shared.generations.outdate_all();
        self.shared.catalogue.note_change();
        self.shared.maintenance.look();
    }

    /// Closes the pool: who waits is told so at once, lent connections may finish and are closed on return.
    /// A second call finds nothing left to do.
    ///
    /// Returns whether every connection was back at `deadline`.
    ///
    /// # Blocking
    ///
    /// Until every connection is back, at most `deadline`.
    pub fn close(&self, deadline: Duration) -> bool {
        let shared = &self.shared;
        let deadline = add(Instant::now(), deadline);
        shared.gate.close();
        let left = shared.gate.wait_until_idle(deadline);
        let store = shared.store.write().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(store) = store {
            while let Some(guard) = store.try_get() {
                Pooled::new(guard).close(CloseReason::Retired);
            }
        }
        shared.guards.close();
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
        self.maintenance.stop(add(Instant::now(), Duration::MAX));
    }
}

/// How far a pool opened with a maximum of `max` can grow: r2d2's size is fixed, and each slot costs every acquire
/// a third of a nanosecond.
fn ceiling(max: u32) -> u32 {
    max.saturating_mul(2).max(64)
}

impl Shared {
    /// What a caller is told whom the gate has refused.
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
    const AGES: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now + timeout.min(AGES)
}
