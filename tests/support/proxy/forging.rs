//! Replies as no healthy server sends them: the proxy follows the messages of PostgreSQL's protocol ("Message Formats"),
//! knows which reply belongs to which statement, and changes that of one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// What happens to the reply of the next statement with this text, once.
#[derive(Debug, Clone)]
pub(crate) struct Forgery {
    pub(crate) statement: String,
    pub(crate) act: Act,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// The server has run it; nothing of its reply arrives, and the connection is reset.
    Lose,
    /// The server's reply with `message` in it.
    Say {
        message: Message,
        place: Place,
        /// Whether the server runs the statement. Where it does not, it rolls back in place of a simple query, and the
        /// reply says `INSERT 0 1` in place of an extended one.
        is_run: bool,
    },
}

/// Where in the reply a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before all of it.
    Before,
    /// In place of CommandComplete.
    Instead,
    /// Between CommandComplete and ReadyForQuery, as what a commit fails with.
    AtTheEnd,
    /// Behind ReadyForQuery.
    Behind,
}

/// An ErrorResponse or NoticeResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// `ERROR` has the reply end there; `FATAL` and `PANIC` the session as well; all else is a notice.
    pub(crate) severity: &'static str,
    pub(crate) code: &'static str,
    /// Whether the session ends behind it whatever its severity.
    pub(crate) is_last: bool,
}

impl Message {
    fn is_notice(&self) -> bool {
        !matches!(self.severity, "ERROR" | "FATAL" | "PANIC")
    }

    fn ends_session(&self) -> bool {
        self.is_last || matches!(self.severity, "FATAL" | "PANIC")
    }

    fn bytes(&self) -> Vec<u8> {
        let fields = format!("S{0}\0V{0}\0C{1}\0Mforged\0\0", self.severity, self.code);
        message(if self.is_notice() { b'N' } else { b'E' }, fields.as_bytes())
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// What is to become of the bytes that came.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) bytes: Vec<u8>,
    pub(super) end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Reset,
    Orderly,
}

/// What one connection's two sides have said.
#[derive(Debug, Default)]
pub(super) struct Conversation(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    client: Stream,
    server: Stream,
    /// Statements by name, and what is bound to each portal.
    statements: HashMap<String, String>,
    portals: HashMap<String, String>,
    /// Requests that end with a ReadyForQuery, the login among them, and how many of those have come.
    asked: u64,
    answered: u64,
    /// The reply of this number is to be changed.
    forged: Option<(u64, Act)>,
    /// So much of it has come.
    reply: Vec<Vec<u8>>,
}

/// Bytes in which messages are found, however they are cut.
#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    is_started: bool,
}

impl Stream {
    /// The next whole message; `has_type` is false for the first of a client.
    fn next(&mut self, has_type: bool) -> Option<Vec<u8>> {
        let header = if has_type { 5 } else { 4 };
        let length = self.bytes.get(header - 4..header)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize + header - 4;
        (self.bytes.len() >= length).then(|| self.bytes.drain(..length).collect())
    }
}

impl Conversation {
    /// Takes what the client has sent; `wanted` is what is to be forged next.
    pub(super) fn to_server(&self, bytes: &[u8], wanted: &Mutex<Option<Forgery>>) -> Passed {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.client.bytes.extend_from_slice(bytes);
        let mut passed = Passed::default();
        loop {
            let is_started = said.client.is_started;
            let Some(message) = said.client.next(is_started) else { return passed };
            if !is_started {
                said.client.is_started = true;
                said.asked += 1;
                passed.bytes.extend(message);
                continue;
            }
            passed.bytes.extend(said.hear_client(message, wanted));
        }
    }

    /// Takes what the server has sent.
    pub(super) fn to_client(&self, bytes: &[u8]) -> Passed {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.server.bytes.extend_from_slice(bytes);
        let mut passed = Passed::default();
        while let Some(message) = said.server.next(true) {
            let is_end = message[0] == b'Z';
            let is_forged = said.forged.as_ref().is_some_and(|(number, _)| *number == said.answered);
            said.answered += u64::from(is_end);
            if !is_forged {
                passed.bytes.extend(message);
                continue;
            }
            said.reply.push(message);
            if is_end && let Some((_, act)) = said.forged.take() {
                let (bytes, end) = forge(std::mem::take(&mut said.reply), &act);
                passed.bytes.extend(bytes);
                if end.is_some() {
                    return Passed { end, ..passed };
                }
            }
        }
        passed
    }
}

impl Said {
    /// What of a client's message goes on to the server.
    fn hear_client(&mut self, whole: Vec<u8>, wanted: &Mutex<Option<Forgery>>) -> Vec<u8> {
        let body = &whole[5..];
        match whole[0] {
            b'P' => {
                let (name, text) = two_texts(body);
                self.statements.insert(name, text);
            }
            b'B' => {
                let (portal, name) = two_texts(body);
                let text = self.statements.get(&name).cloned().unwrap_or_default();
                self.portals.insert(portal, text);
            }
            b'E' => {
                let text = self.portals.get(&two_texts(body).0).cloned().unwrap_or_default();
                if self.is_not_to_run(&text, wanted) {
                    return Vec::new();
                }
            }
            b'Q' => {
                let is_not_to_run = self.is_not_to_run(&two_texts(body).0, wanted);
                self.asked += 1;
                if is_not_to_run {
                    return message(b'Q', b"ROLLBACK\0");
                }
            }
            b'S' => self.asked += 1,
            _ => {}
        }
        whole
    }

    /// Notes whether the reply of the request now being sent, whose statement is `text`, is to be forged; returns whether
    /// it is not even to run.
    fn is_not_to_run(&mut self, text: &str, wanted: &Mutex<Option<Forgery>>) -> bool {
        let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.as_ref().is_none_or(|forgery| forgery.statement != text) {
            return false;
        }
        let act = wanted.take().expect("it was there").act;
        let is_not_to_run = matches!(act, Act::Say { is_run: false, .. });
        self.forged = Some((self.asked, act));
        is_not_to_run
    }
}

/// The two texts a message begins with, or one and nothing.
fn two_texts(body: &[u8]) -> (String, String) {
    let mut texts = body.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    (texts.next().unwrap_or_default(), texts.next().unwrap_or_default())
}

/// The whole `reply` of the server as `act` has it, and whether the connection ends behind it.
fn forge(mut reply: Vec<Vec<u8>>, act: &Act) -> (Vec<u8>, Option<End>) {
    let Act::Say { message: said, place, is_run } = act else { return (Vec::new(), Some(End::Reset)) };
    if !is_run && !reply.iter().any(|message| message[0] == b'C') {
        reply.insert(reply.len() - 1, message(b'C', b"INSERT 0 1\0"));
    }
    let complete = reply.iter().position(|message| message[0] == b'C');
    let at = match place {
        Place::Before => 0,
        Place::Instead => complete.unwrap_or(reply.len() - 1),
        Place::AtTheEnd => reply.len() - 1,
        Place::Behind => reply.len(),
    };
    let rest = reply.split_off(at);
    reply.push(said.bytes());
    match rest.as_slice() {
        _ if said.ends_session() => return (reply.concat(), Some(End::Orderly)),
        rest if said.is_notice() => reply.extend_from_slice(rest),
        [.., ready] => reply.push(ready.clone()),
        [] => {}
    }
    (reply.concat(), None)
}
