//! The one bridge from async handlers to blocking code.

use super::ApiError;
use actix_web::rt::task::{JoinHandle, spawn_blocking};
use std::any::Any;

/// Runs blocking code (a query, a transaction) on the worker's blocking threads and waits for it without
/// blocking the worker.
///
/// Give it everything the request needs from the database in one closure: each call is one hop to another
/// thread and back. `work` may return any error that turns into an [`ApiError`], first of all
/// [`poolhouse::Error`](crate::Error).
///
/// # Blocking
///
/// Not the caller. `work` runs as soon as one of the worker's blocking threads is free
/// (`HttpServer::worker_max_blocking_threads`), and then for as long as it takes: inside, the pool's own
/// deadlines hold. A call whose request is dropped before `work` has started never starts it; once started,
/// `work` runs to its end.
///
/// # Errors
///
/// - whatever `work` returns, as an [`ApiError`];
/// - 500 `internal`, and a line in the log, where `work` panicked;
/// - 503 `closed` where the worker is stopping.
///
/// # Examples
///
/// ```
/// use actix_web::web::Json;
/// use poolhouse::web::{ApiError, blocking};
///
/// async fn years() -> Result<Json<Vec<i32>>, ApiError> {
///     let years = blocking(|| {
///         poolhouse::execute_query("SELECT DISTINCT year FROM movies WHERE year IS NOT NULL ORDER BY year", &[])
///     });
///     Ok(Json(years.await?))
/// }
/// ```
pub async fn blocking<F, R, E>(work: F) -> Result<R, ApiError>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    let mut job = Job(spawn_blocking(work));
    match (&mut job.0).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(failure) if failure.is_panic() => {
            let panic = failure.into_panic();
            Err(ApiError::internal(format!("blocking code panicked: {}", panic_message(&*panic))))
        }
        Err(_) => Err(ApiError::stopping()),
    }
}

/// Work on its way to a thread. Dropped before it has started, it never starts: a request nobody waits for
/// takes no connection.
struct Job<R>(JoinHandle<R>);

impl<R> Drop for Job<R> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::sync::mpsc;

    #[actix_web::test]
    async fn the_outcome_of_the_work_comes_back() {
        assert_eq!(blocking(|| Ok::<_, Error>(7)).await.unwrap(), 7);
        let error = blocking(|| Err::<(), _>(Error::Closed)).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (503, "closed"));
    }

    #[actix_web::test]
    async fn a_panic_becomes_a_500_whose_message_stays_inside() {
        let error = blocking(|| -> Result<(), Error> { panic!("secret {}", 42) }).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (500, "internal"));
        assert!(!error.message().contains("secret"), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "blocking code panicked: secret 42");
        // The bridge is as good as before.
        assert_eq!(blocking(|| Ok::<_, Error>(1)).await.unwrap(), 1);
    }

    #[test]
    fn a_request_dropped_in_the_queue_never_runs_its_work() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (release, held) = mpsc::channel::<()>();
        let (ran, runs) = mpsc::channel::<&str>();
        runtime.block_on(async {
            let first = ran.clone();
            let occupied = spawn_blocking(move || {
                held.recv().unwrap();
                first.send("first").unwrap();
            });
            let second = ran.clone();
            let mut dropped = Box::pin(blocking(move || {
                second.send("second").unwrap();
                Ok::<_, Error>(())
            }));
            // One poll puts it into the queue behind the occupied thread; then its client goes away.
            let polled =
                std::future::poll_fn(|cx| std::task::Poll::Ready(dropped.as_mut().poll(cx).is_pending()));
            assert!(polled.await);
            drop(dropped);
            release.send(()).unwrap();
            occupied.await.unwrap();
            blocking(move || {
                ran.send("third").unwrap();
                Ok::<_, Error>(())
            })
            .await
            .unwrap();
        });
        assert_eq!(runs.iter().collect::<Vec<_>>(), ["first", "third"]);
    }
}
