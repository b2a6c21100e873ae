//! The exchange of one request and its response: the state shared between the connection, which moves bytes, and the
//! app, which handles requests. Both run on the same worker thread, so the fields are cells and need no lock.

use crate::http::connection::request_end::BodyEnd;
use actix_web::HttpMessage;
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::ConnectionType;
use actix_web::http::header::{CONTENT_LENGTH, UPGRADE};
use actix_web::web::Bytes;
use futures_core::Stream;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The phase of a connection in its current exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Phase {
    /// Waits for a complete request head.
    Waiting,
    /// The server has the head and parses it.
    HandedOver,
    /// A handler runs.
    Handling,
    /// The response is made and not completely written.
    Writing,
    /// The response is written, and the rest of an unread body is discarded; then the connection ends.
    Draining,
}

/// The state of the current exchange.
#[derive(Debug)]
pub(in crate::http) struct Exchange {
    phase: Cell<Phase>,
    /// When this phase began.
    since: Cell<Instant>,
    /// Whether a write is blocked because the client does not read.
    pub(in crate::http) is_write_blocked: Cell<bool>,
    /// The part of the request's body that has not been passed to the server.
    pub(in crate::http) body: RefCell<BodyEnd>,
    /// Set when handling begins; the connection takes it.
    pub(in crate::http) has_begun: Cell<bool>,
    /// The client sent `Expect: 100-continue`, and the server is about to send `100 Continue`.
    pub(in crate::http) expects_continue: Cell<bool>,
    /// Whether a handler reads the body; a client with `Expect` sends it only after `100 Continue`.
    pub(in crate::http) is_body_wanted: Cell<bool>,
    /// The connection is over the limit: only health routes and metrics are answered.
    pub(in crate::http) is_over_limit: bool,
    /// The connection must close to make room for another.
    is_evicted: Cell<bool>,
    /// Wakes the connection's task while it waits for its client.
    waker: RefCell<Option<Waker>>,
    counted: RefCell<Option<Counted>>,
}

impl Exchange {
    pub(in crate::http) fn new(is_over_limit: bool) -> Exchange {
        Exchange {
            phase: Cell::new(Phase::Waiting),
            since: Cell::new(Instant::now()),
            is_write_blocked: Cell::new(false),
            body: RefCell::new(BodyEnd::After(0)),
            has_begun: Cell::new(false),
            expects_continue: Cell::new(false),
            is_body_wanted: Cell::new(false),
            is_over_limit,
            is_evicted: Cell::new(false),
            waker: RefCell::new(None),
            counted: RefCell::new(None),
        }
    }

    pub(in crate::http) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(in crate::http) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(Instant::now());
    }

    /// Since when the connection waits for its client. `None` while a request is handled, and while bytes may have
    /// arrived that the connection has not read.
    pub(in crate::http) fn idle_since(&self) -> Option<Instant> {
        (self.is_clients_turn() && self.waker.borrow().is_some()).then(|| self.since.get())
    }

    fn is_clients_turn(&self) -> bool {
        matches!(self.phase(), Phase::Waiting | Phase::Draining) || self.is_write_blocked.get()
    }

    /// Closes the connection, to make room for another.
    pub(in crate::http) fn evict(&self) {
        self.is_evicted.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether it is evicted and still waits for its client.
    pub(in crate::http) fn must_close(&self) -> bool {
        self.is_evicted.get() && self.is_clients_turn()
    }

    /// Registers `context`'s task to be woken by an eviction, while the connection waits for its client.
    pub(in crate::http) fn wait(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }

    /// The response is completely written.
    pub(in crate::http) fn end(&self) {
        self.counted.replace(None);
        self.waker.replace(None);
        self.is_write_blocked.set(false);
        self.is_body_wanted.set(false);
        self.expects_continue.set(false);
        self.enter(if self.body.borrow().is_reached() { Phase::Waiting } else { Phase::Draining });
    }
}

/// A request in the app, until its response's body ends.
#[derive(Debug)]
pub(in crate::http) struct Handling(Option<Rc<Exchange>>);

impl Handling {
    /// Starts with `request`, which counts in `in_flight` until its response is written.
    pub(in crate::http) fn begin(request: &mut ServiceRequest, in_flight: &Arc<AtomicUsize>) -> Handling {
        let exchange = request.conn_data::<Rc<Exchange>>().cloned();
        if let Some(exchange) = &exchange {
            exchange.body.replace(body_of(request));
            exchange.has_begun.set(true);
            exchange.counted.replace(Some(Counted::new(in_flight.clone())));
            exchange.enter(Phase::Handling);
            exchange.expects_continue.set(request.head().expect());
            if request.head().expect() || *exchange.body.borrow() == BodyEnd::CHUNKED {
                let payload = request.take_payload();
                let exchange = exchange.clone();
                request.set_payload(Payload::Stream { payload: Box::pin(Body { payload, exchange }) });
            }
        }
        Handling(exchange)
    }

    /// Whether the connection is over the limit.
    pub(in crate::http) fn is_over_limit(&self) -> bool {
        self.0.as_ref().is_some_and(|exchange| exchange.is_over_limit)
    }

    /// Attaches itself to the response's body.
    pub(in crate::http) fn answer<B>(self, mut answer: ServiceResponse<B>) -> ServiceResponse<Answer<B>> {
        let is_whole = self.0.as_ref().is_none_or(|exchange| exchange.body.borrow().is_reached());
        // Nothing is upgraded here; the server would say so and hang up.
        if !is_whole || answer.request().head().upgrade() {
            answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
        }
        answer.map_body(|_, body| Answer { body, _handling: self })
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        if let Some(exchange) = &self.0 {
            exchange.enter(Phase::Writing);
        }
    }
}

/// The body's length as the server understands it. A WebSocket or a tunnel gets no bytes and ends the connection; an upgrade to
/// something else is ignored.
fn body_of(request: &mut ServiceRequest) -> BodyEnd {
    let payload = request.take_payload();
    let has_body = !matches!(payload, Payload::None);
    request.set_payload(payload);
    let has = |name, wanted: &str| {
        let mut values = request.headers().get_all(name).filter_map(|value| value.to_str().ok());
        values.any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    if !has_body {
        BodyEnd::After(0)
    } else if request.chunked().unwrap_or(false) {
        BodyEnd::CHUNKED
    } else if has(UPGRADE, "websocket") {
        BodyEnd::After(0)
    } else {
        let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        BodyEnd::After(length.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
    }
}

/// A request's body that records when it is read, and ends with an error if it is malformed. Without that the server
/// would drop the request, although its handler may have done work.
struct Body {
    payload: Payload,
    exchange: Rc<Exchange>,
}

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.exchange.is_body_wanted.set(true);
        match Pin::new(&mut self.payload).poll_next(context) {
            Poll::Pending if self.exchange.body.borrow().is_lost() => {
                Poll::Ready(Some(Err(PayloadError::EncodingCorrupted)))
            }
            arrived => arrived,
        }
    }
}

/// A response's body that records its end.
pub(in crate::http) struct Answer<B> {
    body: B,
    _handling: Handling,
}

impl<B: MessageBody + Unpin> MessageBody for Answer<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, B::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

/// Counts one request in flight, also if its client leaves before the response.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(counter: Arc<AtomicUsize>) -> Counted {
        counter.fetch_add(1, Ordering::Relaxed);
        Counted(counter)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
