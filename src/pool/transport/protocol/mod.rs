//! The server's messages, as far as the pool has to understand them.

use crate::pool::transport::connection_state::{ConnectionState, LastWords};

/// Follows messages however their bytes are cut: one type byte, four length bytes that count themselves, a body.
#[derive(Debug, Default)]
struct Cursor {
    header: [u8; 5],
    have: usize,
    /// Bytes of the current message's body still to come.
    body: usize,
}

/// What comes next of a message.
enum Part<'a> {
    /// So many bytes of a header that is not complete.
    HeaderBegun(usize),
    /// So many bytes that complete the header of a message of this type.
    Header(usize, u8),
    /// Some of the body of a message of this type.
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

    /// No message is begun and not ended.
    fn is_between(&self) -> bool {
        self.have == 0
    }

    fn end_if_complete(&mut self) {
        if self.body == 0 {
            self.have = 0;
        }
    }
}

/// Follows the server's messages for the kinds that matter here: ReadyForQuery (`Z`), which ends a reply and
/// tells the transaction status, ErrorResponse (`E`), CommandComplete (`C`), ParameterStatus (`S`), and of the login
/// BackendKeyData (`K`).
#[derive(Debug, Default)]
pub(crate) struct BackendMessages {
    cursor: Cursor,
    /// Bytes since an ErrorResponse began whose reply is not complete; 0 where there is none.
    since_error: usize,
    /// The first reply is complete: the login is over.
    is_started: bool,
    /// The server waits for the data of a COPY.
    is_copying: bool,
    /// What has come of a message whose body matters and is not complete.
    body: Vec<u8>,
}

/// As much as is kept of a message's body: what matters is shorter.
const MOST_OF_BODY: usize = 512;

/// The first words of the tags of statements that leave the catalogue as it is, but for new tables without anything behind
/// them (PostgreSQL, "Message Formats", CommandComplete).
const TAGS_OF_NO_CHANGE: &[&[u8]] = &[
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

fn note(kind: u8, body: &[u8], conn: &ConnectionState) {
    match kind {
        b'K' => conn.keep_cancel_key(body),
        b'C' => {
            let tag = body.split(|byte| matches!(byte, b' ' | 0)).next().unwrap_or_default();
            conn.note_completed(!TAGS_OF_NO_CHANGE.contains(&tag));
        }
        _ => {
            let mut fields = body.split(|byte| *byte == 0);
            conn.note_parameter(fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        }
    }
}

impl BackendMessages {
    /// Whether the login is over. Before it, the client's messages are of another form.
    pub(crate) fn is_started(&self) -> bool {
        self.is_started
    }

    /// Looks at what was read. Returns how many of the last bytes are an error whose reply is not complete.
    ///
    /// The server sends an error at once and the end of that reply a moment later. A driver that is shown the
    /// error alone returns with a reply outstanding, and nobody knows whether the transaction has failed; so
    /// the error is held until its reply is complete. An error that follows a complete reply is the server
    /// ending the session, and must not reach the driver before it has taken that reply.
    pub(crate) fn observe(&mut self, mut bytes: &[u8], conn: &ConnectionState) -> usize {
        while !bytes.is_empty() {
            let count = match self.cursor.next(&mut bytes) {
                Part::Header(_, b'E') if self.since_error == 0 => {
                    self.since_error = 5;
                    if self.is_copying {
                        // Whether the Sync sent with the statement has a reply of its own now depends on which of
                        // the two the server met first.
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
                        note(kind, part, conn);
                    } else {
                        self.body.extend(part.iter().take(MOST_OF_BODY.saturating_sub(self.body.len())));
                        if is_complete {
                            note(kind, &std::mem::take(&mut self.body), conn);
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

/// What an ErrorResponse says, where `bytes` begin with a complete one (PostgreSQL, "Error and Notice Message
/// Fields": `V` is the severity, in older servers only `S` in the server's language; `C` the SQLSTATE, `M` the message).
pub(crate) fn last_words_of(bytes: &[u8]) -> Option<LastWords> {
    let [b'E', a, b, c, d, rest @ ..] = bytes else { return None };
    let length = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).checked_sub(4)?;
    let fields = rest.get(..length)?;
    let field = |name: u8| {
        let text = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(&[name]))?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    Some(LastWords {
        severity: field(b'V').or_else(|| field(b'S')).unwrap_or_default(),
        code: field(b'C').unwrap_or_default(),
        message: field(b'M')?,
    })
}

/// Follows the client's messages for those that have a reply of their own: Sync (`S`) and Query (`Q`). The driver
/// sends several at once, as when it closes a statement on the way.
#[derive(Debug, Default)]
pub(crate) struct FrontendMessages {
    cursor: Cursor,
    /// Since the last Sync something was said whose reply somebody waits for. Nobody waits for that of a Close, which
    /// goes out by itself ahead of the next request.
    has_question: bool,
    /// A message that has such a reply was begun.
    is_asking: bool,
}

impl FrontendMessages {
    /// Whether all of a question that somebody waits for an answer to has been written; true once for each.
    pub(crate) fn take_question(&mut self) -> bool {
        self.cursor.is_between() && std::mem::take(&mut self.is_asking)
    }

    pub(crate) fn observe(&mut self, mut bytes: &[u8], conn: &ConnectionState) {
        while !bytes.is_empty() {
            match self.cursor.next(&mut bytes) {
                Part::Header(_, b'Q') => {
                    conn.add_request();
                    self.is_asking = true;
                }
                Part::Header(_, b'S') => {
                    conn.add_request();
                    self.is_asking |= std::mem::take(&mut self.has_question);
                }
                Part::Header(_, b'C') => {}
                // The Sync that followed the statement was swallowed by the COPY it began (PostgreSQL, "COPY
                // Operations"); the one that follows this message ends both.
                Part::Header(_, b'c' | b'f') => {
                    conn.end_request();
                    self.has_question = true;
                }
                Part::Header(..) => self.has_question = true,
                Part::HeaderBegun(_) | Part::Body(..) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
