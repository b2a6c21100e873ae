//! The exchange, of a request and its answer, that a connection is at; seen from the connection, which moves bytes,
//! and from the app, which handles requests. Both are on the same worker's thread.

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

/// How far a connection is with the request at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Phase {
    /// For the whole of a request's head.
    Waiting,
    /// The server has the head and makes a request of it, or an error.
    HandedOver,
    /// The app has the request.
    Handling,
    /// The answer is made; not all of it is written.
    Writing,
    /// The answer is written, and the rest of a body that nobody wants is thrown away; then the connection ends.
    Draining,
}

/// What a connection and the app know of the request at hand.
#[derive(Debug)]
pub(in crate::http) struct Exchange {
    phase: Cell<Phase>,
    /// When this phase began.
    since: Cell<Instant>,
    /// Whether the client does not take what is written.
    pub(in crate::http) is_stuck: Cell<bool>,
    /// What of the request's body has not been handed over yet.
    pub(in crate::http) body: RefCell<BodyEnd>,
    /// Set at the beginning of the handling, for the connection to look at.
    pub(in crate::http) has_begun: Cell<bool>,
    /// The client asked to be told to go on; the server will say so at once.
    pub(in crate::http) expects_continue: Cell<bool>,
    /// Whether the app wants the body, which the client sends only when it is told so.
    pub(in crate::http) is_body_wanted: Cell<bool>,
    /// There was no room for it: nothing but health is answered.
    pub(in crate::http) is_surplus: bool,
    /// It has to make room.
    is_sent_away: Cell<bool>,
    /// The connection's task, while it waits for its client.
    waker: RefCell<Option<Waker>>,
    counted: RefCell<Option<Counted>>,
}

impl Exchange {
    pub(in crate::http) fn new(is_surplus: bool) -> Exchange {
        Exchange {
            phase: Cell::new(Phase::Waiting),
            since: Cell::new(Instant::now()),
            is_stuck: Cell::new(false),
            body: RefCell::new(BodyEnd::After(0)),
            has_begun: Cell::new(false),
            expects_continue: Cell::new(false),
            is_body_wanted: Cell::new(false),
            is_surplus,
            is_sent_away: Cell::new(false),
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

    /// Since when nothing happens because of the client; `None` while a request is at work, or may have come without
    /// having been looked at.
    pub(in crate::http) fn idle_since(&self) -> Option<Instant> {
        (self.is_clients_turn() && self.waker.borrow().is_some()).then(|| self.since.get())
    }

    fn is_clients_turn(&self) -> bool {
        matches!(self.phase(), Phase::Waiting | Phase::Draining) || self.is_stuck.get()
    }

    /// Has the connection end.
    pub(in crate::http) fn send_away(&self) {
        self.is_sent_away.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether it has been sent away, and does not do more for its client than wait.
    pub(in crate::http) fn must_go(&self) -> bool {
        self.is_sent_away.get() && self.is_clients_turn()
    }

    /// The client is waited for: has `context`'s task woken when this connection must make room.
    pub(in crate::http) fn wait(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }

    /// All of the answer is written.
    pub(in crate::http) fn end(&self) {
        self.counted.replace(None);
        self.waker.replace(None);
        self.is_stuck.set(false);
        self.is_body_wanted.set(false);
        self.expects_continue.set(false);
        self.enter(if self.body.borrow().is_reached() { Phase::Waiting } else { Phase::Draining });
    }
}

/// A request that the app handles, up to the end of its answer's body.
#[derive(Debug)]
pub(in crate::http) struct Handling(Option<Rc<Exchange>>);

impl Handling {
    /// Begins with `request`, which counts in `in_flight` until its answer is written.
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

    /// Whether there was no room for its connection.
    pub(in crate::http) fn is_surplus(&self) -> bool {
        self.0.as_ref().is_some_and(|exchange| exchange.is_surplus)
    }

    /// Goes with the answer, to its end.
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

/// The body of a request as the server has understood it. What it takes for anything else than the two usual kinds
/// (a WebSocket, a tunnel) gets no bytes, and ends the connection; an upgrade to something else means nothing.
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

/// A request's body that says when it is asked for, and that ends with an error where it is not well-formed. The server
/// would drop the request then, whatever its handler has done already.
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

/// An answer's body that says when it ends.
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

/// One request in flight, also where its client leaves before the answer.
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
