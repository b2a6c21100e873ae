//! Looks up the types of a statement's parameters behind PgBouncer, where each transaction may run on another server
//! connection.
//!
//! It knows nothing of the statement cache, which keeps its results.

use crate::pool::session::statement_cache::{Params, Unprepared};
use postgres::Client;
use postgres::types::Type;
use std::fmt::Write;
use std::sync::Arc;

/// Queries the server for parameters' types, and leaves no prepared statement on the server connection.
///
/// The driver describes a statement only by preparing it under a name. That name would stay on an arbitrary server
/// connection, where the next client that uses the same name fails. So the statement is prepared and closed within
/// one transaction.
///
/// The driver's own type lookups break this rule (rust-postgres, issue 1204). For a type it does not know, such as an
/// enum, it prepares up to three lookup statements by name and uses them for the client's lifetime. Therefore new
/// lookups are found before the transaction ends and deallocated at its end, and each later transaction begins by
/// preparing them again under the same names.
#[derive(Debug, Default)]
pub(super) struct ParamTypes {
    lookups: Vec<Lookup>,
}

/// A lookup statement that the driver expects on the server connection.
#[derive(Debug)]
struct Lookup {
    name: String,
    text: String,
}

/// Finds the lookups that the driver has prepared in this transaction; `$1` is the caller's statement. The driver's
/// names are an `s` and a number. A PgBouncer that tracks prepared statements (since 1.21, `max_prepared_statements`)
/// renames them and prepares them where they are missing: then this finds none, and none needs to be prepared again.
const NEW_LOOKUPS: &str = "SELECT name, statement FROM pg_catalog.pg_prepared_statements
    WHERE NOT from_sql AND prepare_time >= transaction_timestamp() AND name ~ '^s[0-9]+$'
      AND statement LIKE '%FROM pg_catalog.pg_%' AND statement <> $1";

impl ParamTypes {
    /// Returns the types of the parameters of `sql`. Afterwards the driver knows every type of the result.
    pub(super) fn look_up(
        &mut self,
        client: &mut Client,
        sql: &str,
        params: Params<'_>,
        in_transaction: bool,
    ) -> Result<Arc<[Type]>, Unprepared> {
        let types = self.look_up_in_transaction(client, sql, params, in_transaction);
        let removal = self.lookups.iter().fold(String::new(), |mut text, Lookup { name, .. }| {
            let _ = write!(text, "DEALLOCATE {name};");
            text
        });
        let end = match (&types, in_transaction) {
            (Ok(_), true) => removal,
            (Ok(_), false) => format!("{removal}COMMIT"),
            // One message stays on one server connection, although the transaction ends within it.
            (Err(Unprepared { spoils_session: false, .. }), false) => format!("ROLLBACK;{removal}"),
            // A failed transaction cannot deallocate them. When the client disconnects inside it, PgBouncer closes
            // the server connection.
            (Err(_), _) if !removal.is_empty() => {
                return types.map_err(|unprepared| Unprepared { spoils_session: true, ..unprepared });
            }
            (Err(_), _) => return types,
        };
        if !end.is_empty() {
            let ended = client.batch_execute(&end);
            if let (Err(error), Ok(_)) = (ended, &types) {
                return Err(Unprepared { error, spoils_session: true });
            }
        }
        types
    }

    /// Prepares the driver's lookups again, then describes `sql`, and records new lookups.
    fn look_up_in_transaction(
        &mut self,
        client: &mut Client,
        sql: &str,
        params: Params<'_>,
        in_transaction: bool,
    ) -> Result<Arc<[Type]>, Unprepared> {
        let mut beginning = if in_transaction { String::new() } else { "BEGIN;".to_owned() };
        for Lookup { name, text } in &self.lookups {
            let _ = write!(beginning, "PREPARE {name} AS {text};");
        }
        if !beginning.is_empty() {
            client.batch_execute(&beginning).map_err(spoiling)?;
        }
        let statement = client.prepare(sql).map_err(|error| {
            // A lookup is missing (26000) or its name is taken (42P05): another client prepares by name outside of a
            // transaction. An error that is not the server's may have stopped a lookup halfway.
            let code = error.as_db_error().map(|error| error.code().code());
            let spoils_session = matches!(code, None | Some("26000" | "42P05"));
            Unprepared { error, spoils_session }
        })?;
        let in_result = statement.columns().iter().map(|column| column.type_());
        if statement.params().iter().chain(in_result).any(|type_| Type::from_oid(type_.oid()).is_none()) {
            let prepared = client.query_typed(NEW_LOOKUPS, &[(&sql, Type::TEXT)]).map_err(spoiling)?;
            for row in &prepared {
                let (name, text) = (row.try_get(0).map_err(spoiling)?, row.try_get(1).map_err(spoiling)?);
                self.lookups.push(Lookup { name, text });
            }
        }
        if statement.params().len() != params.len()
            // This returns the driver's error: it checks the number of parameters before it sends anything.
            && let Err(error) = client.execute(&statement, params)
        {
            return Err(Unprepared { error, spoils_session: false });
        }
        // The driver sends the statement's Close before the next message, so within the transaction.
        Ok(statement.params().into())
    }
}

/// A failure that leaves the prepared statements of the server connection in an unknown state.
fn spoiling(error: postgres::Error) -> Unprepared {
    Unprepared { error, spoils_session: true }
}
