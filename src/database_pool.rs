//! The process's pool, and the helpers as free functions on it.
//!
//! Everything here passes on to [`Pool`]. Lock rule: `POOL` is locked only to read or replace the reference;
//! `CHANGING` is held for all of `initialize` and `close`, and is taken before `POOL`.

use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::query::{Bulk, CopyFormat, Execute, ParamRow, Transaction, TransactionOptions};
use crate::settings::PoolSettings;
use log::info;
use postgres::types::ToSql;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

/// The process's pool: open it once at start, use the free functions anywhere, close it at the end.
///
/// The value `DatabasePool` implements [`Execute`] and [`Bulk`] on that pool, for functions that take `&impl Execute`.
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

/// The open pool. Each `initialize` leaks one small handle, so that a query needs no reference count.
static POOL: RwLock<Option<&'static Pool>> = RwLock::new(None);

/// Serialises `initialize` and `close`.
static CHANGING: Mutex<()> = Mutex::new(());

/// Replaces the pool, and returns the earlier one.
fn set(pool: Option<&'static Pool>) -> Option<&'static Pool> {
    std::mem::replace(&mut *POOL.write().unwrap_or_else(PoisonError::into_inner), pool)
}

impl DatabasePool {
    /// Opens the process's pool.
    ///
    /// # Blocking
    ///
    /// As [`Pool::open`].
    ///
    /// # Errors
    ///
    /// - Those of [`Pool::open`].
    /// - `AlreadyInitialized`: a pool is open.
    pub fn initialize(settings: &PoolSettings) -> Result<()> {
        settings.validate()?;
        // `POOL` is not locked while the pool opens: queries must not wait for that.
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

    /// Returns the pool.
    ///
    /// # Errors
    ///
    /// - `NotInitialized`: before [`initialize`](DatabasePool::initialize) and after [`close`](DatabasePool::close).
    pub fn get() -> Result<&'static Pool> {
        POOL.read().unwrap_or_else(PoisonError::into_inner).ok_or(Error::NotInitialized)
    }

    /// Closes the pool, and returns whether every connection was returned in time.
    ///
    /// Returns true where no pool is open.
    ///
    /// # Blocking
    ///
    /// Until every connection is returned, at most `deadline`.
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

impl Bulk for DatabasePool {
    #[track_caller]
    fn execute_many<P: ParamRow>(&self, sql: &str, rows: impl IntoIterator<Item = P>) -> Result<u64> {
        DatabasePool::get()?.execute_many(sql, rows)
    }

    #[track_caller]
    fn for_each_row<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        use_row: impl FnMut(T) -> Result<()>,
    ) -> Result<u64> {
        DatabasePool::get()?.for_each_row(sql, params, use_row)
    }

    #[track_caller]
    fn copy_in<T: Serialize>(
        &self,
        table: &str,
        columns: &[&str],
        rows: impl IntoIterator<Item = T>,
    ) -> Result<u64> {
        DatabasePool::get()?.copy_in(table, columns, rows)
    }

    #[track_caller]
    fn copy_out(&self, query: &str, format: CopyFormat, out: &mut impl Write) -> Result<u64> {
        DatabasePool::get()?.copy_out(query, format, out)
    }
}

/// Runs a query on the process's pool and decodes every row; see [`Execute::execute_query`].
///
/// # Errors
///
/// - Those of [`Execute::execute_query`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn execute_query<T: DeserializeOwned>(sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<T>> {
    DatabasePool.execute_query(sql, params)
}

/// Runs a query on the process's pool that returns at most one row; see [`Execute::execute_query_one`].
///
/// # Errors
///
/// - Those of [`Execute::execute_query_one`].
/// - `NotInitialized`: no pool is open.
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
/// - Those of [`Execute::execute_write`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn execute_write(sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
    DatabasePool.execute_write(sql, params)
}

/// Runs a statement once for each row of parameters, in one transaction on the process's pool; see [`Bulk::execute_many`].
///
/// # Errors
///
/// - Those of [`Bulk::execute_many`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn execute_many<P: ParamRow>(sql: &str, rows: impl IntoIterator<Item = P>) -> Result<u64> {
    DatabasePool.execute_many(sql, rows)
}

/// Runs a query on the process's pool and passes each row to `use_row`; see [`Bulk::for_each_row`].
///
/// # Errors
///
/// - Those of [`Bulk::for_each_row`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn for_each_row<T: DeserializeOwned>(
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
    use_row: impl FnMut(T) -> Result<()>,
) -> Result<u64> {
    DatabasePool.for_each_row(sql, params, use_row)
}

/// Copies rows into columns of a table, in one transaction on the process's pool; see [`Bulk::copy_in`].
///
/// # Errors
///
/// - Those of [`Bulk::copy_in`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn copy_in<T: Serialize>(
    table: &str,
    columns: &[&str],
    rows: impl IntoIterator<Item = T>,
) -> Result<u64> {
    DatabasePool.copy_in(table, columns, rows)
}

/// Copies the rows of a query on the process's pool to `out`; see [`Bulk::copy_out`].
///
/// # Errors
///
/// - Those of [`Bulk::copy_out`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn copy_out(query: &str, format: CopyFormat, out: &mut impl Write) -> Result<u64> {
    DatabasePool.copy_out(query, format, out)
}

/// Runs `work` in a transaction on the process's pool; see [`Pool::transaction`].
///
/// # Errors
///
/// - Those of [`Pool::transaction`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn transaction<R>(work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
    DatabasePool::get()?.transaction(work)
}

/// Runs `work` in a transaction on the process's pool, where `work` returns its own error type; see
/// [`Pool::try_transaction`].
///
/// # Errors
///
/// - Those of [`Pool::try_transaction`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn try_transaction<R, E: From<Error>>(
    work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<R, E> {
    DatabasePool::get()?.try_transaction(work)
}

/// Runs `work` in a transaction on the process's pool, and queries the commit status where the answer to COMMIT is
/// lost; see [`Pool::transaction_verified`].
///
/// # Errors
///
/// - Those of [`Pool::transaction_verified`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn transaction_verified<R>(work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
    DatabasePool::get()?.transaction_verified(work)
}

/// Runs `work` in a transaction with `options` on the process's pool; see [`Pool::transaction_with`].
///
/// # Errors
///
/// - Those of [`Pool::transaction_with`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn transaction_with<R>(
    options: &TransactionOptions,
    work: impl FnMut(&mut Transaction<'_>) -> Result<R>,
) -> Result<R> {
    DatabasePool::get()?.transaction_with(options, work)
}

/// Runs `work` in a transaction with `options` on the process's pool, where `work` returns its own error type; see
/// [`Pool::try_transaction_with`].
///
/// # Errors
///
/// - Those of [`Pool::try_transaction_with`].
/// - `NotInitialized`: no pool is open.
#[track_caller]
pub fn try_transaction_with<R, E: From<Error>>(
    options: &TransactionOptions,
    work: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<R, E> {
    DatabasePool::get()?.try_transaction_with(options, work)
}
