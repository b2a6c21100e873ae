//! The one pool of the process, and the helpers over it.

use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::query::{Execute, Transaction, TransactionOptions};
use crate::settings::PoolSettings;
use log::info;
use postgres::types::ToSql;
use serde::de::DeserializeOwned;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

/// The one pool of the process: open it once at start, use the free functions anywhere, close it at the end.
///
/// As a value it stands for that pool wherever `&impl Execute` is asked for.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> poolhouse::Result<()> {
/// use poolhouse::{DatabasePool, Settings, execute_query_one};
/// use std::time::Duration;
///
/// let settings = Settings::load()?;
/// DatabasePool::initialize(&settings.pool)?;
/// let one: Option<i32> = execute_query_one("SELECT 1", &[])?;
/// DatabasePool::close(Duration::from_secs(5));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct DatabasePool;

// Leaked, one small handle per `initialize`, so that every query gets at it without counting references.
static POOL: RwLock<Option<&'static Pool>> = RwLock::new(None);

/// Held while the pool is opened or closed.
static CHANGING: Mutex<()> = Mutex::new(());

/// Puts another pool in the slot, and returns the one that was there.
fn set(pool: Option<&'static Pool>) -> Option<&'static Pool> {
    std::mem::replace(&mut *POOL.write().unwrap_or_else(PoisonError::into_inner), pool)
}

impl DatabasePool {
    /// Opens the pool of the process.
    ///
    /// # Blocking
    ///
    /// As [`Pool::open`].
    ///
    /// # Errors
    ///
    /// Those of [`Pool::open`], and `AlreadyInitialized` where one is open.
    pub fn initialize(settings: &PoolSettings) -> Result<()> {
        settings.validate()?;
        // Queries must not wait for the opening, so the slot's own lock is taken for the moment of change only.
        let _one_at_a_time = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        if DatabasePool::is_initialized() {
            return Err(Error::AlreadyInitialized);
        }
        info!("Connecting to PostgreSQL at {}", settings.database);
        let pool = Pool::open(settings)?;
        set(Some(Box::leak(Box::new(pool))));
        let (min, max) = (settings.min_connections, settings.max_connections);
        info!("Initialized database connection pool ({min}-{max} connections)");
        Ok(())
    }

    /// Whether the pool is open.
    pub fn is_initialized() -> bool {
        DatabasePool::get().is_ok()
    }

    /// The pool.
    ///
    /// # Errors
    ///
    /// - `NotInitialized`: before [`initialize`](DatabasePool::initialize) and after [`close`](DatabasePool::close).
    pub fn get() -> Result<&'static Pool> {
        POOL.read().unwrap_or_else(PoisonError::into_inner).ok_or(Error::NotInitialized)
    }

    /// Closes the pool. Harmless where none is open.
    ///
    /// Returns whether every connection was back in time.
    ///
    /// # Blocking
    ///
    /// Until every connection is back, at most `deadline`.
    pub fn close(deadline: Duration) -> bool {
        let _one_at_a_time = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pool) = set(None) else { return true };
        let all_back = pool.close(deadline);
        info!("Closed database connection pool");
        all_back
    }
}

impl Execute for DatabasePool {
    #[track_caller]
    fn execute_query<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>> {
        DatabasePool::get()?.execute_query(sql, params)
    }

    #[track_caller]
    fn execute_query_one<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<T>> {
        DatabasePool::get()?.execute_query_one(sql, params)
    }

    #[track_caller]
    fn execute_write(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        DatabasePool::get()?.execute_write(sql, params)
    }
}

/// Runs a query on the process's pool and decodes every row; see [`Execute::execute_query`].
///
/// # Errors
///
/// As there, and `NotInitialized`.
#[track_caller]
pub fn execute_query<T: DeserializeOwned>(sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<T>> {
    DatabasePool.execute_query(sql, params)
}

/// Runs a query on the process's pool that returns at most one row; see [`Execute::execute_query_one`].
///
/// # Errors
///
/// As there, and `NotInitialized`.
#[track_caller]
pub fn execute_query_one<T: DeserializeOwned>(
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Option<T>> {
    DatabasePool.execute_query_one(sql, params)
}

/// Runs a statement that writes on the process's pool; see [`Execute::execute_write`].
///
/// # Errors
///
/// As there, and `NotInitialized`.
#[track_caller]
pub fn execute_write(sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
    DatabasePool.execute_write(sql, params)
}

/// Runs `work` in a transaction on the process's pool; see [`Pool::transaction`].
///
/// # Errors
///
/// As there, and `NotInitialized`.
#[track_caller]
pub fn transaction<R>(work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
    DatabasePool::get()?.transaction(work)
}

/// Runs `work`, which has errors of its own, in a transaction on the process's pool; see [`Pool::try_transaction`].
///
/// # Errors
///
/// As there, and `NotInitialized`.
#[track_caller]
pub fn try_transaction<R, E: From<Error>>(
    work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<R, E> {
    DatabasePool::get()?.try_transaction(work)
}

/// Runs `work` in a transaction on the process's pool and looks into a lost answer to its commit; see
/// [`Pool::transaction_verified`].
///
/// # Errors
///
/// As there, and `NotInitialized`.
#[track_caller]
pub fn transaction_verified<R>(work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
    DatabasePool::get()?.transaction_verified(work)
}

/// Runs `work` in a transaction on the process's pool, as `options` say; see [`Pool::transaction_with`].
///
/// # Errors
///
/// As there, and `NotInitialized`.
#[track_caller]
pub fn transaction_with<R>(
    options: &TransactionOptions,
    work: impl FnMut(&mut Transaction<'_>) -> Result<R>,
) -> Result<R> {
    DatabasePool::get()?.transaction_with(options, work)
}

/// Runs `work`, which has errors of its own, in a transaction on the process's pool, as `options` say; see
/// [`Pool::try_transaction_with`].
///
/// # Errors
///
/// As there, and `NotInitialized`.
#[track_caller]
pub fn try_transaction_with<R, E: From<Error>>(
    options: &TransactionOptions,
    work: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<R, E> {
    DatabasePool::get()?.try_transaction_with(options, work)
}
