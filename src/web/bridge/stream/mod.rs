//! Response bodies that blocking code writes while the client reads them.
//!
//! A bounded queue of chunks is between the thread of [`blocking`] that writes and the worker that sends. It knows nothing of
//! databases.
//!
//! **Lock rule**: one mutex per body, held to put a chunk in or take one out. Threads are woken after it is released.

use crate::error::Error;
use crate::pool::{deadline, is_cancelled};
use crate::web::ApiError;
use crate::web::bridge::blocking;
use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// A chunk is sent once it has this many bytes.
const CHUNK_SIZE: usize = 64 * 1024;

/// The most chunks that wait to be sent.
const MAX_CHUNKS: usize = 4;

/// How long the writer waits for a client that reads nothing.
const MAX_STALL: Duration = Duration::from_secs(60);

/// Runs blocking code that writes the body of a response, such as [`copy_out`](crate::copy_out) or
/// [`for_each_row`](crate::for_each_row), and returns the body once its first 64 KiB, or all of it, are there.
///
/// The body is not held in memory: while the client does not read, some 256 KiB wait, and `work` with them. The thread and the
/// connection are occupied until the client has read the body; see [`blocking`], whose deadline, queue and cancellation apply.
///
/// An error before this returns is a response with its own status. Afterwards it is too late for one: the connection to the client
/// is aborted, so that no client mistakes the part for the whole, and the error is logged.
///
/// # Blocking
///
/// Does not block the worker. `work` waits for the client at most for the request's deadline, and at most 60 s without any
/// progress; then its writes fail with [`TimedOut`](io::ErrorKind::TimedOut). For `copy_out` this time counts toward the statement
/// timeout.
///
/// # Errors
///
/// Those of [`blocking`], if they occur before the first chunk is complete.
///
/// # Examples
///
/// ```
/// use actix_web::HttpResponse;
/// use poolhouse::web::{ApiError, stream_body};
/// use poolhouse::{CopyFormat, Error, copy_out, for_each_row};
/// use std::io::Write;
///
/// async fn as_csv() -> Result<HttpResponse, ApiError> {
///     let format = CopyFormat::Csv { has_header: true };
///     let body = stream_body(move |out| copy_out("SELECT movie_id, title FROM movies", format, out)).await?;
///     Ok(HttpResponse::Ok().content_type("text/csv; charset=utf-8").body(body))
/// }
///
/// async fn as_json_lines() -> Result<HttpResponse, ApiError> {
///     let body = stream_body(|out| {
///         for_each_row("SELECT movie_id, title FROM movies", &[], |movie: serde_json::Value| {
///             writeln!(out, "{movie}").map_err(Error::application)
///         })
///     });
///     Ok(HttpResponse::Ok().content_type("application/x-ndjson").body(body.await?))
/// }
/// ```
pub async fn stream_body<F, R, E>(work: F) -> Result<StreamedBody, ApiError>
where
    F: FnOnce(&mut BodyWriter) -> Result<R, E> + Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    let queue = Arc::new(Queue::default());
    let mut writer = BodyWriter { queue: queue.clone(), chunk: Vec::new(), failed: None };
    let written = blocking(move || {
        work(&mut writer).map_err(Into::into)?;
        writer.flush().map_err(|error| ApiError::from(Error::application(error)))
    });
    let mut body = StreamedBody { queue, work: Work::Running(Box::pin(written)) };
    poll_fn(|cx| body.poll_ready(cx)).await?;
    Ok(body)
}

/// The chunks between the writer and the client.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Bytes>,
    /// The body was dropped: no client reads it.
    is_closed: bool,
    /// Wakes the worker when there is a chunk.
    waker: Option<Waker>,
    /// The thread that waits for room.
    writer: Option<Thread>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a chunk in, and waits for room.
    fn push(&self, chunk: Bytes) -> io::Result<()> {
        let stalled = Instant::now() + MAX_STALL;
        let until = deadline().map_or(stalled, |deadline| deadline.min(stalled));
        let mut state = self.state();
        while state.chunks.len() >= MAX_CHUNKS && !state.is_closed {
            state.writer = Some(thread::current());
            drop(state);
            let left = until.saturating_duration_since(Instant::now());
            if is_cancelled() {
                return Err(closed());
            }
            if left.is_zero() {
                let text = "the client has not read the response in time";
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            // The worker unparks the thread, and so does a cancellation.
            thread::park_timeout(left);
            state = self.state();
        }
        if state.is_closed {
            return Err(closed());
        }
        state.chunks.push_back(chunk);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn pop(&self) -> Option<Bytes> {
        let mut state = self.state();
        let chunk = state.chunks.pop_front();
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.unpark();
        }
        chunk
    }

    /// Whether there is a chunk. Has `cx` woken when there is one.
    fn poll_chunk(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.state();
        if state.chunks.is_empty() {
            state.waker = Some(cx.waker().clone());
        }
        !state.chunks.is_empty()
    }

    fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.unpark();
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "no client reads the response any more")
}

/// Where the blocking code of [`stream_body`] writes the body. It is passed on in chunks of 64 KiB, and earlier on a `flush`. After an
/// error every write fails, and so does the response, also where the code ignores the error.
pub struct BodyWriter {
    queue: Arc<Queue>,
    /// What was written since the last chunk.
    chunk: Vec<u8>,
    /// Why a chunk was lost: no other may follow it.
    failed: Option<io::ErrorKind>,
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyWriter")
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_SIZE || self.failed.is_some() {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(kind) = self.failed {
            return Err(io::Error::new(kind, "an earlier part of the response could not be sent"));
        }
        if self.chunk.is_empty() {
            return Ok(());
        }
        let pushed = self.queue.push(std::mem::take(&mut self.chunk).into());
        self.failed = pushed.as_ref().err().map(io::Error::kind);
        pushed
    }
}

/// The body of a response that blocking code writes; see [`stream_body`]. Dropping it cancels that code.
pub struct StreamedBody {
    queue: Arc<Queue>,
    work: Work,
}

enum Work {
    Running(Pin<Box<dyn Future<Output = Result<(), ApiError>>>>),
    /// Everything was written.
    Done,
    /// It failed, and the rest of the body will never be there.
    Failed,
}

impl fmt::Debug for StreamedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamedBody")
    }
}

impl StreamedBody {
    /// Waits until there is a chunk, or everything was written.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ApiError>> {
        let is_there = self.queue.poll_chunk(cx);
        match &mut self.work {
            // Polled in any case: it enforces the request's deadline.
            Work::Running(work) => match work.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => self.work = Work::Done,
                Poll::Ready(Err(error)) => {
                    self.work = Work::Failed;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending if is_there => {}
                Poll::Pending => return Poll::Pending,
            },
            Work::Done => {}
            Work::Failed => return Poll::Ready(Err(broken_off())),
        }
        Poll::Ready(Ok(()))
    }
}

fn broken_off() -> ApiError {
    ApiError::internal("the response was broken off")
}

impl MessageBody for StreamedBody {
    type Error = ApiError;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ApiError>>> {
        let this = &mut *self;
        match this.poll_ready(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(this.queue.pop().map(Ok)),
            Poll::Ready(Err(error)) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                log::warn!("Broke off a response: {error}{}", cause.unwrap_or_default());
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl Drop for StreamedBody {
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests;
