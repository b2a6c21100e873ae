//! A single query of an async handler, without a thread where that is possible: through the worker's lane. Everything else runs on
//! the threads of [`blocking`], so that its rules for deadlines, retries and outcomes hold.

use crate::database_pool::DatabasePool;
use crate::error::Result;
use crate::pool::{Failure, Pool, Retry};
use crate::query::{ParamRow, Start, all, at_most_one};
use crate::rows::Rows;
use crate::web::ApiError;
use crate::web::bridge::lane::{Turn, queue};
use crate::web::bridge::{THREADS, blocking, limits, panicked, run_on};
use crate::web::request_scope::carried;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A larger reply is decoded on a thread.
const MAX_DECODED: usize = 64 * 1024;

/// Runs a query on the process's pool and decodes every row, without a thread of its own where it can.
///
/// A query that can only read and is quick (a mean below 1 ms) is sent from the worker, together with those that other requests
/// make at the same time; the worker goes on with other requests meanwhile. Any other runs as in [`blocking`](super::blocking).
/// A reply of up to 64 KiB is decoded on the worker. Outside of a worker, or another runtime with one thread, every query runs on a
/// thread.
///
/// Use it for handlers with one query. For several, or for a transaction, put them into one call of [`blocking`](super::blocking).
///
/// # Blocking
///
/// As [`blocking`](super::blocking). The same deadlines apply, and the query is given up when its request is dropped.
///
/// # Errors
///
/// Those of [`execute_query`](crate::execute_query) and of [`blocking`](super::blocking).
///
/// # Examples
///
/// ```
/// use actix_web::web::{Json, Path};
/// use poolhouse::web::{ApiError, execute_query};
///
/// async fn titles(year: Path<i32>) -> Result<Json<Vec<String>>, ApiError> {
///     let sql = "SELECT title FROM movies WHERE year = $1 ORDER BY title LIMIT 100";
///     Ok(Json(execute_query(sql, (year.into_inner(),)).await?))
/// }
/// ```
#[track_caller]
pub fn execute_query<T, P>(
    sql: impl Into<Cow<'static, str>>,
    params: P,
) -> impl Future<Output = Result<Vec<T>, ApiError>>
where
    T: DeserializeOwned + Send + 'static,
    P: ParamRow + Send + 'static,
{
    run(sql.into(), params, Location::caller(), all)
}

/// Runs a query that returns at most one row, like [`execute_query`]; returns `None` where it returns no row.
///
/// # Blocking
///
/// As [`execute_query`].
///
/// # Errors
///
/// Those of [`execute_query_one`](crate::execute_query_one) and of [`blocking`](super::blocking).
#[track_caller]
pub fn execute_query_one<T, P>(
    sql: impl Into<Cow<'static, str>>,
    params: P,
) -> impl Future<Output = Result<Option<T>, ApiError>>
where
    T: DeserializeOwned + Send + 'static,
    P: ParamRow + Send + 'static,
{
    run(sql.into(), params, Location::caller(), at_most_one)
}

async fn run<P, R>(
    sql: Cow<'static, str>,
    params: P,
    at: &'static Location<'static>,
    decode: fn(&Rows) -> Result<R>,
) -> Result<R, ApiError>
where
    P: ParamRow + Send + 'static,
    R: Send + 'static,
{
    let pool = DatabasePool::get()?;
    let start = match guarded(|| params.with_params(|params| pool.encode(&sql, params)))? {
        None => Start::Fresh,
        Some(encoded) => match queue(pool, encoded, at).await {
            Turn::Done(Ok(answer)) => return decoded(pool, answer.into_rows(), decode).await,
            Turn::Done(Err(Failure { error, retry: Retry::Never })) => {
                return Ok(pool.shared().noted(Err(error))?);
            }
            Turn::Done(Err(failure)) => Start::Failed(failure),
            Turn::Elsewhere(start) => start,
        },
    };
    // While it waits for a thread it must not hold a connection, which the threads may wait for.
    let start = Arc::new(Mutex::new(start));
    let kept = start.clone();
    let work = move || {
        let start = std::mem::replace(&mut *locked(&start), Start::Fresh);
        let answer = params.with_params(|params| pool.run_from(start, at, &sql, params));
        pool.shared().noted(answer.and_then(|answer| decode(&answer.into_rows())))
    };
    let let_go = || {
        let mut start = locked(&kept);
        if let Start::Lent(_) = *start
            && let Start::Lent(lease) = std::mem::replace(&mut *start, Start::Fresh)
        {
            lease.return_unused();
        }
    };
    run_on(&THREADS, limits::limits(), carried(work), let_go).await
}

fn locked(start: &Mutex<Start>) -> MutexGuard<'_, Start> {
    start.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn decoded<R: Send + 'static>(
    pool: &'static Pool,
    rows: Rows,
    decode: fn(&Rows) -> Result<R>,
) -> Result<R, ApiError> {
    if rows.size() <= MAX_DECODED {
        return Ok(guarded(|| pool.shared().noted(decode(&rows)))??);
    }
    blocking(move || pool.shared().noted(decode(&rows))).await
}

/// Runs code of the caller's types. A panic in it must not end the request's task, because then there is no response.
fn guarded<R>(f: impl FnOnce() -> R) -> Result<R, ApiError> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| panicked(&*panic))
}
