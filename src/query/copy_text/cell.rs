//! One value as text that its column's type reads.
//!
//! The type matters where the same serde value has several texts: a sequence is an array, a JSON document or bytes.

use crate::query::copy_text::Unwritable;
use crate::query::copy_text::compound::{Fields, Sequence, write_hex};
use postgres::types::{Kind, Type};
use serde::ser::{Error, Impossible, Serialize, SerializeMap, Serializer};
use serde_json::value::Serializer as ToJson;
use std::fmt::{Display, Write as _};

/// What a column expects.
#[derive(Debug)]
pub(super) enum Target {
    /// The text of a value.
    Text,
    Json,
    Bytes,
    Array(Box<Target>),
}

impl Target {
    pub(super) fn of(type_: &Type) -> Target {
        match type_.kind() {
            Kind::Domain(base) => Target::of(base),
            Kind::Array(element) => Target::Array(Box::new(Target::of(element))),
            _ if matches!(*type_, Type::JSON | Type::JSONB) => Target::Json,
            _ if *type_ == Type::BYTEA => Target::Bytes,
            _ => Target::Text,
        }
    }
}

/// How a value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Null,
    Value,
    /// An array, which is not quoted inside another one.
    Array,
}

/// Appends the text of `value` to `text`, which is empty. Returns whether the value is NULL.
pub(super) fn write<T: Serialize + ?Sized>(
    target: &Target,
    value: &T,
    text: &mut String,
) -> Result<bool, Unwritable> {
    let written = value.serialize(CellSerializer { target, is_element: false, text })?;
    Ok(written == Written::Null)
}

/// Writes one value.
pub(super) struct CellSerializer<'a> {
    pub(super) target: &'a Target,
    /// The value is an element of an array.
    pub(super) is_element: bool,
    pub(super) text: &'a mut String,
}

impl<'a> CellSerializer<'a> {
    /// Writes a number, which has the same text everywhere.
    fn number(self, value: impl Display) -> Result<Written, Unwritable> {
        match self.target {
            Target::Text | Target::Json => self.append(value),
            _ => Err(self.misfit("a number")),
        }
    }

    fn append(self, value: impl Display) -> Result<Written, Unwritable> {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{value}");
        Ok(Written::Value)
    }

    fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Written, Unwritable> {
        let json = serde_json::to_string(value).map_err(Unwritable::custom)?;
        self.text.push_str(&json);
        Ok(Written::Value)
    }

    fn misfit(&self, what: &str) -> Unwritable {
        Unwritable(format!("{what} does not fit this type"))
    }

    fn sequence(self) -> Result<Sequence<'a>, Unwritable> {
        let element = match self.target {
            Target::Array(element) => element,
            // A further dimension of the same array.
            Target::Text if self.is_element => self.target,
            Target::Bytes if !self.is_element => return Ok(Sequence::Bytes(Vec::new(), self.text)),
            Target::Json => return Ok(Sequence::Json(ToJson.serialize_seq(None).map_err(json)?, self.text)),
            _ => return Err(self.misfit("a sequence")),
        };
        self.text.push('{');
        Ok(Sequence::Array { element, text: self.text, is_first: true, buffer: String::new() })
    }

    /// A value with names: only JSON has these.
    fn fields(self) -> Result<Fields<'a>, Unwritable> {
        match self.target {
            Target::Json => Ok(Fields { json: ToJson.serialize_map(None).map_err(json)?, text: self.text }),
            _ => Err(self.misfit("a struct or a map")),
        }
    }

    /// A variant of an enum with values, as serde's JSON has it.
    fn variant<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<Written, Unwritable> {
        let mut fields = self.fields()?;
        SerializeMap::serialize_entry(&mut fields, name, value)?;
        SerializeMap::end(fields)
    }
}

pub(super) fn json(error: serde_json::Error) -> Unwritable {
    Unwritable::custom(error)
}

macro_rules! numbers {
    ($($method:ident $type:ty)*) => {$(
        fn $method(self, value: $type) -> Result<Written, Unwritable> {
            self.number(value)
        }
    )*};
}

macro_rules! floats {
    ($($method:ident $type:ty)*) => {$(
        fn $method(self, value: $type) -> Result<Written, Unwritable> {
            match self.target {
                // As a document, it is null where JSON has no such number.
                Target::Json => self.json(&value),
                Target::Text if value == <$type>::INFINITY => self.append("Infinity"),
                Target::Text if value == <$type>::NEG_INFINITY => self.append("-Infinity"),
                // The shortest text that is read as the same number.
                Target::Text => self.append(format_args!("{value:?}")),
                _ => Err(self.misfit("a number")),
            }
        }
    )*};
}

impl<'a> Serializer for CellSerializer<'a> {
    type Ok = Written;
    type Error = Unwritable;
    type SerializeSeq = Sequence<'a>;
    type SerializeTuple = Sequence<'a>;
    type SerializeTupleStruct = Sequence<'a>;
    type SerializeTupleVariant = Impossible<Written, Unwritable>;
    type SerializeMap = Fields<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Impossible<Written, Unwritable>;

    numbers! {
        serialize_bool bool serialize_i8 i8 serialize_i16 i16 serialize_i32 i32 serialize_i64 i64 serialize_i128 i128
        serialize_u8 u8 serialize_u16 u16 serialize_u32 u32 serialize_u64 u64 serialize_u128 u128
    }

    floats! { serialize_f32 f32 serialize_f64 f64 }

    fn serialize_char(self, value: char) -> Result<Written, Unwritable> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<Written, Unwritable> {
        match self.target {
            Target::Text => self.append(value),
            Target::Json => self.json(value),
            _ => Err(self.misfit("a text")),
        }
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Written, Unwritable> {
        match self.target {
            Target::Bytes => {
                write_hex(value, self.text);
                Ok(Written::Value)
            }
            Target::Json => self.json(value),
            _ => Err(self.misfit("a value of bytes")),
        }
    }

    fn serialize_none(self) -> Result<Written, Unwritable> {
        Ok(Written::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Written, Unwritable> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Written, Unwritable> {
        match self.target {
            Target::Json => self.append("null"),
            _ => Ok(Written::Null),
        }
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Written, Unwritable> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Written, Unwritable> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Written, Unwritable> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Written, Unwritable> {
        self.variant(variant, value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Sequence<'a>, Unwritable> {
        self.sequence()
    }

    fn serialize_tuple(self, _: usize) -> Result<Sequence<'a>, Unwritable> {
        self.sequence()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Sequence<'a>, Unwritable> {
        self.sequence()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible<Written, Unwritable>, Unwritable> {
        Err(self.misfit("an enum with several values"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Fields<'a>, Unwritable> {
        self.fields()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'a>, Unwritable> {
        self.fields()
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible<Written, Unwritable>, Unwritable> {
        Err(self.misfit("an enum with several values"))
    }
}
