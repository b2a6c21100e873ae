//! The helpers for many rows inside a transaction: rows go to the server and come from there in pieces of bounded size, one round
//! trip for each.
//!
//! While the caller's code makes or uses rows, no reply is outstanding: it may take any time, fail or panic, and use the
//! transaction. Only the writer of `copy_out` gets its bytes while they arrive.

use crate::decode::decode_row;
use crate::error::{Error, Result};
use crate::pool::Piece;
use crate::query::bulk::{Bulk, unless_empty};
use crate::query::copy::{CopyFormat, PieceWriter, copy_in_statement, copy_out_statement, unwritable};
use crate::query::copy_text::RowWriter;
use crate::query::param_row::ParamRow;
use crate::query::transaction::Transaction;
use crate::rows::Rows;
use postgres::types::ToSql;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::iter::Peekable;

/// Rows are sent in pieces of about this many bytes.
const PIECE_SIZE: usize = 256 * 1024;

/// The first piece of a query's rows has this many rows. The others have about [`PIECE_SIZE`] bytes, by the size of the rows
/// before them.
const FIRST_ROWS: i32 = 64;

/// The most rows of a piece.
const MAX_ROWS: i32 = 2 * 1024;

impl Bulk for Transaction<'_> {
    fn execute_many<P: ParamRow>(&self, sql: &str, rows: impl IntoIterator<Item = P>) -> Result<u64> {
        let Some(rows) = unless_empty(rows) else { return Ok(0) };
        self.in_parts(|| self.send_many(sql, rows))
    }

    fn for_each_row<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        mut use_row: impl FnMut(T) -> Result<()>,
    ) -> Result<u64> {
        let open = self.bounded(|session, limit| session.open_portal(sql, params, FIRST_ROWS, limit));
        let (portal, mut piece) = open?;
        let mut count = 0;
        let outcome = loop {
            let Piece { rows, is_suspended } = piece;
            if let Err(error) = self.use_rows(&rows, &mut use_row) {
                break Err(error);
            }
            count += rows.len() as u64;
            let max_rows = next_rows(&rows);
            drop(rows);
            if !is_suspended {
                break Ok(count);
            }
            piece = match self.bounded(|session, limit| session.fetch(&portal, max_rows, limit)) {
                Ok(piece) => piece,
                Err(error) => break Err(error.with_statement(sql)),
            };
        };
        self.end_portal(portal);
        outcome
    }

    fn copy_in<T: Serialize>(
        &self,
        table: &str,
        columns: &[&str],
        rows: impl IntoIterator<Item = T>,
    ) -> Result<u64> {
        let Some(rows) = unless_empty(rows) else { return Ok(0) };
        self.in_parts(|| self.send_copy(table, columns, rows))
    }

    fn copy_out(&self, query: &str, format: CopyFormat, out: &mut impl Write) -> Result<u64> {
        let statement = copy_out_statement(query, format);
        let mut out = PieceWriter::new(out);
        let copied = self.copy_rows_out(&statement, |data| out.take(data));
        out.finish().map_err(Error::application)?;
        copied
    }
}

impl Transaction<'_> {
    fn use_rows<T: DeserializeOwned>(
        &self,
        rows: &Rows,
        use_row: &mut impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        for row in rows.iter() {
            use_row(self.noted(decode_row(row).map_err(Error::from))?)?;
        }
        Ok(())
    }

    fn send_many<P: ParamRow>(&self, sql: &str, mut rows: Peekable<impl Iterator<Item = P>>) -> Result<u64> {
        let mut encoded = self.bounded(|session, limit| session.encode_rows(sql, limit))?;
        let mut affected = 0;
        while let Some(row) = rows.next() {
            let pushed = row.with_params(|params| encoded.push(params));
            self.noted(pushed.map_err(|failure| failure.with_statement(sql).into()))?;
            if encoded.size() >= PIECE_SIZE || rows.peek().is_none() {
                affected += self.bounded(|session, limit| session.write_rows(sql, &mut encoded, limit))?;
            }
        }
        Ok(affected)
    }

    fn send_copy<T: Serialize>(
        &self,
        table: &str,
        columns: &[&str],
        mut rows: Peekable<impl Iterator<Item = T>>,
    ) -> Result<u64> {
        let statement = self.noted(copy_in_statement(table, columns))?;
        let types = self.bounded(|session, limit| session.copy_types(&statement, limit))?;
        let mut writer = RowWriter::new(columns.iter().copied().zip(&types));
        let (mut first, mut next, mut count) = (0, 0, 0);
        while let Some(row) = rows.next() {
            self.noted(writer.push(&row).map_err(|error| unwritable(&error, &statement, next)))?;
            next += 1;
            if writer.text().len() >= PIECE_SIZE || rows.peek().is_none() {
                let data = writer.text().as_bytes();
                count +=
                    self.bounded(|session, limit| session.copy_rows_in(&statement, data, first, limit))?;
                writer.clear();
                first = next;
            }
        }
        Ok(count)
    }
}

/// How many rows like these make up a piece.
fn next_rows(rows: &Rows) -> i32 {
    let size = rows.size().checked_div(rows.len()).unwrap_or_default().max(1);
    i32::try_from(PIECE_SIZE / size).map_or(MAX_ROWS, |count| count.clamp(1, MAX_ROWS))
}
