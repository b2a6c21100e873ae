//! The one bridge from async handlers to blocking code.

pub(in crate::web) mod threads;

use crate::database_pool::DatabasePool;
use crate::pool::{Cancellation, add, having_waited, with_deadline};
use crate::web::ApiError;
use crate::web::bridge::threads::{Accepted, Job, Load, Threads};
use crate::web::request_deadline;
use actix_web::rt::time::timeout;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Runs blocking code (a query, a transaction) on a thread of its own kind and waits for it without blocking the
/// worker.
///
/// Give it everything the request needs from the database in one closure: each call is one hop to another
/// thread and back. `work` may return any error that turns into an [`ApiError`], first of all
/// [`poolhouse::Error`](crate::Error).
///
/// There are as many such threads as the pool of [`DatabasePool`] may have connections, so that a thread that is
/// free finds a connection; for another pool say so with [`limit_blocking`]. They are made when they are needed and
/// kept. A slow query takes one thread and one connection from the others, and no more. Work without a free thread
/// waits in one queue in order of arrival, as many and as long as callers of the pool may wait; then it is refused. What
/// it has waited there counts as waiting for its first connection: the pool's acquire timeout is spent once. While
/// more wait than there are threads, a thread that finds the queue empty looks out for the next call for some 20 µs before
/// it goes to sleep.
///
/// A call whose request is dropped, because its client has gone or the service ends, is called off: if `work` has
/// not started it never does; otherwise the statement in flight is cancelled on the server, and the next one fails
/// with [`Cancelled`](crate::Error::Cancelled). The same happens at the request's deadline, where
/// [`RequestDeadline`](super::RequestDeadline) sets one.
///
/// # Blocking
///
/// Not the caller. Inside `work` the pool's own deadlines hold, and the request's.
///
/// # Errors
///
/// - whatever `work` returns, as an [`ApiError`];
/// - 503 `saturated` where too many wait already, and 503 `exhausted` where no thread was free for the pool's acquire
///   timeout;
/// - 504 `deadline_exceeded` at the request's deadline;
/// - 500 `internal`, and a line in the log, where `work` panicked.
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
    run_on(&THREADS, limits(), work).await
}

async fn run_on<F, R, E>(threads: &'static Threads, limits: BlockingLimits, work: F) -> Result<R, ApiError>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    let deadline = request_deadline::current();
    let call = Arc::new(Call {
        submitted: Instant::now(),
        stop: Arc::default(),
        deadline,
        state: Mutex::new(CallState { work: Some(work), outcome: None, waker: None }),
    });
    let accepted = threads.submit(call.clone(), limits.threads, limits.waiting);
    if accepted == Accepted::Refused {
        return Err(ApiError::saturated());
    }
    let mut answer = Answer { call, threads };
    if accepted == Accepted::Queued {
        let queued_until = add(Instant::now(), limits.wait);
        let until = deadline.map_or(queued_until, |deadline| deadline.min(queued_until));
        if let Ok(outcome) = timeout(left(until), &mut answer).await {
            return outcome;
        }
        if threads.withdraw(&answer.job()) {
            let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            return Err(if is_late { ApiError::deadline_exceeded() } else { ApiError::exhausted() });
        }
    }
    let Some(deadline) = deadline else { return answer.await };
    if let Ok(outcome) = timeout(left(deadline), &mut answer).await {
        return outcome;
    }
    // What it was doing is cancelled, and its own answer says what became of it.
    answer.call.stop.stop();
    let last_words = timeout(CANCELLED_GRACE, answer).await;
    last_words.unwrap_or_else(|_| Err(ApiError::deadline_exceeded_blindly()))
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// How long a call that was cancelled at its deadline may take to say what became of it: a little longer than the
/// pool waits for the server then.
const CANCELLED_GRACE: Duration = Duration::from_millis(300);

static THREADS: Threads = Threads::new();

/// What the threads of [`blocking`] do right now.
pub(super) fn load() -> Load {
    THREADS.load()
}

/// How many threads [`blocking`] uses, and how its queue is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockingLimits {
    /// The most threads; 0 counts as 1. Sensible is the number of connections: more would only wait for one.
    pub threads: usize,
    /// How many calls may wait for a thread; the next one is refused at once.
    pub waiting: usize,
    /// How long a call may wait for a thread.
    pub wait: Duration,
}

static LIMITS: RwLock<Option<BlockingLimits>> = RwLock::new(None);

/// Sets the limits of [`blocking`] for the whole process, in place of those of [`DatabasePool`]'s settings. Threads
/// that exist already are kept.
pub fn limit_blocking(limits: BlockingLimits) {
    *LIMITS.write().unwrap_or_else(PoisonError::into_inner) = Some(limits);
}

