//! The statements of COPY, and the pieces in which its rows are written out.
//!
//! It knows nothing of sessions; `bulk.rs` runs the statements.

use crate::error::{Cause, Error, Result};
use crate::pool::CopyStatement;
use crate::query::copy_text::Unwritable;
use std::io::{self, Write};

/// The format in which [`Bulk::copy_out`](crate::Bulk::copy_out) writes rows (PostgreSQL, "COPY", File Formats).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyFormat {
    /// Comma-separated values with quotes where they are needed. NULL is an empty value, and an empty text is `""`.
    Csv {
        /// The first line has the names of the columns.
        has_header: bool,
    },
    /// PostgreSQL's own text format: a tab between two values, backslashes before special characters, `\N` for NULL.
    Text,
}

/// The COPY into these columns.
pub(super) fn copy_in_statement(table: &str, columns: &[&str]) -> Result<CopyStatement> {
    if columns.is_empty() {
        return Err(refused("copy_in needs at least one column".to_owned()));
    }
    let name = table.rsplit('.').next().unwrap_or_default().to_owned();
    let table = table.split('.').map(quoted).collect::<Result<Vec<_>>>()?.join(".");
    let names = columns.iter().map(|column| quoted(column)).collect::<Result<Vec<_>>>()?.join(", ");
    let values: Vec<_> = (1..=columns.len()).map(|number| format!("${number}")).collect();
    Ok(CopyStatement {
        table: name,
        copy: format!("COPY {table} ({names}) FROM STDIN (FORMAT text, ENCODING 'UTF8')"),
        // Like COPY it may have values for identity columns. The word SYSTEM would be taken for the name of a volatile function.
        stand_in: format!(
            "INSERT INTO {table} ({names}) OVERRIDING USER VALUE VALUES ({})",
            values.join(", ")
        ),
    })
}

/// The COPY of the rows of `query`.
pub(super) fn copy_out_statement(query: &str, format: CopyFormat) -> CopyStatement {
    let format = match format {
        CopyFormat::Csv { has_header } => format!("csv, HEADER {has_header}"),
        CopyFormat::Text => "text".to_owned(),
    };
    let query = query.trim_end_matches(|c: char| c.is_whitespace() || c == ';');
    CopyStatement {
        table: String::new(),
        // The query may end with a comment.
        copy: format!("COPY ({query}\n) TO STDOUT (FORMAT {format}, ENCODING 'UTF8')"),
        stand_in: query.to_owned(),
    }
}

/// The name as it is in the catalogue.
fn quoted(name: &str) -> Result<String> {
    if name.is_empty() || name.contains('\0') {
        return Err(refused(format!("{name:?} is no name of a table or column")));
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

fn refused(text: String) -> Error {
    Error::from(Cause::Stated(text))
}

/// The error for a row that does not fit the columns.
pub(super) fn unwritable(error: &Unwritable, statement: &CopyStatement, row: u64) -> Error {
    refused(error.to_string()).with_statement(&statement.copy).with_row(row)
}

/// Data is written in pieces of at least this many bytes.
const PIECE_SIZE: usize = 64 * 1024;

/// Collects data into pieces for a writer.
pub(super) struct PieceWriter<'a, W> {
    out: &'a mut W,
    piece: Vec<u8>,
    written: io::Result<()>,
}

impl<'a, W: Write> PieceWriter<'a, W> {
    pub(super) fn new(out: &'a mut W) -> PieceWriter<'a, W> {
        PieceWriter { out, piece: Vec::new(), written: Ok(()) }
    }

    /// Takes more data. Returns false once the writer has failed.
    pub(super) fn take(&mut self, data: &[u8]) -> bool {
        self.piece.extend_from_slice(data);
        if self.piece.len() >= PIECE_SIZE {
            self.write();
        }
        self.written.is_ok()
    }

    fn write(&mut self) {
        if self.written.is_ok() {
            self.written = self.out.write_all(&self.piece);
            self.piece.clear();
        }
    }

    /// Writes the last piece.
    ///
    /// # Errors
    ///
    /// The first one of the writer.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.write();
        self.written
    }
}
