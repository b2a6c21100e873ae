//! One value of a column or of an array, decoded by its format. Decoding by the target's hint is in `hints`.

use crate::decode::array::Array;
use crate::decode::failure::Failure;
use crate::decode::format::Format;
use crate::decode::numeric::Numeric;
use crate::decode::text::{self, Text};
use postgres::types::Type;
use postgres_protocol::types as binary;
use serde::de::{Deserializer, Visitor};

/// Decodes one value.
#[derive(Clone, Copy)]
pub(super) struct ValueDeserializer<'de> {
    pub(super) format: Format<'de>,
    /// `None` is NULL.
    pub(super) bytes: Option<&'de [u8]>,
}

impl<'de> ValueDeserializer<'de> {
    pub(super) fn new(ty: &'de Type, bytes: Option<&'de [u8]>) -> ValueDeserializer<'de> {
        ValueDeserializer { format: Format::of(ty), bytes }
    }

    pub(super) fn with_format(format: Format<'de>, bytes: Option<&'de [u8]>) -> ValueDeserializer<'de> {
        ValueDeserializer { format, bytes }
    }

    /// Whether it is NULL; an error if its type is not supported.
    pub(super) fn is_null(self) -> Result<bool, Failure> {
        self.check_supported()?;
        Ok(self.bytes.is_none())
    }

    /// The text of a JSON value that is not NULL; `None` for any other value.
    pub(super) fn json(self) -> Result<Option<&'de [u8]>, Failure> {
        match (self.format, self.bytes) {
            (Format::Json, Some(bytes)) => Ok(Some(bytes)),
            (Format::Jsonb, Some([1, text @ ..])) => Ok(Some(text)),
            (Format::Jsonb, Some(bytes)) => Err(Failure::malformed(bytes, "unknown version of jsonb")),
            _ => Ok(None),
        }
    }

    /// Refuses an unsupported type even for a NULL, so that a query fails at once and not only with the first row that is not
    /// NULL.
    fn check_supported(self) -> Result<(), Failure> {
        match self.format {
            Format::Unsupported(ty) => Err(Failure::stated(format!(
                "type {} is not supported: cast it in SQL, as in (column)::text",
                ty.name()
            ))),
            _ => Ok(()),
        }
    }

    /// Passes the value to `visitor` in the form that its format determines, for targets whose hint does not matter.
    pub(super) fn visit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.check_supported()?;
        let Some(bytes) = self.bytes else { return visitor.visit_none() };
        let malformed = |reason| Failure::malformed(bytes, reason);
        match self.format {
            Format::Bool => visitor.visit_bool(binary::bool_from_sql(bytes).map_err(malformed)?),
            Format::Int2 => visitor.visit_i16(binary::int2_from_sql(bytes).map_err(malformed)?),
            Format::Int4 => visitor.visit_i32(binary::int4_from_sql(bytes).map_err(malformed)?),
            Format::Int8 => visitor.visit_i64(binary::int8_from_sql(bytes).map_err(malformed)?),
            Format::Oid => visitor.visit_u32(binary::oid_from_sql(bytes).map_err(malformed)?),
            Format::Xid8 => visitor.visit_u64(u64::from_be_bytes(fixed(bytes)?)),
            Format::Text => visitor
                .visit_borrowed_str(str::from_utf8(bytes).map_err(|error| Failure::malformed(bytes, error))?),
            Format::Float4 => {
                visit_float(shortest(binary::float4_from_sql(bytes).map_err(malformed)?), visitor)
            }
            Format::Float8 => visit_float(binary::float8_from_sql(bytes).map_err(malformed)?, visitor),
            Format::Array(element) => Array::parse(bytes, Format::of(element))?.visit(visitor),
            Format::Bytea => visitor.visit_string(text::hex(bytes)),
            Format::Json | Format::Jsonb => self.deserialize_any(visitor),
            Format::Numeric => Numeric::parse(bytes)?.with_text(|text| visit_text(text, visitor)),
            Format::Void => visitor.visit_unit(),
            _ => visit_text(self.text(bytes)?.as_str(), visitor),
        }
    }

    /// The text of a value for which serde has no type.
    fn text(self, bytes: &[u8]) -> Result<Text, Failure> {
        let malformed = || Failure::malformed(bytes, "out of range");
        Ok(match self.format {
            Format::Char => text::char_byte(fixed::<1>(bytes)?[0]),
            Format::Date => text::date(i32::from_be_bytes(fixed(bytes)?)),
            Format::Time => text::time(i64::from_be_bytes(fixed(bytes)?)).ok_or_else(malformed)?,
            Format::TimeTz => {
                let [micros @ .., z0, z1, z2, z3]: [u8; 12] = fixed(bytes)?;
                let zone = i32::from_be_bytes([z0, z1, z2, z3]);
                text::time_with_zone(i64::from_be_bytes(micros), zone).ok_or_else(malformed)?
            }
            Format::Timestamp => text::timestamp(i64::from_be_bytes(fixed(bytes)?), ""),
            Format::TimestampTz => text::timestamp(i64::from_be_bytes(fixed(bytes)?), "Z"),
            Format::Interval => {
                let [micros @ .., d0, d1, d2, d3, m0, m1, m2, m3]: [u8; 16] = fixed(bytes)?;
                let (days, months) =
                    (i32::from_be_bytes([d0, d1, d2, d3]), i32::from_be_bytes([m0, m1, m2, m3]));
                text::interval(months, days, i64::from_be_bytes(micros))
            }
            Format::Uuid => text::uuid(fixed(bytes)?),
            Format::Inet | Format::Cidr => {
                let inet =
                    binary::inet_from_sql(bytes).map_err(|reason| Failure::malformed(bytes, reason))?;
                text::inet(&inet, matches!(self.format, Format::Cidr))
            }
            Format::MacAddr => text::mac_address(bytes).ok_or_else(malformed)?,
            other => return Err(Failure::stated(format!("bug: {other:?} has no text"))),
        })
    }
}

