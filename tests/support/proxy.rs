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

use poolhouse::settings::DatabaseSettings;
use socket2::SockRef;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What the proxy does to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// Nobody listens: connecting is refused. Existing connections go on.
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

/// One connection through the proxy.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    is_cut: AtomicBool,
    /// Whether the last bytes seen came from the client: its next bytes belong to the same flight.
    client_spoke_last: AtomicBool,
}

impl Proxy {
    /// Starts a proxy to the server of `settings`.
    pub(crate) fn to(settings: &DatabaseSettings) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port for the proxy");
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
        });
        let settings = DatabaseSettings { hosts: vec![("127.0.0.1".to_owned(), port)], ..settings.clone() };
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

    /// Accepts new connections and never says a word. Existing ones go on.
    pub(crate) fn mute(&self) {
        self.set(Fault::Mute);
    }

    /// Loses everything sent, for good: connections that were used meanwhile are out of step for ever.
    pub(crate) fn swallow(&self) {
        self.set(Fault::Swallow);
    }

    /// Makes every connect take this much longer.
    pub(crate) fn delay_connects(&self, by: Duration) {
        self.shared.state().connect_delay = by;
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

    /// Waits for a change, or a moment: nobody is to hang because of a lost notification.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, Duration::from_millis(100));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn listen(self: Arc<Self>, first: TcpListener, port: u16) {
        let mut listener = Some(first);
        loop {
            let mut state = self.state();
            while !state.is_over && state.fault == Fault::Refuse {
                // Closing it also refuses those who are connected but not accepted yet.
                listener = None;
                state.is_listening = false;
                self.changed.notify_all();
                state = self.wait(state);
            }
            if state.is_over {
                return;
            }
            if listener.is_none() {
                listener = TcpListener::bind(("127.0.0.1", port)).ok();
                state.is_listening = listener.is_some();
                self.changed.notify_all();
            }
            drop(state);
            match listener.as_ref().map(TcpListener::accept) {
                Some(Ok((client, _))) => self.receive(client),
                _ => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn receive(self: &Arc<Self>, client: TcpStream) {
        let mut state = self.state();
        if state.is_over || state.fault == Fault::Refuse {
            return reset(client);
        }
        self.connects.fetch_add(1, Ordering::SeqCst);
        match state.fault {
            Fault::Reset => reset(client),
            Fault::Mute => state.muted.push(client),
            _ => {
                let (shared, delay) = (Arc::clone(self), state.connect_delay);
                thread::spawn(move || {
                    thread::sleep(delay);
                    shared.serve(client);
                });
            }
        }
    }

    fn serve(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect((self.server.0.as_str(), self.server.1)) else {
            return reset(client);
        };
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
            let _ = stream.set_write_timeout(Some(Duration::from_millis(20)));
        }
        let (is_cut, client_spoke_last) = (AtomicBool::new(false), AtomicBool::new(false));
        let link = Arc::new(Link { client, server, is_cut, client_spoke_last });
        let id = {
            let mut state = self.state();
            state.next_id += 1;
            let id = state.next_id;
            state.open.insert(id, Arc::clone(&link));
            if state.is_over {
                link.cut();
            }
            id
        };
        let upward = {
            let (shared, link) = (Arc::clone(&self), Arc::clone(&link));
            thread::spawn(move || shared.forward(&link, true))
        };
        self.forward(&link, false);
        let _ = upward.join();
        // The last handle goes before anybody is told: "not open" means that its end has been sent.
        let mut state = self.state();
        state.open.remove(&id);
        drop(link);
        self.changed.notify_all();
    }

    /// Carries bytes one way until either side ends.
    fn forward(&self, link: &Link, to_server: bool) {
        let (mut from, to) =
            if to_server { (&link.client, &link.server) } else { (&link.server, &link.client) };
        let mut buffer = vec![0; 64 * 1024];
        let mut reply_budget = (0, u64::MAX);
        loop {
            let read = match from.read(&mut buffer) {
                Ok(read) if read > 0 && !link.is_cut() => read,
                _ => break,
            };
            if to_server {
                if !link.client_spoke_last.swap(true, Ordering::SeqCst) {
                    self.round_trips.fetch_add(1, Ordering::SeqCst);
                }
            } else {
                link.client_spoke_last.store(false, Ordering::SeqCst);
            }
            let mut rest = &buffer[..read];
            while !rest.is_empty() && !link.is_cut() {
                let allowed = self.allowance(link, to_server, rest.len(), &mut reply_budget);
                let (now, later) = rest.split_at(allowed.bytes);
                if !allowed.is_lost && link.write(to, now).is_err() {
                    break;
                }
                let counter = if to_server { &self.bytes_to_server } else { &self.bytes_to_client };
                counter.fetch_add(now.len() as u64, Ordering::SeqCst);
                rest = later;
            }
        }
        // An orderly end is passed on, but not through a fault that lets nothing pass.
        let is_lost = self.allowance(link, to_server, 1, &mut (0, u64::MAX)).is_lost;
        if !is_lost {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    /// How many of `wanted` bytes may pass now; waits while none may. `budget` is this direction's: the epoch it
    /// belongs to, and the bytes left.
    fn allowance(&self, link: &Link, to_server: bool, wanted: usize, budget: &mut (u64, u64)) -> Allowance {
        let mut state = self.state();
        loop {
            if link.is_cut() {
                return Allowance { bytes: wanted, is_lost: true };
            }
            match state.fault {
                Fault::Stall => {}
                Fault::Swallow => return Allowance { bytes: wanted, is_lost: true },
                Fault::StallReplies { after } if !to_server => {
                    if budget.0 != state.epoch {
                        *budget = (state.epoch, after);
                    }
                    let bytes = wanted.min(usize::try_from(budget.1).unwrap_or(usize::MAX));
                    if bytes > 0 {
                        budget.1 -= bytes as u64;
                        return Allowance { bytes, is_lost: false };
                    }
                }
                _ => return Allowance { bytes: wanted, is_lost: false },
            }
            state = self.wait(state);
        }
    }
}

struct Allowance {
    bytes: usize,
    is_lost: bool,
}

impl Link {
    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// Ends the connection by a reset, as soon as both directions have noticed.
    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in [&self.client, &self.server] {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            // Wakes the thread that reads here; unlike closing for writing, the other side hears nothing of it.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// Writes in short attempts, so that a cut is noticed while the receiver does not read.
    fn write(&self, mut to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match to.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_cut() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Closes a connection by TCP RST.
fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// The faults, seen by a plain socket: stories rely on each being what it says.
#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::time::Instant;

    /// A server that answers every byte with ten, behind a proxy.
    fn tenfold() -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[byte[0]; 10]).is_ok() {}
                });
            }
        });
        Proxy::to(&crate::support::postgres::parse(&format!("postgres://nobody@127.0.0.1:{port}/nothing")))
    }

    fn connect(proxy: &Proxy) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(stream)
    }

    /// Sends a byte and reads the answer; `TimedOut` where none comes.
    fn ask(mut stream: &TcpStream) -> io::Result<()> {
        stream.write_all(b"x")?;
        answer(stream, 10)
    }

    fn answer(mut stream: &TcpStream, bytes: usize) -> io::Result<()> {
        stream.read_exact(&mut vec![0; bytes]).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
            _ => error,
        })
    }

    #[track_caller]
    fn assert_kind(outcome: io::Result<()>, kind: ErrorKind) {
        assert_eq!(outcome.map_err(|error| error.kind()), Err(kind));
    }

    #[test]
    fn bytes_and_round_trips_are_counted() {
        let proxy = tenfold();
        let stream = connect(&proxy).unwrap();
        for _ in 0..3 {
            ask(&stream).unwrap();
        }
        assert_eq!((proxy.connects(), proxy.open_connections()), (1, 1));
        assert_eq!((proxy.round_trips(), proxy.bytes_to_server(), proxy.bytes_to_client()), (3, 3, 30));
        drop(stream);
        crate::support::eventually("the connection is gone", Duration::from_secs(1), || {
            proxy.open_connections() == 0
        });
    }

    #[test]
    fn refusing_concerns_new_connections_only_and_ends() {
        let proxy = tenfold();
        let existing = connect(&proxy).unwrap();
        ask(&existing).unwrap();
        for _ in 0..10 {
            proxy.refuse();
            assert_eq!(connect(&proxy).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            ask(&existing).unwrap();
            proxy.pass();
            ask(&connect(&proxy).unwrap()).unwrap();
        }
    }

    #[test]
    fn reset_ends_old_and_new_connections_by_a_reset() {
        let proxy = tenfold();
        let existing = connect(&proxy).unwrap();
        ask(&existing).unwrap();
        proxy.reset();
        assert_kind(answer(&existing, 1), ErrorKind::ConnectionReset);
        assert!(connect(&proxy).and_then(|new| ask(&new)).is_err());
        proxy.pass();
        ask(&connect(&proxy).unwrap()).unwrap();
    }

    #[test]
    fn what_was_stalled_goes_on() {
        let proxy = tenfold();
        let stream = connect(&proxy).unwrap();
        ask(&stream).unwrap();
        proxy.stall();
        assert_kind(ask(&stream), ErrorKind::TimedOut);
        let new = connect(&proxy).unwrap();
        assert_kind(ask(&new), ErrorKind::TimedOut);
        proxy.pass();
        answer(&stream, 10).unwrap();
        answer(&new, 10).unwrap();
    }

    #[test]
    fn a_reply_stalls_half_way() {
        let proxy = tenfold();
        let mut stream = connect(&proxy).unwrap();
        proxy.stall_replies_after(14);
        ask(&stream).unwrap();
        stream.write_all(b"x").unwrap();
        answer(&stream, 4).unwrap();
        assert_kind(answer(&stream, 1), ErrorKind::TimedOut);
        proxy.pass();
        answer(&stream, 6).unwrap();
    }

    #[test]
    fn a_mute_proxy_accepts_and_says_nothing() {
        let proxy = tenfold();
        let existing = connect(&proxy).unwrap();
        ask(&existing).unwrap();
        proxy.mute();
        assert_kind(ask(&connect(&proxy).unwrap()), ErrorKind::TimedOut);
        ask(&existing).unwrap();
        proxy.pass();
        ask(&connect(&proxy).unwrap()).unwrap();
    }

    #[test]
    fn what_was_swallowed_never_comes() {
        let proxy = tenfold();
        let stream = connect(&proxy).unwrap();
        ask(&stream).unwrap();
        proxy.swallow();
        assert_kind(ask(&stream), ErrorKind::TimedOut);
        proxy.pass();
        assert_kind(answer(&stream, 1), ErrorKind::TimedOut);
    }

    #[test]
    fn a_cut_is_noticed_while_nobody_reads_and_connects_can_be_slow() {
        let proxy = tenfold();
        proxy.delay_connects(Duration::from_millis(50));
        let start = Instant::now();
        let mut stream = connect(&proxy).unwrap();
        ask(&stream).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(50));
        proxy.stall();
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        while stream.write(&[0; 65536]).is_ok() {}
        let start = Instant::now();
        proxy.cut();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(proxy.open_connections(), 0);
    }
}
