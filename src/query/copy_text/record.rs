//! A row as a serde value: finds the column of each value, by name or by position.

use crate::query::copy_text::{RowWriter, Unwritable};
use serde::ser::{
    Error, Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple,
    SerializeTupleStruct, Serializer,
};

/// Writes one row.
pub(super) struct RecordSerializer<'a> {
    writer: &'a mut RowWriter,
}

impl<'a> RecordSerializer<'a> {
    pub(super) fn new(writer: &'a mut RowWriter) -> RecordSerializer<'a> {
        RecordSerializer { writer }
    }

    /// Writes the value of the only column.
    fn only<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unwritable> {
        match self.writer.columns.len() {
            1 => self.writer.write(0, value),
            count => Err(Unwritable(format!("the row is a single value, and there are {count} columns"))),
        }
    }

    fn values(self) -> Values<'a> {
        Values { writer: self.writer, next: 0, key: None }
    }
}

/// The values of a row, as they come.
pub(super) struct Values<'a> {
    writer: &'a mut RowWriter,
    /// The column of the next value by position, and the likely one by name.
    next: usize,
    /// The name of the next value of a map.
    key: Option<String>,
}

impl Values<'_> {
    fn write_next<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        self.writer.write(self.next, value)?;
        self.next += 1;
        Ok(())
    }

    /// Writes the value where it is for one of the columns.
    fn write_named<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Unwritable> {
        let columns = &self.writer.columns;
        let is_next = columns.get(self.next).is_some_and(|column| *column.name == *name);
        let found =
            if is_next { Some(self.next) } else { columns.iter().position(|column| *column.name == *name) };
        let Some(index) = found else { return Ok(()) };
        self.next = index + 1;
        self.writer.write(index, value)
    }
}

macro_rules! only_column {
    ($($method:ident $type:ty)*) => {$(
        fn $method(self, value: $type) -> Result<(), Unwritable> {
            self.only(&value)
        }
    )*};
}

impl<'a> Serializer for RecordSerializer<'a> {
    type Ok = ();
    type Error = Unwritable;
    type SerializeSeq = Values<'a>;
    type SerializeTuple = Values<'a>;
    type SerializeTupleStruct = Values<'a>;
    type SerializeTupleVariant = Impossible<(), Unwritable>;
    type SerializeMap = Values<'a>;
    type SerializeStruct = Values<'a>;
    type SerializeStructVariant = Impossible<(), Unwritable>;

    only_column! {
        serialize_bool bool serialize_i8 i8 serialize_i16 i16 serialize_i32 i32 serialize_i64 i64 serialize_i128 i128
        serialize_u8 u8 serialize_u16 u16 serialize_u32 u32 serialize_u64 u64 serialize_u128 u128
        serialize_f32 f32 serialize_f64 f64 serialize_char char serialize_str &str
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Unwritable> {
        self.only(&Bytes(value))
    }

    fn serialize_none(self) -> Result<(), Unwritable> {
        self.only(&None::<()>)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unwritable> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Unwritable> {
        self.only(&())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unwritable> {
        Err(Unwritable::new("the row has no values"))
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Unwritable> {
        self.only(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Unwritable> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Unwritable> {
        Err(no_enum())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Values<'a>, Unwritable> {
        Ok(self.values())
    }

    fn serialize_tuple(self, _: usize) -> Result<Values<'a>, Unwritable> {
        Ok(self.values())
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Values<'a>, Unwritable> {
        Ok(self.values())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible<(), Unwritable>, Unwritable> {
        Err(no_enum())
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Values<'a>, Unwritable> {
        Ok(self.values())
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Values<'a>, Unwritable> {
        Ok(self.values())
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible<(), Unwritable>, Unwritable> {
        Err(no_enum())
    }
}

fn no_enum() -> Unwritable {
    Unwritable::new("an enum with values is no row")
}

/// Bytes as serde's bytes.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

macro_rules! by_position {
    ($($trait:ident $method:ident)*) => {$(
        impl $trait for Values<'_> {
            type Ok = ();
            type Error = Unwritable;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
                self.write_next(value)
            }

            fn end(self) -> Result<(), Unwritable> {
                Ok(())
            }
        }
    )*};
}

by_position! { SerializeSeq serialize_element SerializeTuple serialize_element SerializeTupleStruct serialize_field }

impl SerializeStruct for Values<'_> {
    type Ok = ();
    type Error = Unwritable;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Unwritable> {
        self.write_named(name, value)
    }

    fn end(self) -> Result<(), Unwritable> {
        Ok(())
    }
}

impl SerializeMap for Values<'_> {
    type Ok = ();
    type Error = Unwritable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unwritable> {
        match serde_json::to_value(key).map_err(Unwritable::custom)? {
            serde_json::Value::String(name) => self.key = Some(name),
            _ => return Err(Unwritable::new("a map is a row only where its keys are column names")),
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        let name = self.key.take().ok_or_else(|| Unwritable::new("a map has a value without a key"))?;
        self.write_named(&name, value)
    }

    fn end(self) -> Result<(), Unwritable> {
        Ok(())
    }
}
