//! The binary format of each PostgreSQL type.

use postgres::types::{Kind, Type};

/// A binary format, with the data needed to decode it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Format<'de> {
    Bool,
    /// `"char"`: one byte.
    Char,
    Int2,
    Int4,
    Int8,
    /// Unsigned 32 bits: oid, xid, cid.
    Oid,
    /// Unsigned 64 bits.
    Xid8,
    Float4,
    Float8,
    Numeric,
    /// Every type whose binary format is its text.
    Text,
    Bytea,
    Json,
    /// JSON text after a version byte.
    Jsonb,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Interval,
    Uuid,
    Inet,
    Cidr,
    /// Six or eight bytes.
    MacAddr,
    Void,
    /// An array with elements of this type.
    Array(&'de Type),
    /// A type that cannot be decoded here.
    Unsupported(&'de Type),
}

impl<'de> Format<'de> {
    /// The format of values of type `ty`.
    pub(super) fn of(ty: &'de Type) -> Format<'de> {
        match *ty {
            Type::BOOL => Format::Bool,
            Type::CHAR => Format::Char,
            Type::INT2 => Format::Int2,
            Type::INT4 => Format::Int4,
            Type::INT8 => Format::Int8,
            Type::OID | Type::XID | Type::CID => Format::Oid,
            Type::XID8 => Format::Xid8,
            Type::FLOAT4 => Format::Float4,
            Type::FLOAT8 => Format::Float8,
            Type::NUMERIC => Format::Numeric,
            Type::TEXT
            | Type::VARCHAR
            | Type::BPCHAR
            | Type::NAME
            | Type::UNKNOWN
            | Type::CSTRING
            | Type::XML
            | Type::REFCURSOR => Format::Text,
            Type::BYTEA => Format::Bytea,
            Type::JSON => Format::Json,
            Type::JSONB => Format::Jsonb,
            Type::DATE => Format::Date,
            Type::TIME => Format::Time,
            Type::TIMETZ => Format::TimeTz,
            Type::TIMESTAMP => Format::Timestamp,
            Type::TIMESTAMPTZ => Format::TimestampTz,
            Type::INTERVAL => Format::Interval,
            Type::UUID => Format::Uuid,
            Type::INET => Format::Inet,
            Type::CIDR => Format::Cidr,
            Type::MACADDR | Type::MACADDR8 => Format::MacAddr,
            Type::VOID => Format::Void,
            _ => Format::of_kind(ty),
        }
    }

    /// Whether a value has parts, so that it could be meant as a whole row: an array's elements, JSON's, or bytes.
    pub(super) fn has_parts(self) -> bool {
        matches!(self, Format::Array(_) | Format::Json | Format::Jsonb | Format::Bytea)
    }

    fn of_kind(ty: &'de Type) -> Format<'de> {
        match ty.kind() {
            Kind::Array(element) => Format::Array(element),
            Kind::Domain(base) => Format::of(base),
            Kind::Enum(_) => Format::Text,
            // An extension's type has no fixed OID, so its name identifies it, in any schema.
            Kind::Simple if ty.name() == "citext" => Format::Text,
            _ => Format::Unsupported(ty),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_over_a_domain_has_the_format_of_the_base() {
        let inner = Type::new("positive".into(), 70_001, Kind::Domain(Type::INT4), "public".into());
        let outer = Type::new("movie_id".into(), 70_002, Kind::Domain(inner), "public".into());
        assert!(matches!(Format::of(&outer), Format::Int4));
    }

    #[test]
    fn types_without_a_simple_binary_format_are_unsupported() {
        for ty in [
            Type::POINT,
            Type::RECORD,
            Type::INT4_RANGE,
            Type::TS_VECTOR,
            Type::MONEY,
            Type::ANYARRAY,
            Type::REGCLASS,
        ] {
            assert!(matches!(Format::of(&ty), Format::Unsupported(_)), "{ty}");
        }
    }
}
