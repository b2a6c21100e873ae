//! Decoding by the target's hint, which is the serde method that it calls: an integer from a numeric, bytes from a bytea,
//! fields from a JSON object. Without an applicable hint, `value` decodes by the format alone.

use crate::decode::array::{Array, check_length};
use crate::decode::failure::Failure;
use crate::decode::format::Format;
use crate::decode::numeric::Numeric;
use crate::decode::value::{ValueDeserializer, fixed};
use postgres_protocol::types as binary;
use serde::de::value::SeqDeserializer;
use serde::de::{Deserializer, IntoDeserializer, Visitor};

/// Decodes a JSON text with serde_json, which handles every hint itself.
macro_rules! from_json {
    ($text:expr, $visitor:expr, $method:ident($($argument:expr),*)) => {{
        let mut json = serde_json::Deserializer::from_slice($text);
        let value = json.$method($($argument,)* $visitor).map_err(Failure::json)?;
        json.end().map_err(Failure::json)?;
        Ok(value)
    }};
}

/// A hint that the format does not use: JSON goes to serde_json, any other value is decoded by its format.
macro_rules! json_or_by_format {
    ($value:expr, $visitor:expr, $method:ident($($argument:expr),*)) => {
        match $value.json()? {
            Some(text) => from_json!(text, $visitor, $method($($argument),*)),
            None => $value.visit($visitor),
        }
    };
}

/// Hints that no format uses.
macro_rules! by_format {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            json_or_by_format!(self, visitor, $method())
        }
    )*};
}

/// Integers. serde's visitors check the range.
macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            match (self.format, self.bytes) {
                (Format::Numeric, Some(bytes)) => {
                    let value = Numeric::parse(bytes)?.to_integer()?;
                    match (i64::try_from(value), u64::try_from(value)) {
                        (Ok(value), _) => visitor.visit_i64(value),
                        (_, Ok(value)) => visitor.visit_u64(value),
                        _ => visitor.visit_i128(value),
                    }
                }
                (Format::Char, Some(bytes)) => visitor.visit_i8(i8::from_be_bytes(fixed(bytes)?)),
                (Format::Json | Format::Jsonb, Some(_)) => json_or_by_format!(self, visitor, $method()),
                _ => self.visit(visitor),
            }
        }
    )*};
}

/// Floats: exact, including NaN and infinities.
macro_rules! floats {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            let Some(bytes) = self.bytes else { return self.visit(visitor) };
            let malformed = |reason| Failure::malformed(bytes, reason);
            match self.format {
                Format::Float4 => visitor.visit_f32(binary::float4_from_sql(bytes).map_err(malformed)?),
                Format::Float8 => visitor.visit_f64(binary::float8_from_sql(bytes).map_err(malformed)?),
                Format::Numeric => visitor.$visit(Numeric::parse(bytes)?.to_float()?),
                Format::Json | Format::Jsonb => json_or_by_format!(self, visitor, $method()),
                _ => self.visit(visitor),
            }
        }
    )*};
}

/// Text. A float is not text: otherwise a column of numbers would decode as text in rows with NaN only.
macro_rules! texts {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            match self.format {
                Format::Float4 | Format::Float8 => self.deserialize_f64(visitor),
                _ => json_or_by_format!(self, visitor, $method()),
            }
        }
    )*};
}

macro_rules! byte_strings {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            match (self.format, self.bytes) {
                (Format::Bytea, Some(bytes)) => visitor.visit_borrowed_bytes(bytes),
                _ => json_or_by_format!(self, visitor, $method()),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for ValueDeserializer<'de> {
    type Error = Failure;

    by_format! { deserialize_any deserialize_bool deserialize_map deserialize_identifier }
    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }
    floats! { deserialize_f32 visit_f32 deserialize_f64 visit_f64 }
    texts! { deserialize_char deserialize_str deserialize_string }
    byte_strings! { deserialize_bytes deserialize_byte_buf }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.is_null()? {
            return visitor.visit_none();
        }
        match self.json()? {
            // A JSON null is None as well.
            Some(text) => from_json!(text, visitor, deserialize_option()),
            None => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match (self.format, self.bytes) {
            (Format::Bytea, Some(bytes)) => visit_bytes(bytes, visitor),
            _ => json_or_by_format!(self, visitor, deserialize_seq()),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Failure> {
        match (self.format, self.bytes) {
            (Format::Bytea, Some(bytes)) => {
                check_length(length, bytes.len())?;
                visit_bytes(bytes, visitor)
            }
            (Format::Array(element), Some(bytes)) => {
                let array = Array::parse(bytes, Format::of(element))?;
                check_length(length, array.len())?;
                array.visit(visitor)
            }
            _ => json_or_by_format!(self, visitor, deserialize_tuple(length)),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        json_or_by_format!(self, visitor, deserialize_struct(name, fields))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match self.json()? {
            // serde_json's RawValue is a newtype with a name that only serde_json knows.
            Some(text) => from_json!(text, visitor, deserialize_newtype_struct(name)),
            None => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match (self.format, self.bytes) {
            (Format::Text, Some(bytes)) => {
                let label = str::from_utf8(bytes).map_err(|error| Failure::malformed(bytes, error))?;
                visitor.visit_enum(label.into_deserializer())
            }
            _ => json_or_by_format!(self, visitor, deserialize_enum(name, variants)),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.is_null()? {
            return visitor.visit_unit();
        }
        match self.json()? {
            Some(text) => from_json!(text, visitor, deserialize_unit()),
            None => self.visit(visitor),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }
}

/// Bytes as a sequence of numbers, for `Vec<u8>` and `[u8; N]`.
fn visit_bytes<'de, V: Visitor<'de>>(bytes: &[u8], visitor: V) -> Result<V::Value, Failure> {
    let mut numbers = SeqDeserializer::new(bytes.iter().copied());
    let value = visitor.visit_seq(&mut numbers)?;
    numbers.end()?;
    Ok(value)
}
