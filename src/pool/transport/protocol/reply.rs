//! Replies: the server's messages from the first one after a request to ReadyForQuery (PostgreSQL, "Message Formats").
//!
//! It finds the messages in received bytes, notes what they say of the connection, and keeps the rows as they came. It
//! trusts nothing: a length that cannot be and a message that does not belong here are errors. There is no I/O here.

use crate::error::ServerError;
use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::protocol::note_body;
use crate::rows::{Column, Rows, Values, recycle};
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use log::{Level, info, log_enabled};
use postgres_protocol::message::backend::Message;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One complete reply.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    /// All messages of it.
    bytes: Vec<u8>,
    parts: Parts,
}

/// What was found in a reply, by the places of its messages' bodies.
#[derive(Debug, Default)]
struct Parts {
    /// From the first DataRow message to the end of the last one.
    rows: Range<usize>,
    row_count: usize,
    last_row: Range<usize>,
    row_description: Option<Range<usize>>,
    parameter_description: Option<Range<usize>>,
    /// The rows that the last completed statement affected.
    affected: u64,
    /// The rows that all completed statements affected.
    total_affected: u64,
    /// Statements that were completed.
    completed: u64,
    /// The last statement has more rows than were asked for.
    is_suspended: bool,
    is_parsed: bool,
    error: Option<Box<ServerError>>,
    copy: Option<Copy>,
}

/// A COPY, which the pool's own requests do not expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copy {
    In,
    Out,
}

/// Bytes that are not a reply as PostgreSQL sends it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's reply is malformed: {}", self.0)
    }
}

/// A message that concerns another party than the caller, or asks for an answer.
pub(crate) enum Unasked<'a> {
    /// A NotificationResponse with its header.
    Notification(&'a [u8]),
    /// The server waits for COPY data.
    CopyIn,
    /// The body of a CopyData message.
    CopyData(&'a [u8]),
}

/// Reads one reply from bytes that arrive bit by bit.
#[derive(Debug, Default)]
pub(crate) struct ReplyReader {
    /// How many bytes were read.
    at: usize,
    parts: Parts,
    /// The request is a COPY whose data was sent with it, or whose data the caller takes.
    expects_copy: bool,
}

impl ReplyReader {
    /// Reads the reply to a COPY.
    pub(crate) fn of_copy() -> ReplyReader {
        ReplyReader { expects_copy: true, ..ReplyReader::default() }
    }

    /// Removes the messages that were read from `bytes`: a COPY's data is handed on as it arrives.
    pub(crate) fn discard_read(&mut self, bytes: &mut Vec<u8>) {
        bytes.drain(..std::mem::take(&mut self.at));
        let parts = std::mem::take(&mut self.parts);
        // What refers to the removed bytes does not belong to the reply of a COPY.
        self.parts = Parts {
            affected: parts.affected,
            total_affected: parts.total_affected,
            completed: parts.completed,
            is_parsed: parts.is_parsed,
            error: parts.error,
            copy: parts.copy,
            ..Parts::default()
        };
    }

    /// Reads on in `bytes`, which begin where the reply begins. Returns the length of the reply once it is complete.
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        conn: &ConnectionState,
        mut unasked: impl FnMut(Unasked<'_>),
    ) -> Result<Option<usize>, Malformed> {
        while let [kind, a, b, c, d, ..] = bytes[self.at..] {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if !(4..=MAX_LENGTH).contains(&length) {
                return Err(Malformed(format!("a message {:?} of {length} bytes", char::from(kind))));
            }
            let (start, end) = (self.at, self.at + 1 + length);
            let Some(body) = bytes.get(start + 5..end) else { return Ok(None) };
            self.at = end;
            let place = start + 5..end;
            match kind {
                b'D' => self.parts.add_row(place),
                b'C' => {
                    note_body(kind, body, conn);
                    self.parts.complete(affected(body));
                }
                b'Z' => {
                    let &[status @ (b'I' | b'T' | b'E')] = body else {
                        return Err(Malformed(format!("a transaction status of {} bytes", body.len())));
                    };
                    conn.end_reply(status);
                    return Ok(Some(end));
                }
                b'T' => self.parts.row_description = Some(place),
                b't' => self.parts.parameter_description = Some(place),
                b'1' => self.parts.is_parsed = true,
                b'E' => {
                    let error = ServerError::parse(body);
                    let error = error.ok_or_else(|| Malformed("an error without a message".to_owned()))?;
                    self.parts.error.get_or_insert_with(|| Box::new(error));
                }
                b'S' => note_body(kind, body, conn),
                b'A' => unasked(Unasked::Notification(&bytes[start..end])),
                b'N' => log_notice(body),
                b'G' => {
                    self.parts.copy = Some(Copy::In);
                    if !self.expects_copy {
                        unasked(Unasked::CopyIn);
                    }
                }
                b'H' => self.parts.copy = Some(Copy::Out),
                b's' => self.parts.is_suspended = true,
                b'd' if self.expects_copy => unasked(Unasked::CopyData(body)),
                // BindComplete, CloseComplete, NoData, EmptyQueryResponse, and the data and the end of a COPY.
                b'2' | b'3' | b'n' | b'I' | b'd' | b'c' => {}
                _ => return Err(Malformed(format!("an unexpected message {:?}", char::from(kind)))),
            }
        }
        Ok(None)
    }

    /// The error that was read.
    pub(crate) fn take_error(&mut self) -> Option<Box<ServerError>> {
        self.parts.error.take()
    }

    /// The reply, once it is complete; `bytes` are its messages.
    pub(crate) fn finish(self, bytes: Vec<u8>) -> Reply {
        Reply { bytes, parts: self.parts }
    }
}

/// Whether the server has sent an error while no reply was outstanding: it ends the session.
pub(crate) fn ends_with_error(mut bytes: &[u8]) -> bool {
    while let Some((kind, size)) = first_message(bytes) {
        if kind == b'E' {
            return true;
        }
        bytes = bytes.get(size..).unwrap_or_default();
    }
    false
}

/// Whether a reply is complete in `bytes`, of which the messages before `seen` were looked at.
pub(crate) fn has_end(bytes: &[u8], seen: &mut usize) -> bool {
    while let Some((kind, size)) =
        first_message(&bytes[*seen..]).filter(|(_, size)| *size <= bytes.len() - *seen)
    {
        if kind == b'Z' {
            return true;
        }
        *seen += size;
    }
    false
}

/// The kind of the first message, and its size with its head; `None` where the head is not complete.
fn first_message(bytes: &[u8]) -> Option<(u8, usize)> {
    let [kind, a, b, c, d, ..] = *bytes else { return None };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    Some((kind, 1 + length.max(4)))
}

/// The longest message: PostgreSQL allocates no more for one (`MaxAllocSize`).
const MAX_LENGTH: usize = 0x3fff_ffff;

/// The number at the end of a command tag; 0 if there is none.
fn affected(tag: &[u8]) -> u64 {
    let tag = tag.strip_suffix(&[0]).unwrap_or(tag);
    let number = tag.rsplit(|byte| *byte == b' ').next();
    number.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0)
}