fn limits() -> BlockingLimits {
    if let Some(limits) = *LIMITS.read().unwrap_or_else(PoisonError::into_inner) {
        return limits;
    }
    match DatabasePool::get() {
        Ok(pool) => {
            let (threads, waiting, wait) = pool.shared().bounds();
            BlockingLimits { threads: threads as usize, waiting: waiting as usize, wait }
        }
        // A pool of somebody's own, who has not said how large it is.
        Err(_) => BlockingLimits { threads: 10, waiting: 1000, wait: Duration::from_secs(5) },
    }
}

/// Runs a check that must not stand behind requests: on a thread that is not one of theirs.
pub(super) async fn blocking_apart<F, R, E>(work: F) -> Result<R, ApiError>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    match actix_web::rt::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(failure) if failure.is_panic() => Err(panicked(&*failure.into_panic())),
        Err(_) => Err(ApiError::stopping()),
    }
}

/// Work on its way to a thread and back.
struct Call<F, R, E> {
    submitted: Instant,
    stop: Arc<Cancellation>,
    deadline: Option<Instant>,
    state: Mutex<CallState<F, R, E>>,
}

struct CallState<F, R, E> {
    work: Option<F>,
    outcome: Option<std::thread::Result<Result<R, E>>>,
    waker: Option<Waker>,
}

impl<F, R, E> Call<F, R, E> {
    fn state(&self) -> MutexGuard<'_, CallState<F, R, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F, R, E> Job for Call<F, R, E>
where
    F: FnOnce() -> Result<R, E> + Send,
    R: Send,
    E: Send,
{
    fn run(&self) {
        // Whoever took it back was a moment too late to take it out of the queue.
        let Some(work) = self.state().work.take() else { return };
        let work = || having_waited(self.submitted.elapsed(), work);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.stop.run(|| match self.deadline {
                None => work(),
                Some(deadline) => with_deadline(deadline, work),
            })
        }));
        let mut state = self.state();
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The answer of a call; dropped before it came, it calls the work off.
struct Answer<F, R, E>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Send + 'static,
{
    call: Arc<Call<F, R, E>>,
    threads: &'static Threads,
}

impl<F, R, E> Answer<F, R, E>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Send + 'static,
{
    fn job(&self) -> Arc<dyn Job> {
        self.call.clone()
    }
}

impl<F, R, E> Future for Answer<F, R, E>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    type Output = Result<R, ApiError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.call.state();
        match state.outcome.take() {
            Some(Ok(outcome)) => Poll::Ready(outcome.map_err(Into::into)),
            Some(Err(panic)) => Poll::Ready(Err(panicked(&*panic))),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<F, R, E> Drop for Answer<F, R, E>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Send + 'static,
{
    fn drop(&mut self) {
        // Usually it has run to its end, and is held by nobody else any more.
        if Arc::strong_count(&self.call) == 1 {
            return;
        }
        let job = self.job();
        let is_begun = self.call.state().work.take().is_none();
        if is_begun {
            self.call.stop.stop();
        } else {
            self.threads.withdraw(&job);
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> ApiError {
    ApiError::internal(format!("blocking code panicked: {}", panic_message(panic)))
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

    /// Polled once, so that it is on its way.
    async fn begun<A: Future>(call: A) -> Pin<Box<A>> {
        let mut call = Box::pin(call);
        assert!(std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await);
        call
    }

    #[actix_web::test]
    async fn work_nobody_waits_for_is_called_off_and_the_queue_has_an_end() {
        let threads = Box::leak(Box::new(Threads::new()));
        let limits = BlockingLimits { threads: 1, waiting: 1, wait: Duration::from_millis(50) };
        let (ran, runs) = mpsc::channel::<&str>();
        let saying = |name| {
            let ran = ran.clone();
            run_on(threads, limits, move || ran.send(name).map_err(Error::application))
        };
        let (holder, held) = mpsc::channel::<()>();
        let first = begun(run_on(threads, limits, move || {
            let _ = held.recv();
            Ok::<_, Error>(())
        }))
        .await;
        let dropped = begun(saying("second")).await;
        let error = saying("refused").await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (503, "saturated"));
        drop(dropped);
        let error = saying("late").await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (503, "exhausted"), "waited in vain");

        drop(holder);
        first.await.unwrap();
        saying("third").await.unwrap();
        drop(ran);
        assert_eq!(runs.iter().collect::<Vec<_>>(), ["third"]);
    }

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[actix_web::test]
    async fn a_panic_in_what_nobody_takes_costs_no_thread() {
        let threads = Box::leak(Box::new(Threads::new()));
        let limits = BlockingLimits { threads: 1, waiting: 1, wait: Duration::from_secs(20) };
        let (holder, held) = mpsc::channel::<()>();
        let (started, starts) = mpsc::channel();
        let call = begun(run_on(threads, limits, move || {
            started.send(()).map_err(Error::application)?;
            let _ = held.recv();
            Ok::<_, Error>(Bomb)
        }))
        .await;
        starts.recv().unwrap();
        drop(call);
        drop(holder);
        assert_eq!(run_on(threads, limits, || Ok::<_, Error>(1)).await.unwrap(), 1);
    }
}
