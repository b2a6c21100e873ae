//! A TCP proxy between pool and server that breaks connections in the ways networks do, and counts what passes.
//!
//! ```ignore
//! let proxy = Proxy::to(&database.settings());
//! let pool = Pool::open(&PoolSettings::new(proxy.settings()))?;
//! proxy.stall();                      // from now on nothing moves, in either direction
//! proxy.pass();                       // and now it goes on, nothing lost
//! let before = proxy.round_trips();
//! ```
//!
//! A fault holds when its method returns.

mod carrier;
mod forging;

pub(crate) use forging::{Act, Forgery, Message, Place};

use super::server::port_of_its_own;
use carrier::{Link, reset};
use poolhouse::settings::{DatabaseSettings, SslMode};
use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What the proxy does to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// Refuses connects: no socket listens. Existing connections go on.
    Refuse,
    /// New connections are accepted and reset.
    Reset,
    /// New connections are accepted and never answered. Existing ones go on.
    Mute,
    /// Nothing moves any more, in either direction, until the fault is lifted.
    Stall,
    /// Each connection passes this many more bytes of reply, and stalls then.
    StallReplies { after: u64 },
    /// Everything sent is lost for good, as behind a firewall that has forgotten the connection.
    Swallow,
}

/// A running proxy; it ends, and resets its connections, when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    settings: DatabaseSettings,
    port: u16,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified whenever the state changes.
    changed: Condvar,
    server: (String, u16),
    connects: AtomicU64,
    round_trips: AtomicU64,
    bytes_to_server: AtomicU64,
    bytes_to_client: AtomicU64,
    reply_delay_us: AtomicU64,
    /// Whether it follows the messages, and which reply it is to change next.
    is_forging: bool,
    forgery: Mutex<Option<Forgery>>,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    /// Counts the faults set, so that a connection knows when to begin counting bytes anew.
    epoch: u64,
    is_listening: bool,
    is_over: bool,
    connect_delay: Duration,
    next_id: u64,
    open: HashMap<u64, Arc<Link>>,
    /// Accepted and left alone.
    muted: Vec<TcpStream>,
}

impl Proxy {
    /// Starts a proxy to the server of `settings`.
    pub(crate) fn to(settings: &DatabaseSettings) -> Proxy {
        Proxy::new(settings, false)
    }

    /// The same with [`forge`](Proxy::forge), for a PostgreSQL server without encryption.
    pub(crate) fn forging(settings: &DatabaseSettings) -> Proxy {
        Proxy::new(&settings.clone().with_sslmode(SslMode::Disable), true)
    }