/// Logs a notice as the driver logs those that it reads.
fn log_notice(body: &[u8]) {
    if log_enabled!(target: "postgres", Level::Info)
        && let Some(notice) = ServerError::parse(body)
    {
        info!(target: "postgres", "{}: {}", notice.severity(), notice.message());
    }
}

impl Parts {
    fn complete(&mut self, affected: u64) {
        self.affected = affected;
        self.total_affected = self.total_affected.saturating_add(affected);
        self.completed += 1;
    }

    fn add_row(&mut self, place: Range<usize>) {
        if self.row_count == 0 {
            self.rows.start = place.start - 5;
        }
        self.row_count += 1;
        self.rows.end = place.end;
        self.last_row = place;
    }
}

impl Reply {
    /// The error with which the server refused the request.
    pub(crate) fn take_error(&mut self) -> Option<Box<ServerError>> {
        self.parts.error.take()
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.parts.error.is_some()
    }

    /// The COPY that the request has started.
    pub(crate) fn copy(&self) -> Option<Copy> {
        self.parts.copy
    }

    /// Whether a statement was parsed.
    pub(crate) fn is_parsed(&self) -> bool {
        self.parts.is_parsed
    }

    pub(crate) fn affected(&self) -> u64 {
        self.parts.affected
    }

    /// The rows that all completed statements affected.
    pub(crate) fn total_affected(&self) -> u64 {
        self.parts.total_affected
    }

    /// How many statements were completed.
    pub(crate) fn completed(&self) -> u64 {
        self.parts.completed
    }

    /// Whether the statement has more rows than were asked for.
    pub(crate) fn is_suspended(&self) -> bool {
        self.parts.is_suspended
    }

    /// The values of the last row, as text, of statements without parameters.
    pub(crate) fn last_row(&self) -> Option<Vec<Option<String>>> {
        if self.parts.row_count == 0 {
            return None;
        }
        let mut values = Values::new(&self.bytes[self.parts.last_row.clone()])?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (0..values.left()).map(|_| Some(values.next_value()?.map(text))).collect()
    }

    /// The body of the last RowDescription.
    pub(crate) fn row_description(&self) -> Option<&[u8]> {
        Some(&self.bytes[self.parts.row_description.clone()?])
    }

    /// The types of the statement's parameters.
    pub(crate) fn parameter_types(&self) -> Result<Vec<u32>, Malformed> {
        let Some(place) = self.parts.parameter_description.clone() else {
            return Err(Malformed("no description of the parameters".to_owned()));
        };
        match parse(b't', &self.bytes[place])? {
            Message::ParameterDescription(body) => {
                body.parameters().collect().map_err(|error| Malformed(error.to_string()))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The rows, which have these columns.
    pub(crate) fn into_rows(self, columns: Arc<[Column]>) -> Rows {
        Rows::new(columns, self.bytes, self.parts.rows, self.parts.row_count)
    }

    /// Drops the reply, and keeps its buffer for the next one.
    pub(crate) fn recycle(self) {
        recycle(self.bytes);
    }
}

/// The names and type ids of the columns in the body of a RowDescription.
pub(crate) fn columns(body: &[u8]) -> Result<Vec<(String, u32)>, Malformed> {
    match parse(b'T', body)? {
        Message::RowDescription(body) => {
            let fields = body.fields().map(|field| Ok((field.name().to_owned(), field.type_oid())));
            fields.collect().map_err(|error| Malformed(error.to_string()))
        }
        _ => Ok(Vec::new()),
    }
}

fn parse(kind: u8, body: &[u8]) -> Result<Message, Malformed> {
    let mut message = BytesMut::with_capacity(body.len() + 5);
    message.extend_from_slice(&[kind]);
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(body);
    let parsed = Message::parse(&mut message).map_err(|error| Malformed(error.to_string()))?;
    parsed.ok_or_else(|| Malformed("an incomplete message".to_owned()))
}
