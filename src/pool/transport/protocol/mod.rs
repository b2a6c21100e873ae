//! The framing of PostgreSQL's messages, in both directions, as far as the pool needs it (PostgreSQL, "Message Formats").
//!
//! `reply` reads the replies to the pool's own requests. This file updates the [`ConnectionState`] from the bytes that
//! pass between driver and server, however they are cut. There is no I/O here.

pub(in crate::pool) mod reply;

use crate::pool::transport::connection_state::ConnectionState;

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
    /// Bytes of an incomplete header.
    HeaderBegun,
    /// The end of the header of a message of this type.
    Header(u8),
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
                return Part::HeaderBegun;
            }
            let [kind, a, b, c, d] = self.header;
            self.body = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
            self.end_if_complete();
            return Part::Header(kind);
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

    /// Reads bytes from the server.
    pub(crate) fn observe(&mut self, mut bytes: &[u8], conn: &ConnectionState) {
        while !bytes.is_empty() {
            match self.cursor.next(&mut bytes) {
                // The Sync sent with the statement has a reply of its own only if the server read it after it raised the
                // error.
                Part::Header(b'E') if self.is_copying => conn.lose_sync(),
                Part::Header(b'G') => self.is_copying = true,
                Part::Body(&[status], b'Z') => {
                    conn.end_reply(status);
                    self.is_started = true;
                    self.is_copying = false;
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
                }
                Part::HeaderBegun | Part::Header(..) | Part::Body(..) => {}
            }
        }
        conn.set_between_messages(self.cursor.is_between());
    }
}

/// Reads the driver's messages and counts those that have a reply of their own: Sync (`S`) and Query (`Q`).
///
/// The driver sends several at once, for example when it closes a statement ahead of the next request.
#[derive(Debug, Default)]
pub(crate) struct FrontendMessages {
    cursor: Cursor,
}

impl FrontendMessages {
    /// Reads bytes that were written to the server.
    pub(crate) fn observe(&mut self, mut bytes: &[u8], conn: &ConnectionState) {
        while !bytes.is_empty() {
            match self.cursor.next(&mut bytes) {
                Part::Header(b'Q' | b'S') => conn.add_request(),
                // The server ignores a Sync while it reads COPY data (PostgreSQL, "COPY Operations"). The Sync that
                // followed the COPY statement therefore has no reply; the one after this message has.
                Part::Header(b'c' | b'f') => drop(conn.end_request()),
                Part::HeaderBegun | Part::Header(..) | Part::Body(..) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
