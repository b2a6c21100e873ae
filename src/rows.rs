//! The rows of a reply, as the server sent them: the columns, and the bytes of the values (PostgreSQL, "Message Formats",
//! DataRow). `decode` turns them into the caller's types.
//!
//! It knows nothing of connections and statements.

use postgres::types::Type;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// A column of a result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: Box<str>,
    pub(crate) type_: Type,
}

/// The rows of one reply.
#[derive(Debug)]
pub(crate) struct Rows {
    columns: Arc<[Column]>,
    /// The messages of the reply.
    bytes: Vec<u8>,
    /// From the first row to the last one.
    range: Range<usize>,
    count: usize,
}

impl Rows {
    /// `bytes[range]` are whole messages.
    pub(crate) fn new(columns: Arc<[Column]>, bytes: Vec<u8>, range: Range<usize>, count: usize) -> Rows {
        Rows { columns, bytes, range, count }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The bytes of the rows' messages.
    pub(crate) fn size(&self) -> usize {
        self.range.len()
    }

    /// The bodies of the rows' messages.
    pub(crate) fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        RowBodies(&self.bytes[self.range.clone()])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.bodies().map(|body| Row { columns: &self.columns, body })
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.bytes));
    }
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    columns: &'a [Column],
    /// The body of the message.
    body: &'a [u8],
}

impl<'a> Row<'a> {
    pub(crate) fn columns(self) -> &'a [Column] {
        self.columns
    }

    /// The values, in the order of the columns; `None` where the row does not have as many.
    pub(crate) fn values(self) -> Option<Values<'a>> {
        Values::new(self.body).filter(|values| values.left() == self.columns.len())
    }
}

/// The bodies of the DataRow messages among whole messages.
#[derive(Debug, Clone)]
struct RowBodies<'a>(&'a [u8]);

impl<'a> Iterator for RowBodies<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while let [kind, a, b, c, d, ..] = *self.0 {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let (message, rest) = self.0.split_at_checked(1 + length)?;
            self.0 = rest;
            if kind == b'D' {
                return message.get(5..);
            }
        }
        None
    }
}

/// The values of one row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Values<'a> {
    /// The values in the body of a DataRow; `None` if it is malformed.
    pub(crate) fn new(body: &'a [u8]) -> Option<Values<'a>> {
        let (count, rest) = body.split_first_chunk()?;
        Some(Values { rest, left: u16::from_be_bytes(*count) })
    }

    /// How many values follow.
    pub(crate) fn left(&self) -> usize {
        usize::from(self.left)
    }

    /// The next value, where `None` is NULL; nothing if there is no other or the row is malformed.
    pub(crate) fn next_value(&mut self) -> Option<Option<&'a [u8]>> {
        self.left = self.left.checked_sub(1)?;
        let (length, rest) = self.rest.split_first_chunk()?;
        let length = i32::from_be_bytes(*length);
        if length == -1 {
            self.rest = rest;
            return Some(None);
        }
        let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(Some(value))
    }
}

/// Buffers with more bytes than this are not kept.
const MAX_KEPT: usize = 64 * 1024;

thread_local! {
    /// A buffer for the thread's next reply.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the buffer of a reply for the thread's next one.
pub(crate) fn recycle(mut buffer: Vec<u8>) {
    if (1..=MAX_KEPT).contains(&buffer.capacity()) {
        buffer.clear();
        // Where the thread is ending, the buffer is dropped.
        let _ = SPARE.try_with(|spare| spare.replace(buffer));
    }
}

/// A buffer for the thread's next reply.
pub(crate) fn spare_buffer() -> Vec<u8> {
    SPARE.try_with(RefCell::take).unwrap_or_default()
}
