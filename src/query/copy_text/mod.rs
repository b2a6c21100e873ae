//! Rows as serde values in COPY's text format (PostgreSQL, "COPY", File Formats): one line for each row, a tab between two columns,
//! `\N` for NULL.
//!
//! A struct or a map gives its values by column name, a tuple or a sequence by position. `record.rs` finds the column of each
//! value, `cell.rs` writes it as the column's type reads it, and `compound.rs` what has several parts. Nothing here knows connections.

mod cell;
mod compound;
mod record;

use crate::query::copy_text::cell::Target;
use crate::query::copy_text::record::RecordSerializer;
use postgres::types::Type;
use serde::Serialize;
use std::fmt;
use std::ops::Range;

/// Writes rows for the columns of one COPY.
pub(super) struct RowWriter {
    columns: Vec<Column>,
    /// The lines of the rows.
    text: String,
    /// The values of the row that is being written, escaped, in the order in which they came.
    values: String,
    cells: Vec<Option<Cell>>,
    /// The value that is being written.
    value: String,
}

struct Column {
    name: Box<str>,
    type_name: Box<str>,
    target: Target,
}

/// The value of one column.
#[derive(Debug, Clone)]
enum Cell {
    Null,
    /// Its place among the values.
    Value(Range<usize>),
}

/// Why a row cannot be written.
#[derive(Debug)]
pub(super) struct Unwritable(String);

impl Unwritable {
    fn new(text: impl Into<String>) -> Unwritable {
        Unwritable(text.into())
    }
}

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unwritable {}

impl serde::ser::Error for Unwritable {
    fn custom<T: fmt::Display>(text: T) -> Unwritable {
        Unwritable(text.to_string())
    }
}

impl RowWriter {
    /// For columns with these names and types.
    pub(super) fn new<'a>(columns: impl Iterator<Item = (&'a str, &'a Type)>) -> RowWriter {
        let columns: Vec<_> = columns
            .map(|(name, type_)| Column {
                name: name.into(),
                type_name: type_.name().into(),
                target: Target::of(type_),
            })
            .collect();
        let cells = vec![None; columns.len()];
        RowWriter { columns, text: String::new(), values: String::new(), cells, value: String::new() }
    }

    /// Appends a row.
    ///
    /// # Errors
    ///
    /// The row does not fit the columns. The other rows are kept.
    pub(super) fn push<T: Serialize + ?Sized>(&mut self, row: &T) -> Result<(), Unwritable> {
        self.values.clear();
        self.cells.fill(None);
        row.serialize(RecordSerializer::new(self))?;
        if let Some((column, _)) = self.columns.iter().zip(&self.cells).find(|(_, cell)| cell.is_none()) {
            return Err(Unwritable(format!("the row has no value for column \"{}\"", column.name)));
        }
        for (index, cell) in self.cells.iter().enumerate() {
            if index > 0 {
                self.text.push('\t');
            }
            match cell {
                Some(Cell::Value(place)) => self.text.push_str(&self.values[place.clone()]),
                Some(Cell::Null) | None => self.text.push_str("\\N"),
            }
        }
        self.text.push('\n');
        Ok(())
    }

    /// The lines of the rows.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Makes room for more rows.
    pub(super) fn clear(&mut self) {
        self.text.clear();
    }

    /// Writes the value of the column with this index.
    fn write<T: Serialize + ?Sized>(&mut self, index: usize, value: &T) -> Result<(), Unwritable> {
        let Some(column) = self.columns.get(index) else {
            let count = self.columns.len();
            return Err(Unwritable(format!("the row has more values than the {count} columns")));
        };
        if self.cells[index].is_some() {
            return Err(Unwritable(format!("the row has column \"{}\" twice", column.name)));
        }
        self.value.clear();
        let named = |error: Unwritable| {
            Unwritable(format!("column \"{}\" ({}): {error}", column.name, column.type_name))
        };
        let is_null = cell::write(&column.target, value, &mut self.value).map_err(named)?;
        self.cells[index] = Some(if is_null {
            Cell::Null
        } else {
            let start = self.values.len();
            escape(&self.value, &mut self.values).map_err(named)?;
            Cell::Value(start..self.values.len())
        });
        Ok(())
    }
}

/// Appends `value` with backslashes for the characters that have a meaning in the format.
fn escape(value: &str, into: &mut String) -> Result<(), Unwritable> {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '\n', '\r', '\t', '\0']) {
        into.push_str(&rest[..at]);
        into.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            _ => return Err(Unwritable::new("PostgreSQL stores no text with a zero character")),
        });
        rest = &rest[at + 1..];
    }
    into.push_str(rest);
    Ok(())
}

#[cfg(test)]
mod tests;
