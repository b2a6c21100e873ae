//! A row as a serde value: a map by column name, a sequence by position, or the value of its only column.

use crate::decode::failure::{Failure, names};
use crate::decode::format::Format;
use crate::decode::value::ValueDeserializer;
use crate::rows::{Column, Row, Values};
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The way to decode the only column where the target could also be the whole row.
const ASK_FOR_A_TUPLE: &str = "for the value of the only column, ask for a 1-tuple, as in (T,)";

/// Decodes one row.
#[derive(Clone, Copy)]
pub(super) struct RowDeserializer<'de> {
    row: Row<'de>,
}

impl<'de> RowDeserializer<'de> {
    pub(super) fn new(row: Row<'de>) -> RowDeserializer<'de> {
        RowDeserializer { row }
    }

    fn len(self) -> usize {
        self.row.columns().len()
    }

    fn only_value(self) -> Result<ValueDeserializer<'de>, Failure> {
        match self.row.columns() {
            [_] => self.columns()?.next_deserializer(),
            [] => Err(Failure::stated("expected exactly 1 column, found none")),
            columns => Err(Failure::stated(format!(
                "expected exactly 1 column, found {}: {}",
                columns.len(),
                names(columns)
            ))),
        }
    }

    /// Adds advice to the failure of a target with several parts: the row's only column may be the value that was meant.
    fn advise(self, failure: Failure) -> Failure {
        match self.row.columns() {
            // The elements did not fit: the column was understood as one element of the row.
            [_] if failure.is_in_element() => failure,
            [column] if Format::of(&column.type_).has_parts() => failure.with_advice(ASK_FOR_A_TUPLE),
            _ => failure,
        }
    }

    fn columns(self) -> Result<Columns<'de>, Failure> {
        let values = self.row.values().ok_or_else(malformed)?;
        Ok(Columns { columns: self.row.columns(), next: 0, values })
    }

    fn visit_by_position<V: Visitor<'de>>(self, expected: usize, visitor: V) -> Result<V::Value, Failure> {
        let found = self.len();
        if found != expected {
            let message =
                format!("expected {expected} columns, found {found}: {}", names(self.row.columns()));
            return Err(self.advise(Failure::stated(message)));
        }
        visitor.visit_seq(self.columns()?)
    }

    /// Refuses two columns of one name: a map would silently keep only one of them.
    fn visit_by_name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let columns = self.row.columns();
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].iter().any(|earlier| earlier.name == column.name) {
                return Err(Failure::stated(Failure::ambiguous(&column.name)));
            }
        }
        visitor.visit_map(self.columns()?)
    }
}

macro_rules! only_column {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            self.only_value()?.$method(visitor).map_err(|failure| failure.at(0))
        }
    )*};
}

impl<'de> Deserializer<'de> for RowDeserializer<'de> {
    type Error = Failure;

    only_column! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_identifier
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.only_value()?.deserialize_enum(name, variants, visitor).map_err(|failure| failure.at(0))
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let failure = match self.visit_by_name(visitor) {
            Err(failure) if self.len() == 1 && failure.is_of_row() => failure,
            result => return result,
        };
        // This target cannot be distinguished from one that expects a map.
        Err(failure.with_advice(ASK_FOR_A_TUPLE))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.visit_by_name(visitor).map_err(|failure| self.advise(failure))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        // The struct compares the names itself, and detects a field that occurs twice.
        let result = visitor.visit_map(self.columns()?);
        result.map_err(|failure| if failure.is_of_row() { self.advise(failure) } else { failure })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_seq(self.columns()?).map_err(|failure| self.advise(failure))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Failure> {
        self.visit_by_position(length, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.visit_by_position(length, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.len() == 1 && self.only_value()?.is_null().map_err(|failure| failure.at(0))? {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }
}

fn malformed() -> Failure {
    Failure::stated("the server's reply is malformed: a row without all of its values")
}

/// Iterates over the columns of a row.
struct Columns<'de> {
    columns: &'de [Column],
    next: usize,
    values: Values<'de>,
}

impl<'de> Columns<'de> {
    fn next_deserializer(&mut self) -> Result<ValueDeserializer<'de>, Failure> {
        let column = self.columns.get(self.next).ok_or_else(malformed)?;
        let bytes = self.values.next_value().ok_or_else(malformed)?;
        self.next += 1;
        Ok(ValueDeserializer::new(&column.type_, bytes))
    }

    fn remaining(&self) -> usize {
        self.columns.len() - self.next
    }

    fn next_value<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let index = self.next;
        seed.deserialize(self.next_deserializer()?).map_err(|failure| failure.at(index))
    }
}

impl<'de> MapAccess<'de> for Columns<'de> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        match self.columns.get(self.next) {
            Some(column) => seed.deserialize(BorrowedStrDeserializer::new(&column.name)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        self.next_value(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.remaining())
    }
}

impl<'de> SeqAccess<'de> for Columns<'de> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        if self.remaining() == 0 {
            return Ok(None);
        }
        self.next_value(seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.remaining())
    }
}
