//! How the proxy carries bytes, connection by connection, under whatever fault holds.

use super::forging::{Conversation, End, Passed};
use super::{Fault, Shared};
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// One connection through the proxy.
#[derive(Debug)]
pub(super) struct Link {
    client: TcpStream,
    server: TcpStream,
    is_cut: AtomicBool,
    /// Whether the last bytes seen came from the client: its next bytes belong to the same flight.
    client_spoke_last: AtomicBool,
    /// Where replies may have to be changed.
    conversation: Option<Conversation>,
}

impl Shared {
    /// Accepts connections on `port` until the proxy is over.
    pub(super) fn listen(self: Arc<Self>, first: TcpListener, port: u16) {
        let mut listener = Some(first);
        loop {
            let mut state = self.state();
            while !state.is_over && state.fault == Fault::Refuse {
                // Closing it also refuses connections that are not accepted yet.
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
        let conversation = self.is_forging.then(Conversation::default);
        let link = Arc::new(Link { client, server, is_cut, client_spoke_last, conversation });
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
        // The last handle is dropped before the count changes: "not open" means that its end has been sent.
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
            } else if link.client_spoke_last.swap(false, Ordering::SeqCst) {
                thread::sleep(Duration::from_micros(self.reply_delay_us.load(Ordering::SeqCst)));
            }
            let Passed { bytes, end } = match &link.conversation {
                None => Passed { bytes: buffer[..read].to_vec(), end: None },
                Some(conversation) if to_server => conversation.to_server(&buffer[..read], &self.forgery),
                Some(conversation) => conversation.to_client(&buffer[..read]),
            };
            let mut rest = &bytes[..];
            while !rest.is_empty() && !link.is_cut() {
                let allowed = self.allowance(link, to_server, rest.len(), &mut reply_budget);
                let (now, later) = rest.split_at(allowed.bytes);
                // Counted first: a receiver of the bytes must find them counted.
                let counter = if to_server { &self.bytes_to_server } else { &self.bytes_to_client };
                counter.fetch_add(now.len() as u64, Ordering::SeqCst);
                if !allowed.is_lost && link.write(to, now).is_err() {
                    break;
                }
                rest = later;
            }
            match end {
                None => {}
                Some(End::Reset) => link.cut(),
                Some(End::Orderly) => {
                    let _ = from.shutdown(Shutdown::Both);
                    break;
                }
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
    pub(super) fn cut(&self) {
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
pub(super) fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}
