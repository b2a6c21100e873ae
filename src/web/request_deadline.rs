//! A deadline for each request: a setting that the client can shorten.
//!
//! The middleware sets it, and `bridge` applies it to blocking work; the deadline of the polled request is a thread-local
//! variable, because a handler has no parameter for it.

use crate::pool::add;
use crate::web::ApiError;
use actix_web::HttpMessage;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::error::PayloadError;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::rt::time::{Sleep, sleep_until};
use actix_web::web::Bytes;
use futures_core::Stream;
use std::cell::Cell;
use std::future::{Ready, poll_fn, ready};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The header in which a client sends its own timeout: `X-Request-Timeout-Ms`.
static HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// The longest timeout in the header, one hour: a longer one is a mistake.
const MOST_MS: u64 = 3_600_000;

/// Middleware that sets a deadline for each request: for the arrival of its body, and for all its work in
/// [`blocking`](super::blocking), which is the wait for a thread, the wait for a connection, and each statement. At the
/// deadline the running statement is cancelled on the server, and the response is 504 `deadline_exceeded`; if the body has
/// not arrived by then, it is 408 `body_timeout` (see [`json_errors`](super::json_errors)).
///
/// A client can shorten the deadline with `X-Request-Timeout-Ms: 250`, a whole number of milliseconds from 1 to 3600000. It
/// cannot lengthen it. Any other value of the header gets 422.
///
/// # Examples
///
/// ```
/// use actix_web::App;
/// use poolhouse::web::RequestDeadline;
/// use std::time::Duration;
///
/// let app = App::new().wrap(RequestDeadline::new(Some(Duration::from_secs(30))));
/// # let _ = app;
/// ```
#[derive(Debug, Clone, Copy)]
pub struct RequestDeadline {
    timeout: Option<Duration>,
}

impl RequestDeadline {
    /// Sets `timeout` for each request; with `None`, only the header and the pool's own limits apply.
    pub fn new(timeout: Option<Duration>) -> RequestDeadline {
        RequestDeadline { timeout }
    }

    fn of(self, headers: &HeaderMap) -> Result<Option<Instant>, ApiError> {
        let mut values = headers.get_all(&HEADER);
        let asked = match values.next() {
            None => None,
            Some(value) => match milliseconds(value).filter(|_| values.next().is_none()) {
                None => {
                    let message =
                        format!("X-Request-Timeout-Ms: must be one whole number from 1 to {MOST_MS}");
                    return Err(ApiError::invalid(message));
                }
                asked => asked,
            },
        };
        Ok(self.timeout.into_iter().chain(asked).min().map(|timeout| add(Instant::now(), timeout)))
    }
}

fn milliseconds(value: &HeaderValue) -> Option<Duration> {
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|ms| (1..=MOST_MS).contains(ms)).map(Duration::from_millis)
}

thread_local! {
    static CURRENT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The deadline of the request whose handler this thread is polling.
pub(super) fn current() -> Option<Instant> {
    CURRENT.get()
}

/// Runs `f`, one poll of a request's handler, with the request's deadline: a worker polls its requests in turn on one thread.
fn within<R>(deadline: Option<Instant>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Instant>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(deadline));
    f()
}

impl<S, B> Transform<S, ServiceRequest> for RequestDeadline
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = actix_web::Error;
    type Transform = RequestDeadlineService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, Self::InitError>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(RequestDeadlineService { inner, deadline: *self }))
    }
}

/// The service that [`RequestDeadline`] wraps around another.
#[derive(Debug)]
pub struct RequestDeadlineService<S> {
    inner: S,
    deadline: RequestDeadline,
}

impl<S, B> Service<ServiceRequest> for RequestDeadlineService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    forward_ready!(inner);

    fn call(&self, mut request: ServiceRequest) -> Self::Future {
        match self.deadline.of(request.headers()) {
            Ok(deadline) => {
                if let Some(deadline) = deadline {
                    limit_body(&mut request, deadline);
                }
                let handling = within(deadline, || self.inner.call(request));
                Box::pin(async move {
                    let mut handling = pin!(handling);
                    let answer = poll_fn(|cx| within(deadline, || handling.as_mut().poll(cx))).await;
                    answer.map(ServiceResponse::map_into_left_body)
                })
            }
            Err(error) => {
                let answer = request.error_response(error).map_into_right_body();
                Box::pin(ready(Ok(answer)))
            }
        }
    }
}

/// Makes the body fail if it is not complete at `deadline`: a client that sends it byte by byte would otherwise keep its
/// request open without limit.
fn limit_body(request: &mut ServiceRequest, deadline: Instant) {
    let payload = request.take_payload();
    if !matches!(payload, Payload::None) {
        let timer = Box::pin(sleep_until(deadline.into()));
        request.set_payload(Payload::Stream { payload: Box::pin(Body { payload, timer }) });
    }
}

struct Body {
    payload: Payload,
    timer: Pin<Box<Sleep>>,
}

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match Pin::new(&mut self.payload).poll_next(cx) {
            Poll::Pending => {
                let late = || Some(Err(PayloadError::Io(io::ErrorKind::TimedOut.into())));
                self.timer.as_mut().poll(cx).map(|()| late())
            }
            arrived => arrived,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(setting: Option<u64>, header: &str) -> Option<Result<Duration, u16>> {
        let mut headers = HeaderMap::new();
        for value in header.split('\n') {
            headers.append(HEADER.clone(), HeaderValue::from_str(value).unwrap());
        }
        let start = Instant::now();
        let deadline = RequestDeadline::new(setting.map(Duration::from_millis)).of(&headers);
        deadline.map_err(|error| error.status().as_u16()).map(|at| at.map(|at| at - start)).transpose()
    }

    #[test]
    fn the_shorter_of_setting_and_header_applies_and_an_invalid_header_is_refused() {
        let close = |found: Option<Result<Duration, u16>>, ms: u64| {
            let found = found.unwrap().unwrap().as_millis() as u64;
            assert!((ms..ms + 100).contains(&found), "{found} for {ms}");
        };
        close(asked(Some(5000), "1000"), 1000);
        close(asked(Some(1000), "5000"), 1000);
        close(asked(None, "5000"), 5000);
        for bad in ["", "0", "-1", "1.5", "1e3", "soon", "3600001", "+5", "99999999999999999999", "5\n5"] {
            assert_eq!(asked(Some(1000), bad), Some(Err(422)), "{bad}");
        }
        assert!(RequestDeadline::new(None).of(&HeaderMap::new()).unwrap().is_none());
        assert!(RequestDeadline::new(Some(Duration::MAX)).of(&HeaderMap::new()).unwrap().is_some());
    }
}
