//! A row as a serde value: a map by column name, a sequence by position, or the value of its only column.

use crate::decode::failure::{Failure, names};
use crate::decode::value::ValueDeserializer;
use postgres::Row;
use postgres::types::{FromSql, Type};
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The bytes of a column of any type, borrowed; `None` is NULL.
struct Raw<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Decodes one row.
#[derive(Clone, Copy)]
pub(super) struct RowDeserializer<'de> {
    row: &'de Row,
}

impl<'de> RowDeserializer<'de> {
    pub(super) fn new(row: &'de Row) -> RowDeserializer<'de> {
        RowDeserializer { row }
    }

    fn value(self, index: usize) -> Result<ValueDeserializer<'de>, Failure> {
        // `index` is always in range, so any error is an internal one of the driver.
        let Raw(bytes) = self.row.try_get(index).map_err(|error| Failure::stated(error.to_string()))?;
        Ok(ValueDeserializer::new(self.row.columns()[index].type_(), bytes))
    }

    fn only_value(self) -> Result<ValueDeserializer<'de>, Failure> {
        match self.row.columns() {
            [_] => self.value(0),
            [] => Err(Failure::stated("expected exactly 1 column, found none")),
            columns => Err(Failure::stated(format!(
                "expected exactly 1 column, found {}: {}",
                columns.len(),
                names(columns)
            ))),
        }
    }

    fn columns(self) -> Columns<'de> {
        Columns { row: self, next: 0 }
    }

    fn visit_by_position<V: Visitor<'de>>(self, expected: usize, visitor: V) -> Result<V::Value, Failure> {
        let found = self.row.len();
        if found != expected {
            return Err(Failure::stated(format!(
                "expected {expected} columns, found {found}: {}",
                names(self.row.columns())
            )));
        }
        visitor.visit_seq(self.columns())
    }

    /// Refuses two columns of one name: a map would silently keep only one of them.
    fn visit_by_name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let columns = self.row.columns();
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].iter().any(|earlier| earlier.name() == column.name()) {
                return Err(Failure::stated(Failure::ambiguous(column.name())));
            }
        }
        visitor.visit_map(self.columns())
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
            Err(failure) if self.row.len() == 1 => failure,
            result => return result,
        };
        // This target cannot be distinguished from one that expects a map.
        Err(failure.with_advice("for the value of the only column, ask for a 1-tuple"))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.visit_by_name(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        // The struct compares the names itself, and detects a field that occurs twice.
        visitor.visit_map(self.columns())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_seq(self.columns())
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
        if self.row.len() == 1 && self.value(0)?.is_null().map_err(|failure| failure.at(0))? {
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

/// Iterates over the columns of a row.
struct Columns<'de> {
    row: RowDeserializer<'de>,
    next: usize,
}

impl<'de> Columns<'de> {
    fn remaining(&self) -> usize {
        self.row.row.len() - self.next
    }

    fn next_value<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let index = self.next;
        self.next += 1;
        seed.deserialize(self.row.value(index)?).map_err(|failure| failure.at(index))
    }
}

impl<'de> MapAccess<'de> for Columns<'de> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        match self.row.row.columns().get(self.next) {
            Some(column) => seed.deserialize(BorrowedStrDeserializer::new(column.name())).map(Some),
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