    fn new(settings: &DatabaseSettings, is_forging: bool) -> Proxy {
        // Of its own: while it refuses, its port is free.
        let listener = TcpListener::bind(("127.0.0.1", port_of_its_own())).expect("the proxy's port");
        let port = listener.local_addr().expect("a local address").port();
        let state = State {
            fault: Fault::None,
            epoch: 0,
            is_listening: true,
            is_over: false,
            connect_delay: Duration::ZERO,
            next_id: 0,
            open: HashMap::new(),
            muted: Vec::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            server: settings.hosts[0].clone(),
            connects: AtomicU64::new(0),
            round_trips: AtomicU64::new(0),
            bytes_to_server: AtomicU64::new(0),
            bytes_to_client: AtomicU64::new(0),
            reply_delay_us: AtomicU64::new(0),
            is_forging,
            forgery: Mutex::new(None),
        });
        let settings = settings.clone().with_hosts([("127.0.0.1", port)]);
        let in_thread = Arc::clone(&shared);
        let thread = thread::spawn(move || in_thread.listen(listener, port));
        Proxy { shared, settings, port, listener: Some(thread) }
    }

    /// How to reach the database through the proxy.
    pub(crate) fn settings(&self) -> DatabaseSettings {
        self.settings.clone()
    }

    /// The port of 127.0.0.1 it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Lifts every fault. What was stalled goes on; what was reset or swallowed is gone.
    pub(crate) fn pass(&self) {
        self.set(Fault::None);
    }

    /// Closes the listening socket: connecting is refused. Existing connections go on.
    pub(crate) fn refuse(&self) {
        self.set(Fault::Refuse);
    }

    /// Resets every connection, and each new one as soon as it is accepted.
    pub(crate) fn reset(&self) {
        self.set(Fault::Reset);
        self.cut();
    }

    /// Resets every connection there is, once (TCP RST, no orderly end). New ones are not concerned.
    pub(crate) fn cut(&self) {
        let mut state = self.shared.state();
        state.muted.drain(..).for_each(reset);
        let ids: Vec<_> = state.open.keys().copied().collect();
        state.open.values().for_each(|link| link.cut());
        self.shared.changed.notify_all();
        while ids.iter().any(|id| state.open.contains_key(id)) {
            state = self.shared.wait(state);
        }
    }

    /// Lets nothing pass in either direction, with every connection open; new ones are accepted.
    pub(crate) fn stall(&self) {
        self.set(Fault::Stall);
    }

    /// Lets each connection pass `bytes` more of the server's replies, and stalls it then.
    pub(crate) fn stall_replies_after(&self, bytes: u64) {
        self.set(Fault::StallReplies { after: bytes });
    }

    /// Accepts new connections and sends nothing. Existing ones go on.
    pub(crate) fn mute(&self) {
        self.set(Fault::Mute);
    }

    /// Loses everything sent, for good: connections that were used meanwhile are out of step for ever.
    pub(crate) fn swallow(&self) {
        self.set(Fault::Swallow);
    }

    /// Changes the reply of the next statement with the text `statement`, on whichever connection, once.
    pub(crate) fn forge(&self, statement: &str, act: Act) {
        assert!(self.shared.is_forging, "make it with Proxy::forging");
        let forgery = Forgery { statement: statement.to_owned(), act };
        *self.shared.forgery.lock().unwrap_or_else(PoisonError::into_inner) = Some(forgery);
    }

    /// Takes back what was not met; returns whether it was.
    pub(crate) fn has_forged(&self) -> bool {
        self.shared.forgery.lock().unwrap_or_else(PoisonError::into_inner).take().is_none()
    }

    /// Makes every connect take this much longer.
    pub(crate) fn delay_connects(&self, by: Duration) {
        self.shared.state().connect_delay = by;
    }

    /// Makes every round trip take this much longer.
    pub(crate) fn delay_replies(&self, by: Duration) {
        self.shared.reply_delay_us.store(by.as_micros() as u64, Ordering::SeqCst);
    }

    /// Connections accepted so far.
    pub(crate) fn connects(&self) -> u64 {
        self.shared.connects.load(Ordering::SeqCst)
    }

    /// Connections open through the proxy right now.
    pub(crate) fn open_connections(&self) -> usize {
        self.shared.state().open.len()
    }

    /// How often a client has spoken and had to wait for the answer: bytes from the client count once until the
    /// server has said something. Logging in takes a few, closing a connection takes one.
    pub(crate) fn round_trips(&self) -> u64 {
        self.shared.round_trips.load(Ordering::SeqCst)
    }

    /// Bytes passed from clients to the server.
    pub(crate) fn bytes_to_server(&self) -> u64 {
        self.shared.bytes_to_server.load(Ordering::SeqCst)
    }

    /// Bytes passed from the server to clients.
    pub(crate) fn bytes_to_client(&self) -> u64 {
        self.shared.bytes_to_client.load(Ordering::SeqCst)
    }

    fn set(&self, fault: Fault) {
        let mut state = self.shared.state();
        state.fault = fault;
        state.epoch += 1;
        self.shared.changed.notify_all();
        // The listening thread sits in accept or waits for the state to change.
        let listens = fault != Fault::Refuse;
        while state.is_listening != listens {
            if !listens {
                self.wake();
            }
            state = self.shared.wait(state);
        }
    }

    /// Gets the listening thread out of `accept`.
    fn wake(&self) {
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.changed.notify_all();
        self.wake();
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
        self.cut();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, or a moment: a lost notification must not hang the test.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, Duration::from_millis(100));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
