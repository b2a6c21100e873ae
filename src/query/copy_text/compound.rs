//! Values of several parts as the text of one cell: arrays, bytes given one by one, JSON documents.

use crate::query::copy_text::Unwritable;
use crate::query::copy_text::cell::{CellSerializer, Target, Written, json};
use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple, SerializeTupleStruct, Serializer,
};
use serde_json::value::Serializer as ToJson;
use std::fmt::Write as _;

/// Writes bytes as `bytea` reads them.
pub(super) fn write_hex(bytes: &[u8], text: &mut String) {
    text.push_str("\\x");
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}

/// The elements of a sequence.
pub(super) enum Sequence<'a> {
    Array { element: &'a Target, text: &'a mut String, is_first: bool, buffer: String },
    Bytes(Vec<u8>, &'a mut String),
    Json(<ToJson as Serializer>::SerializeSeq, &'a mut String),
}

impl Sequence<'_> {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        match self {
            Sequence::Array { element, text, is_first, buffer } => {
                if !std::mem::replace(is_first, false) {
                    text.push(',');
                }
                buffer.clear();
                let cell = CellSerializer { target: element, is_element: true, text: buffer };
                match value.serialize(cell)? {
                    Written::Null => text.push_str("NULL"),
                    Written::Array => text.push_str(buffer),
                    Written::Value => write_quoted(buffer, text),
                }
            }
            Sequence::Bytes(bytes, _) => {
                let byte = serde_json::to_value(value).ok().and_then(|value| value.as_u64());
                let byte = byte.and_then(|byte| u8::try_from(byte).ok());
                bytes.push(byte.ok_or_else(|| Unwritable::new("an element is no byte"))?);
            }
            Sequence::Json(json_seq, _) => SerializeSeq::serialize_element(json_seq, value).map_err(json)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<Written, Unwritable> {
        match self {
            Sequence::Array { text, .. } => {
                text.push('}');
                return Ok(Written::Array);
            }
            Sequence::Bytes(bytes, text) => write_hex(&bytes, text),
            Sequence::Json(json_seq, text) => {
                let value = SerializeSeq::end(json_seq).map_err(json)?;
                text.push_str(&value.to_string());
            }
        }
        Ok(Written::Value)
    }
}

/// Appends an element of an array in quotes.
fn write_quoted(element: &str, text: &mut String) {
    text.push('"');
    for part in element.split_inclusive(['"', '\\']) {
        match part.strip_suffix(['"', '\\']) {
            Some(start) => {
                text.push_str(start);
                text.push('\\');
                text.push_str(&part[start.len()..]);
            }
            None => text.push_str(part),
        }
    }
    text.push('"');
}

macro_rules! sequences {
    ($($trait:ident $method:ident)*) => {$(
        impl $trait for Sequence<'_> {
            type Ok = Written;
            type Error = Unwritable;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
                self.push(value)
            }

            fn end(self) -> Result<Written, Unwritable> {
                self.finish()
            }
        }
    )*};
}

sequences! { SerializeSeq serialize_element SerializeTuple serialize_element SerializeTupleStruct serialize_field }

/// The fields of a JSON object.
pub(super) struct Fields<'a> {
    pub(super) json: <ToJson as Serializer>::SerializeMap,
    pub(super) text: &'a mut String,
}

impl SerializeMap for Fields<'_> {
    type Ok = Written;
    type Error = Unwritable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unwritable> {
        self.json.serialize_key(key).map_err(json)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        self.json.serialize_value(value).map_err(json)
    }

    fn end(self) -> Result<Written, Unwritable> {
        let value = SerializeMap::end(self.json).map_err(json)?;
        self.text.push_str(&value.to_string());
        Ok(Written::Value)
    }
}

impl SerializeStruct for Fields<'_> {
    type Ok = Written;
    type Error = Unwritable;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Unwritable> {
        SerializeMap::serialize_entry(self, name, value)
    }

    fn end(self) -> Result<Written, Unwritable> {
        SerializeMap::end(self)
    }
}
