//! Looks types up in the server's catalogue: those that are not PostgreSQL's own, such as enums and domains.
//!
//! The pool's sessions share the types; `catalogue.rs` keeps them.

use crate::pool::session::Session;
use crate::pool::session::outcome::Fault;
use crate::rows::{Rows, Values};
use postgres::types::{Field, FromSqlOwned, Kind, Oid, Type};
use std::collections::HashMap;

/// The ids are `$1`. The columns are the fields of [`Found`].
const LOOKUP: &str = "
SELECT t.oid, typname::text, nspname::text, typtype, typelem, typbasetype, typrelid,
       coalesce((SELECT rngsubtype FROM pg_catalog.pg_range WHERE rngtypid = t.oid), 0),
       ARRAY(SELECT enumlabel::text FROM pg_catalog.pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder),
       ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute
             WHERE attrelid = typrelid AND typrelid <> 0 AND NOT attisdropped AND attnum > 0 ORDER BY attnum),
       ARRAY(SELECT atttypid FROM pg_catalog.pg_attribute
             WHERE attrelid = typrelid AND typrelid <> 0 AND NOT attisdropped AND attnum > 0 ORDER BY attnum)
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = typnamespace
WHERE t.oid = ANY ($1)";

/// Types may refer to others. Further levels than this are left out.
const MAX_LEVELS: usize = 8;

/// A row of [`LOOKUP`].
struct Found {
    oid: Oid,
    name: String,
    schema: String,
    kind: i8,
    element: Oid,
    base: Oid,
    relation: Oid,
    subtype: Oid,
    labels: Vec<String>,
    field_names: Vec<String>,
    field_types: Vec<Oid>,
}

impl Found {
    fn read(mut values: Values<'_>) -> Option<Found> {
        fn next<T: FromSqlOwned>(values: &mut Values<'_>, type_: &Type) -> Option<T> {
            T::from_sql_nullable(type_, values.next_value()?).ok()
        }
        let values = &mut values;
        Some(Found {
            oid: next(values, &Type::OID)?,
            name: next(values, &Type::TEXT)?,
            schema: next(values, &Type::TEXT)?,
            kind: next(values, &Type::CHAR)?,
            element: next(values, &Type::OID)?,
            base: next(values, &Type::OID)?,
            relation: next(values, &Type::OID)?,
            subtype: next(values, &Type::OID)?,
            labels: next(values, &Type::TEXT_ARRAY)?,
            field_names: next(values, &Type::TEXT_ARRAY)?,
            field_types: next(values, &Type::OID_ARRAY)?,
        })
    }

    /// The ids of the types that this one refers to.
    fn references(&self) -> impl Iterator<Item = Oid> {
        let ids = [self.element, self.base, self.subtype].into_iter().chain(self.field_types.iter().copied());
        ids.filter(|oid| *oid != 0)
    }
}

/// A type of which only the id is known.
fn unknown(oid: Oid) -> Type {
    Type::new(format!("with the id {oid}"), oid, Kind::Pseudo, String::new())
}

/// Builds the type from what was found, and those that it refers to.
fn build(oid: Oid, known: &HashMap<Oid, Type>, found: &HashMap<Oid, Found>, levels: usize) -> Type {
    if let Some(type_) = known.get(&oid).cloned().or_else(|| Type::from_oid(oid)) {
        return type_;
    }
    let Some(row) = found.get(&oid).filter(|_| levels > 0) else { return unknown(oid) };
    let of = |oid| build(oid, known, found, levels - 1);
    // In the driver's order.
    let kind = match row {
        Found { kind, .. } if *kind == b'e' as i8 => Kind::Enum(row.labels.clone()),
        Found { kind, .. } if *kind == b'p' as i8 => Kind::Pseudo,
        Found { base: 1.., .. } => Kind::Domain(of(row.base)),
        Found { element: 1.., .. } => Kind::Array(of(row.element)),
        Found { relation: 1.., .. } => {
            let fields = row.field_names.iter().zip(&row.field_types);
            Kind::Composite(fields.map(|(name, oid)| Field::new(name.clone(), of(*oid))).collect())
        }
        Found { subtype: 1.., .. } => Kind::Range(of(row.subtype)),
        _ => Kind::Simple,
    };
    Type::new(row.name.clone(), oid, kind, row.schema.clone())
}

impl Session {
    /// The types with these ids. Unknown ones are looked up, in a round trip for each level of types behind types.
    pub(super) fn types(&mut self, oids: &[Oid]) -> Result<Vec<Type>, Fault> {
        let catalogue = self.statements.catalogue();
        let types: Option<Vec<_>> = oids.iter().map(|oid| catalogue.type_(*oid)).collect();
        if let Some(types) = types {
            return Ok(types);
        }
        let mut found = HashMap::new();
        // Another session may have the pool forget a type in the meantime.
        let mut known = HashMap::new();
        let mut wanted = oids.to_vec();
        for _ in 0..MAX_LEVELS {
            let catalogue = self.statements.catalogue();
            known.extend(wanted.iter().filter_map(|oid| Some((*oid, catalogue.type_(*oid)?))));
            wanted.retain(|oid| !known.contains_key(oid) && !found.contains_key(oid));
            wanted.sort_unstable();
            wanted.dedup();
            if wanted.is_empty() {
                break;
            }
            let rows: Rows = self.ask(LOOKUP, &[(&wanted, Type::OID_ARRAY)])?;
            wanted.clear();
            for row in rows.bodies().filter_map(Values::new).filter_map(Found::read) {
                wanted.extend(row.references());
                found.insert(row.oid, row);
            }
        }
        let catalogue = self.statements.catalogue();
        // What a session sees of types that are not committed is its own.
        let is_shared = !self.is_dirty && !self.in_transaction;
        let types = oids.iter().map(|oid| {
            let type_ = build(*oid, &known, &found, MAX_LEVELS);
            if is_shared && found.contains_key(oid) {
                catalogue.put_type(type_.clone());
            }
            type_
        });
        Ok(types.collect())
    }
}
