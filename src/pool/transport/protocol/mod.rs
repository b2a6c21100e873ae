//! The framing of PostgreSQL's messages, in both directions, as far as the pool needs it (PostgreSQL, "Message Formats").
//!
//! It updates the [`ConnectionState`] from bytes that pass, however they are cut. It does no I/O and knows nothing of the
//! driver's calls.

use crate::pool::transport::connection_state::{ConnectionState, FinalError};

/// Splits bytes into messages, however they are cut: one type byte, four length bytes that count themselves, a body.
#[derive(Debug, Default)]
struct Cursor {
    header: [u8; 5],
    /// Bytes of the header that were read.
    have: usize,
    /// Bytes of the body that were not read yet.
    body: usize,
}

/// The next part of a message.
enum Part<'a> {
    /// This many bytes of an incomplete header.
    HeaderBegun(usize),
    /// This many bytes, which complete the header of a message of this type.
    Header(usize, u8),
    /// Bytes of the body of a message of this type.
    Body(&'a [u8], u8),
}

impl Cursor {
    /// Takes the next part off `bytes`, which must not be empty.
    fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Part<'a> {
        if self.have < 5 {
            let take = bytes.len().min(5 - self.have);
            self.header[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            *bytes = &bytes[take..];
            if self.have < 5 {
                return Part::HeaderBegun(take);
            }
            let [kind, a, b, c, d] = self.header;
            self.body = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
            self.end_if_complete();
            return Part::Header(take, kind);
        }
        let (body, rest) = bytes.split_at(bytes.len().min(self.body));
        self.body -= body.len();
        *bytes = rest;
        self.end_if_complete();
        Part::Body(body, self.header[0])
    }

    /// Whether no message is incomplete.
    fn is_between(&self) -> bool {
        self.have == 0
    }

    fn end_if_complete(&mut self) {
        if self.body == 0 {
            self.have = 0;
        }
    }
}

/// Reads the server's messages.
///
/// The types that matter: ReadyForQuery (`Z`), which ends a reply and contains the transaction status, ErrorResponse
/// (`E`), CommandComplete (`C`), ParameterStatus (`S`), CopyInResponse (`G`), and BackendKeyData (`K`) of the login.
#[derive(Debug, Default)]
pub(crate) struct BackendMessages {
    cursor: Cursor,
    /// Bytes since the start of an ErrorResponse whose reply is incomplete; 0 if there is none.
    since_error: usize,
    /// The login is complete.
    is_started: bool,
    /// The server waits for COPY data.
    is_copying: bool,
    /// The part that was read of an incomplete body, for the types whose body matters.
    body: Vec<u8>,
}

/// The most bytes kept of a body. What matters of it is shorter.
const MAX_BODY: usize = 512;

/// First words of the command tags of statements that do not change the catalogue. `SELECT` is also the tag of
/// `SELECT INTO` and `CREATE TABLE AS`: a new table has no triggers and rules yet (PostgreSQL, "Message Formats",
/// CommandComplete).
const TAGS_WITHOUT_CATALOGUE_CHANGE: &[&[u8]] = &[
    b"SELECT",
    b"INSERT",
    b"UPDATE",
    b"DELETE",
    b"MERGE",
    b"COPY",
    b"FETCH",
    b"MOVE",
    b"BEGIN",
    b"START",
    b"COMMIT",
    b"ROLLBACK",
    b"SAVEPOINT",
    b"RELEASE",
    b"SET",
    b"RESET",
    b"SHOW",
    b"LISTEN",
    b"UNLISTEN",
    b"NOTIFY",
    b"LOCK",
    b"DISCARD",
    b"DEALLOCATE",
    b"PREPARE",
    b"DECLARE",
    b"CLOSE",
    b"EXPLAIN",
    b"TRUNCATE",
    b"VACUUM",
    b"ANALYZE",
];