/// The bytes of a value of fixed size.
pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Failure> {
    bytes.try_into().map_err(|_| Failure::malformed(bytes, format_args!("expected {N} bytes")))
}

/// Passes a formatted text to `visitor`. If the target cannot parse it, the failure quotes it.
fn visit_text<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<V::Value, Failure> {
    visitor.visit_str(text).map_err(|failure: Failure| failure.reading(text))
}

/// Passes a float. NaN and infinities become text, because a JSON `Value` would turn them into null.
fn visit_float<'de, V: Visitor<'de>>(value: f64, visitor: V) -> Result<V::Value, Failure> {
    if value.is_finite() {
        visitor.visit_f64(value)
    } else if value.is_nan() {
        visitor.visit_str("NaN")
    } else {
        visitor.visit_str(if value > 0.0 { "Infinity" } else { "-Infinity" })
    }
}

/// The double with the same shortest text as `value`: 0.1 and not 0.10000000149011612.
fn shortest(value: f32) -> f64 {
    let exact = f64::from(value);
    match value.to_string().parse::<f64>() {
        // Rounding twice can yield a neighbour of `value`.
        Ok(printed) if printed as f32 == value => printed,
        _ => exact,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;
    use std::collections::HashMap;

    /// Every supported type, and one that is not.
    fn types() -> Vec<Type> {
        let scalars = [
            Type::BOOL,
            Type::CHAR,
            Type::INT2,
            Type::INT4,
            Type::INT8,
            Type::OID,
            Type::XID8,
            Type::FLOAT4,
            Type::FLOAT8,
            Type::NUMERIC,
            Type::TEXT,
            Type::BYTEA,
            Type::JSON,
            Type::JSONB,
            Type::DATE,
            Type::TIME,
            Type::TIMETZ,
            Type::TIMESTAMP,
            Type::TIMESTAMPTZ,
            Type::INTERVAL,
            Type::UUID,
            Type::INET,
            Type::CIDR,
            Type::MACADDR,
            Type::VOID,
            Type::POINT,
        ];
        let arrays =
            [Type::INT4_ARRAY, Type::TEXT_ARRAY, Type::NUMERIC_ARRAY, Type::JSONB_ARRAY, Type::BYTEA_ARRAY];
        scalars.into_iter().chain(arrays).collect()
    }

    fn decode<T: DeserializeOwned>(ty: &Type, bytes: Option<&[u8]>) -> Result<T, Failure> {
        T::deserialize(ValueDeserializer::new(ty, bytes))
    }

    /// Decodes into every kind of target; the test is that it returns.
    fn decode_into_everything(ty: &Type, bytes: &[u8]) {
        #[derive(Deserialize)]
        #[serde(untagged)]
        #[expect(dead_code, reason = "only decoded")]
        enum Untagged {
            Number(i64),
            Other(Value),
        }
        let bytes = Some(bytes);
        let _ = decode::<Value>(ty, bytes);
        let _ = decode::<Untagged>(ty, bytes);
        let _ = decode::<bool>(ty, bytes);
        let _ = decode::<u8>(ty, bytes);
        let _ = decode::<i64>(ty, bytes);
        let _ = decode::<i128>(ty, bytes);
        let _ = decode::<f32>(ty, bytes);
        let _ = decode::<f64>(ty, bytes);
        let _ = decode::<char>(ty, bytes);
        let _ = decode::<String>(ty, bytes);
        let _ = decode::<serde_bytes::ByteBuf>(ty, bytes);
        let _ = decode::<Option<Vec<Option<u8>>>>(ty, bytes);
        let _ = decode::<Vec<Vec<Value>>>(ty, bytes);
        let _ = decode::<[u8; 4]>(ty, bytes);
        let _ = decode::<HashMap<String, Value>>(ty, bytes);
        let _ = decode::<()>(ty, bytes);
        let _ = decode::<chrono::DateTime<chrono::Utc>>(ty, bytes);
        let _ = decode::<chrono::NaiveDate>(ty, bytes);
        let _ = decode::<uuid::Uuid>(ty, bytes);
        let _ = decode::<std::net::IpAddr>(ty, bytes);
        let _ = decode::<rust_decimal::Decimal>(ty, bytes);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            for ty in types() {
                decode_into_everything(&ty, &bytes);
            }
        }

        /// Random bytes are rarely a valid array or numeric; these have plausible headers.
        #[test]
        fn random_headers_never_panic(
            words in proptest::collection::vec(prop_oneof![0..4_i32, -1..=0_i32, any::<i32>()], 0..12),
            tail in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            bytes.extend(tail);
            for ty in types() {
                decode_into_everything(&ty, &bytes);
                decode_into_everything(&ty, bytes.get(2..).unwrap_or_default());
            }
        }
    }

    #[test]
    fn bytes_of_the_wrong_size_are_malformed() {
        for (ty, bytes, message) in [
            (Type::INT4, &[1][..], "malformed value of 1 bytes: failed to fill whole buffer"),
            (Type::UUID, &[0; 15], "malformed value of 15 bytes: expected 16 bytes"),
            (
                Type::TEXT,
                &[0xff],
                "malformed value of 1 bytes: invalid utf-8 sequence of 1 bytes from index 0",
            ),
            (Type::JSONB, &[2, b'1'], "malformed value of 2 bytes: unknown version of jsonb"),
            (Type::TIME, &[0xff; 8], "malformed value of 8 bytes: out of range"),
        ] {
            assert_eq!(decode::<Value>(&ty, Some(bytes)).unwrap_err().to_string(), message, "{ty}");
        }
    }

    #[test]
    fn an_array_with_a_wrong_header_is_malformed() {
        let array = |words: &[i32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_be_bytes()).collect() };
        for (words, message) in [
            // Announces two elements, has one.
            (&[1, 0, 23, 2, 1, 4, 7][..], "element 2: malformed array: failed to fill whole buffer"),
            // Announces one, has two.
            (
                &[1, 0, 23, 1, 1, 4, 7, 4, 7],
                "malformed value of 36 bytes: invalid message length: arrayvalue not drained",
            ),
            // A billion empty rows in a few bytes.
            (
                &[2, 0, 23, 1_000_000_000, 1, 0, 1],
                "malformed value of 28 bytes: an array dimension without elements",
            ),
            (
                &[7, 0, 23, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 7],
                "malformed value of 76 bytes: too many dimensions",
            ),
        ] {
            let failure = decode::<Value>(&Type::INT4_ARRAY, Some(&array(words))).unwrap_err();
            assert_eq!(failure.to_string(), message);
        }
    }

    #[test]
    fn an_ignored_row_of_an_array_is_consumed() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Second(serde::de::IgnoredAny, Vec<i32>);
        let words = [2, 0, 23, 2, 1, 2, 1, 4, 1, 4, 2, 4, 3, 4, 4];
        let bytes: Vec<u8> = words.iter().flat_map(|word: &i32| word.to_be_bytes()).collect();
        assert_eq!(decode::<Second>(&Type::INT4_ARRAY, Some(&bytes)).unwrap().1, [3, 4]);
    }

    #[test]
    fn a_target_that_reads_too_few_elements_of_an_array_is_refused() {
        #[derive(Debug)]
        struct First;
        impl<'de> Deserialize<'de> for First {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<First, D::Error> {
                deserializer.deserialize_seq(First)
            }
        }
        impl<'de> Visitor<'de> for First {
            type Value = First;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an element")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut elements: A) -> Result<First, A::Error> {
                elements.next_element::<i32>().map(|_| First)
            }
        }
        let words = [2, 0, 23, 1, 1, 2, 1, 4, 1, 4, 2];
        let bytes: Vec<u8> = words.iter().flat_map(|word: &i32| word.to_be_bytes()).collect();
        let failure = decode::<Vec<First>>(&Type::INT4_ARRAY, Some(&bytes)).unwrap_err();
        assert_eq!(failure.to_string(), "element 1: only 1 of 2 elements are wanted");
    }
}
