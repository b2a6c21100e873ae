//! Arrays: nested sequences over one list of elements in row-major order.

use crate::decode::failure::Failure;
use crate::decode::format::Format;
use crate::decode::value::ValueDeserializer;
use fallible_iterator::FallibleIterator;
use postgres_protocol::types::{ArrayValues, array_from_sql};
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// PostgreSQL's `MAXDIM`.
const MAX_DIMENSIONS: usize = 6;

/// An array with a valid header. Its elements are checked while they are read.
pub(super) struct Array<'de> {
    format: Format<'de>,
    lengths: [usize; MAX_DIMENSIONS],
    dimensions: usize,
    values: ArrayValues<'de>,
    bytes: &'de [u8],
}

impl<'de> Array<'de> {
    /// Reads the header of `bytes`, an array with elements of `format`.
    pub(super) fn parse(bytes: &'de [u8], format: Format<'de>) -> Result<Array<'de>, Failure> {
        let malformed = |reason| Failure::malformed(bytes, reason);
        let array = array_from_sql(bytes).map_err(malformed)?;
        let mut lengths = [0; MAX_DIMENSIONS];
        let mut dimensions = 0;
        let mut headers = array.dimensions();
        while let Some(header) = headers.next().map_err(malformed)? {
            let slot = lengths.get_mut(dimensions).ok_or_else(|| malformed("too many dimensions".into()))?;
            // The server sends an empty array without dimensions. With a length of 0, a few bytes could announce any number
            // of empty rows.
            *slot = usize::try_from(header.len)
                .ok()
                .filter(|&length| length > 0)
                .ok_or_else(|| malformed("an array dimension without elements".into()))?;
            dimensions += 1;
        }
        // An empty array is one empty sequence, whatever its declared number of dimensions.
        Ok(Array { format, lengths, dimensions: dimensions.max(1), values: array.values(), bytes })
    }

    /// The length of the outermost dimension.
    pub(super) fn len(&self) -> usize {
        self.lengths[0]
    }

    /// Passes the elements to `visitor`.
    pub(super) fn visit<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Failure> {
        let lengths = &self.lengths[..self.dimensions];
        let value = Level { format: self.format, lengths, values: &mut self.values }.visit(visitor)?;
        match self.values.next() {
            Ok(None) => Ok(value),
            Ok(Some(_)) => Err(Failure::malformed(self.bytes, "more elements than announced")),
            Err(reason) => Err(Failure::malformed(self.bytes, reason)),
        }
    }
}

/// One row of a dimension: its elements are values in the last dimension, and rows of the next dimension otherwise.
struct Level<'a, 'de> {
    format: Format<'de>,
    lengths: &'a [usize],
    values: &'a mut ArrayValues<'de>,
}

impl<'de> Level<'_, 'de> {
    fn visit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let length = self.lengths[0];
        let mut elements = Elements { level: self, length, next: 0 };
        let value = visitor.visit_seq(&mut elements)?;
        // Remaining elements would be read as those of the next row.
        if elements.next < length {
            return Err(Failure::stated(format!("only {} of {length} elements are wanted", elements.next)));
        }
        Ok(value)
    }
}

struct Elements<'a, 'de> {
    level: Level<'a, 'de>,
    length: usize,
    next: usize,
}

impl<'de> SeqAccess<'de> for &mut Elements<'_, 'de> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        if self.next == self.length {
            return Ok(None);
        }
        let index = self.next;
        self.next += 1;
        let Level { format, lengths, ref mut values } = self.level;
        let value = if lengths.len() > 1 {
            seed.deserialize(Level { format, lengths: &lengths[1..], values })
        } else {
            match values.next() {
                Ok(Some(bytes)) => seed.deserialize(ValueDeserializer::with_format(format, bytes)),
                Ok(None) => Err(Failure::stated("malformed array: fewer elements than announced")),
                Err(reason) => Err(Failure::stated(format!("malformed array: {reason}"))),
            }
        };
        value.map(Some).map_err(|failure| failure.in_element(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.length - self.next)
    }
}

impl<'de> Deserializer<'de> for Level<'_, 'de> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.visit(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Failure> {
        check_length(length, self.lengths[0])?;
        self.visit(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    // `ignored_any` too: an ignored row must be consumed like any other.
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq map struct enum identifier ignored_any
    }
}

/// Checks that a tuple or fixed-size array gets exactly its number of elements.
pub(super) fn check_length(expected: usize, found: usize) -> Result<(), Failure> {
    if expected == found {
        return Ok(());
    }
    Err(Failure::stated(format!("expected {expected} elements, found {found}")))
}