/// Notes what the complete body of a BackendKeyData, CommandComplete, or ParameterStatus contains.
fn note_body(kind: u8, body: &[u8], conn: &ConnectionState) {
    match kind {
        b'K' => conn.keep_cancel_key(body),
        b'C' => {
            let tag = body.split(|byte| matches!(byte, b' ' | 0)).next().unwrap_or_default();
            conn.note_completed(!TAGS_WITHOUT_CATALOGUE_CHANGE.contains(&tag));
        }
        _ => {
            let mut fields = body.split(|byte| *byte == 0);
            conn.note_parameter(fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        }
    }
}

impl BackendMessages {
    /// Whether the login is complete. Before, the client's messages have another form.
    pub(crate) fn is_started(&self) -> bool {
        self.is_started
    }

    /// Reads bytes from the server. Returns how many of the last ones belong to an error whose reply is incomplete; the
    /// caller must hold these back.
    ///
    /// The server sends an error immediately and the end of that reply a moment later. The driver returns as soon as it
    /// reads the error, with a reply outstanding and the transaction status unknown. The error is therefore held back until
    /// its reply is complete. An error after a complete reply means that the server ends the session; the driver must
    /// process that reply before it reads the error.
    pub(crate) fn observe(&mut self, mut bytes: &[u8], conn: &ConnectionState) -> usize {
        while !bytes.is_empty() {
            let count = match self.cursor.next(&mut bytes) {
                Part::Header(_, b'E') if self.since_error == 0 => {
                    self.since_error = 5;
                    if self.is_copying {
                        // The Sync sent with the statement has a reply of its own only if the server read it
                        // after it raised the error.
                        conn.lose_count();
                    }
                    continue;
                }
                Part::Header(count, b'G') => {
                    self.is_copying = true;
                    count
                }
                Part::Body(&[status], b'Z') => {
                    conn.end_reply(status);
                    self.is_started = true;
                    self.is_copying = false;
                    self.since_error = 0;
                    continue;
                }
                Part::Body(part, kind @ (b'K' | b'C' | b'S')) => {
                    let is_complete = self.cursor.is_between();
                    if is_complete && self.body.is_empty() {
                        note_body(kind, part, conn);
                    } else {
                        self.body.extend(part.iter().take(MAX_BODY.saturating_sub(self.body.len())));
                        if is_complete {
                            note_body(kind, &std::mem::take(&mut self.body), conn);
                        }
                    }
                    part.len()
                }
                Part::HeaderBegun(count) | Part::Header(count, _) => count,
                Part::Body(body, _) => body.len(),
            };
            if self.since_error > 0 {
                self.since_error += count;
            }
        }
        self.since_error
    }
}

/// Parses the ErrorResponse at the start of `bytes`; `None` if it is incomplete or another message.
///
/// PostgreSQL, "Error and Notice Message Fields": `V` is the severity, `S` the severity in the server's language (all that
/// older servers send), `C` the SQLSTATE, `M` the message.
pub(crate) fn parse_error(bytes: &[u8]) -> Option<FinalError> {
    let [b'E', a, b, c, d, rest @ ..] = bytes else { return None };
    let length = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).checked_sub(4)?;
    let fields = rest.get(..length)?;
    let field = |name: u8| {
        let text = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(&[name]))?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    Some(FinalError {
        severity: field(b'V').or_else(|| field(b'S')).unwrap_or_default(),
        code: field(b'C').unwrap_or_default(),
        message: field(b'M')?,
    })
}

/// Reads the driver's messages and counts those that have a reply of their own: Sync (`S`) and Query (`Q`).
///
/// The driver sends several at once, for example when it closes a statement ahead of the next request.
#[derive(Debug, Default)]
pub(crate) struct FrontendMessages {
    cursor: Cursor,
    /// A message other than Close was begun since the last Sync: the driver waits for the reply of the next Sync. It does
    /// not wait for the reply of a Close alone, which it sends ahead of the next request.
    needs_reply: bool,
    /// A Sync or Query was begun whose reply the driver waits for.
    has_request: bool,
}

impl FrontendMessages {
    /// Whether a request whose reply the driver waits for is written completely. True once for each request.
    pub(crate) fn take_request(&mut self) -> bool {
        self.cursor.is_between() && std::mem::take(&mut self.has_request)
    }

    /// Reads bytes that were written to the server.
    pub(crate) fn observe(&mut self, mut bytes: &[u8], conn: &ConnectionState) {
        while !bytes.is_empty() {
            match self.cursor.next(&mut bytes) {
                Part::Header(_, b'Q') => {
                    conn.add_request();
                    self.has_request = true;
                }
                Part::Header(_, b'S') => {
                    conn.add_request();
                    self.has_request |= std::mem::take(&mut self.needs_reply);
                }
                Part::Header(_, b'C') => {}
                // The server ignores a Sync while it reads COPY data (PostgreSQL, "COPY Operations"). The Sync that
                // followed the COPY statement therefore has no reply; the one after this message has.
                Part::Header(_, b'c' | b'f') => {
                    conn.end_request();
                    self.needs_reply = true;
                }
                Part::Header(..) => self.needs_reply = true,
                Part::HeaderBegun(_) | Part::Body(..) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
