//! The request that a thread works for: its id, and its route for log lines.
//!
//! A worker polls its requests in turn, and a thread of `blocking` runs the work of one request after the other, so that the scope is
//! a thread-local variable, set for one poll or one job. It holds no lock.

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use std::cell::RefCell;
use std::fmt::{self, Write};
use std::sync::Arc;

/// The header of the request's id, in requests and responses.
pub(super) static HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a client.
const MAX_LENGTH: usize = 128;

/// What a request is called in log lines and metrics.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) id: RequestId,
    pub(super) method: &'static str,
    /// The route's pattern, not the path: a path is as long as the client makes it, and tells who asked for what.
    pub(super) pattern: Option<String>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
}

/// The id of a request: that of its header `X-Request-Id`, or one that was made for it. 1 to 128 ASCII letters, digits and characters of
/// `-_.:/+=@`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(headers: &HeaderMap) -> RequestId {
        let mut values = headers.get_all(&HEADER);
        let sent = values.next().filter(|_| values.next().is_none());
        match sent.and_then(|value| value.to_str().ok()).filter(|id| is_safe(id)) {
            Some(id) => RequestId(id.into()),
            None => RequestId(format!("{:016x}", fastrand::u64(..)).into()),
        }
    }

    pub(super) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether an id can stand in a log line, a header and a URL without being mistaken for anything else.
fn is_safe(id: &str) -> bool {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    (1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(is_safe)
}

/// The id of the request that the current thread works for: in a handler, and in [`blocking`](super::blocking) and
/// [`stream_body`](super::stream_body), where [`observe_requests`](super::observe_requests) is mounted. For the format of log lines:
///
/// ```no_run
/// use poolhouse::web::request_id;
/// use std::io::Write;
///
/// env_logger::Builder::new()
///     .format(|line, record| match request_id() {
///         Some(id) => writeln!(line, "{} [{id}] {}", record.level(), record.args()),
///         None => writeln!(line, "{} {}", record.level(), record.args()),
///     })
///     .init();
/// ```
pub fn request_id() -> Option<RequestId> {
    CURRENT.with_borrow(|scope| scope.as_ref().map(|scope| scope.id.clone()))
}

/// The methods that have a label of their own.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"];

impl Scope {
    pub(super) fn of(request: &ServiceRequest) -> Scope {
        let method = request.method().as_str();
        Scope {
            id: RequestId::of(request.headers()),
            method: METHODS.into_iter().find(|known| *known == method).unwrap_or("other"),
            pattern: request.match_pattern(),
        }
    }
}

/// The route for a log line, in parentheses after a space; empty where it is not known.
pub(super) fn route() -> String {
    CURRENT.with_borrow(|scope| {
        let mut text = String::new();
        if let Some(Scope { method, pattern, .. }) = scope.as_deref() {
            let _ = write!(text, " ({method} {})", pattern.as_deref().unwrap_or("an unknown path"));
        }
        text
    })
}

/// The scope of the current thread's request.
pub(super) fn current() -> Option<Arc<Scope>> {
    CURRENT.with_borrow(Option::clone)
}

/// Runs `f` for the request of `scope`.
pub(super) fn within<R>(scope: Option<Arc<Scope>>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<Scope>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(scope));
    f()
}

/// `work` for another thread, which works for the current thread's request while it runs it.
pub(super) fn carried<R>(work: impl FnOnce() -> R) -> impl FnOnce() -> R {
    let scope = current();
    move || within(scope, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn an_id_is_taken_where_it_is_safe_and_made_where_it_is_not() {
        let of = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER.clone(), HeaderValue::from_bytes(value).unwrap());
            }
            RequestId::of(&headers).as_str().to_owned()
        };
        let longest = "x".repeat(MAX_LENGTH);
        for id in ["a", "Root=1-67891233-abcdef012345678912345678", "00-4bf9/2f.3:5@x_y+z=", &longest] {
            assert_eq!(of(&[id.as_bytes()]), id);
        }
        let too_long = "x".repeat(MAX_LENGTH + 1);
        let two: [&[u8]; 2] = [b"a", b"b"];
        let bad: [&[&[u8]]; 9] = [
            &[],
            &[b""],
            &[b"two words"],
            &[b"tab\tbed"],
            &[b"quote\""],
            &[b"back\\slash"],
            &[b"\xff\xfe"],
            &[too_long.as_bytes()],
            &two,
        ];
        for values in bad {
            let made = of(values);
            assert!(made.len() == 16 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
            assert_ne!(made, of(values), "the next request has the same");
        }
    }

    #[test]
    fn another_thread_works_for_the_request_while_it_runs_its_work_and_no_longer() {
        let scope =
            Scope { id: RequestId("first".into()), method: "GET", pattern: Some("/x/{id}".to_owned()) };
        let work = within(Some(Arc::new(scope)), || carried(|| (request_id(), route())));
        assert_eq!((request_id(), route()), (None, String::new()));
        let seen = thread::spawn(move || (work(), request_id())).join().unwrap();
        let first = Some(RequestId("first".into()));
        assert_eq!(seen, ((first, " (GET /x/{id})".to_owned()), None));
    }
}
